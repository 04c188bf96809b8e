"""A process of callers beside one node, and for embedded peers the node itself.

Reads one JSON request per line from stdin, answers each with one JSON line on stdout, and ends when stdin does. Counts
the syncs that Python code makes in it. Run as `python -m jepsen_like.bench.host '{"target": "...", ...}'`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from jepsen_like.bench.load import Load
from jepsen_like.bench.targets.base import Target


class SyncCounter:
    """fsync and fdatasync, counted. To be installed before modules are imported that give them names of their own."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        os.fsync = self._counted(os.fsync)
        os.fdatasync = self._counted(os.fdatasync)

    def _counted(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(descriptor: Any) -> None:
            self.count += 1
            function(descriptor)

        return call


class Host:
    """The requests, by name."""

    def __init__(self, target: Target, syncs: SyncCounter) -> None:
        self._target = target
        self._load = Load(target)
        self._syncs = syncs

    def request(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        """One of these, or one that the target has beside them (AttributeError: neither)."""
        found: Callable[..., Awaitable[dict[str, Any]]] = getattr(self, name, None) or getattr(self._target, name)
        return found

    async def prepare(self, callers: int) -> dict[str, Any]:
        await self._load.prepare(callers)
        return {}

    async def load(self, kind: str, callers: int, seconds: float) -> dict[str, Any]:
        return await self._load.run(kind, callers, seconds)

    async def leader(self) -> dict[str, Any]:
        return {"leader": await self._target.leader()}

    async def counters(self) -> dict[str, Any]:
        return {"syncs": self._syncs.count, **self._target.counters()}


async def serve(given: Mapping[str, Any], syncs: SyncCounter) -> None:
    loop = asyncio.get_running_loop()
    target: Target = importlib.import_module(f"jepsen_like.bench.targets.{given['target']}").target(given)
    await target.open()
    host = Host(target, syncs)
    try:
        print(json.dumps({"ready": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            request = json.loads(line)
            try:
                answer = await host.request(request.pop("do"))(**request)
            except Exception as problem:  # said to who asked; the process goes on
                answer = {"error": f"{type(problem).__name__}: {problem}"}
            print(json.dumps(answer), flush=True)
    finally:
        await target.close()


def main() -> None:
    syncs = SyncCounter()
    syncs.install()
    from raftstore.node.runtime import new_event_loop  # not before: see SyncCounter

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(json.loads(sys.argv[1]), syncs))


if __name__ == "__main__":
    main()
