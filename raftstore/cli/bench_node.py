"""One node of `raftstore bench`, with its callers in the same process: how a gateway embeds it.

Reads one JSON request per line from stdin and answers each with one JSON line on stdout. Times are in seconds unless
a name says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from raftstore.config import ClusterConfig
from raftstore.errors import RaftstoreError
from raftstore.node.collector import calm_collector
from raftstore.node.node import Node
from raftstore.node.runtime import new_event_loop
from raftstore.types import Binding, Session

OWNS_CALLS = 200_000
RETRY_S = 0.002


class BenchNode:
    """The requests that the parent makes, by name."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._ids = 0

    def _binding(self) -> Binding:
        return Binding("t1", "udp", "198.51.100.7:51820")

    async def _create(self) -> Session:
        self._ids += 1
        session_id = f"{self.node.node_id}-{time.time_ns()}-{self._ids}"
        return await self.node.create(session_id, binding=self._binding())

    async def _again(self, session: Session) -> Session:
        return await self.node.reattach(
            session.session_id, expected_version=session.state_version, binding=self._binding()
        )

    async def load(self, callers: int, seconds: float) -> dict[str, Any]:
        """Concurrent callers, each reattaching a session of its own as fast as it is answered."""
        sessions = await asyncio.gather(*(self._create() for _ in range(callers)))
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def caller(session: Session) -> None:
            while (begun := time.perf_counter()) < end:
                session = await self._again(session)
                latencies.append(time.perf_counter() - begun)

        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(s) for s in sessions))
        return {
            "ops": len(latencies),
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "latency": _quantiles(latencies),
        }

    async def single(self, count: int) -> dict[str, Any]:
        """One caller, one op at a time; then linearizable reads; then `owns()`."""
        session = await self._create()
        ops, reads = [], []
        for _ in range(count):
            begun = time.perf_counter()
            session = await self._again(session)
            ops.append(time.perf_counter() - begun)
        for _ in range(count):
            begun = time.perf_counter()
            await self.node.get(session.session_id)
            reads.append(time.perf_counter() - begun)
        owns, session_id, epoch = self.node.owns, session.session_id, session.epoch
        begun = time.perf_counter()
        for _ in range(OWNS_CALLS):
            owns(session_id, epoch)
        owns_s = (time.perf_counter() - begun) / OWNS_CALLS
        still = owns(session_id, epoch)
        return {"op": _quantiles(ops), "read": _quantiles(reads), "owns_us": owns_s * 1e6, "owned": still}

    async def first_commit(self) -> dict[str, Any]:
        """Returns once an op commits, tried again and again."""
        while True:
            try:
                await self._create()
            except RaftstoreError:
                await asyncio.sleep(RETRY_S)
            else:
                return {"committed": True}

    async def status(self) -> dict[str, Any]:
        return self.node.status()


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {f"p{q}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] * 1000 for q in (50, 90, 99)} | {
        "max_ms": ordered[-1] * 1000
    }


async def _serve(config_path: str, node_id: str, place: str) -> None:
    loop = asyncio.get_running_loop()
    async with Node(ClusterConfig.load(config_path), node_id, own_thread=place != "same-loop") as node:
        bench = BenchNode(node)
        calm_collector()
        print(json.dumps({"ready": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            request = json.loads(line)
            answer = await getattr(bench, request.pop("do"))(**request)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(*sys.argv[1:]))
