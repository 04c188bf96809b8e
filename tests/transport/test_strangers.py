"""Whoever cannot prove to be a member is closed and counted; whoever disagrees is told why, on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raftstore.codec.frames import FrameType, frame_header
from raftstore.transport.certs import issue_client, issue_node
from raftstore.transport.counters import LinkEvent
from raftstore.transport.hello import RefusalReason
from raftstore.transport.ports import Endpoint
from tests.transport.support import CLUSTER, QUICK, Peer, Pki, Stranger, context, linked, make, running, until

Run = Callable[[Callable[[], Any]], None]
AB = ("a", "b")
UNAUTHENTICATED = LinkEvent.UNAUTHENTICATED_PEER


async def closed_as(node: Peer, event: LinkEvent, stranger: Stranger, before: int = 0) -> None:
    await stranger.ended()
    await stranger.close()
    await until(lambda: node.links.counters[event] > before, f"{event} counted: {node.links.counters.as_dict()}")
    assert node.handler.events == []


def test_plain_bytes_and_plain_hellos_are_closed(run: Run, pki: Pki) -> None:
    """Plain TCP, be it another protocol or a perfect hello without TLS, reaches nothing."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            http = await Stranger.connect(b.links.bound)
            http.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await closed_as(b, UNAUTHENTICATED, http)
            plain = await Stranger.connect(b.links.bound)
            plain.hello("a")
            await closed_as(b, UNAUTHENTICATED, plain, 1)

    run(main)


async def tls_stranger(address: Endpoint, made: ssl.SSLContext) -> None:
    """Connect and wait for the end, which may come at any point of the handshake."""
    with contextlib.suppress(OSError, ssl.SSLError):
        reader, writer = await asyncio.open_connection(*address, ssl=made, server_hostname="")
        with contextlib.suppress(OSError, ssl.SSLError):
            assert await reader.read(100) == b""
        writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def test_without_our_certificate_or_with_older_tls_nobody_gets_in(run: Run, pki: Pki, tmp_path: Path) -> None:
    """No certificate, a foreign CA's, an expired one, an API client's, and TLS 1.2 are each closed and counted."""

    async def main() -> None:
        b = make(pki, "b", AB)
        none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        none.check_hostname, none.verify_mode = False, ssl.CERT_NONE
        older = context(pki.node("a"))
        assert older is not None
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        past = datetime.now(UTC) - timedelta(days=900)
        expired = context(pki.put("expired", issue_node(pki.ca, CLUSTER, "a", now=past)))
        foreign = context(Pki(tmp_path / "foreign").node("a"))
        client = context(pki.put("operator", issue_client(pki.ca, CLUSTER, "operator")))
        async with running(b):
            for count, made in enumerate((none, older, expired, foreign, client), 1):
                assert made is not None
                await tls_stranger(b.links.bound, made)
                await until(lambda n=count: b.links.counters[UNAUTHENTICATED] == n, f"stranger {count} counted")
            assert b.handler.events == []
            assert b.links.connected() == frozenset()

    run(main)


def test_a_member_cannot_speak_for_another(run: Run, pki: Pki) -> None:
    """A member's certificate under another member's name is refused and counted as unauthenticated."""

    async def main() -> None:
        c = make(pki, "c", "abc")
        async with running(c):
            liar = await Stranger.connect(c.links.bound, pki.node("b"))
            liar.hello("a")
            frame = await liar.frame()
            assert frame is not None
            assert frame[0] == FrameType.REFUSE
            await closed_as(c, UNAUTHENTICATED, liar)
            assert c.links.counters.refused(RefusalReason.IDENTITY_MISMATCH) == 1

    run(main)


def test_the_dialer_checks_who_answers(run: Run, pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Behind the address of one peer stands another, or a foreign CA's server: no link, and the log says which."""

    async def main() -> None:
        a, c = make(pki, "a", "abc"), make(pki, "c", "abc")
        async with running(a, c):
            await linked(a, c)
            a.links.set_peer_address("b", c.links.bound)
            await until(lambda: a.links.counters.refused(RefusalReason.IDENTITY_MISMATCH) >= 2)
            assert a.links.connected() == {"c"}
            assert caplog.text.count("the address of b leads to c (check the peer addresses)") <= 2  # once a side

    run(main)


def test_a_foreign_server_is_not_talked_to(run: Run, pki: Pki, tmp_path: Path) -> None:
    """A dialer that meets a server of another CA says nothing to it, and counts it."""

    async def main() -> None:
        a, b = make(pki, "a", AB), make(Pki(tmp_path / "foreign"), "b", AB)
        async with running(a, b):
            await until(lambda: a.links.counters[UNAUTHENTICATED] >= 2)
            await until(lambda: b.links.counters[LinkEvent.HANDSHAKE_ABORTED] >= 2)
            assert a.handler.events == b.handler.events == []

    run(main)


@pytest.mark.parametrize(
    ("identity", "members", "reason"),
    [
        ({"config_digest": "cd" * 32}, "ab", RefusalReason.CONFIG_MISMATCH),
        ({"cluster": "prod"}, "ab", RefusalReason.WRONG_CLUSTER),
        ({}, "bc", RefusalReason.UNKNOWN_NODE),
    ],
)
def test_a_disagreement_is_refused_on_both_sides_and_said_once(
    run: Run,
    pki: Pki,
    caplog: pytest.LogCaptureFixture,
    identity: dict[str, Any],
    members: str,
    reason: RefusalReason,
) -> None:
    """Both logs give the reason, once and not once per retry; retries go on, for an operator may mend it."""

    async def main() -> None:
        caplog.clear()
        insecure = "cluster" in identity  # a certificate of another cluster would not even start
        a = make(None if insecure else pki, "a", AB)
        b = make(None if insecure else pki, "b", members, **identity)
        async with running(a, b):
            await until(lambda: b.links.counters.refused(reason) >= 4, f"{b.links.counters.as_dict()}")
            await until(lambda: a.links.counters[LinkEvent.REFUSED_BY_PEER] >= 3)
            assert a.handler.events == b.handler.events == []
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len([line for line in lines if "refused here" in line and reason in line]) == 1
        assert len([line for line in lines if "refused there" in line and reason in line]) == 1

    caplog.set_level(logging.INFO)
    run(main)


def test_a_node_that_dials_itself_is_told_so(run: Run) -> None:
    """A peer address that leads back to its own node is refused as a connection to itself."""

    async def main() -> None:
        a = make(None, "a", AB)
        async with running(a):
            a.links.set_peer_address("b", a.links.bound)
            await until(lambda: a.links.counters.refused(RefusalReason.SELF_CONNECTION) >= 1)
            assert a.handler.events == []

    run(main)


def test_messages_before_the_hello_are_never_delivered(run: Run, pki: Pki) -> None:
    """A member that skips its hello is closed, and its message is given to nobody."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            hasty = await Stranger.connect(b.links.bound, pki.node("a"))
            hasty.write(FrameType.MESSAGE, b"first")
            await closed_as(b, LinkEvent.BAD_FRAME, hasty)

    run(main)


class Touch:
    """Pickled, this would make a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_objects_run_nothing(run: Run, tmp_path: Path) -> None:
    """What would run code if unpickled is only bytes here: refused as a hello, handed on as a message."""

    async def main() -> None:
        b = make(None, "b", AB)
        poison = pickle.dumps(Touch(tmp_path / "touched"))
        async with running(b):
            first = await Stranger.connect(b.links.bound)
            first.write(FrameType.HELLO, poison)
            await first.ended()
            assert b.links.counters.refused(RefusalReason.MALFORMED_HELLO) == 1
            second = await Stranger.connect(b.links.bound)
            second.hello("a")
            second.write(FrameType.MESSAGE, poison)
            await until(lambda: b.handler.messages("a") == [poison])
            await first.close()
            await second.close()

    run(main)
    assert list(tmp_path.iterdir()) == []


def test_garbage_of_any_kind_ends_its_own_connection_only(run: Run, pki: Pki) -> None:
    """Random bytes, before and inside TLS, before and after the hello, leave the node able to link its members."""

    async def main() -> None:
        b = make(pki, "b", AB)
        rng = random.Random(11)
        async with running(b):
            for turn in range(24):
                noise = await Stranger.connect(b.links.bound, pki.node("a") if turn % 3 else None)
                if turn % 3 == 2:
                    noise.hello("a", generation=turn + 1)
                noise.writer.write(rng.randbytes(rng.randrange(6, 3_000)))
                await noise.ended()
                await noise.close()
            assert b.handler.messages("a") == []
            await until(lambda: not b.links.connected())
            a = make(pki, "a", AB)
            async with running(a):
                a.links.set_peer_address("b", b.links.bound)
                await linked(a, b)

    run(main)


def test_a_hello_beyond_the_small_bound_is_cut_off(run: Run, pki: Pki) -> None:
    """Before its hello a member may announce 4 KiB and not a byte more."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            greedy = await Stranger.connect(b.links.bound, pki.node("a"))
            greedy.writer.write(frame_header(FrameType.HELLO, 4_097))
            await closed_as(b, LinkEvent.FRAME_TOO_BIG, greedy)

    run(main)


def test_silence_and_dribble_end_at_the_handshake_timeout(run: Run, pki: Pki) -> None:
    """A stranger that says nothing, and a member that never finishes its hello, are closed in bounded time."""

    async def main() -> None:
        b = make(pki, "b", AB, limits=replace(QUICK, handshake_timeout_ms=150))
        async with running(b):
            silent = await Stranger.connect(b.links.bound)
            slow = await Stranger.connect(b.links.bound, pki.node("a"))
            slow.writer.write(b"\0\0")
            await closed_as(b, LinkEvent.HANDSHAKE_TIMEOUT, silent)
            await closed_as(b, LinkEvent.HANDSHAKE_TIMEOUT, slow, 1)
            await until(lambda: b.links.unauthenticated == 0)

    run(main)
