"""What all families of faults share: the world, and how a fault that lasts comes to its end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from jepsen_like.sim.network import Pair
from jepsen_like.sim.scheduler import MS

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine
    from jepsen_like.sim.world import World


class FaultBase:
    """State of what goes wrong in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.done = 0
        self.ends: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._is_siege = False  # whether the fault that begins now is to outlast a lease

    def heal(self) -> None:
        """Every fault that lasts ends now."""
        ends, self.ends = self.ends, {}
        for end in ends.values():
            end()

    def _until(self, rng: Random, kind: str, target: Machine, end: Callable[[], None], ms: float | None = None) -> str:
        """The end of a fault comes by itself, or when everything heals."""
        self._count += 1
        number = self._count
        lasts_ms = self._duration(rng) if ms is None else ms
        self.ends[number] = end
        self.world.later(int(lasts_ms * MS), self._over, number, kind, target)
        return f"{lasts_ms:.0f} ms"

    def _over(self, number: int, kind: str, target: Machine) -> None:
        """That fault ends now, if it has not ended before."""
        end = self.ends.pop(number, None)
        if end is not None:
            end()
            self.world.note_reach()
            value = {"kind": kind, "detail": "", "nodes": [target.node_id], "effective": True}
            self.world.record("nemesis", "info", "heal", value=value)

    def _duration(self, rng: Random) -> float:
        """A moment, an election, or longer than a lease."""
        timing = self.world.plan.timing
        if self._is_siege:
            return timing["lease_ttl_ms"] * rng.uniform(1.4, 2.5)
        typical = rng.choice((50, timing["election_timeout_max_ms"], *(3 * [2 * timing["lease_ttl_ms"]])))
        return typical * rng.uniform(0.6, 1.4)

    def _sleep(self, rng: Random, kind: str, target: Machine, what: str, ms: float) -> str | None:
        """Its process (`paused_until`) or its loop (`stalled_until`) stands still; nobody can wake it before that."""
        if target.process is None:
            return None
        life, scheduler = target.process.life, self.world.scheduler
        end = min(scheduler.now + int(ms * MS), self.world.plan.time_limit_ms * MS)
        setattr(life, what, max(end, getattr(life, what)))
        return self._until(rng, kind, target, lambda: None, ms)

    def _cut(self, rng: Random, kind: str, target: Machine, pairs: list[Pair], ms: float | None = None) -> str | None:
        if not pairs:
            return None
        lasts = self._until(rng, kind, target, self.world.network.block(pairs), ms)
        return f"{len(pairs)} directed pairs for {lasts}"

    def _both_ways(self, ones: list[str], others: list[str]) -> list[Pair]:
        return [pair for one in ones for other in others if one != other for pair in ((one, other), (other, one))]

    def _others(self, target: Machine) -> list[str]:
        return [node for node in self.world.config.node_ids if node != target.node_id]
