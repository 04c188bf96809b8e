"""What three idle nodes cost: CPU time per node while nobody calls, with sessions there to be kept.

Counted by the kernel for the whole process of a node: its loop, its threads, the reader of the trial's requests. How
often its threads wake up stands beside it: on a virtual machine a wake costs far more than the few instructions it is
for, so that number is what can be worked on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jepsen_like.bench import processes
from jepsen_like.bench.run import Say
from jepsen_like.bench.trials.base import Finding, TrialResult
from jepsen_like.bench.trials.cluster import TrialCluster, nap, three_nodes

CORE_PERCENT_MAX = 1.0


@dataclass(frozen=True)
class Idle:
    """`idle_sessions` in the cluster, so many seconds to settle and so many to be watched."""

    idle_sessions: int = 1_000
    settle_seconds: float = 5.0
    seconds: float = 20.0
    name: str = "idle"
    about: str = "CPU time of three idle nodes with sessions"
    target: str = "7"

    @property
    def estimate_seconds(self) -> float:
        return 5 + self.settle_seconds + self.seconds

    async def run(self, directory: Path, say: Say) -> TrialResult:
        async with three_nodes(directory) as cluster:
            share = -(-self.idle_sessions // len(cluster.present))
            await asyncio.gather(*(cluster.ask(node, "own", sessions=share) for node in cluster.present))
            await nap(self.settle_seconds)
            leader = await cluster.leader()
            say(f"idle: {self.seconds:g} s ...")
            begun_ns, before = cluster.now_ns(), _used(cluster)
            await nap(self.seconds)
            took_s, after = (cluster.now_ns() - begun_ns) / 1e9, _used(cluster)
        cpu, wakes = ({node: _rate(before[node][n], after[node][n], took_s) for node in before} for n in (0, 1))
        percent = {node: None if rate is None else 100 * rate for node, rate in cpu.items()}
        figures = {"leader": leader, "seconds": took_s, "core_percent": percent, "wakes_per_second": wakes}
        return TrialResult(figures, [finding(percent, wakes, leader)])


def _used(cluster: TrialCluster) -> dict[str, tuple[float | None, int | None]]:
    """CPU seconds and wakes of each node's process so far."""
    pids = {node: cluster.pid(node) for node in cluster.present}
    return {node: (processes.cpu_seconds(pid), processes.wakes(pid)) for node, pid in pids.items()}


def _rate(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else (after - before) / seconds


def finding(percent: Mapping[str, float | None], wakes: Mapping[str, float | None], leader: str) -> Finding:
    """The node that took most."""
    known = {node: value for node, value in percent.items() if value is not None}
    what = "idle node, share of a core, the busiest of three"
    if len(known) < len(percent):
        return Finding("7", what, None, "%", CORE_PERCENT_MAX, note="this machine does not tell CPU times")
    told = ", ".join(f"{node}{' (leader)' if node == leader else ''} {value:.2f}" for node, value in known.items())
    rates = ", ".join(f"{rate:.0f}" for rate in wakes.values() if rate is not None)
    return Finding("7", what, max(known.values()), "%", CORE_PERCENT_MAX, note=f"{told}; {rates} wakes of threads/s")
