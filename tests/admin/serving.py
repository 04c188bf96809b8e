"""A real server in front of a fake node, and plain ways to talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from raftstore.admin.server import AdminServer
from raftstore.config import ApiEndpoint
from raftstore.node.runtime import new_event_loop
from tests.admin.fake_node import FakeNode

WAIT_S = 30.0  # a bound on waiting, generous because machines are shared; nothing sleeps for so long


@dataclass
class Served:
    node: FakeNode
    server: AdminServer
    http: aiohttp.ClientSession
    path: Path

    async def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **options: Any
    ) -> tuple[int, Any]:
        """Status and JSON of one request; `body` as JSON, or `raw` as it is."""
        data = raw if raw is not None or body is None else json.dumps(body).encode()
        async with self.http.request(method, f"http://node{path}", data=data, **options) as response:
            return response.status, json.loads(await response.read())

    async def text(self, path: str) -> tuple[int, str]:
        async with self.http.get(f"http://node{path}") as response:
            return response.status, await response.text()

    async def raw(self, request: bytes) -> bytes:
        """The first bytes that come back for raw bytes sent, or none when the server closed."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(65_536), WAIT_S)
        finally:
            writer.close()


@asynccontextmanager
async def serving(directory: Path, node: FakeNode | None = None, **options: Any) -> AsyncIterator[Served]:
    """Serve `node` on a Unix socket in `directory`."""
    node = node if node is not None else FakeNode()
    path = directory / "api.sock"
    async with AdminServer(node, ApiEndpoint("unix", path, None), **options) as server:
        connector = aiohttp.UnixConnector(str(path), limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            yield Served(node, server, http, path)


LOOPS = [asyncio.new_event_loop, new_event_loop]  # the plain one, and the one that nodes run on


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], work: Coroutine[Any, Any, None]) -> None:
    """asyncio.run on a loop of the given make."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work)


async def until(condition: Any) -> None:
    """Await a condition of the same event loop."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - the code behind the conditions has no event to set
            await asyncio.sleep(0)
