"""Every fault that a plan may name: how it begins, how long it lasts, how it ends.

Each is a method `_kind` that draws its details from its own random source, does harm, and plans the end of it. Nothing
here goes beyond what the cluster promises to survive, but for clocks in the mode that says so: at most one member at a
time has lost what it once promised. Networks, processes and ambushes have files of their own; here are the others.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from jepsen_like.sim.faults_ambush import Ambushes
from jepsen_like.sim.faults_process import DAY_MS
from jepsen_like.sim.scheduler import MS

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine

CATCHES_WRITES = ("power", "power_all", "kill_all", "flap", "amnesia")  # these come while ops are on their way
BURST_OPS = 5
BURST_MS = 120
BESIEGED = (  # faults in whose course others try to take over what the target owns
    *("isolate", "halves", "one_way", "bridge", "ring", "kill", "power", "pause", "stall", "restart", "wipe"),
    *("slow_peer", "slow_disk", "slow_net", "sync_error", "flip"),
)
ALWAYS_BESIEGED = ("orphan", "lag", "gasp")


class Faults(Ambushes):
    """What goes wrong in one world."""

    def begin(self, kind: str, salt: int) -> None:
        """One fault, now, or as soon as its victim has something to lose."""
        rng = Random(salt)
        target = self._target(rng)
        is_alone = rng.random() < 0.25 and not self.world.plan.is_duel
        is_siege = kind in ALWAYS_BESIEGED or (kind in BESIEGED and not is_alone and len(self.world.machine_list) > 1)
        wait_ms = 0
        if is_siege:
            self.world.load.siege.furnish(target.node_id, rng)
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
        self._is_siege = False
        self.world.note_reach()
        if detail is not None:
            self.done += 1
            value = {"kind": kind, "detail": detail, "nodes": [target.node_id], "effective": True}
            self.world.record("nemesis", "info", "fault", value=value)
            if besieged and kind != "lag":
                self._besiege(kind, rng, target)

    def _besiege(self, kind: str, rng: Random, target: Machine) -> None:
        """Others come for what the victim owns, some of them long before they may have it."""
        after_ms = rng.choice((0.0, 0.3, 0.6, 0.75, 0.9)) * self.world.plan.timing["lease_ttl_ms"]
        cut_off = self.world.cut_off()
        is_victim = kind == "orphan" or target.node_id in cut_off or not cut_off
        victim = target.node_id if is_victim else cut_off[0]
        self.world.later(0 if kind == "orphan" else int(after_ms * MS), self.world.load.siege.besiege, victim, rng)

    def _target(self, rng: Random) -> Machine:
        leader = self.world.leader()
        if leader is not None and rng.random() < 0.5:
            return leader.machine
        return rng.choice(self.world.machine_list)

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

    def _relay(self, rng: Random, target: Machine) -> str | None:
        """One change after the other, each to a single node, with a cut between two of them after each."""
        nodes = list(self.world.config.node_ids)
        rng.shuffle(nodes)
        at_ms = 0.0
        for node in (*nodes[:3], nodes[0])[: rng.randint(2, 4)]:
            self.world.later(int(at_ms * MS), self._hand_on, node, rng)
            at_ms += rng.choice((30, 120, 600)) * rng.uniform(0.5, 1.5)
        return f"over {nodes[:3]}"

    def _hand_on(self, node: str, rng: Random) -> None:
        """Everything is to go to that node; soon afterwards it, or another, no longer hears somebody."""
        process = self.world.running(node)
        if process is None or self.world.is_ending:
            return
        weights = {other: int(other == node) for other in self.world.config.node_ids}
        self.world.steer(process, lambda: process.node.change_mapping(weights))
        one, other = rng.sample(self.world.config.node_ids, 2)
        self.world.later(int(rng.choice((5, 20, 80)) * rng.random() * MS), self._part, one, other, rng)

    def _part(self, one: str, other: str, rng: Random) -> None:
        if not self.world.is_ending:
            lasts_ms = rng.choice((300, 3_000)) * rng.uniform(0.5, 1.5)
            self._cut(rng, "relay", self.world.machines[one], self._both_ways([one], [other]), lasts_ms)

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
        """Leadership is handed over; at times whoever gives it hears nothing from that moment on."""
        leader = self.world.leader()
        if leader is None:
            return None
        others = [node for node in self.world.config.node_ids if node != leader.node_id]
        to = rng.choice((None, *others))
        if rng.random() < 0.5:
            lasts_ms = self.world.plan.timing["election_timeout_min_ms"] * rng.uniform(0.5, 2)
            self._cut(rng, "transfer", leader.machine, [(other, leader.node_id) for other in others], lasts_ms)
            self.world.note_reach()
        self.world.steer(leader, lambda: leader.node.transfer_leadership(to))
        return f"to {to}"
