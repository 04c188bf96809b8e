"""Very many sessions: what they cost in memory and speed, and what goes through all of them without being felt.

Three nodes hold `sessions` sessions. All figures of one run, in this order: filling; resident memory; throughput beside
three nodes that hold a thousand (in turn, A B A B); snapshots under full load and under a light one; many sessions due
at once; a drain of one node while the others' callers go on; a restart of that node, its disk lost and caught up by
snapshot, both under load; a restart of all three.

The stall of a loop is how late a timer fires on it. On few cores a full load alone makes loops turn late, so each
stall is told beside what the same load made without a snapshot and beside that of a loop in a process that has
nothing to do, and measured again under a light load. What is found
is judged in `scale_findings`.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jepsen_like.bench import processes
from jepsen_like.bench.histogram import Histogram, merged
from jepsen_like.bench.peers.base import NODES, host
from jepsen_like.bench.run import Say
from jepsen_like.bench.trials.base import TrialResult
from jepsen_like.bench.trials.cluster import TrialCluster, nap, three_nodes
from jepsen_like.bench.trials.scale_findings import findings
from raftstore.cli.bench_process import BenchFailed, Process

FEW = 1_000  # sessions of the cluster that the big one is compared with
FILL_PART = 20_000  # sessions per node that one request makes
LIGHT_CALLERS = 8  # per node
AUDIT_BACKLOG_MAX = 10_000  # events
SNAPSHOT_WAIT_S = 180.0  # for one on every node
EXPIRY_WAIT_S = 120.0
EXPIRY_WALK_S = 0.5  # of callers between two looks at what is still there
PHASE_S = 300.0  # what a single request may take beyond the usual patience
WALK_S = 2.0  # of callers who go on until something else has ended

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """`moved` sessions are drained, and as many are due at once; `seconds` of each measurement of throughput."""

    sessions: int = 1_000_000
    moved: int = 100_000
    callers: int = 256
    seconds: float = 5.0
    rounds: int = 2
    snapshot_every_entries: int = 10_000
    due_after_ms: int = 30_000
    name: str = "scale"
    about: str = "very many sessions: memory, throughput, snapshots, expiry, drain, restarts"
    target: str = "6"

    @property
    def estimate_seconds(self) -> float:
        return 60 + 4 * self.rounds * self.seconds + self.due_after_ms / 1_000 + self.sessions / 4_000

    async def run(self, directory: Path, say: Say) -> TrialResult:
        figures: dict[str, Any] = {"sessions": self.sessions, "moved": self.moved}
        every = self.snapshot_every_entries
        async with idle_loop(directory) as idle, nodes(directory / "many", every) as cluster:
            run = Run(self, cluster, directory / "many", idle, say)
            async with nodes(directory / "few", every) as few:
                figures |= await run.filled()
                figures["throughput"] = await run.compared(Run(self, few, directory / "few", idle, say))
            figures["memory"] = await run.memory()
            figures["snapshot_full"] = await run.snapshots(self.callers)
            figures["snapshot_light"] = await run.snapshots(LIGHT_CALLERS)
            figures["expiry"] = await run.expiry()
            figures["drain"] = await run.drain()
            figures["restart_one"] = await run.restart(NODES[-1], "restarts")
            figures["wiped"] = await run.restart(NODES[-1], "lost its disk", wiped=True)
            figures["restart_all"] = await run.restart_all()
        return TrialResult(figures, findings(figures))


@asynccontextmanager
async def nodes(directory: Path, snapshot_every_entries: int) -> AsyncIterator[TrialCluster]:
    """Three, ready. What was frozen or detached waits longer than the trial takes: no sweep comes in between."""
    await asyncio.to_thread(directory.mkdir)
    settings = (
        f"snapshot_every_entries = {snapshot_every_entries}\n\n"
        "[sessions]\nfreeze_timeout_ms = 3600000\nreattach_window_ms = 36000000\n"
    )
    async with three_nodes(directory, settings, "raftstore_scale") as cluster:
        yield cluster


@asynccontextmanager
async def idle_loop(directory: Path) -> AsyncIterator[Process]:
    """A process beside the nodes that only waits: how late its loop turns is the machine's doing."""
    process = host(directory, "idle", {"target": "idle_loop"})
    try:
        await process.start()
        await process.answer()
        yield process
    finally:
        await process.kill()


class Run:
    """The measurements on one cluster. `shares`: how many sessions each node has made that live on."""

    def __init__(self, scale: Scale, cluster: TrialCluster, directory: Path, idle: Process, say: Say) -> None:
        self._scale = scale
        self._cluster = cluster
        self._directory = directory
        self._idle = idle
        self._say = say
        self.shares = dict.fromkeys(NODES, 0)
        self._resident_before: dict[str, int] = {}

    # ---- filling, memory, throughput
    async def filled(self) -> dict[str, Any]:
        """A thousand sessions and some load, then all."""
        scale, total = self._scale, self._scale.sessions
        few = min(FEW, total // 2)
        drained = min(scale.moved, total // 3)
        last = {**dict.fromkeys(NODES[:-1], (total - drained) // (len(NODES) - 1)), NODES[-1]: drained}
        await self._room({node: count + scale.moved for node, count in last.items()})
        await self.fill(dict.fromkeys(NODES, few // len(NODES)))
        await self.walk(scale.callers, scale.seconds)
        self._resident_before = await self._resident()
        self._say(f"scale: {total:,} sessions are made ...")
        made, seconds = await self.fill(last)
        return {"fill": {"sessions": made, "seconds": seconds, "per_second": made / seconds}}

    async def _room(self, sessions: Mapping[str, int]) -> None:
        await asyncio.gather(*(self._cluster.ask(node, "room", sessions=count) for node, count in sessions.items()))

    async def fill(self, last: Mapping[str, int]) -> tuple[int, float]:
        """Every node makes sessions until it has so many. How many were made, and the seconds."""
        begun_ns, before = self._cluster.now_ns(), sum(self.shares.values())

        async def one(node: str) -> None:
            while (first := self.shares[node]) < last[node]:
                end = min(first + FILL_PART, last[node])
                await self._cluster.ask(
                    node, "fill", first=first, last=end, callers=self._scale.callers, takes_s=PHASE_S
                )
                self.shares[node] = end

        await self._said(asyncio.gather(*(one(node) for node in last)), lambda: f"{sum(self.shares.values()):,} made")
        return sum(self.shares.values()) - before, (self._cluster.now_ns() - begun_ns) / 1e9

    async def _said(self, work: Awaitable[T], progress: Any) -> T:
        """Wait for it, with a line now and then."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=15.0))[0]:
                self._say(f"scale: {progress()} ...")
            return await task
        finally:
            task.cancel()

    async def _resident(self) -> dict[str, int]:
        found = {node: processes.resident_bytes(self._cluster.pid(node)) for node in NODES}
        return {node: value for node, value in found.items() if value is not None}

    async def memory(self) -> dict[str, Any]:
        now = await self._resident()
        grown = sum(self.shares.values()) - FEW
        per_session = {node: (now[node] - self._resident_before[node]) / max(1, grown) for node in now}
        return {"resident_bytes": now, "before": self._resident_before, "per_session": per_session}

    async def compared(self, few: Run) -> dict[str, Any]:
        """The same load on a cluster of few sessions and on this one, in turn: each caller has one session.

        Beside it, what callers reach who go through all sessions: that each is touched once is another load.
        """
        scale = self._scale
        await few._room(dict.fromkeys(NODES, FEW))
        await few.fill(dict.fromkeys(NODES, min(FEW, scale.sessions // 2) // len(NODES)))
        await self._cluster.until(self._audit_is_written, "the audit files hold what filling made")
        rates: dict[str, list[float]] = {"few": [], "many": []}
        writing: list[float] = []
        for number in range(scale.rounds):
            self._say(f"scale: throughput, round {number + 1} of {scale.rounds} ...")
            for name, run in (("few", few), ("many", self)):
                found = await run.walk(scale.callers, scale.seconds, one_each=True)
                rates[name].append(found["per_second"])
            writing.append(share_beside_snapshots(found))
        ratio = statistics.median(rates["many"]) / statistics.median(rates["few"])
        all_in_turn = (await self.walk(scale.callers, scale.seconds))["per_second"]
        return {**rates, "ratio": ratio, "all_in_turn": all_in_turn, "beside_snapshots": writing}

    async def _audit_is_written(self) -> bool:
        """Or nearly: what is left of filling would slow down what is measured next."""
        return all(view["audit_backlog"] <= AUDIT_BACKLOG_MAX for view in await self._cluster.ask_all("view"))

    async def walk(
        self, callers: int, seconds: float, of: tuple[str, ...] = NODES, *, one_each: bool = False
    ) -> dict[str, Any]:
        """Callers of these nodes go through all their sessions, or have one each."""
        asked = {"first": 0, "callers": callers, "seconds": seconds, "takes_s": seconds, "one_each": one_each}
        chosen = [node for node in of if self.shares[node]]
        answers = await asyncio.gather(
            *(self._cluster.ask(node, "walk", last=self.shares[node], **asked) for node in chosen)
        )
        return summed(answers)

    # ---- what goes through all sessions
    async def _watch(self) -> None:
        """See from now on how late loops turn: the nodes', and one that has nothing to do."""
        await asyncio.gather(self._cluster.ask_all("watch"), self._idle.ask("watch"))

    async def _watched(self) -> list[dict[str, Any]]:
        """What was seen since then, of each node and of the idle loop."""
        idle, seen = await asyncio.gather(self._idle.ask("watched"), self._cluster.ask_all("watched"))
        return [{**one, "idle_ms": idle["worst_ms"]["quiet"]} for one in seen]

    async def snapshots(self, callers: int) -> dict[str, Any]:
        """Load until every node has written a snapshot that began and ended under it."""
        self._say(f"scale: {callers} callers per node until every node has written a snapshot ...")
        parts = []
        end_ns = self._cluster.now_ns() + int(SNAPSHOT_WAIT_S * 1e9)
        await self._watch()
        while not all(view["snapshots_watched"] for view in await self._cluster.ask_all("view")):
            if self._cluster.now_ns() > end_ns:
                raise BenchFailed(f"not every node wrote a snapshot within {SNAPSHOT_WAIT_S:g} s")
            parts.append(await self.walk(callers, self._scale.seconds))
        return {**joined(parts), **stalls(await self._watched())}

    async def expiry(self) -> dict[str, Any]:
        """Sessions of one node, all due at once, under a light load."""
        scale, node = self._scale, NODES[0]
        first = self.shares[node]
        self._say(f"scale: {scale.moved:,} sessions that are due at once ...")
        begun_ns = self._cluster.now_ns()
        await self._cluster.ask(
            node, "fill", first=first, last=first + scale.moved, callers=scale.callers,
            due_after_ms=scale.due_after_ms, takes_s=PHASE_S,
        )  # fmt: skip
        due_ns = begun_ns + scale.due_after_ms * 1_000_000
        if self._cluster.now_ns() > due_ns:
            raise BenchFailed(f"{scale.moved} sessions were not made within {scale.due_after_ms} ms")
        living = sum(self.shares.values())
        await nap((due_ns - self._cluster.now_ns()) / 1e9 - 1.0)
        await self._watch()

        parts = []
        while sum((await self._cluster.ask(node, "view"))["owned"].values()) > living:
            if self._cluster.now_ns() > due_ns + EXPIRY_WAIT_S * 1e9:
                raise BenchFailed(f"{scale.moved} sessions were not swept within {EXPIRY_WAIT_S:g} s")
            parts.append(await self.walk(LIGHT_CALLERS, EXPIRY_WALK_S))
        seconds = (self._cluster.now_ns() - due_ns) / 1e9
        return {**joined(parts), **stalls(await self._watched()), "swept_seconds": seconds}

    async def drain(self) -> dict[str, Any]:
        """One node gives all it has to the others, whose callers go on."""
        giver, others = NODES[-1], NODES[:-1]
        self._say(f"scale: {giver} gives {self.shares[giver]:,} sessions to the others ...")
        before = await self.walk(self._scale.callers, self._scale.seconds, others)
        await self._watch()
        work = self._cluster.ask(giver, "drain", takes_s=PHASE_S)
        found, load = await self._meanwhile(work, self._scale.callers, others)
        self.shares[giver] = 0
        return {**found, "before": before, "meanwhile": load, **stalls(await self._watched())}

    async def _meanwhile(self, work: Awaitable[T], callers: int, of: tuple[str, ...]) -> tuple[T, dict[str, Any]]:
        """Callers of these nodes go on until it is done: its result, and theirs."""
        task = asyncio.ensure_future(work)
        parts = []
        try:
            while not task.done():
                parts.append(await self.walk(callers, min(WALK_S, self._scale.seconds), of))
            return await task, joined(parts)
        finally:
            task.cancel()

    # ---- restarts
    async def restart(self, node: str, why: str, *, wiped: bool = False) -> dict[str, Any]:
        """Killed and started again while the others' callers go on; how long until it serves."""
        self._say(f"scale: {node} {why} while the others serve ...")
        self._cluster.kill(node)
        if wiped:
            await asyncio.to_thread(shutil.rmtree, self._directory / "data" / node)
        others = tuple(name for name in NODES if name != node)
        seconds, load = await self._meanwhile(self._ready(node), self._scale.callers, others)
        view = await self._cluster.ask(node, "view")
        return {"seconds": seconds, "sessions": view["sessions_total"], "meanwhile": load}

    async def restart_all(self) -> dict[str, Any]:
        self._say("scale: all nodes restart ...")
        for node in NODES:
            self._cluster.kill(node)
        seconds = await asyncio.gather(*(self._ready(node) for node in NODES))
        return {"seconds": max(seconds)}

    async def _ready(self, node: str) -> float:
        begun_ns = self._cluster.now_ns()
        await self._cluster.restart(node)
        return (self._cluster.now_ns() - begun_ns) / 1e9


def summed(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One measurement of several nodes."""
    told: dict[str, int] = {}
    for answer in answers:
        for name, count in answer["told"].items():
            told[name] = told.get(name, 0) + count
    latency = {
        name: merged(Histogram.from_json(answer["latency"][name]) for answer in answers).as_json()
        for name in ("quiet", "snapshot")
    }
    return {
        "per_second": sum(answer["ops"] / answer["seconds"] for answer in answers),
        "told": told,
        "latency": latency,
    }


def share_beside_snapshots(found: dict[str, Any]) -> float:
    """Of the ops of a measurement: those made while their node wrote a snapshot."""
    counts = {name: Histogram.from_json(latency).total for name, latency in found["latency"].items()}
    return counts["snapshot"] / max(1, sum(counts.values()))


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Measurements one after the other, as one."""
    asked = [{**part, "ops": part["per_second"], "seconds": 1.0} for part in parts]
    found = summed(asked)
    return {**found, "per_second": found["per_second"] / max(1, len(parts))}


def stalls(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all nodes, in milliseconds, and how long snapshots took."""
    return {
        "worst_ms": {name: max(one["worst_ms"][name] for one in seen) for name in ("quiet", "snapshot")},
        "idle_ms": max(one["idle_ms"] for one in seen),
        "snapshot_ms": [took for one in seen for took in one["snapshot_ms"]],
    }
