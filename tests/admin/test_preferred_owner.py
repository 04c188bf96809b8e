"""`preferred_owner`: every answer about a session names the node to which the mapping sends it, whoever owns it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from raftstore.admin.server import AdminServer
from raftstore.cli.route import mapping_of
from raftstore.client import Client
from raftstore.config import ClusterConfig
from raftstore.errors import InvalidArgument, Rejected, Unavailable
from raftstore.node.answers import result_or_raise
from raftstore.node.blocking import BlockingNode
from raftstore.node.node import Node
from raftstore.node.proposals import Answer
from raftstore.routing import Mapping, mint
from raftstore.types import OpId, Reason, Session
from tests.admin.fake_node import FakeNode
from tests.admin.serving import serving, until

BINDING = {"transport_id": "t1", "proto": "udp", "remote": "198.51.100.7:51820"}
WEIGHTS = {"vpn-1": 1, "vpn-2": 0, "vpn-3": 5}


def id_for(node_id: str, mapping: Mapping) -> str:
    """A session id that the mapping sends to that node."""
    return next(name for name in (f"s-{i}" for i in range(1_000)) if mapping.owner(name) == node_id)


def config_in(directory: Path, weights: dict[str, int]) -> ClusterConfig:
    """A cluster on free ports of loopback, with quick elections."""
    with contextlib.ExitStack() as probes:
        ports = []
        for _ in weights:
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    nodes = [
        {"id": name, "peer": f"127.0.0.1:{port}", "api": f"unix:{directory}/{name}.sock", "weight": weight}
        for (name, weight), port in zip(weights.items(), ports, strict=True)
    ]
    timing = {"election_timeout_min_ms": 150, "election_timeout_max_ms": 300, "heartbeat_interval_ms": 30}
    data = {"cluster": "test", "timing": timing, "node": nodes, "storage": {"disk_free_min_bytes": 0}}
    return ClusterConfig.from_dict(data, base_dir=directory)


# ---- the HTTP API


def test_every_session_is_shown_with_the_node_that_should_have_it(tmp_path: Path) -> None:
    """Ops, reads, lists, explanations and decided ops alike: inside the session, and nowhere else."""

    async def main() -> None:
        node = FakeNode("vpn-1")
        name = id_for("vpn-2", node.places)
        steps: list[tuple[str, dict[str, Any]]] = [
            ("create", {"binding": BINDING}),
            ("detach", {"expected_version": 1}),
            ("reattach", {"expected_version": 2, "binding": BINDING}),
            ("renew", {"expected_version": 3, "ttl_ms": 5000}),
            ("migrate", {"expected_version": 4, "to": "vpn-3"}),
            ("resume", {"expected_version": 5}),
            ("failover", {"expected_version": 6}),
            ("terminate", {"expected_version": 7}),
        ]
        async with serving(tmp_path, node) as served:
            for op, body in steps:
                status, told = await served.call("POST", f"/v1/sessions/{name}/{op}", body)
                assert (status, told["session"]["preferred_owner"]) == (200, "vpn-2"), op
            shown = node.sessions[name].as_dict() | {"preferred_owner": "vpn-2"}
            assert (await served.call("GET", f"/v1/sessions/{name}"))[1] == {"session": shown}
            explained = (await served.call("GET", f"/v1/sessions/{name}/explain"))[1]
            assert (explained["session"], "preferred_owner" in explained) == (shown, False)
            op_id = OpId("vpn-1", 0xA1, 7)
            node.outcomes[op_id] = {"outcome": "committed", "session": node.sessions[name].as_dict()}
            assert (await served.call("GET", f"/v1/ops/{op_id}"))[1]["session"] == shown
            node.outcomes[op_id] = {"outcome": "rejected", "reason": "SESSION_NOT_FOUND", "session": None}
            assert (await served.call("GET", f"/v1/ops/{op_id}"))[1]["session"] is None

    asyncio.run(main())


def test_each_session_of_a_list_has_its_own(tmp_path: Path) -> None:
    """Sessions of one owner may belong to different nodes."""

    async def main() -> None:
        node = FakeNode("vpn-1")
        async with serving(tmp_path, node) as served:
            for i in range(30):
                await served.call("POST", f"/v1/sessions/s{i}/create")
            listed = (await served.call("GET", "/v1/sessions"))[1]["sessions"]
            assert [s["preferred_owner"] for s in listed] == [node.places.owner(s["session_id"]) for s in listed]
            assert {s["preferred_owner"] for s in listed} == {"vpn-1", "vpn-2", "vpn-3"}

    asyncio.run(main())


def test_a_rejection_says_where_to_go(tmp_path: Path) -> None:
    """Inside the session where the refusal shows one, else at the top."""

    async def main() -> None:
        node = FakeNode("vpn-1")
        here, there = id_for("vpn-1", node.places), id_for("vpn-3", node.places)
        async with serving(tmp_path, node) as served:
            for name, preferred in ((here, "vpn-1"), (there, "vpn-3")):
                for method, path in (("GET", ""), ("POST", "/detach"), ("GET", "/explain")):
                    body = {"expected_version": 1} if method == "POST" else None
                    told = (await served.call(method, f"/v1/sessions/{name}{path}", body))[1]
                    assert (told["session"], told["preferred_owner"]) == (None, preferred)
                await served.call("POST", f"/v1/sessions/{name}/create")
                status, told = await served.call("POST", f"/v1/sessions/{name}/create")
                assert (status, told["session"]["preferred_owner"]) == (409, preferred)
                assert told.keys() == {"outcome", "reason", "session"}

    asyncio.run(main())


def test_the_refuser_s_own_words_travel_beside_the_session(tmp_path: Path) -> None:
    """Owner and detail are told where they are known, and are absent where not."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            await served.call("POST", "/v1/sessions/s/create")
            session = served.node.sessions["s"]
            served.node.failure = Rejected(Reason.OWNERSHIP_CONFLICT, session, owner="vpn-9", detail="ask vpn-9")
            told = (await served.call("POST", "/v1/sessions/s/create"))[1]
            assert (told["owner"], told["detail"], told["session"]["owner"]) == ("vpn-9", "ask vpn-9", "vpn-1")
            served.node.failure = Rejected(Reason.NODE_DRAINING)
            told = (await served.call("POST", "/v1/node/drain"))[1]  # about no session: no hint of any
            assert told == {"outcome": "rejected", "reason": "NODE_DRAINING", "session": None}

    asyncio.run(main())


def test_the_hint_is_as_fresh_as_the_answer(tmp_path: Path) -> None:
    """A mapping that changes while an op is under way: the answer names the node of the new one."""

    async def main() -> None:
        node = FakeNode("vpn-1")
        node.hold = asyncio.Event()
        async with serving(tmp_path, node) as served:
            asking = asyncio.ensure_future(served.call("POST", "/v1/sessions/s/create"))
            await until(lambda: node.running == 1)
            node.places = Mapping.of(2, {"vpn-4": 1})
            node.hold.set()
            assert (await asking)[1]["session"]["preferred_owner"] == "vpn-4"
            node.places = Mapping.of(3, {"vpn-4": 0})
            told = (await served.call("GET", "/v1/sessions/s"))[1]
            assert told["session"]["preferred_owner"] is None  # no node takes sessions

    asyncio.run(main())


# ---- the node itself


def test_a_node_prefers_what_the_configuration_maps(tmp_path: Path) -> None:
    """The weights decide, alike at every node and in `raftstore route`, without a running node; no id is guessed at."""
    config = config_in(tmp_path, WEIGHTS)
    ids = [*(f"s-{i}" for i in range(300)), mint("vpn-1", lambda n: b"\7" * n), mint("vpn-2", lambda n: b"\7" * n)]
    for node in [Node(config, name, insecure=True) for name in WEIGHTS]:
        found = [node.preferred_owner(name) for name in ids]
        assert found == [mapping_of(config).owner(name) for name in ids]
        assert set(found) == {"vpn-1", "vpn-3"} and found.count("vpn-3") > 2 * found.count("vpn-1")
        assert found[-2] == "vpn-1"
        for wrong in ("", "a b", "é", "x" * 65):
            with pytest.raises(InvalidArgument, match="session_id"):
                node.preferred_owner(wrong)


def test_a_blocking_node_tells_the_same(tmp_path: Path) -> None:
    """From any thread, as `Node` does."""
    with BlockingNode(config_in(tmp_path, {"vpn-7": 1}), "vpn-7", insecure=True) as node:
        assert node.preferred_owner("s") == "vpn-7"
        with pytest.raises(InvalidArgument):
            node.preferred_owner("a b")


def test_the_mapping_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer asks for it, so it is kept."""
    made: list[int] = []
    of = Mapping.of

    def counted(epoch: int, weights: dict[str, int]) -> Mapping:
        made.append(epoch)
        return of(epoch, weights)

    node = Node(config_in(tmp_path, WEIGHTS), "vpn-1", insecure=True)
    monkeypatch.setattr(Mapping, "of", counted)
    assert [node.preferred_owner(f"s-{i}") for i in range(50)].count(None) == 0
    assert made == [1]


def test_a_session_is_created_anywhere_and_says_where_it_belongs(tmp_path: Path) -> None:
    """In a real cluster the creator owns the session, and every node names the same other one as preferred."""

    async def main() -> None:
        config = config_in(tmp_path, dict.fromkeys(WEIGHTS, 1))
        name = id_for("vpn-2", mapping_of(config))
        async with contextlib.AsyncExitStack() as running:
            nodes = [Node(config, node_id, insecure=True, own_thread=False) for node_id in WEIGHTS]
            for node in nodes:
                running.push_async_callback(node.stop)
            await asyncio.gather(*(node.start() for node in nodes))
            clients = []
            for node in nodes:
                api = config.node(node.node_id).api
                await running.enter_async_context(AdminServer(node, api))
                clients.append(await running.enter_async_context(Client(f"unix:{api.path}")))
            assert [await client.preferred_owner(name) for client in clients] == ["vpn-2"] * 3  # no such session yet
            made = await clients[0].op("create", name)
            assert (made.session.owner, made.preferred_owner) == ("vpn-1", "vpn-2")
            assert [await client.look(name) for client in clients] == [made] * 3
            with pytest.raises(Rejected) as refused:
                await clients[2].renew(name, expected_version=1, ttl_ms=1_000)
            assert (refused.value.reason, refused.value.session) == (Reason.OWNERSHIP_CONFLICT, made.session)
            assert refused.value.preferred_owner == "vpn-2"
            assert [await client.preferred_owner(name) for client in clients] == ["vpn-2"] * 3

    asyncio.run(main())


# ---- refusals


def test_a_rejection_reads_as_a_sentence() -> None:
    """Reason first, then the detail where there is one; nothing else is known unless it was given."""
    plain = Rejected(Reason.SESSION_EXISTS)
    assert (str(plain), plain.session, plain.owner, plain.detail) == ("SESSION_EXISTS", None, None, "")
    told = Rejected(Reason.OWNERSHIP_CONFLICT, owner="n2", detail="session maps to n2")
    assert (str(told), told.owner) == ("OWNERSHIP_CONFLICT: session maps to n2", "n2")


def test_an_unsettled_mapping_is_refused_before_any_proposal() -> None:
    """So it is Unavailable: not applied, now or ever."""
    answer = Answer(True, Reason.MAPPING_UNSETTLED, detail="waits for n3")
    with pytest.raises(Unavailable, match="MAPPING_UNSETTLED: waits for n3"):
        result_or_raise(answer, OpId("vpn-1", 1, 1))


def test_a_session_s_own_form_has_no_preference() -> None:
    """The hint is a value of the mapping: the machine's session does not know it."""
    assert "preferred_owner" not in Session._fields
