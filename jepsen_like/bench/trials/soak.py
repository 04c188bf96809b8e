"""Full load for long: resident memory, open descriptors, threads and queues of every node, sampled all along.

The judgement: the first half is warming up. Of the second half the first third is compared with the last. Resident
memory has grown if the median of the last third lies more than MEMORY_PERCENT_MAX above that of the first; descriptors
and threads, if it lies above at all. Queues swing with the load: one has grown if the median of the last third lies
above all that the first third held. A run shorter than JUDGED_FROM_S judges neither memory nor queues.

The log since the last snapshot is kept in memory, and full load fills the usual quarter of a gigabyte in minutes: that
is a tide and no leak, but one that is too slow to be told from one. So snapshots are taken eight times as often here.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepsen_like.bench import processes
from jepsen_like.bench.histogram import Histogram, merged
from jepsen_like.bench.run import Say
from jepsen_like.bench.trials.base import Finding, TrialResult
from jepsen_like.bench.trials.cluster import TrialCluster, nap, three_nodes
from jepsen_like.bench.trials.numbers import growth, outgrows, thirds
from raftstore.cli.bench_process import BenchFailed

STORAGE = "snapshot_every_bytes = 33554432\n"
SAMPLES = 240  # over the whole soak
SAID_EVERY_S = 30.0
MEMORY_PERCENT_MAX = 2.0
JUDGED_FROM_S = 120.0  # a shorter run is all warming up: its memory and queues are not judged
COUNTED = {"descriptors": "open descriptors", "threads": "threads"}
NOT_QUEUES = ("resident_bytes", *COUNTED)

Series = dict[str, dict[str, list[float]]]  # by node, then by what was sampled


@dataclass(frozen=True)
class Soak:
    """`callers` per node for `soak_seconds`."""

    soak_seconds: float = 600.0
    callers: int = 256
    name: str = "soak"
    about: str = "full load for long: growth of memory, descriptors, threads and queues"
    target: str = "7"

    @property
    def estimate_seconds(self) -> float:
        return 5 + self.soak_seconds

    async def run(self, directory: Path, say: Say) -> TrialResult:
        async with three_nodes(directory, STORAGE) as cluster:
            await cluster.callers(self.callers, 0.0)
            await cluster.ask_all("take")
            series = await self._sampled(cluster, say)
            counted = await cluster.ask_all("take")
            await cluster.ask_all("end")
        rate = sum(one["outcomes"].get("committed", 0) / one["seconds"] for one in counted)
        latency = merged(Histogram.from_json(one["committed"]) for one in counted)
        figures = {
            "seconds": self.soak_seconds,
            "per_second": rate,
            "latency": latency.as_json(),
            "outcomes": [one["outcomes"] for one in counted],
            "samples": series,
        }
        return TrialResult(
            figures, findings(series, self.soak_seconds, f"{self.soak_seconds:g} s at {rate:,.0f} transitions/s")
        )

    async def _sampled(self, cluster: TrialCluster, say: Say) -> Series:
        series: Series = {node: {} for node in cluster.present}
        every_s = self.soak_seconds / SAMPLES
        said_ns = begun_ns = cluster.now_ns()
        for number in range(SAMPLES):
            await nap((begun_ns - cluster.now_ns()) / 1e9 + (number + 1) * every_s)
            samples = await asyncio.gather(*(_sample(cluster, node) for node in series))
            for node, sample in zip(series, samples, strict=True):
                for name, value in sample.items():
                    series[node].setdefault(name, []).append(value)
            if cluster.now_ns() - said_ns >= SAID_EVERY_S * 1e9:
                said_ns = cluster.now_ns()
                memory = ", ".join(f"{sample['resident_bytes'] / (1 << 20):,.0f}" for sample in samples)
                say(f"soak: {(said_ns - begun_ns) / 1e9:,.0f} of {self.soak_seconds:g} s, {memory} MiB")
        return series


async def _sample(cluster: TrialCluster, node: str) -> dict[str, float]:
    pid = cluster.pid(node)
    found = {
        "resident_bytes": processes.resident_bytes(pid),
        "descriptors": processes.descriptors(pid),
        "threads": processes.threads(pid),
        **await cluster.ask(node, "queues"),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise BenchFailed(f"this machine does not tell {', '.join(missing)} of {node}")
    return found


def findings(series: Mapping[str, Mapping[str, Sequence[float]]], soak_seconds: float, note: str) -> list[Finding]:
    """One row each for memory, descriptors, threads and all queues: of the node that grew most."""
    memory: float | None = max(percent_grown(found["resident_bytes"]) for found in series.values())
    if soak_seconds < JUDGED_FROM_S:
        memory, note = None, f"needs {JUDGED_FROM_S:g} s; {note}"
    rows = [Finding("7", "full load, growth of resident memory", memory, "%", MEMORY_PERCENT_MAX, note=note)]
    for name, what in COUNTED.items():
        most = max(growth(found[name]) for found in series.values())
        rows.append(Finding("7", f"full load, growth of {what}", most, "more", 0.0))
    grown = grown_queues(series)
    told = ", ".join(grown) or f"watched: {', '.join(queues_of(series))}"
    count = float(len(grown)) if soak_seconds >= JUDGED_FROM_S else None
    rows.append(
        Finding("7", "full load, queues that grew", count, "queues", 0.0, note=told if count is not None else note)
    )
    return rows


def percent_grown(samples: Sequence[float]) -> float:
    first, _ = thirds(samples)
    return 100 * growth(samples) / statistics.median(first)


def queues_of(series: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return [name for name in next(iter(series.values())) if name not in NOT_QUEUES]


def grown_queues(series: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """By name: "n1's audit_backlog"."""
    return [f"{node}'s {name}" for node, found in series.items() for name in queues_of(series) if outgrows(found[name])]
