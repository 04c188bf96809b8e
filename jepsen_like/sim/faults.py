"""Every fault that a plan may name: how it begins, how long it lasts, how it ends.

Each is a method that draws its details from its own random source, does harm, and plans the end of it. Nothing here
goes beyond what the cluster promises to survive, but for clocks in the mode that says so: at most one member at a time
has lost what it once promised.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from jepsen_like.sim.network import Pair
from jepsen_like.sim.scheduler import MS

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine
    from jepsen_like.sim.world import World

KEEPS = (0.0, 0.3, 0.7, 1.0)  # how much of what was not synced a power loss spares
DAY_MS = 86_400_000
CATCHES_WRITES = ("power", "power_all", "kill_all", "flap", "amnesia")  # these come while ops are on their way
BURST_OPS = 5
BURST_MS = 120
BESIEGED = (  # faults in whose course others try to take over what the target owns
    *("isolate", "halves", "one_way", "bridge", "ring", "kill", "power", "pause", "stall", "restart", "wipe"),
    *("slow_peer", "slow_disk", "slow_net", "sync_error", "flip"),
)


class Faults:
    """What goes wrong in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.done = 0
        self.ends: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._is_siege = False  # whether the fault that begins now is to outlast a lease

    def begin(self, kind: str, salt: int) -> None:
        """One fault, now, or as soon as its victim has something to lose."""
        rng = Random(salt)
        target = self._target(rng)
        is_alone = rng.random() < 0.25 and not self.world.plan.is_duel
        is_siege = kind in BESIEGED and not is_alone and len(self.world.machine_list) > 1
        wait_ms = 0
        if is_siege:
            self.world.load.furnish(target.node_id, rng)
            wait_ms = rng.randint(20, 600)
        if kind in CATCHES_WRITES:
            wait_ms += BURST_MS
            for _ in range(BURST_OPS):
                at_ms = wait_ms - rng.randint(0, BURST_MS)
                self.world.later(at_ms * MS, self.world.load.act, rng.getrandbits(40))
        self.world.later(wait_ms * MS, self._strike, kind, rng, target, is_siege)

    def _strike(self, kind: str, rng: Random, target: Machine, besieged: bool) -> None:
        if self.world.is_ending:
            return
        self._is_siege = besieged
        detail = getattr(self, f"_{kind}")(rng, target)
        self.world.note_reach()
        if detail is not None:
            self.done += 1
            value = {"kind": kind, "detail": detail, "nodes": [target.node_id], "effective": True}
            self.world.record("nemesis", "info", "fault", value=value)
            if besieged:
                after_ms = rng.choice((0.3, 0.6, 0.75, 0.9)) * self.world.plan.timing["lease_ttl_ms"]
                victim = next(iter(self.world.cut_off()), target.node_id)
                self.world.later(int(after_ms * MS), self.world.load.besiege, victim, rng)

    def heal(self) -> None:
        """Every fault that lasts ends now."""
        ends, self.ends = self.ends, {}
        for end in ends.values():
            end()

    def _target(self, rng: Random) -> Machine:
        leader = self.world.leader()
        if leader is not None and rng.random() < 0.5:
            return leader.machine
        return rng.choice(self.world.machine_list)

    def _until(self, rng: Random, kind: str, target: Machine, end: Callable[[], None], ms: float | None = None) -> str:
        """The end of a fault comes by itself, or when everything heals."""
        self._count += 1
        number = self._count
        lasts_ms = self._duration(rng) if ms is None else ms

        def over() -> None:
            if self.ends.pop(number, None) is not None:
                end()
                self.world.note_reach()
                value = {"kind": kind, "detail": "", "nodes": [target.node_id], "effective": True}
                self.world.record("nemesis", "info", "heal", value=value)

        self.ends[number] = end
        self.world.later(int(lasts_ms * MS), over)
        return f"{lasts_ms:.0f} ms"

    def _duration(self, rng: Random) -> float:
        """A moment, an election, or longer than a lease."""
        timing = self.world.plan.timing
        if self._is_siege:
            return timing["lease_ttl_ms"] * rng.uniform(1.4, 2.5)
        typical = rng.choice((50, timing["election_timeout_max_ms"], *(3 * [2 * timing["lease_ttl_ms"]])))
        return typical * rng.uniform(0.6, 1.4)

    # --- network ---------------------------------------------------------------------------------------------
    def _cut(self, rng: Random, kind: str, target: Machine, pairs: list[Pair]) -> str | None:
        if not pairs:
            return None
        lasts = self._until(rng, kind, target, self.world.network.block(pairs))
        return f"{len(pairs)} directed pairs for {lasts}"

    def _both_ways(self, ones: list[str], others: list[str]) -> list[Pair]:
        return [pair for one in ones for other in others if one != other for pair in ((one, other), (other, one))]

    def _isolate(self, rng: Random, target: Machine) -> str | None:
        others = [node for node in self.world.config.node_ids if node != target.node_id]
        return self._cut(rng, "isolate", target, self._both_ways([target.node_id], others))

    def _halves(self, rng: Random, target: Machine) -> str | None:
        nodes = list(self.world.config.node_ids)
        rng.shuffle(nodes)
        middle = len(nodes) // 2
        return self._cut(rng, "halves", target, self._both_ways(nodes[:middle], nodes[middle:]))

    def _one_way(self, rng: Random, target: Machine) -> str | None:
        others = [node for node in self.world.config.node_ids if node != target.node_id]
        chosen = others if rng.random() < 0.5 else [rng.choice(others)]
        out = rng.random() < 0.5
        pairs = [(target.node_id, other) if out else (other, target.node_id) for other in chosen]
        return self._cut(rng, "one_way", target, pairs)

    def _bridge(self, rng: Random, target: Machine) -> str | None:
        """Two halves that see one member in common, and not each other."""
        nodes = [node for node in self.world.config.node_ids if node != target.node_id]
        rng.shuffle(nodes)
        middle = len(nodes) // 2
        return self._cut(rng, "bridge", target, self._both_ways(nodes[:middle], nodes[middle:]))

    def _ring(self, rng: Random, target: Machine) -> str | None:
        """Everybody sees a majority, and no two see the same one."""
        nodes = list(self.world.config.node_ids)
        rng.shuffle(nodes)
        count = len(nodes)
        reach = count // 4 if count > 4 else 1
        pairs = []
        for i, one in enumerate(nodes):
            for j, other in enumerate(nodes):
                distance = min((i - j) % count, (j - i) % count)
                if distance > reach or (count == 3 and {i, j} == {0, 2}):
                    pairs.append((one, other))
        return self._cut(rng, "ring", target, [pair for pair in pairs if pair[0] != pair[1]])

    def _break(self, rng: Random, target: Machine) -> str | None:
        others = [node for node in self.world.config.node_ids if node != target.node_id]
        found = self.world.network.break_connections(target.node_id, rng.choice(others))
        return f"{found} connections"

    def _slow_net(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.latency_ns = int(rng.uniform(5, 120) * MS)
        network.jitter_ns = int(rng.uniform(5, 150) * MS)

        return self._until(rng, "slow_net", target, network.at_usual_speed)

    def _loss(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.loss = rng.choice((0.02, 0.1, 0.3))
        return self._until(rng, "loss", target, lambda: setattr(network, "loss", 0.0))

    def _bandwidth(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.bytes_per_s = rng.choice((10_000, 60_000))
        return self._until(rng, "bandwidth", target, lambda: setattr(network, "bytes_per_s", 0))

    def _slow_peer(self, rng: Random, target: Machine) -> str | None:
        slow = self.world.network.slow
        slow[target.node_id] = int(rng.uniform(20, 400) * MS)
        return self._until(rng, "slow_peer", target, lambda: slow.pop(target.node_id, None))  # type: ignore[arg-type]

    def _late_hello(self, rng: Random, target: Machine) -> str | None:
        """Connections break while the network is slow: old and new ones stand side by side."""
        for other in self.world.config.node_ids:
            if other != target.node_id and rng.random() < 0.7:
                self.world.network.break_connections(target.node_id, other)
        return self._slow_net(rng, target)

    # --- processes -------------------------------------------------------------------------------------------
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

    def _pause(self, rng: Random, target: Machine) -> str | None:
        process = target.process
        if process is None:
            return None
        ms = self._duration(rng)
        process.life.paused_until = self.world.scheduler.now + int(ms * MS)
        return self._until(rng, "pause", target, lambda: setattr(process.life, "paused_until", 0), ms)

    def _stall(self, rng: Random, target: Machine) -> str | None:
        process = target.process
        if process is None:
            return None
        ms = self._duration(rng)
        process.life.stalled_until = self.world.scheduler.now + int(ms * MS)
        return self._until(rng, "stall", target, lambda: setattr(process.life, "stalled_until", 0), ms)

    # --- disks -----------------------------------------------------------------------------------------------
    def _slow_disk(self, rng: Random, target: Machine) -> str | None:
        disk = target.disk
        disk.sync_min_ns, disk.sync_max_ns = rng.choice(((20 * MS, 60 * MS), (100 * MS, 500 * MS), (2 * MS, 900 * MS)))
        return self._until(rng, "slow_disk", target, disk.at_usual_speed)

    def _write_error(self, rng: Random, target: Machine) -> str | None:
        target.disk.fail_in["write"] = rng.randint(0, 20)
        return self._until(rng, "write_error", target, target.disk.heal)

    def _sync_error(self, rng: Random, target: Machine) -> str | None:
        target.disk.fail_in["sync"] = rng.randint(0, 20)
        return self._until(rng, "sync_error", target, target.disk.heal)

    def _full(self, rng: Random, target: Machine) -> str | None:
        target.disk.capacity_bytes = target.disk.used_bytes() + rng.choice((0, 2_000, 50_000))
        return self._until(rng, "full", target, target.disk.heal)

    def _flip(self, rng: Random, target: Machine) -> str | None:
        """A bit at rest changes while the process is down."""
        if not self.world.may_damage(target):
            return None
        self.world.kill(target)
        target.is_damaged = True
        where = target.disk.flip()
        self._down(rng, "flip", target)
        return where or "nothing there"

    # --- clocks ----------------------------------------------------------------------------------------------
    def _wall(self, rng: Random, target: Machine) -> str | None:
        target.clock.wall_offset_ms = rng.choice((-DAY_MS, -5_000, 0, 60_000, DAY_MS, 400 * DAY_MS))
        return f"{target.clock.wall_offset_ms} ms"

    def _drift(self, rng: Random, target: Machine) -> str | None:
        plan = self.world.plan
        bound = plan.drift_ppm * (20 if plan.beyond_drift else 1)
        bound = min(bound, 500_000)
        self.world.set_drift(target, rng.choice((-bound, bound, rng.randint(-bound, bound))))
        return f"rate {target.clock.rate}"

    # --- the mapping of the sticky strategy --------------------------------------------------------------------
    def _mapping(self, rng: Random, target: Machine) -> str | None:
        """One node sets a mapping of some of the nodes, with other weights."""
        process = target.process
        if process is None or process.core is None:
            return None
        nodes = [node for node in self.world.config.node_ids if rng.random() < 0.8] or [target.node_id]
        weights = {node: rng.choice((1, 1, 2, 5, 0)) for node in nodes}
        weights[rng.choice(nodes)] = 1
        draining = [node for node in nodes[1:] if rng.random() < 0.15]
        self.world.steer(process, lambda: process.node.change_mapping(weights, draining=draining))
        return f"{weights}, draining {draining}"

    def _mappings(self, rng: Random, target: Machine) -> str | None:
        """Several nodes set different mappings at about the same time."""
        chosen = rng.sample(self.world.machine_list, min(2, len(self.world.machine_list)))
        details = [self._mapping(rng, machine) for machine in chosen]
        return "; ".join(detail for detail in details if detail) or None

    # --- steering --------------------------------------------------------------------------------------------
    def _drain(self, rng: Random, target: Machine) -> str | None:
        if target.process is None or target.process.core is None:
            return None
        self.world.steer(target.process, target.process.node.drain)
        return self._until(rng, "drain", target, lambda: self._undrain(target))

    def _undrain(self, target: Machine) -> None:
        """Only a new process of that node takes sessions again."""
        if target.is_up:
            self.world.stop_gracefully(target, drain=False)

    def _transfer(self, rng: Random, target: Machine) -> Any:
        leader = self.world.leader()
        if leader is None:
            return None
        others = [node for node in self.world.config.node_ids if node != leader.node_id]
        to = rng.choice((None, *others))
        self.world.steer(leader, lambda: leader.node.transfer_leadership(to))
        return f"to {to}"
