"""The rounds: start a peer, warm it up, measure every case, stop it; then the next.

Only one peer runs at a time. A peer that fails is named with what it said, and the others go on.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jepsen_like.bench import limits, processes
from jepsen_like.bench.histogram import Histogram, merged
from jepsen_like.bench.peers.base import Cluster, Peer
from jepsen_like.bench.plan import Case, Plan
from raftstore.cli.temp_cluster import temporary_directory
from raftstore.errors import RaftstoreError

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a cluster, up to one moment."""

    cpu_seconds: Mapping[str, float | None]
    written_bytes: Mapping[str, int | None]
    sent_bytes: int | None
    syncs: int | None


async def rounds(plan: Plan, peers: Mapping[str, Peer], say: Say) -> dict[str, Any]:
    """Rows of every measurement, the machine's limits turn by turn, and what went wrong."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    limit_rows = []
    for number, name in plan.turns():
        limit_rows.append(await in_directory(limits.measure))  # at every turn: they change with the machine's mood

        async def turn(directory: Path, name: str = name, number: int = number) -> list[dict[str, Any]]:
            return await _turn(plan, peers[name], number, directory, say)

        try:
            rows += await in_directory(turn)
        except (RaftstoreError, OSError) as problem:
            problems.append(f"{name}, round {number + 1}: {problem}")
            say(problems[-1])
    return {"rows": rows, "limits": limit_rows, "problems": problems}


async def in_directory(work: Callable[[Path], Awaitable[T]]) -> T:
    """Run in a temporary directory, which is removed."""
    directory = temporary_directory()
    try:
        return await work(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _turn(plan: Plan, peer: Peer, number: int, directory: Path, say: Say) -> list[dict[str, Any]]:
    say(f"round {number + 1} of {plan.rounds}: {peer.name} starts ...")
    cluster = await peer.start(directory)
    try:
        await measure(cluster, Case("transition", 16, "all"), plan.warm_up_seconds)
        rows = []
        for case in plan.cases:
            if peer.supports(case):
                say(f"round {number + 1} of {plan.rounds}: {peer.name}, {case.name} ...")
                rows.append({"round": number + 1, "peer": peer.name, **await measure(cluster, case, plan.seconds)})
        return rows
    finally:
        await cluster.stop()


async def measure(cluster: Cluster, case: Case, seconds: float) -> dict[str, Any]:
    """One measurement: the callers of the chosen nodes at once, and what all processes used meanwhile."""
    leader = await cluster.leader()
    nodes = chosen(case.place, list(cluster.hosts), leader)
    await asyncio.gather(*(cluster.ask(node, "prepare", callers=case.callers) for node in nodes))
    before = await usage(cluster)
    asked = {"kind": case.kind, "callers": case.callers, "seconds": seconds}
    answers = await asyncio.gather(*(cluster.ask(node, "load", takes_s=seconds, **asked) for node in nodes))
    after = await usage(cluster)
    memory = {name: processes.resident_bytes(pid) for name, pid in cluster.pids().items()}
    return {"case": case.name, **figures(answers, before, after), "resident_bytes": memory}


def chosen(place: str, nodes: Sequence[str], leader: str) -> list[str]:
    if place == "all":
        return list(nodes)
    return [leader if place == "leader" else next(node for node in nodes if node != leader)]


async def usage(cluster: Cluster) -> Usage:
    pids = cluster.pids()
    return Usage(
        {name: processes.cpu_seconds(pid) for name, pid in pids.items()},
        {name: processes.written_bytes(pid) for name, pid in pids.items()},
        processes.sent_bytes(cluster.ports),
        await cluster.syncs(),
    )


def figures(answers: Sequence[Mapping[str, Any]], before: Usage, after: Usage) -> dict[str, Any]:
    """What one measurement came to. Per op: of all that succeeded."""
    ops = sum(answer["ops"] for answer in answers)
    cpu = {name: _grown(before.cpu_seconds.get(name), used) for name, used in after.cpu_seconds.items()}
    written = [_grown(before.written_bytes.get(name), used) for name, used in after.written_bytes.items()]
    return {
        "ops": ops,
        "refused": sum(answer["refused"] for answer in answers),
        "failures": _sum_of(answer["failures"] for answer in answers),
        "per_second": sum(answer["ops"] / answer["seconds"] for answer in answers),
        "latency": merged(Histogram.from_json(answer["latency"]) for answer in answers).as_json(),
        "cpu_seconds": cpu,
        "cpu_us_per_op": _per(_total(list(cpu.values())), ops, 1e6),
        "syncs_per_op": _per(_grown(before.syncs, after.syncs), ops),
        "disk_bytes_per_op": _per(_total(written), ops),
        "wire_bytes_per_op": _per(_grown(before.sent_bytes, after.sent_bytes), ops),
    }


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _total(values: Sequence[float | None]) -> float | None:
    """None when one is not known: a sum without it would be too small."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _per(value: float | None, ops: int, unit: float = 1.0) -> float | None:
    return None if value is None or ops == 0 else value * unit / ops


def _sum_of(failures: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in failures:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
