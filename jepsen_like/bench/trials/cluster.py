"""Three embedded nodes of raftstore for a trial: killed, paused, started again, and waited for until all agree.

Every wait has a bound; what does not come within it ends the trial with a sentence that says what was waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.bench.peers.base import NODES, POLL_S, Cluster
from jepsen_like.bench.peers.raftstore import SETTINGS, RaftstoreEmbedded
from raftstore.cli.bench_process import BenchFailed
from raftstore.ports import SystemClock

AGREE_WAIT_S = 60.0


class TrialCluster:
    """Nodes that are stopped or gone are not asked."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._away: set[str] = set()
        self.now_ns = SystemClock().now_ns

    @property
    def present(self) -> list[str]:
        return [node for node in NODES if node not in self._away]

    def pid(self, node: str) -> int:
        found = self._cluster.hosts[node].pid
        assert found is not None
        return found

    async def ask(self, node: str, do: str, **arguments: Any) -> dict[str, Any]:
        return await self._cluster.ask(node, do, **arguments)

    async def ask_all(self, do: str, nodes: Sequence[str] | None = None, **arguments: Any) -> list[dict[str, Any]]:
        """All present nodes at once, or those given; answers in that order."""
        chosen = self.present if nodes is None else nodes
        return list(await asyncio.gather(*(self.ask(node, do, **arguments) for node in chosen)))

    async def callers(self, count: int, pace_s: float) -> None:
        """So many per present node, and they have begun."""
        await self.ask_all("gather", callers=count, pace_s=pace_s)
        await self.ask_all("begin")

    # ---- what happens to nodes
    def kill(self, node: str) -> int:
        """`kill -9`; the moment of it, in nanoseconds."""
        return self._signal(node, signal.SIGKILL)

    def pause(self, node: str) -> int:
        """SIGSTOP; the moment of it."""
        return self._signal(node, signal.SIGSTOP)

    def _signal(self, node: str, number: signal.Signals) -> int:
        moment = self.now_ns()
        os.kill(self.pid(node), number)
        self._away.add(node)
        return moment

    def resume(self, node: str) -> None:
        os.kill(self.pid(node), signal.SIGCONT)
        self._away.discard(node)

    async def restart(self, node: str) -> None:
        """After a kill: a new process on the same files; returns when it is ready."""
        host = self._cluster.hosts[node]
        await host.kill()  # gone already: only waited for
        await host.start()
        await host.answer()
        self._away.discard(node)

    # ---- waiting
    async def leader(self) -> str:
        """The one that all present nodes name, once they are all ready and have links to each other.

        A node that comes back is ready as soon as its leader reaches it; were that leader lost before the others reach
        it, too, there would be two faults at once.
        """
        found: list[str] = []

        async def agreed() -> bool:
            views = await self.ask_all("view")
            named = {view["leader"] for view in views}
            found[:] = [str(name) for name in named]
            whole = all(view["ready"] and view["connected"] == len(views) - 1 for view in views)
            return whole and len(named) == 1 and found[0] in self.present

        await self.until(agreed, "all nodes are ready, linked, and agree on a leader")
        return found[0]

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + AGREE_WAIT_S
        while loop.time() < end:
            if await holds():
                return
            await asyncio.sleep(POLL_S)
        raise BenchFailed(f"waited {AGREE_WAIT_S:g} s in vain until {what}")


async def nap(seconds: float) -> None:
    """Let what is measured go on; a negative time is none."""
    await asyncio.sleep(max(0.0, seconds))


@contextlib.asynccontextmanager
async def three_nodes(
    directory: Path, settings: str = "", target: str = "raftstore_trials"
) -> AsyncIterator[TrialCluster]:
    """Ready on entry; gone on the way out, paused or not. `settings`: of cluster.conf, from its table storage on."""
    cluster = await RaftstoreEmbedded(target=target, settings=SETTINGS + settings).start(directory)
    try:
        trial = TrialCluster(cluster)
        await trial.leader()
        yield trial
    finally:
        await cluster.stop()
