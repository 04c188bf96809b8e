"""Faults of processes and their machines: they die, forget, sleep, and come back."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from jepsen_like.sim.faults_base import FaultBase
from jepsen_like.sim.scheduler import MS

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine

KEEPS = (0.0, 0.3, 0.7, 1.0)  # how much of what was not synced a power loss spares
DAY_MS = 86_400_000


class ProcessFaults(FaultBase):
    """Ends, pauses and losses of memory."""

    def _down(self, rng: Random, kind: str, target: Machine) -> str:
        return self._until(rng, kind, target, lambda: self.world.start(target))

    def _kill(self, rng: Random, target: Machine) -> str | None:
        if not target.is_up:
            return None
        self.world.kill(target)
        return self._down(rng, "kill", target)

    def _power(self, rng: Random, target: Machine) -> str | None:
        if not target.is_up:
            return None
        target.lose_power(rng.choice(KEEPS))
        return self._down(rng, "power", target)

    def _kill_all(self, rng: Random, target: Machine) -> str | None:
        for machine in self.world.machine_list:
            if machine.is_up:
                self.world.kill(machine)
                self._until(rng, "kill_all", machine, lambda machine=machine: self.world.start(machine))  # type: ignore[misc]
        return "all"

    def _power_all(self, rng: Random, target: Machine) -> str | None:
        for machine in self.world.machine_list:
            if machine.is_up:
                machine.lose_power(rng.choice(KEEPS))
                self._until(rng, "power_all", machine, lambda machine=machine: self.world.start(machine))  # type: ignore[misc]
        return "all"

    def _restart(self, rng: Random, target: Machine) -> str | None:
        """A graceful stop, and a new process after it."""
        process = target.process
        if process is None or process.core is None or process.is_stopping:
            return None
        self.world.stop_gracefully(target, drain=rng.random() < 0.3)
        return "stopped"

    def _wipe(self, rng: Random, target: Machine) -> str | None:
        if not self.world.may_damage(target):
            return None
        target.lose_power(0.0)
        target.wipe()
        return self._down(rng, "wipe", target)

    def _amnesia(self, rng: Random, target: Machine) -> str | None:
        """Some lag behind; then one of those who do not loses its disk, and the others who know are cut off."""
        machines = list(self.world.machine_list)
        rng.shuffle(machines)
        half = len(machines) // 2
        lagging, wiped, knowing = machines[:half], machines[half], machines[half + 1 :]
        if not self.world.may_damage(wiped):
            return None
        network, names = self.world.network, [machine.node_id for machine in machines]
        behind = network.block(self._both_ways([machine.node_id for machine in lagging], names))

        def swap() -> None:
            behind()
            apart = network.block(self._both_ways([machine.node_id for machine in knowing], names))
            self._until(rng, "amnesia", target, apart)
            if self.world.may_damage(wiped):
                wiped.lose_power(0.0)
                wiped.wipe()
                self._until(rng, "amnesia", wiped, lambda: self.world.start(wiped), rng.randint(5, 300))
            self.world.note_reach()

        self._until(rng, "amnesia", target, swap, rng.randint(300, 3_000))
        return f"{wiped.node_id} forgets"

    def _flap(self, rng: Random, target: Machine) -> str | None:
        """In the course of an election all others lose power and come back, again and again."""
        if not target.is_up:
            return None
        target.lose_power(rng.choice(KEEPS))
        election_ms = self.world.plan.timing["election_timeout_max_ms"]
        others = [machine for machine in self.world.machine_list if machine is not target]
        for machine in others:
            for _ in range(4):
                self.world.later(rng.randint(0, 3 * election_ms) * MS, self._flicker, machine, rng)
        return self._until(rng, "flap", target, lambda: self.world.start(target), 3 * election_ms)

    def _flicker(self, machine: Machine, rng: Random) -> None:
        if machine.is_up and not self.world.is_ending:
            machine.lose_power(rng.choice(KEEPS))
            self._until(rng, "flap", machine, lambda: self.world.start(machine), rng.randint(1, 40))

    def _orphan(self, rng: Random, target: Machine) -> str | None:
        """All but one start anew, with other wall clocks, while that one is cut off and its lease runs on."""
        lasts = self._cut(rng, "orphan", target, self._both_ways([target.node_id], self._others(target)))
        lease_ms = self.world.plan.timing["lease_ttl_ms"]
        ahead_ms = rng.choice((0, lease_ms, 3 * lease_ms, 60_000, DAY_MS - 10_000))
        for machine in self.world.machine_list:
            if machine is not target and machine.is_up:
                machine.lose_power(rng.choice(KEEPS))
                machine.clock.wall_offset_ms += ahead_ms
                self._until(rng, "orphan", machine, lambda m=machine: self.world.start(m), rng.randint(5, 100))  # type: ignore[misc]
        return f"{target.node_id} is left, {lasts}, wall clocks {ahead_ms} ms ahead"

    def _lag(self, rng: Random, target: Machine) -> str | None:
        """For less than its lease a node hears nothing, while the log goes on and is cut behind its back."""
        others = self._others(target)
        lasts_ms = self.world.plan.timing["lease_ttl_ms"] * rng.uniform(0.3, 0.75)
        pairs = [(other, target.node_id) for other in others]
        if rng.random() < 0.4:
            pairs += [(target.node_id, other) for other in others]
        self.world.load.siege.overtake(target.node_id, lasts_ms, rng)
        return self._cut(rng, "lag", target, pairs, lasts_ms)

    def _pause(self, rng: Random, target: Machine) -> str | None:
        return self._sleep(rng, "pause", target, "paused_until", self._duration(rng))

    def _stall(self, rng: Random, target: Machine) -> str | None:
        return self._sleep(rng, "stall", target, "stalled_until", self._duration(rng))
