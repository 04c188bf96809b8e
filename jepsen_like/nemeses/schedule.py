"""Which faults, when, for how long: a plan from the seed, and the task that carries it out.

Two lanes, so that faults of different families meet; one family is never in both at the same time. Every start and stop
stands in the history twice: when it was ordered, and when it had taken effect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.clock import Clock
from jepsen_like.nemeses.disk import BACK_WAIT_S, Disk, rebuild_refusing
from jepsen_like.nemeses.fault import Detail, Nemesis, NotNow
from jepsen_like.nemeses.kill import Kill
from jepsen_like.nemeses.leader import Leader
from jepsen_like.nemeses.mapping import Mapping as MappingChanges
from jepsen_like.nemeses.member import Member
from jepsen_like.nemeses.packet import Packet
from jepsen_like.nemeses.partition import Partition
from jepsen_like.nemeses.pause import Pause
from jepsen_like.nemeses.power import Power
from jepsen_like.nemeses.wipe import Wipe

NEMESES: dict[str, Nemesis] = {
    nemesis.name: nemesis
    for nemesis in (
        Partition(),
        Kill(),
        Pause(),
        Clock(),
        Disk(),
        Packet(),
        Leader(),
        Wipe(),
        Power(),
        MappingChanges(),
        Member(),
    )
}
ALL = "all"
STICKY_ONLY = ("mapping",)
NEVER_STICKY = ("wipe",)  # a sticky node keeps its sessions alone: with its disk they would be gone
LANES = 2
CALM_S = (1.0, 4.0)  # between two faults of a lane
FAULT_S = (1.0, 6.0)  # some shorter than a lease, some longer
CALM_AT_END_S = 2.0
HEAL_WAIT_S = 30.0
REBUILD_WAIT_S = 3 * BACK_WAIT_S

Tell = Callable[[str, dict[str, Any]], None]


class Planned(NamedTuple):
    """One fault of the plan; seconds since the run began."""

    at_s: float
    until_s: float
    name: str
    detail: Detail


def parse_names(text: str) -> list[str]:
    """ "kill,pause" or "all" or "none". ValueError naming what is unknown."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"] or not names:
        return []
    if ALL in names:
        return list(NEMESES)
    unknown = [name for name in names if name not in NEMESES]
    if unknown:
        raise ValueError(f"no nemesis {unknown[0]!r} (there are: {', '.join(NEMESES)}, {ALL}, none)")
    return list(dict.fromkeys(names))


def plan(names: Sequence[str], nodes: Sequence[str], seed: int, time_limit_s: float) -> list[list[Planned]]:
    """The faults of each lane in the order of time. The same arguments give the same plan."""
    lanes: list[list[Planned]] = []
    for lane in range(min(LANES, len(names))):
        rng = random.Random(f"{seed}:nemesis:{lane}")
        others = [fault for faults in lanes for fault in faults]
        lanes.append(_lane(names, nodes, rng, time_limit_s - CALM_AT_END_S, others))
    return lanes


def _lane(
    names: Sequence[str], nodes: Sequence[str], rng: random.Random, end_s: float, others: Sequence[Planned]
) -> list[Planned]:
    faults: list[Planned] = []
    at_s = rng.uniform(*CALM_S) / 2
    while True:
        until_s = at_s + rng.uniform(*FAULT_S)
        if until_s > end_s:
            return faults
        taken = {other.name for other in others if other.at_s < until_s + 1 and at_s < other.until_s + 1}
        free = [name for name in names if name not in taken]
        if free:
            name = rng.choice(free)
            detail = NEMESES[name].plan(rng, nodes)
            faults.append(Planned(round(at_s, 3), round(until_s, 3), name, detail))
        at_s = until_s + rng.uniform(*CALM_S)


class Nemeses:
    """Carries out a plan. `tell(f, value)` writes into the history; `current` is for people."""

    def __init__(self, cluster: Cluster, lanes: Sequence[Sequence[Planned]], now_s: Callable[[], float], tell: Tell):
        self._cluster = cluster
        self._lanes = lanes
        self._now_s = now_s
        self._tell = tell
        self.current: dict[str, str] = {}
        self.done: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self.rebuilt: list[str] = []
        cluster.on_rebuild = self._rebuild

    async def run(self) -> None:
        """All lanes to their end. Whoever cancels it calls `heal` afterwards."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._run_lane(lane))

    async def _run_lane(self, lane: Sequence[Planned]) -> None:
        for fault in lane:
            await asyncio.sleep(max(0.0, fault.at_s - self._now_s()))
            await self._one(NEMESES[fault.name], fault)

    async def _one(self, nemesis: Nemesis, fault: Planned) -> None:
        kind = fault.name
        self._say("fault", kind, False, [], fault.detail)
        try:
            done = await nemesis.start(self._cluster, fault.detail)
        except NotNow as why:
            self.left_out[kind] = self.left_out.get(kind, 0) + 1
            self._say("skipped", kind, False, [], {"why": str(why)})
            return
        self.done[kind] = self.done.get(kind, 0) + 1
        shown_kind = done.kind or kind
        self._say("fault", shown_kind, True, done.nodes, done.detail)
        self.current[kind] = f"{shown_kind} {done.detail.get('form', '')} {','.join(done.nodes)}".strip()
        try:
            await asyncio.sleep(max(0.0, fault.until_s - self._now_s()))
            self._say("heal", shown_kind, False, done.nodes, {})
            await nemesis.stop(self._cluster, fault.detail)
            self._say("heal", shown_kind, True, done.nodes, {})
        finally:
            self.current.pop(kind, None)

    def _rebuild(self, f: str, node: str, why: str) -> None:
        """A node refused its damaged files and begins anew, or has begun."""
        if f == "fault":
            self.rebuilt.append(node)
        self._say(f, "rebuild", True, [node], {"refused": why} if why else {})

    def _say(self, f: str, kind: str, effective: bool, nodes: Sequence[str], detail: Mapping[str, Any]) -> None:
        value = {"kind": kind, "effective": effective, "nodes": list(nodes), "detail": dict(detail)}
        self._tell(f, value)

    async def heal(self) -> None:
        """Nothing of any fault is left; every node has a process. Errors of one family do not keep the others."""
        self._cluster.changing.clear()
        self._tell("heal", {"kind": ALL, "effective": False, "nodes": [], "detail": {}})
        problems = []
        steps = [(name, HEAL_WAIT_S, nemesis.heal) for name, nemesis in NEMESES.items()]
        steps.append(("rebuild", REBUILD_WAIT_S, rebuild_refusing))  # last: who refuses is seen once all are started
        for name, wait_s, step in steps:
            try:
                async with asyncio.timeout(wait_s):
                    await step(self._cluster)
            except Exception as problem:  # told below, after every family had its turn
                problems.append(f"{name}: {problem!r}")
        self._tell("heal", {"kind": ALL, "effective": True, "nodes": [], "detail": {"problems": problems}})
        if problems:
            raise RuntimeError("; ".join(problems))
