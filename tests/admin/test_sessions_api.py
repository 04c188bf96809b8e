"""/v1/sessions over real HTTP: ops in, outcomes out."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from raftstore.admin import requests
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, OpId, Reason
from tests.admin.fake_node import FakeNode
from tests.admin.serving import Served, serving, until

BINDING = {"transport_id": "t1", "proto": "udp", "remote": "198.51.100.7:51820"}


def test_a_session_lives_through_every_op(tmp_path: Path) -> None:
    """Each op answers 200 with the session as of its own transition."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            steps = [
                ("create", {"binding": BINDING, "ttl_ms": 1000, "policy": "deny"}, "ATTACHED"),
                ("detach", {"expected_version": 1, "reason": "NO_DELIVERY"}, "RECOVERING"),
                ("reattach", {"expected_version": 2, "binding": BINDING, "nonce": 2}, "ATTACHED"),
                ("renew", {"expected_version": 3, "ttl_ms": 5000, "timeout_ms": 100}, "ATTACHED"),
                ("migrate", {"expected_version": 4, "to": "vpn-2"}, "FROZEN"),
                ("resume", {"expected_version": 5}, "RECOVERING"),
                ("failover", {"expected_version": 6, "binding": None}, "RECOVERING"),
                ("terminate", {"expected_version": 7, "reason": "POLICY", "operator": True}, "TERMINATED"),
            ]
            for version, (op, body, state) in enumerate(steps, 1):
                status, answer = await served.call("POST", f"/v1/sessions/s-1/{op}", body)
                assert (status, answer["session"]["state"]) == (200, state), op
                assert answer["session"]["state_version"] == version
            assert served.node.calls[0][2]["binding"] == Binding("t1", "udp", "198.51.100.7:51820")
            assert served.node.calls[3] == (
                "renew",
                "s-1",
                {"expected_version": 3, "ttl_ms": 5000, "timeout_ms": 100},
            )

    asyncio.run(main())


def test_create_needs_no_body(tmp_path: Path) -> None:
    """Every argument of create has a default, so nothing need be sent."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            assert (await served.call("POST", "/v1/sessions/s/create"))[0] == 200

    asyncio.run(main())


def test_ids_of_every_printable_character_arrive_whole(tmp_path: Path) -> None:
    """An id may hold slashes, percent signs, braces and dots; it is the caller's affair to quote them."""
    ids = {
        "a%2Fb": "a/b",
        "a%25b": "a%b",
        "%7Bx%7D": "{x}",
        "%2E%2E": "..",
        "a%3Fb%23": "a?b#",
        "~!@$&*()+=": "~!@$&*()+=",
    }

    async def main() -> None:
        async with serving(tmp_path) as served:
            for quoted, plain in ids.items():
                head = f"POST /v1/sessions/{quoted}/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                assert b" 200 OK" in await served.raw(head.encode()), plain
                assert served.node.calls[-1][1] == plain

    asyncio.run(main())


REFUSED = {"outcome": "rejected", "session": None, "preferred_owner": FakeNode().preferred_owner("s")}
OUTCOMES: list[tuple[Exception, int, dict[str, Any]]] = [
    (Rejected(Reason.OWNERSHIP_CONFLICT), 409, REFUSED | {"reason": "OWNERSHIP_CONFLICT"}),
    (
        Rejected(Reason.OWNERSHIP_CONFLICT, owner="vpn-2", detail="session maps to vpn-2"),
        409,
        REFUSED | {"reason": "OWNERSHIP_CONFLICT", "owner": "vpn-2", "detail": "session maps to vpn-2"},
    ),
    (Rejected(Reason.SESSION_NOT_FOUND), 404, REFUSED | {"reason": "SESSION_NOT_FOUND"}),
    (Unavailable(Reason.NO_QUORUM), 503, {"outcome": "unavailable", "reason": "NO_QUORUM"}),
    (
        Unavailable(Reason.MAPPING_UNSETTLED, "vpn-2 has epoch 4"),
        503,
        {"outcome": "unavailable", "reason": "MAPPING_UNSETTLED", "detail": "vpn-2 has epoch 4"},
    ),
    (
        Unavailable(Reason.OVERLOADED, "8192 ops wait"),
        503,
        {"outcome": "unavailable", "reason": "OVERLOADED", "detail": "8192 ops wait"},
    ),
    (
        OutcomeUnknown(OpId("vpn-1", 0xA1, 7)),
        504,
        {"outcome": "unknown", "op_id": "vpn-1:00000000000000a1:7", "reason": "DEADLINE_PASSED"},
    ),
    (InvalidArgument("to", "no such node"), 400, {"outcome": "invalid", "field": "to", "problem": "no such node"}),
]


@pytest.mark.parametrize(("failure", "status", "body"), OUTCOMES, ids=[str(o[0])[:24] for o in OUTCOMES])
def test_each_outcome_has_its_status(tmp_path: Path, failure: Exception, status: int, body: dict[str, Any]) -> None:
    """What became of an op is told by status and reason, for ops and reads alike."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.failure = failure
            assert await served.call("POST", "/v1/sessions/s/create", {}) == (status, body)
            assert await served.call("GET", "/v1/sessions/s") == (status, body)

    asyncio.run(main())


def test_a_rejection_carries_the_session_as_it_stands(tmp_path: Path) -> None:
    """The loser of a race learns owner, epoch and version without asking again."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            await served.call("POST", "/v1/sessions/s/create", {})
            status, body = await served.call("POST", "/v1/sessions/s/detach", {"expected_version": 9})
            assert (status, body["reason"]) == (409, "VERSION_MISMATCH")
            assert (body["session"]["owner"], body["session"]["state_version"]) == ("vpn-1", 1)

    asyncio.run(main())


def test_a_bug_of_the_node_is_a_500_without_its_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A traceback goes to the node's log, not to the caller."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            served.node.failure = RuntimeError("secret detail")
            status, body = await served.call("POST", "/v1/sessions/s/create", {})
            assert (status, body["outcome"]) == (500, "error")
            assert "secret" not in str(body)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "secret detail" in caplog.text


V = {"expected_version": 1}
BAD_BODIES: list[tuple[str, Any, str, str]] = [
    ("detach", {}, "expected_version", "missing"),
    ("detach", {"expected_version": 0}, "expected_version", "from 1 to"),
    ("detach", {"expected_version": -1}, "expected_version", "from 1 to"),
    ("detach", {"expected_version": 1 << 53}, "expected_version", "from 1 to"),
    ("detach", {"expected_version": 1.0}, "expected_version", "integer"),
    ("detach", {"expected_version": True}, "expected_version", "integer"),
    ("detach", {"expected_version": "1"}, "expected_version", "integer"),
    ("detach", {"expected_version": None}, "expected_version", "integer"),
    ("detach", {"expected_version": [1]}, "expected_version", "integer"),
    ("detach", V | {"reason": "no way"}, "reason", "without spaces"),
    ("detach", V | {"raeson": "NO"}, "raeson", "unknown field; known: expected_version, reason, timeout_ms"),
    ("create", {"x" * 100: 1}, "x" * 61 + "...", "unknown field"),
    ("create", {"\ud800": 1}, "\\ud800", "unknown field"),
    ("create", {"ttl_ms": 0}, "ttl_ms", "from 1 to"),
    ("create", {"ttl_ms": 1 << 53}, "ttl_ms", "from 1 to"),
    ("create", {"ttl_ms": 1e30}, "ttl_ms", "integer"),
    ("create", {"policy": "allow"}, "policy", '"deny" or "terminate"'),
    ("create", {"binding": "t1"}, "binding", "must be an object"),
    ("create", {"binding": ["t", "udp", "r"]}, "binding", "must be an object"),
    ("create", {"binding": {"transport_id": "t", "proto": "udp"}}, "binding.remote", "missing"),
    ("create", {"binding": BINDING | {"remote": ""}}, "binding.remote", "1 to 128"),
    ("create", {"binding": BINDING | {"remote": "x" * 129}}, "binding.remote", "1 to 128"),
    ("create", {"binding": BINDING | {"proto": "u\np"}}, "binding.proto", "printable"),
    ("create", {"binding": BINDING | {"proto": "\ud800"}}, "binding.proto", "printable"),
    ("create", {"binding": BINDING | {"port": 1}}, "binding.port", "unknown field"),
    ("create", {"timeout_ms": 0}, "timeout_ms", "from 1"),
    ("reattach", V, "binding", "missing"),
    ("reattach", V | {"binding": None}, "binding", "must be an object"),
    ("reattach", V | {"binding": BINDING, "nonce": -1}, "nonce", "from 0"),
    ("renew", V, "ttl_ms", "missing"),
    ("migrate", V, "to", "missing"),
    ("migrate", V | {"to": "VPN 2"}, "to", "a node id"),
    ("migrate", V | {"to": "vpn-1"}, "to", "this node itself"),
    ("terminate", V | {"operator": 1}, "operator", "true or false"),
    ("create", [], "body", "must be a JSON object"),
    ("create", 7, "body", "must be a JSON object"),
    ("create", None, "body", "must be a JSON object"),
]


def test_bad_arguments_are_refused_by_name_and_reach_no_node(tmp_path: Path) -> None:
    """Nothing is coerced and nothing ignored: 400, the field, the problem."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            for op, body, field, problem in BAD_BODIES:
                raw = b"null" if body is None else None
                status, answer = await served.call("POST", f"/v1/sessions/s/{op}", body, raw=raw)
                assert (status, answer["outcome"], answer["field"]) == (400, "invalid", field), (op, body, answer)
                assert problem in answer["problem"]
            assert served.node.calls == []

    asyncio.run(main())


BAD_BYTES = [
    (b'{"ttl_ms":', "body", "not JSON"),
    (b'{"ttl_ms": 1} x', "body", "not JSON"),
    (b"\xff\xfe{}", "body", "not UTF-8 at byte 0"),
    (b'{"ttl_ms": NaN}', "body", "NaN is not JSON"),
    (b'{"ttl_ms": -Infinity}', "body", "-Infinity is not JSON"),
    (b'{"ttl_ms": 1, "ttl_ms": 2}', "ttl_ms", "given twice"),
    (b'{"ttl_ms": ' + b"9" * 5000 + b"}", "body", "too many digits"),
    (b'{"ttl_ms":' + b"[" * 30_000, "body", "nested too deeply"),
    (b'{"a":' * 12_000, "body", "nested too deeply"),
    (b"\x1f\x8b\x08\x00", "body", "not UTF-8"),
]


def test_bytes_that_are_no_json_are_refused(tmp_path: Path) -> None:
    """Truncated, nested, not UTF-8, not JSON: 400, whatever the bytes."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            for raw, field, problem in BAD_BYTES:
                status, answer = await served.call("POST", "/v1/sessions/s/create", raw=raw)
                assert (status, answer["field"]) == (400, field), raw[:30]
                assert problem in answer["problem"]
            assert served.node.calls == []

    asyncio.run(main())


def test_a_compressed_body_is_not_unpacked(tmp_path: Path) -> None:
    """A small compressed body could be a large one: it is read as the bytes it is."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            head = (
                b"POST /v1/sessions/s/create HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
            )
            assert b" 400 " in await served.raw(head + b"\x1f\x8b\x08\x00")

    asyncio.run(main())


BAD_PATHS = [
    ("/v1/sessions//create", b"session_id"),
    ("/v1/sessions/" + "x" * 65 + "/create", b"session_id"),
    ("/v1/sessions/a%20b/create", b"session_id"),
    ("/v1/sessions/a%0Ab/create", b"session_id"),
    ("/v1/sessions/%FF/create", b"session_id"),
    ("/v1/sessions/%C3%A9/create", b"session_id"),
    ("/v1/sessions/%00/create", b"session_id"),
    ("/v1/sessions/a%zz/create", b"session_id"),
    ("/v1/sessions/a%/create", b"session_id"),
]


@pytest.mark.parametrize(("path", "field"), BAD_PATHS, ids=[p[12:30] for p, _ in BAD_PATHS])
def test_bad_session_ids_are_refused(tmp_path: Path, path: str, field: bytes) -> None:
    """Empty, too long, with spaces, control characters or beyond ASCII: 400 naming session_id."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            answer = await served.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert b" 400 " in answer, answer
            assert b'"field":"' + field + b'"' in answer
            assert served.node.calls == []

    asyncio.run(main())


def test_the_body_is_bounded_announced_or_not(tmp_path: Path) -> None:
    """64 KiB pass, one byte more is 413, whether the length was announced or the body came in chunks."""

    async def chunks(size: int) -> Any:
        yield b" " * (size - 2)
        yield b"{}"

    async def main() -> None:
        async with serving(tmp_path) as served:
            for body in (lambda n: b" " * (n - 2) + b"{}", chunks):
                status, _ = await served.call("POST", "/v1/sessions/s/create", raw=body(65_536))
                assert status in (200, 409)
                status, answer = await served.call("POST", "/v1/sessions/s/create", raw=body(65_537))
                assert (status, answer["field"]) == (413, "body")

    asyncio.run(main())


def test_a_body_announced_as_too_long_is_not_read(tmp_path: Path) -> None:
    """The refusal comes before the first byte of it."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            head = b"POST /v1/sessions/s/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
            assert b" 413 " in await served.raw(head)

    asyncio.run(main())


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever announces a body and sends half of it is answered 408."""
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.01)

    async def main() -> None:
        async with serving(tmp_path) as served:
            head = b"POST /v1/sessions/s/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
            assert b" 408 " in await served.raw(head)
            assert served.node.calls == []

    asyncio.run(main())


def test_reads(tmp_path: Path) -> None:
    """One session at either consistency, ownership, the explanation, and pages of many."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            for i in range(5):
                await served.call("POST", f"/v1/sessions/s{i}/create", {"binding": BINDING} if i else {})
            await reads(served)

    asyncio.run(main())


async def reads(served: Served) -> None:
    call = served.call
    assert (await call("GET", "/v1/sessions/s1?consistency=local"))[1]["session"]["epoch"] == 1
    assert served.node.calls[-1][2] == {"consistency": "local"}
    assert (await call("GET", "/v1/sessions/s1"))[0] == 200
    assert served.node.calls[-1][2] == {"consistency": "linearizable"}
    assert await call("GET", "/v1/sessions/s1/owns") == (200, {"owns": True, "epoch": 1})
    assert await call("GET", "/v1/sessions/s1/owns?epoch=2") == (200, {"owns": False, "epoch": 1})
    assert await call("GET", "/v1/sessions/s0/owns") == (200, {"owns": False, "epoch": None})
    assert (await call("GET", "/v1/sessions/s0/explain"))[1]["owned_since_index"] == 17
    assert (await call("GET", "/v1/sessions/none/explain"))[1]["session"] is None
    _, page = await call("GET", "/v1/sessions?limit=2")
    assert ([s["session_id"] for s in page["sessions"]], page["next"]) == (["s0", "s1"], "s1")
    _, page = await call("GET", "/v1/sessions?state=attached&owner=vpn-1&after=s2")
    assert ([s["session_id"] for s in page["sessions"]], page["next"]) == (["s3", "s4"], None)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/sessions?limit=0", "limit"),
        ("/v1/sessions?limit=1001", "limit"),
        ("/v1/sessions?limit=ten", "limit"),
        ("/v1/sessions?limit=+1", "limit"),
        ("/v1/sessions?limit=1&limit=2", "limit"),
        ("/v1/sessions?state=GONE", "state"),
        ("/v1/sessions?owner=A", "owner"),
        ("/v1/sessions?colour=red", "colour"),
        ("/v1/sessions/s?consistency=eventual", "consistency"),
        ("/v1/sessions/s/owns?epoch=-1", "epoch"),
    ],
)
def test_queries_are_read_as_strictly_as_bodies(tmp_path: Path, path: str, field: str) -> None:
    """An unknown or bad query parameter is refused by name."""

    async def main() -> None:
        async with serving(tmp_path) as served:
            status, answer = await served.call("GET", path)
            assert (status, answer["field"]) == (400, field)

    asyncio.run(main())


def test_callers_beyond_the_bound_are_refused_while_the_others_go_on(tmp_path: Path) -> None:
    """The node's OVERLOADED comes through as 503 with a hint to retry; those it took are answered."""

    async def main() -> None:
        node = FakeNode()
        node.hold, node.running_max = asyncio.Event(), 50
        async with serving(tmp_path, node) as served:
            calls = [asyncio.create_task(served.call("POST", f"/v1/sessions/s{i}/create", {})) for i in range(200)]
            await until(lambda: sum(c.done() for c in calls) == 150)
            node.hold.set()
            answers = [await c for c in calls]
        assert sum(status == 200 for status, _ in answers) == 50
        refused = [body for status, body in answers if status == 503]
        assert refused == [{"outcome": "unavailable", "reason": "OVERLOADED"}] * 150
        assert node.running_peak == 50

    asyncio.run(main())


def test_a_caller_who_hangs_up_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a head, half a body, or gone before the answer: the op that was taken goes on, nothing is logged."""

    async def main() -> None:
        node = FakeNode()
        node.hold = asyncio.Event()
        async with serving(tmp_path, node) as served:
            whole = b"POST /v1/sessions/s/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
            for part in (whole[:30], whole[:-1], whole):
                _, writer = await asyncio.open_unix_connection(str(served.path))
                writer.write(part)
                await writer.drain()
                if part is whole:
                    await until(lambda: node.running == 1)
                writer.close()
                await writer.wait_closed()
            node.hold.set()
            await until(lambda: "s" in node.sessions)
            await until(lambda: served.server.connections == 0)
            assert (await served.call("GET", "/v1/sessions/s"))[0] == 200

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert caplog.text == ""
