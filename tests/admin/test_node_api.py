"""The rest of the API: status, health, drain, leadership, outcomes, audit stream, metrics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from raftstore.admin import audit_stream
from raftstore.errors import Unavailable
from raftstore.types import OpId, Reason
from tests.admin.fake_node import FakeNode
from tests.admin.serving import Served, serving, until


def test_status_names_the_leader(tmp_path: Path) -> None:
    """The status is the node's own, leader by node id."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            status, body = await served.call("GET", "/v1/status")
            assert (status, body["leader"], body["term"], body["quorum"]) == (200, "vpn-1", 7, True)

    asyncio.run(main())


def test_drain_and_leader_transfer(tmp_path: Path) -> None:
    """Both act on the node that is asked and answer with what it has come to."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            answer = await served.call("POST", "/v1/node/drain")
            assert answer == (200, {"outcome": "drained", "moved": 0, "failed": 0, "last_problem": None})
            assert served.node.drained
            answer = await served.call("POST", "/v1/leader/transfer", {"to": "vpn-3"})
            assert answer == (200, {"outcome": "transferred", "leader": "vpn-3"})
            assert (await served.call("POST", "/v1/leader/transfer", {"to": 3}))[1]["field"] == "to"
            served.node.failure = Unavailable(Reason.NO_QUORUM)
            assert (await served.call("POST", "/v1/node/drain", {}))[0] == 503

    asyncio.run(main())


def test_the_fate_of_an_unknown_op_can_be_asked(tmp_path: Path) -> None:
    """By the op id of the 504; an id that this node never gave is 404, nonsense is 400."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.outcomes[OpId("vpn-1", 0xA1, 7)] = {"outcome": "committed", "reason": None, "session": None}
            status, body = await served.call("GET", "/v1/ops/vpn-1:00000000000000a1:7")
            assert (status, body["outcome"]) == (200, "committed")
            assert (await served.call("GET", "/v1/ops/vpn-1:00000000000000a1:8"))[0] == 404
            assert (await served.call("GET", "/v1/ops/x"))[1]["field"] == "op_id"

    asyncio.run(main())


def test_liveness_never_depends_on_quorum(tmp_path: Path) -> None:
    """Without a quorum a node is alive and not ready, and says which check failed."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            assert await served.text("/livez") == (200, "ok\n")
            assert await served.text("/readyz") == (200, "ok\n")
            assert await served.text("/readyz?verbose") == (200, "[+]quorum leader vpn-1\n[+]lease\nok\n")
            served.node.is_ready = False
            assert (await served.text("/livez"))[0] == 200
            assert await served.text("/readyz") == (503, "[-]quorum no leader\n[+]lease\nnot ok\n")

    asyncio.run(main())


def test_unknown_paths_and_methods_are_answered_in_json(tmp_path: Path) -> None:
    """404 and 405 look like every other refusal."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            for method, path, status, field in (
                ("GET", "/nothing", 404, "path"),
                ("GET", "/v1/sessions/a/b/c", 404, "path"),
                ("POST", "/v1/sessions/s/steal", 404, "path"),
                ("DELETE", "/v1/sessions/s", 405, "method"),
                ("GET", "/v1/node/drain", 405, "method"),
            ):
                answer = await served.call(method, path)
                assert (answer[0], answer[1]["field"]) == (status, field), path

    asyncio.run(main())


def test_cutting_links_on_demand_exists_only_where_asked_for(tmp_path: Path) -> None:
    """Without debug faults the path does not exist at all."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            assert (await served.call("POST", "/v1/debug/isolate", {"peers": ["vpn-2"]}))[0] == 404
        async with serving(tmp_path, debug_faults=True) as served:
            assert (await served.call("POST", "/v1/debug/isolate", {"peers": ["vpn-2"]}))[0] == 200
            assert served.node.isolated == ["vpn-2"]
            assert (await served.call("POST", "/v1/debug/isolate", {"peers": ["vpn-2", 3]}))[1]["field"] == "peers[1]"
            assert (await served.call("POST", "/v1/debug/isolate", {}))[1]["field"] == "peers"

    asyncio.run(main())


# ---- audit


async def lines(served: Served, query: str) -> list[dict[str, Any]]:
    async with served.http.get(f"http://node/v1/audit{query}") as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


def test_audit_ends_at_the_present(tmp_path: Path) -> None:
    """Without follow the stream is what there is after the given number."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            assert await lines(served, "") == []
            for _ in range(3):
                served.node.add_event()
            assert [e["number"] for e in await lines(served, "")] == [1, 2, 3]
            assert [e["number"] for e in await lines(served, "?after=2")] == [3]
            assert await lines(served, "?after=3") == []
            assert await lines(served, "?after=99") == []

    asyncio.run(main())


def test_audit_ends_with_a_gap_that_reaches_the_present(tmp_path: Path) -> None:
    """A gap line stands for all the numbers in it."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.add_event(event="AuditGap", **{"from": 1, "to": 5, "number": 5})
            served.node.extra_status = {"event_seq": 5}
            assert len(await lines(served, "")) == 1

    asyncio.run(main())


def test_audit_does_not_wait_for_ever_for_events_not_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events counted but not yet readable are waited for within a bound."""
    monkeypatch.setattr(audit_stream, "POLL_S", 0.01)
    monkeypatch.setattr(audit_stream, "QUIET_MAX_S", 0.02)

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.add_event()
            served.node.extra_status = {"event_seq": 2}
            assert [e["number"] for e in await lines(served, "")] == [1]

    asyncio.run(main())


def test_followers_get_events_as_they_come_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that hangs up while nothing happens is noticed and its place is free again."""
    monkeypatch.setattr(audit_stream, "POLL_S", 0.01)

    async def main() -> None:
        async with serving(tmp_path) as served:
            async with served.http.get("http://node/v1/audit?follow=1") as response:
                for number in (1, 2):
                    served.node.add_event()
                    assert json.loads(await response.content.readline())["number"] == number
                response.close()
            await until(lambda: served.node.readers == 0)
            await until(lambda: served.server.connections == 0)

    asyncio.run(main())


def test_followers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream too many is OVERLOADED; the others go on."""
    monkeypatch.setattr(audit_stream, "READERS_MAX", 1)

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.add_event()
            async with served.http.get("http://node/v1/audit?follow=1") as response:
                await response.content.readline()
                status, body = await served.call("GET", "/v1/audit")
                assert (status, body["reason"]) == (503, "OVERLOADED")
                response.close()

    asyncio.run(main())


def test_a_follower_that_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled reader costs a bounded buffer for a bounded time."""
    monkeypatch.setattr(audit_stream, "READER_STALL_MAX_S", 0.05)

    async def main() -> None:
        node = FakeNode()
        for _ in range(50):
            node.add_event(detail="x" * 100_000)
        async with serving(tmp_path, node) as served:
            _, writer = await asyncio.open_unix_connection(str(served.path), limit=1)
            writer.write(b"GET /v1/audit?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: node.readers == 1)
            await until(lambda: node.readers == 0)
            writer.close()

    asyncio.run(main())


def test_the_server_stops_while_followers_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower does not hold up the end of the node; its stream just ends."""
    monkeypatch.setattr(audit_stream, "POLL_S", 0.01)

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.add_event()
            async with served.http.get("http://node/v1/audit?follow=1") as response:
                await response.content.readline()
                await asyncio.wait_for(served.server.stop(), 2)
                assert await response.content.read() == b""
            assert not served.path.exists()

    asyncio.run(main())


# ---- metrics


def test_metrics_show_the_node_and_the_api(tmp_path: Path) -> None:
    """Base units, labels instead of names with values in them, and nothing that is not known."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            await served.call("POST", "/v1/sessions/s/create", {})
            await served.call("GET", "/v1/sessions/none")
            status, page = await served.text("/metrics")
        assert status == 200
        for line in (
            "raftstore_term 7.0",
            "raftstore_quorum 1.0",
            "raftstore_lease_remaining_seconds 2.5",
            'raftstore_role{role="leader"} 1.0',
            'raftstore_role{role="follower"} 0.0',
            'raftstore_node_info{cluster="test",incarnation="00000000000000a1",node="vpn-1"} 1.0',
            'raftstore_ops_total{op="create",outcome="SESSION_EXISTS"} 1.0',
            "raftstore_fenced_total 2.0",
            "raftstore_pending_ops 4.0",
            'raftstore_peer_connected{peer="vpn-3"} 0.0',
            'raftstore_peer_last_contact_seconds{peer="vpn-2"} 0.012',
            'raftstore_commit_seconds_bucket{le="0.01"} 7.0',
            'raftstore_commit_seconds_bucket{le="+Inf"} 8.0',
            "raftstore_commit_seconds_count 8.0",
            'raftstore_api_requests_total{route="/v1/sessions/{session_id}/create",status="200"} 1.0',
            'raftstore_api_requests_total{route="/v1/sessions/{session_id}",status="404"} 1.0',
        ):
            assert line in page.splitlines(), line
        assert 'raftstore_peer_lag_entries{peer="vpn-3"}' not in page

    asyncio.run(main())


def test_metrics_survive_a_status_they_do_not_know(tmp_path: Path) -> None:
    """A new counter appears by itself; a missing or empty one is left out."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.extra_status = {
                "counters": {"new_thing": 1, "odd:a:b": 2, "link:HELLO_REFUSED.WRONG_CLUSTER": 1},
                "histograms": None,
                "peers": None,
                "lease_remaining_ms": None,
                "sessions_by_state": {"ATTACHED": 4},
            }
            status, page = await served.text("/metrics")
        assert status == 200
        assert "raftstore_new_thing_total 1.0" in page
        assert 'raftstore_odd_total{label1="a",label2="b"} 2.0' in page
        assert 'raftstore_link_total{event="HELLO_REFUSED.WRONG_CLUSTER"} 1.0' in page
        assert 'raftstore_sessions_owned_by_state{state="ATTACHED"} 4.0' in page
        assert "raftstore_lease_remaining_seconds" not in page

    asyncio.run(main())
