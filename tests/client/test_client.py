"""The remote client says what the node says: the same sessions, the same exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from raftstore.client import Client, NoAnswer, Placed, RequestFailed, Unreachable
from raftstore.client.reading import op_id_from, placed_from, session_from
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, OpId, Reason, Session, SessionState
from tests.admin.fake_node import FakeNode, sticky_view
from tests.admin.serving import serving, until

BINDING = Binding("t1", "udp", "198.51.100.7:51820")


@asynccontextmanager
async def connected(directory: Path, node: FakeNode | None = None) -> AsyncIterator[tuple[Client, FakeNode]]:
    async with serving(directory, node, debug_faults=True) as served, Client(f"unix:{served.path}") as client:
        yield client, served.node


def test_every_op_returns_the_session_of_its_transition(tmp_path: Path) -> None:
    """The client's methods are the node's: same names, same arguments, same results."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            s = await client.create("s/1", binding=BINDING, ttl_ms=1000, policy="terminate")
            assert s == node.sessions["s/1"]
            s = await client.detach("s/1", expected_version=s.state_version, reason="NO_DELIVERY")
            s = await client.reattach("s/1", expected_version=s.state_version, binding=BINDING, nonce=2)
            s = await client.renew("s/1", expected_version=s.state_version, ttl_ms=9, timeout_ms=50)
            s = await client.migrate("s/1", expected_version=s.state_version, to="vpn-2")
            s = await client.resume("s/1", expected_version=s.state_version)
            s = await client.failover("s/1", expected_version=s.state_version, binding=BINDING)
            assert s == await client.get("s/1", consistency="local")
            s = await client.terminate("s/1", expected_version=s.state_version, operator=True)
            assert (s.state, s.state_version) == (SessionState.TERMINATED, 8)
            assert await client.list_sessions(owner="vpn-1", state=SessionState.TERMINATED) == [s]
            assert await client.list_sessions(after="s/1") == []

    asyncio.run(main())


@pytest.mark.parametrize("session_id", ["a/b", "..", ".", "a%2Fb", "{x}", "a?b#c", "%", "a+b&c=d;e"])
def test_ids_of_every_kind_arrive_whole(tmp_path: Path, session_id: str) -> None:
    """Whatever an id holds, the node sees the same id."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            await client.create(session_id)
            assert list(node.sessions) == [session_id]
            assert (await client.get(session_id)).session_id == session_id
            assert not await client.owns(session_id, epoch=1)
            assert await client.owned_epoch(session_id) is None

    asyncio.run(main())


def test_outcomes_are_raised_as_the_node_raises_them(tmp_path: Path) -> None:
    """Rejected with its session, unavailable, unknown with its op id, invalid with its field."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            created = await client.create("s")
            with pytest.raises(Rejected) as rejected:
                await client.detach("s", expected_version=5)
            assert (rejected.value.reason, rejected.value.session) == (Reason.VERSION_MISMATCH, created)
            with pytest.raises(Rejected) as rejected:
                await client.get("none")
            assert rejected.value.reason is Reason.SESSION_NOT_FOUND
            with pytest.raises(InvalidArgument) as invalid:
                await client.create("no spaces")
            assert invalid.value.field == "session_id"
            node.failure = Unavailable(Reason.NO_QUORUM, "cut off")
            with pytest.raises(Unavailable) as unavailable:
                await client.renew("s", expected_version=1, ttl_ms=1)
            assert (unavailable.value.reason, unavailable.value.detail) == (Reason.NO_QUORUM, "cut off")
            node.failure = OutcomeUnknown(OpId("vpn-1", 0xA1, 7))
            with pytest.raises(OutcomeUnknown) as unknown:
                await client.create("t")
            assert unknown.value.op_id == OpId("vpn-1", 0xA1, 7)
            node.outcomes[OpId("vpn-1", 0xA1, 7)] = {"outcome": "committed"}
            found = await client.outcome(unknown.value.op_id)
            assert found is not None and found["outcome"] == "committed"
            assert await client.outcome(OpId("vpn-1", 0xA1, 8)) is None

    asyncio.run(main())


def test_the_preferred_owner_comes_with_the_session(tmp_path: Path) -> None:
    """Beside the session, which is the same value as ever; and by itself, be there a session or not."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            for name in ("s0", "s1", "s2", "s3"):
                assert await client.preferred_owner(name) == node.preferred_owner(name)
                made = await client.op("create", name, binding=BINDING, ttl_ms=None)
                assert made == (node.sessions[name], node.preferred_owner(name))
                assert await client.look(name, consistency="local") == made
                assert await client.get(name) == made.session
                assert await client.preferred_owner(name) == made.preferred_owner
            assert len({node.preferred_owner(name) for name in node.sessions}) > 1
            placed = await client.list_placed(limit=3)
            assert [p.preferred_owner for p in placed] == [node.preferred_owner(p.session.session_id) for p in placed]
            assert [p.session for p in placed] == await client.list_sessions(limit=3)

    asyncio.run(main())


def test_a_rejection_brings_every_hint(tmp_path: Path) -> None:
    """The node to ask instead, why in words, and where the mapping sends the session."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            with pytest.raises(Rejected) as rejected:
                await client.get("s1")
            assert rejected.value.preferred_owner == node.preferred_owner("s1")
            assert (rejected.value.owner, rejected.value.detail) == (None, "")
            await client.create("s1")
            with pytest.raises(Rejected) as rejected:
                await client.create("s1")
            assert rejected.value.preferred_owner == node.preferred_owner("s1")
            node.failure = Rejected(Reason.OWNERSHIP_CONFLICT, owner="vpn-2", detail="session maps to vpn-2")
            with pytest.raises(Rejected, match="OWNERSHIP_CONFLICT: session maps to vpn-2") as rejected:
                await client.create("s2")
            assert (rejected.value.owner, rejected.value.session) == ("vpn-2", None)
            assert rejected.value.preferred_owner == node.preferred_owner("s2")
            node.failure = Unavailable(Reason.MAPPING_UNSETTLED, "vpn-3 has epoch 2")
            with pytest.raises(Unavailable) as unavailable:
                await client.create("s3")
            assert unavailable.value.reason is Reason.MAPPING_UNSETTLED

    asyncio.run(main())


def test_the_node_can_be_steered(tmp_path: Path) -> None:
    """Status, drain, leadership, explanations and faults on demand."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            await client.create("s")
            assert (await client.status())["leader"] == "vpn-1"
            assert (await client.drain())["moved"] == 1
            assert (await client.transfer_leadership("vpn-2"))["leader"] == "vpn-2"
            assert (await client.explain("s"))["owned_since_index"] == 17
            await client.isolate(["vpn-2"])
            assert node.isolated == ["vpn-2"]

    asyncio.run(main())


def test_the_mapping_can_be_read_and_changed(tmp_path: Path) -> None:
    """As on the node itself: arguments, answers, and the refusal with its field."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            assert (await client.mapping())["strategy"] == "shared"
            node.sticky = sticky_view("vpn-1", 1, {"vpn-1": 1, "vpn-2": 1})
            changed = await client.change_mapping({"vpn-1": 1, "vpn-2": 3}, draining=["vpn-1"], lost=["vpn-9"], epoch=2)
            assert (changed["epoch"], changed["lost"]) == (2, ["vpn-9"])
            assert (await client.mapping())["nodes"] == [
                {"node_id": "vpn-1", "weight": 1, "draining": True},
                {"node_id": "vpn-2", "weight": 3, "draining": False},
            ]
            with pytest.raises(InvalidArgument, match="epoch: the next is 3"):
                await client.change_mapping({"vpn-1": 1}, epoch=2)

    asyncio.run(main())


def test_events_are_iterated(tmp_path: Path) -> None:
    """To the present without follow; with it, as they come."""

    async def main() -> None:
        async with connected(tmp_path) as (client, node):
            node.add_event()
            node.add_event()
            assert [e["number"] async for e in client.events(1, follow=False)] == [2]
            numbers = []
            async for event in client.events(0):
                numbers.append(event["number"])
                if len(numbers) == 2:
                    node.add_event()
                if len(numbers) == 3:
                    break
            assert numbers == [1, 2, 3]
            node.failure = None
            with pytest.raises(InvalidArgument):
                await anext(client.events(-1))

    asyncio.run(main())


def test_a_node_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """No socket, a dead socket, a closed port: the request was certainly not sent."""

    async def main() -> None:
        for endpoint in (f"unix:{tmp_path}/none.sock", "http://127.0.0.1:1"):
            async with Client(endpoint) as client:
                with pytest.raises(Unreachable):
                    await client.create("s")
                with pytest.raises(Unreachable):
                    await anext(client.events())

    asyncio.run(main())


def test_silence_after_sending_says_whether_it_may_have_happened(tmp_path: Path) -> None:
    """A change that got no answer may have happened; a read cannot have."""

    async def main() -> None:
        node = FakeNode()
        node.hold = asyncio.Event()
        async with serving(tmp_path, node) as served:
            async with Client(f"unix:{served.path}", timeout_s=0.05) as client:
                with pytest.raises(NoAnswer) as lost:
                    await client.create("s")
                assert lost.value.may_have_happened
                with pytest.raises(NoAnswer) as lost:
                    await client.get("s")
                assert not lost.value.may_have_happened
            node.hold.set()
            await until(lambda: "s" in node.sessions)

    asyncio.run(main())


def test_calls_beyond_the_bound_wait_their_turn_and_no_longer_than_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never got its turn was certainly not sent. Followers of events take nobody's turn."""
    monkeypatch.setattr("raftstore.client.client.CALLS_AT_ONCE_MAX", 2)

    async def main() -> None:
        node = FakeNode()
        async with serving(tmp_path, node) as served, Client(f"unix:{served.path}") as client:
            followers = [asyncio.create_task(anext(client.events())) for _ in range(3)]
            await until(lambda: node.readers == 3)
            node.hold = asyncio.Event()
            calls = [asyncio.create_task(client.create(f"s{n}")) for n in range(5)]
            await until(lambda: node.running == 2)
            client._timeout_s = 0.02
            with pytest.raises(Unreachable, match="2 other calls were under way"):
                await client.get("s0")
            node.hold.set()
            await asyncio.gather(*calls)
            assert (node.running_peak, [call[0] for call in node.calls]) == (2, ["create"] * 5)
            for follower in followers:
                follower.cancel()

    asyncio.run(main())


def test_nobody_starves_where_all_come_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six callers on two connections, each asking again as soon as it is answered: all are served alike."""
    monkeypatch.setattr("raftstore.client.client.CALLS_AT_ONCE_MAX", 2)

    async def main() -> None:
        served_so_far = dict.fromkeys("abcdef", 0)

        async def caller(client: Client, name: str) -> None:
            while sum(served_so_far.values()) < 60:
                await client.get(name)
                served_so_far[name] += 1

        async with connected(tmp_path) as (client, node):
            for name in served_so_far:
                await client.create(name)
            await asyncio.gather(*(caller(client, name) for name in served_so_far))
            assert node.running_peak <= 2
            assert max(served_so_far.values()) - min(served_so_far.values()) <= 2

    asyncio.run(main())


ANSWERS = [
    b"HTTP/1.1 409 Conflict\r\nContent-Length: 77\r\n\r\n"
    b'{"outcome":"rejected","reason":"OWNERSHIP_CONFLICT","session":null,"owner":7}',
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"session": 7}',
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n[]",
    b'HTTP/1.1 409 Conflict\r\nContent-Length: 22\r\n\r\n{"outcome":"rejected"}',
    b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 2\r\n\r\n{}",
]


@pytest.mark.parametrize("answer", ANSWERS, ids=[a[9:12].decode() + str(i) for i, a in enumerate(ANSWERS)])
def test_what_is_no_answer_of_a_node_is_not_believed(tmp_path: Path, answer: bytes) -> None:
    """Another program, a proxy's page, half an answer: RequestFailed, and no redirect is followed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def main() -> None:
        path = tmp_path / "other.sock"
        async with await asyncio.start_unix_server(serve, str(path)), Client(f"unix:{path}") as client:
            with pytest.raises(RequestFailed):
                await client.create("s")

    asyncio.run(main())


@pytest.mark.parametrize("endpoint", ["", "unix:", "ftp://x", "/run/x.sock", "https://h:1"])
def test_bad_endpoints_are_refused(endpoint: str) -> None:
    """Only the three forms, and https only with certificates."""
    with pytest.raises(InvalidArgument) as invalid:
        Client(endpoint)
    assert invalid.value.field == "endpoint"


def test_sessions_and_op_ids_survive_the_way_there_and_back() -> None:
    """What `as_dict` and `str` write is what the client reads."""
    session = Session("s", SessionState.FROZEN, "vpn-1", 2, 3, BINDING, 4, 5, 6, 7, "vpn-2", "MIGRATION")
    assert session_from(session.as_dict()) == session
    op_id = OpId("vpn-1", 0xFFFF_FFFF_FFFF_FFFF, 9)
    assert op_id_from(str(op_id)) == op_id
    assert placed_from(session.as_dict()) == (session, None)  # from a node that tells no preference
    placed = Placed(session, "vpn-2")
    assert placed_from(placed.as_dict()) == placed
    with pytest.raises(TypeError):
        placed_from(session.as_dict() | {"preferred_owner": 7})
    for broken in ({}, session.as_dict() | {"state": "GONE"}, session.as_dict() | {"epoch": True}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            session_from(broken)
