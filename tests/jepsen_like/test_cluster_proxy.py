"""Proxies between nodes on loopback: directed cuts, delay, and who dials."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from jepsen_like.cluster.proxy import Proxies, Shape, holder_of

QUIET_S = 0.15  # long enough for what passes on loopback to have passed


class Pair:
    """A connection from "a" to "b" through the proxies, with both ends in hand."""

    def __init__(self, proxies: Proxies) -> None:
        self.proxies = proxies
        self.arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def connect(self, port: int) -> None:
        self.near = await asyncio.open_connection("127.0.0.1", port)
        self.far = await asyncio.wait_for(self.arrived.get(), 5)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    front, listening, unused = (sock.getsockname()[1] for sock in socks)
    for sock in socks:
        sock.close()
    proxies = Proxies({"b": (front, listening), "a": (unused, 1)}, lambda _port: "a", random.Random(1))
    found = Pair(proxies)
    server = await asyncio.start_server(lambda r, w: found.arrived.put_nowait((r, w)), "127.0.0.1", listening)
    await proxies.start()
    try:
        await found.connect(front)
        yield found
    finally:
        for _, writer in (found.near, found.far):
            writer.close()
        await proxies.close()
        server.close()
        await server.wait_closed()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), QUIET_S)
    except TimeoutError:
        return True
    return False


def test_data_passes_both_ways() -> None:
    """Without a fault a proxy is not noticed."""

    async def main() -> None:
        async with pair() as found:
            found.near[1].write(b"ping")
            assert await found.far[0].readexactly(4) == b"ping"
            found.far[1].write(b"pong")
            assert await found.near[0].readexactly(4) == b"pong"

    asyncio.run(main())


def test_a_cut_stops_one_direction_and_the_heal_lets_it_through() -> None:
    """What a sends waits while a to b is cut; what b sends still arrives; nothing is lost on an open connection."""

    async def main() -> None:
        async with pair() as found:
            found.proxies.cut(frozenset({("a", "b")}))
            found.near[1].write(b"ping")
            found.far[1].write(b"pong")
            assert await found.near[0].readexactly(4) == b"pong"
            assert await nothing_comes(found.far[0])
            found.proxies.cut(frozenset())
            assert await found.far[0].readexactly(4) == b"ping"

    asyncio.run(main())


def test_delay_is_added() -> None:
    """A delayed link is slow by as much as was ordered."""

    async def main() -> None:
        async with pair() as found:
            found.proxies.shape(Shape(delay_ms=80))
            began = time.monotonic()
            found.near[1].write(b"ping")
            await found.far[0].readexactly(4)
            assert 0.07 < time.monotonic() - began < 3

    asyncio.run(main())


def test_an_end_that_closes_closes_the_other() -> None:
    """A connection that one side ends does not linger on the other."""

    async def main() -> None:
        async with pair() as found:
            found.near[1].close()
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(found.far[0].read(1), 5) == b""

    asyncio.run(main())


def test_the_process_behind_a_port_is_found() -> None:
    """Who dials is told by the process that holds the connection's socket."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as dialled:
        port = dialled.getsockname()[1]
        assert holder_of(port, {"n1": 1 << 22, "n2": os.getpid()}) == "n2"
        assert holder_of(port, {"n1": 1 << 22}) is None
