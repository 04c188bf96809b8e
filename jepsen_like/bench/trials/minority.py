"""How fast a node that knows it is in the minority refuses: its callers must turn elsewhere without waiting.

Three nodes; the two others are stopped (SIGSTOP: links stay up and nobody answers, the hardest cut to notice). Once
the node says that it has no majority, its callers reattach and only refusals are counted: one commit or one unknown
answer among them ends the trial. Twice: callers that come, in a steady stream, to a node that was idle; and callers
that put the cluster under full load before the cut and go on as fast as they are refused. Each time with the node
that led and with one that followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.run import Say
from jepsen_like.bench.trials.base import Finding, TrialResult
from jepsen_like.bench.trials.cluster import TrialCluster, nap, three_nodes
from raftstore.cli.bench_process import BenchFailed

REFUSED_MS_MAX = 5.0
LATE_S = 2.5  # until ops that were proposed before the cut have all been given up
ROLES = ("leader", "follower")
REFUSALS = ("NO_QUORUM", "LEASE_LOST")
WHAT = {"idle": "callers in a steady stream", "load": "callers at full load before and during the cut"}


@dataclass(frozen=True)
class Minority:
    """`callers` per node; `seconds` of each measurement; `idle_pace_s` between a caller's tries at an idle node."""

    callers: int = 256
    seconds: float = 5.0
    roles: tuple[str, ...] = ROLES
    idle_pace_s: float = 0.25
    name: str = "minority"
    about: str = "reattach refused by a node that knows it is in the minority, idle and under load"
    target: str = "5"

    @property
    def estimate_seconds(self) -> float:
        return 5 + len(self.roles) * len(WHAT) * (self.seconds + 5)

    async def run(self, directory: Path, say: Say) -> TrialResult:
        figures: dict[str, Any] = {}
        async with three_nodes(directory) as cluster:
            for load in WHAT:
                for role in self.roles:
                    say(f"minority: {load}, the {role} is cut off ...")
                    figures[f"{load}/{role}"] = await self._cut(cluster, load, role)
        return TrialResult(figures, self._findings(figures))

    async def _cut(self, cluster: TrialCluster, load: str, role: str) -> dict[str, Any]:
        leader = await cluster.leader()
        alone = leader if role == "leader" else next(node for node in cluster.present if node != leader)
        others = [node for node in cluster.present if node != alone]
        calling = cluster.present if load == "load" else [alone]
        pace_s = 0.0 if load == "load" else self.idle_pace_s
        await cluster.ask_all("gather", calling, callers=self.callers, pace_s=pace_s)
        if load == "load":
            await cluster.ask_all("begin")
            await nap(self.seconds)
        for node in others:
            cluster.pause(node)
        await cluster.until(lambda: _knows(cluster, alone), f"{alone} knows that it is in the minority")
        if load == "idle":
            await cluster.ask(alone, "begin")
        else:
            await nap(LATE_S)
        await cluster.ask(alone, "take")  # what was answered before it knew does not count
        await nap(self.seconds)
        found = await cluster.ask(alone, "take")
        for node in others:
            cluster.resume(node)
        await cluster.ask_all("end", calling)
        return refusals(found)

    def _findings(self, figures: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
        found = []
        for load, what in WHAT.items():
            rows = [figures[f"{load}/{role}"] for role in self.roles]
            worst = max(rows, key=lambda row: float(row["p99_ms"]))
            rate = ", ".join(f"{row['per_second']:,.0f}" for row in rows)
            note = f"p50 {worst['p50_ms']:.2f}, worst {worst['max_ms']:.1f} ms; {rate} refusals/s"
            text = f"reattach refused in a known minority, p99, {self.callers} {what}"
            found.append(Finding("5", text, worst["p99_ms"], "ms", REFUSED_MS_MAX, note=note))
        return found


async def _knows(cluster: TrialCluster, node: str) -> bool:
    return not (await cluster.ask(node, "view"))["quorum"]


def refusals(taken: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of what callers were told; BenchFailed when it was anything but a refusal before any proposal."""
    others = {told: count for told, count in taken["outcomes"].items() if told not in REFUSALS}
    latency = Histogram.from_json(taken["refused"])
    p50, p99 = latency.quantile_ns(0.5), latency.quantile_ns(0.99)
    if others or p50 is None or p99 is None:
        raise BenchFailed(f"a node in the minority told its callers: {dict(taken['outcomes'])}")
    return {
        "p50_ms": p50 / 1e6,
        "p99_ms": p99 / 1e6,
        "max_ms": latency.max_ns / 1e6,
        "per_second": latency.total / taken["seconds"],
        "outcomes": dict(taken["outcomes"]),
    }
