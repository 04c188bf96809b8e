"""What a peer, a stranger or the machine can do to a node is bounded, has a name, and passes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftstore.codec.frames import FrameType, encode_frame, frame_header
from raftstore.transport.counters import LinkEvent
from raftstore.transport.ports import Endpoint
from tests.transport.support import DIGEST, QUICK, Pki, Stranger, linked, make, running, until

Run = Callable[[Callable[[], Any]], None]
AB = ("a", "b")


def test_a_slow_peer_is_dropped_and_memory_stays_bounded(run: Run, pki: Pki) -> None:
    """A peer that reads nothing is cut off once its queue is full; no more than the queue's bound was ever kept."""

    async def main() -> None:
        limits = replace(QUICK, send_queue_bytes_max=2 << 20, idle_timeout_ms=60_000)
        b = make(pki, "b", AB, limits=limits)
        async with running(b):
            slow = await Stranger.connect(b.links.bound, pki.node("a"))
            slow.hello("a")
            await until(lambda: b.links.connected())
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            payload, most, sent = bytes(64 << 10), 0, 0
            while b.links.send("a", payload):
                sent += 1
                info = b.links.peer_info("a")
                most = max(most, info.queued_bytes if info else 0)
                if sent % 8 == 0:
                    await asyncio.sleep(0)
                assert sent < 2_000, "never dropped"
            assert most <= (2 << 20) + (512 << 10)
            assert b.links.connected() == frozenset()
            await until(lambda: b.handler.downs() == [LinkEvent.SLOW_PEER])
            assert b.links.counters[LinkEvent.SLOW_PEER] == 1
            await slow.close()

    run(main)


def test_a_peer_that_pings_and_never_reads_is_dropped(run: Run, pki: Pki) -> None:
    """Answers to a flood of pings count against the queue like anything else, tiny as they are."""

    async def main() -> None:
        limits = replace(QUICK, send_queue_bytes_max=2 << 20, idle_timeout_ms=60_000)
        b = make(pki, "b", AB, limits=limits)
        async with running(b):
            flood = await Stranger.connect(b.links.bound, pki.node("a"))
            flood.hello("a")
            await until(lambda: b.links.connected())
            flood.writer.transport.pause_reading()  # type: ignore[attr-defined]
            pings = encode_frame(FrameType.PING, bytes(8)) * 20_000
            with contextlib.suppress(OSError):
                while not b.handler.downs():
                    flood.writer.write(pings)
                    await asyncio.sleep(0)
                    if flood.writer.transport.get_write_buffer_size() < 1 << 20:
                        continue
                    await until(lambda: b.handler.downs() or flood.writer.transport.get_write_buffer_size() < 1 << 20)
            assert b.handler.downs() == [LinkEvent.SLOW_PEER]
            await flood.close()

    run(main)


def test_a_burst_below_the_bound_drops_nobody(run: Run, pki: Pki) -> None:
    """Megabytes queued in one step reach a peer that reads."""

    async def main() -> None:
        limits = replace(QUICK, ping_interval_ms=60_000, idle_timeout_ms=60_000)  # no heartbeat may help the queue on
        a, b = make(pki, "a", AB, limits=limits), make(pki, "b", AB, limits=limits)
        async with running(a, b):
            await linked(a, b)
            assert all(a.links.send("b", bytes(1 << 20)) for _ in range(24))
            await until(lambda: len(b.handler.messages("a")) == 24)
            assert a.handler.downs() == []

    run(main)


def test_a_peer_that_says_nothing_is_dropped_as_idle(run: Run, pki: Pki) -> None:
    """A connection that stays open and silent, as half-open ones do, ends after the idle timeout."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            mute = await Stranger.connect(b.links.bound, pki.node("a"))
            mute.hello("a")
            await until(lambda: b.links.connected())
            await until(lambda: b.handler.downs() == [LinkEvent.IDLE_PEER])
            await mute.ended()
            await mute.close()

    run(main)


def test_an_idle_link_between_living_nodes_stays(run: Run, pki: Pki) -> None:
    """Heartbeats alone keep a link up for several idle timeouts, and nothing of them reaches the handler."""

    async def main() -> None:
        limits = replace(QUICK, ping_interval_ms=20, idle_timeout_ms=150)
        a, b = make(pki, "a", AB, limits=limits), make(pki, "b", AB, limits=limits)
        async with running(a, b):
            await linked(a, b)
            since = asyncio.get_running_loop().time()
            await until(lambda: asyncio.get_running_loop().time() > since + 0.6)
            assert [kind for kind, _, _ in a.handler.events + b.handler.events] == ["up", "up"]

    run(main)


def test_a_frozen_process_is_found_and_comes_back(run: Run, pki: Pki, tmp_path: Path) -> None:
    """A peer process that is stopped keeps its sockets: it is dropped as idle, and linked again when it goes on."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            process = _peer_process(pki, b.links.bound.port)
            try:
                await until(lambda: b.links.connected(), "the process is linked")
                process.send_signal(signal.SIGSTOP)
                await until(lambda: b.handler.downs() == [LinkEvent.IDLE_PEER])
                process.send_signal(signal.SIGCONT)
                await until(lambda: b.links.connected(), "the process is linked again")
            finally:
                process.kill()
                process.wait()

    run(main)


def _peer_process(pki: Pki, port: int) -> subprocess.Popen[bytes]:
    files = pki.node("a")
    code = f"""
        import asyncio
        from raftstore.ports import SystemClock
        from raftstore.transport.hello import LocalIdentity
        from raftstore.transport.links import PeerLinks
        from raftstore.transport.ports import Endpoint, LinkLimits
        from raftstore.transport.tls import TlsFiles

        class Handler:
            def on_connected(self, *_): pass
            on_disconnected = on_message = on_connected
            def on_batch_end(self): pass

        async def main():
            links = PeerLinks(
                local=LocalIdentity("test", "a", 5, {DIGEST!r}), peers={{"b": Endpoint("127.0.0.1", {port})}},
                bind=Endpoint("127.0.0.1", 0), tls=TlsFiles({str(files.ca)!r}, {str(files.cert)!r}, {str(files.key)!r}),
                handler=Handler(), clock=SystemClock(), limits=LinkLimits(ping_interval_ms=40, idle_timeout_ms=400),
            )
            await links.start()
            await asyncio.sleep(30)

        asyncio.run(main())
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=_root())


def _root() -> Path:
    return Path(__file__).parents[2]


def test_a_huge_frame_of_a_member_cuts_it_off(run: Run, pki: Pki) -> None:
    """A length beyond the bound ends the link before a byte of it is kept."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            huge = await Stranger.connect(b.links.bound, pki.node("a"))
            huge.hello("a")
            await until(lambda: b.links.connected())
            huge.writer.write(frame_header(FrameType.MESSAGE, (4 << 20) + 1))
            await until(lambda: b.handler.downs() == [LinkEvent.FRAME_TOO_BIG])
            await huge.ended()
            await huge.close()

    run(main)


def test_a_hanging_name_server_delays_nothing_else(run: Run, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is never resolved keeps neither other links nor work in the loop's threads from going on."""
    released = threading.Event()
    real = socket.getaddrinfo

    def hang(host: str, *rest: Any, **more: Any) -> Any:
        if host == "hangs.invalid":
            released.wait(20)
        return real(host, *rest, **more)

    async def main() -> None:
        limits = replace(QUICK, handshake_timeout_ms=100)
        a, b = make(pki, "a", "abc", limits=limits), make(pki, "b", "abc", limits=limits)
        try:
            async with running(a, b):
                a.links.set_peer_address("c", Endpoint("hangs.invalid", 7400))
                await until(lambda: a.links.counters[LinkEvent.DIAL_FAILED] >= 12)
                assert await asyncio.to_thread(lambda: "done") == "done"
                await linked(a, b)
        finally:
            released.set()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    run(main)


def test_strangers_are_bounded_and_members_still_get_in(run: Run, pki: Pki) -> None:
    """Hundreds of silent connections hold no more than their share; the oldest give way and a member is admitted."""

    async def main() -> None:
        limits = replace(QUICK, unauthenticated_max=8, handshake_timeout_ms=20_000)
        b = make(pki, "b", AB, limits=limits)
        async with running(b):
            idle: list[socket.socket] = []
            for _ in range(100):
                idle.append(socket.create_connection(b.links.bound))
                await asyncio.sleep(0)
                assert b.links.unauthenticated <= 8
            await until(lambda: b.links.counters[LinkEvent.ACCEPT_LIMIT] >= 92)
            a = make(pki, "a", AB)
            async with running(a):
                a.links.set_peer_address("b", b.links.bound)
                await linked(a, b)
            for sock in idle:
                sock.close()
            await until(lambda: b.links.unauthenticated == 0)

    run(main)


def test_a_flood_of_connections_is_taken_at_a_bounded_pace(run: Run, pki: Pki) -> None:
    """However many knock at once, the next few are taken only after a pause for those before."""

    async def main() -> None:
        b = make(pki, "b", AB, limits=replace(QUICK, accept_interval_ms=20))
        async with running(b):
            loop = asyncio.get_running_loop()
            began = loop.time()
            clients = [socket.create_connection(b.links.bound) for _ in range(24)]
            await until(lambda: b.links.unauthenticated == 24)
            assert loop.time() - began >= 0.3  # two pauses of eight intervals
            for client in clients:
                client.close()

    run(main)


def test_a_listening_socket_that_fails_is_made_anew_on_its_port(run: Run, pki: Pki) -> None:
    """A dead listening socket is noticed, counted and replaced; the links that stand are not touched."""

    async def main() -> None:
        a, b = make(pki, "a", "abc"), make(pki, "b", "abc")
        async with running(a, b):
            await linked(a, b)
            bound = b.links.bound
            listening = b.links._listener._socket  # type: ignore[union-attr]
            assert listening is not None
            listening.shutdown(socket.SHUT_RDWR)
            await until(lambda: b.links.counters[LinkEvent.LISTEN_LOST] >= 1)

            def reachable() -> bool:
                with contextlib.suppress(ConnectionError):
                    socket.create_connection(bound).close()
                    return True
                return False

            await until(reachable)
            assert b.links.bound == bound
            assert a.links.connected() == {"b"}

    run(main)


def test_running_out_of_descriptors_passes_by_itself(pki: Pki) -> None:
    """With no descriptor left connections are turned away and the log says so once; with some again, members link."""
    code = """
        import asyncio, logging, os, resource, socket, sys
        from pathlib import Path
        from tests.transport.support import Pki, LinkEvent, TlsFiles, linked, make, running, until
        logging.basicConfig(stream=sys.stdout, level=logging.WARNING)

        class Given(Pki):
            def __init__(self, directory):
                self.directory = directory

        async def main():
            pki = Given(Path(sys.argv[1]))
            a, b = make(pki, "a", "ab"), make(pki, "b", "ab")
            await b.links.start()
            clients = [socket.socket() for _ in range(3)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
            hogs = []
            try:
                while True:
                    hogs.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            for client in clients:
                client.connect(b.links.bound)
            await until(lambda: b.links.counters[LinkEvent.FD_EXHAUSTED] >= 3, "exhausted")
            for client in clients:
                client.setblocking(False)
                async with asyncio.timeout(5):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b"", "turned away"
                client.close()
            os.close(hogs.pop())
            for hog in hogs:
                os.close(hog)
            async with running(a):
                a.links.set_peer_address("b", b.links.bound)
                await linked(a, b)
            await b.links.close()
            print("recovered")

        if sys.argv[2] == "uvloop":
            import uvloop
            uvloop.run(main())
        else:
            asyncio.run(main())
    """
    pki.node("a"), pki.node("b")
    for loop in ("asyncio", "uvloop"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(pki.directory), loop],
            capture_output=True,
            text=True,
            timeout=40,
            cwd=_root(),
            env=os.environ | {"PYTHONPATH": str(_root())},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("out of file descriptors") == 1
        assert "recovered" in done.stdout
