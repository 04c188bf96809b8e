"""A TCP proxy in front of every node's peer address, where no namespaces can be had: one pump per directed link.

A cut direction is not read, as a network that loses every packet of it: what was sent waits, and comes after the heal
or never. Who dials is found out by the port that the connection comes from and the process that holds it. Delay is
added per read. Loss, doubling and reordering of packets cannot be done here: TCP would repair them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

READ_BYTES_MAX = 65_536
DIAL_WAIT_S = 0.2  # before a node that does not listen yet is dialled again
PIPES_MAX = 256  # of all links together; a connection beyond is closed


class Shape(NamedTuple):
    """What happens to what passes. Probabilities from 0 to 1."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


class Proxies:
    """`ports`: node to (port that others dial, port where the node listens), all on 127.0.0.1."""

    def __init__(
        self, ports: Mapping[str, tuple[int, int]], node_of: Callable[[int], str | None], rng: random.Random
    ) -> None:
        self._ports = dict(ports)
        self._node_of = node_of
        self._rng = rng
        self._cuts: frozenset[tuple[str, str]] = frozenset()
        self._open = asyncio.Event()  # replaced at every change: whoever waits looks again
        self._shape = Shape()
        self._servers: list[asyncio.Server] = []
        self._pipes: set[asyncio.Task[None]] = set()
        self.refused = 0

    async def start(self) -> None:
        for node, (port, _) in self._ports.items():
            self._servers.append(await asyncio.start_server(self._server_of(node), "127.0.0.1", port))

    def _server_of(self, target: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._pipes) >= PIPES_MAX:
                self.refused += 1
                writer.close()
                return
            task = asyncio.get_running_loop().create_task(self._serve(target, reader, writer))
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

        return accepted

    def cut(self, pairs: frozenset[tuple[str, str]]) -> None:
        """From now on nothing passes from a to b for each (a, b)."""
        self._cuts = pairs
        self._open.set()
        self._open = asyncio.Event()

    def shape(self, shape: Shape) -> None:
        self._shape = shape

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._pipes):
            task.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def _serve(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either end closes."""
        peer = writer.get_extra_info("peername")
        dialler = self._node_of(peer[1])
        far: asyncio.StreamWriter | None = None
        try:
            if dialler is None:
                return
            await self._passable(dialler, target)
            await self._passable(target, dialler)  # the answer to the first packet comes this way
            back, far = await asyncio.open_connection("127.0.0.1", self._ports[target][1])
            ways = [
                asyncio.ensure_future(self._pump(dialler, target, reader, far)),
                asyncio.ensure_future(self._pump(target, dialler, back, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            await asyncio.sleep(DIAL_WAIT_S)  # refused: as a host whose node is down would
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, source: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES_MAX):
                shape = self._shape
                if shape.delay_ms or shape.jitter_ms:
                    await asyncio.sleep((shape.delay_ms + self._rng.random() * shape.jitter_ms) / 1_000)
                await self._passable(source, target)
                writer.write(data)
                await writer.drain()

    async def _passable(self, source: str, target: str) -> None:
        while (source, target) in self._cuts:
            await self._open.wait()


def holder_of(port: int, pids: Mapping[str, int]) -> str | None:
    """Which of the processes has a TCP socket on 127.0.0.1 with this local port; None when none has."""
    inode = _inode_of(port)
    for name, pid in pids.items() if inode else ():
        directory = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{directory}/{descriptor}") == f"socket:[{inode}]":
                        return name
    return None


def _inode_of(port: int) -> str | None:
    local = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as table:
        for row in table:
            fields = row.split()
            if fields[1] == local and fields[9] != "0":
                return fields[9]
    return None
