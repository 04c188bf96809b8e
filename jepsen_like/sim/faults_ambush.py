"""Faults that lie in wait: they strike at the moments on which consensus rests, whenever these come.

A new leader falls silent before anybody, or only some, have heard of it; a voter loses power right after its vote.
`arm`ed by a fault of the plan, they wait for the world to tell them that the moment has come.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from jepsen_like.sim.faults_network import NetworkFaults
from jepsen_like.sim.faults_process import KEEPS, ProcessFaults
from jepsen_like.sim.scheduler import MS
from raftstore.raft.seams import LEADER

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine, Process
    from jepsen_like.sim.world import World

COUPS_MAX = 4  # leaders in a row that fall
TURNCOATS_MAX = 3  # voters in a row that forget
BURST_OPS = 4
GIVE_BACK_TRIES = 12


class _Eight(NamedTuple):
    """How far figure 8 of the Raft paper has come."""

    first: Machine  # it has entries of its first term that nobody else has
    cut: int  # number of the fault that must end next
    second: Machine | None = None  # it has an entry of the term in between that nobody else has


class Ambushes(NetworkFaults, ProcessFaults):
    """What waits for leaders and voters."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._coups = 0
        self._turncoats = 0
        self._rng = Random(0)  # of whoever armed last
        self._eight: _Eight | None = None
        self._returning: tuple[Machine, int] | None = None  # who is to lead again, and the fault that hinders it

    def _coup(self, rng: Random, target: Machine) -> str | None:
        """The next leaders fall soon after their election, one after the other; some disk may be slow meanwhile."""
        if rng.random() < 0.5:
            disk = target.disk
            disk.sync_min_ns, disk.sync_max_ns = 20 * MS, rng.choice((60, 400)) * MS
            self._until(rng, "coup", target, disk.at_usual_speed, rng.uniform(1_000, 4_000))
        self._coups, self._rng = rng.randint(1, COUPS_MAX), rng
        return f"{self._coups} leaders; {self._overthrow(rng)}"

    def _turncoat(self, rng: Random, target: Machine) -> str | None:
        """The next voters start anew soon after their vote, while the network is uneven."""
        self._turncoats, self._rng = rng.randint(1, TURNCOATS_MAX), rng
        if rng.random() < 0.5:
            self._coups = rng.randint(1, 2)
        links = self._slow_link(rng, target)
        return f"{self._turncoats} voters, slow links {links}; {self._overthrow(rng)}"

    def _overthrow(self, rng: Random) -> str:
        leader = self.world.leader()
        return "nobody leads" if leader is None else self._topple(leader.machine, rng)

    def _topple(self, target: Machine, rng: Random) -> str:
        """A leader falls silent, for about as long as it takes to elect another, or several."""
        lasts_ms = self.world.plan.timing["election_timeout_max_ms"] * rng.uniform(0.8, 4)
        way = rng.choice(("isolate", "isolate", "isolate", "mute", "spare", "power", "pause", "unsynced", "unsynced"))
        if way == "unsynced" and target.is_up:
            self._lose_unsynced(target, rng)
        elif way == "power" and target.is_up:
            target.lose_power(rng.choice(KEEPS))
            self._until(rng, "coup", target, lambda: self.world.start(target), lasts_ms * rng.choice((0.02, 0.3, 1)))
        elif way == "pause":
            self._sleep(rng, "coup", target, "paused_until", lasts_ms)
        else:
            others = self._others(target)
            if way == "spare":  # one still hears it
                others.remove(rng.choice(others))
            pairs = self._both_ways([target.node_id], others)
            if way == "mute":  # it hears, and nobody hears it
                pairs = [(target.node_id, other) for other in others]
            self._cut(rng, "coup", target, pairs, lasts_ms)
        self.world.note_reach()
        value = {"kind": "coup", "detail": way, "nodes": [target.node_id], "effective": True}
        self.world.record("nemesis", "info", "fault", value=value)
        return f"{target.node_id}: {way} for {lasts_ms:.0f} ms"

    def _lose_unsynced(self, target: Machine, rng: Random) -> None:
        """Its disk is slow; what it has not synced is lost with its power, while somebody who had it falls silent."""
        target.disk.sync_min_ns, target.disk.sync_max_ns = 300 * MS, 600 * MS
        after_ms = rng.choice((20, 100, 250)) * rng.random()
        election_ms = self.world.plan.timing["election_timeout_max_ms"]

        def fall() -> None:
            target.disk.at_usual_speed()
            if target.is_up and not self.world.is_ending:
                target.lose_power(0.0)
                self._until(rng, "coup", target, lambda: self.world.start(target), rng.choice((5, 50, election_ms)))
                other = self.world.machines[rng.choice(self._others(target))]
                lasts_ms = election_ms * rng.uniform(1, 5)
                self._cut(rng, "coup", other, self._both_ways([other.node_id], self._others(other)), lasts_ms)
                self.world.note_reach()

        self.world.later(int(after_ms * MS), fall)

    def _echo(self, rng: Random, target: Machine) -> str | None:
        """What a follower acknowledged in one term arrives at the same leader in another.

        It hears nothing of what comes in between: the leader falls with it, is fed by its successor and takes over
        again, all within the time for which a connection lives without a word.
        """
        leader = self.world.leader()
        if leader is None or len(self.world.config.node_ids) < 5:
            return None
        old = leader.machine
        echo = rng.choice(self._others(old))
        rest = [node for node in self._others(old) if node != echo]
        election_ms = self.world.plan.timing["election_timeout_max_ms"]
        self._until(rng, "echo", old, self.world.network.block([(echo, old.node_id)]), 1.6 * election_ms + 150)
        for _ in range(4 * BURST_OPS):
            self.world.later(rng.randint(0, 40) * MS, self.world.load.siege.ask_at, old.node_id, rng)
        self._cut(rng, "echo", old, self._both_ways([old.node_id], rest), 1.5 * election_ms)
        self._returning = old, self._count
        deaf = [(other, echo) for other in self.world.config.node_ids if other != echo]
        self.world.later(80 * MS, self._cut, rng, "echo", self.world.machines[echo], deaf, 1_750 - 80)
        return f"{echo} to {old.node_id}"

    def _give_back(self, leader: Process, old: Machine, tries: int) -> None:
        """The new leader hands over to the one who led before, as soon as that has what it has."""
        if tries and leader.machine.process is leader and not self.world.is_ending and leader.core.raft.role == LEADER:
            self.world.steer(leader, lambda: leader.node.transfer_leadership(old.node_id))
            self.world.later(15 * MS, self._give_back, leader, old, tries - 1)

    def _figure8(self, rng: Random, target: Machine) -> str | None:
        """Raft paper, figure 8, with three nodes: what counts as committed must not be of a former term.

        A leader is heard by nobody while ops come to it. Its successor falls silent at once. The first leads again, and
        loses power when the third has all it has, but before its own entry of the new term is on its disk. Then the
        second comes back, whose last term is newer.
        """
        leader = self.world.leader()
        if leader is None or len(self.world.config.node_ids) != 3:
            return None
        first = leader.machine
        for _ in range(BURST_OPS):
            self.world.later(rng.randint(0, 30) * MS, self.world.load.siege.ask_at, first.node_id, rng)
        election_ms = self.world.plan.timing["election_timeout_max_ms"]
        self._cut(rng, "figure8", first, [(first.node_id, other) for other in self._others(first)], 4 * election_ms)
        self._eight = _Eight(first, self._count)
        return f"{first.node_id} speaks to nobody"

    def _go_on_with_eight(self, led_by: Machine) -> None:
        """There is a new leader: does the figure go on with it?"""
        eight, self._eight = self._eight, None
        if eight is None:
            return
        rng, election_ms = self._rng, self.world.plan.timing["election_timeout_max_ms"]
        if eight.second is None and led_by is not eight.first:
            self._cut(rng, "figure8", led_by, self._both_ways([led_by.node_id], self._others(led_by)), 8 * election_ms)
            self._over(eight.cut, "figure8", eight.first)
            self._eight = _Eight(eight.first, self._count, led_by)
        elif eight.second is not None and led_by is eight.first:
            led_by.disk.sync_min_ns, led_by.disk.sync_max_ns = 400 * MS, 600 * MS
            self.world.later(int(rng.uniform(15, 150) * MS), self._end_eight, eight, rng)

    def _end_eight(self, eight: _Eight, rng: Random) -> None:
        first, second = eight.first, eight.second
        if self.world.is_ending or second is None or not first.is_up:
            return
        first.disk.at_usual_speed()
        first.lose_power(0.0)
        self._until(rng, "figure8", first, lambda: self.world.start(first), rng.choice((5, 50)))
        third = next(machine for machine in self.world.machine_list if machine not in (first, second))
        lasts_ms = self.world.plan.timing["election_timeout_max_ms"] * rng.uniform(3, 6)
        self._cut(rng, "figure8", third, self._both_ways([third.node_id], self._others(third)), lasts_ms)
        self._over(eight.cut, "figure8", second)

    def _founding(self, rng: Random, target: Machine) -> str | None:
        """Whoever owns the cluster's very first session is cut off before its first lease is over."""
        wait_ms = self.world.plan.timing["lease_ttl_ms"] * rng.uniform(0, 0.4)

        def owned(node_id: str) -> None:
            self.world.later(int(wait_ms * MS), self._cut_founder, self.world.machines[node_id], rng)

        self.world.load.siege.found(rng, owned)
        return f"{wait_ms:.0f} ms after the first creation"

    def _cut_founder(self, owner: Machine, rng: Random) -> None:
        if not self.world.is_ending:
            lasts_ms = 3 * self.world.plan.timing["lease_ttl_ms"]
            self._cut(rng, "founding", owner, self._both_ways([owner.node_id], self._others(owner)), lasts_ms)
            self.world.note_reach()
            self.world.load.siege.besiege(owner.node_id, rng)

    # --- the moments -----------------------------------------------------------------------------------------
    def leads(self, process: Process) -> None:
        """That process has just become leader."""
        self._go_on_with_eight(process.machine)
        returning, self._returning = self._returning, None
        if returning is not None and returning[0] is not process.machine:
            self._over(returning[1], "echo", returning[0])
            self._give_back(process, returning[0], GIVE_BACK_TRIES)
        if not self._coups or self.world.is_ending or len(self.world.machine_list) == 1:
            return
        self._coups -= 1
        rng = self._rng
        delay_ms = rng.choice((0.0, 0.2, 2.0, 10.0, 50.0)) * rng.random()
        for _ in range(BURST_OPS):
            self.world.later(rng.randint(0, 20) * MS, self.world.load.act, rng.getrandbits(40))
        self.world.later(int(delay_ms * MS), self._fall, process, rng)

    def _fall(self, process: Process, rng: Random) -> None:
        if process.machine.process is process and not self.world.is_ending:
            self._topple(process.machine, rng)

    def voted(self, process: Process) -> None:
        """That process has just voted for another."""
        if not self._turncoats or self.world.is_ending:
            return
        self._turncoats -= 1
        rng = self._rng
        delay_ms = rng.random() * rng.choice((2, 3 * self.world.plan.sync_max_ms))
        self.world.later(int(delay_ms * MS), self._forget, process, rng)

    def _forget(self, process: Process, rng: Random) -> None:
        machine = process.machine
        if machine.process is not process or self.world.is_ending:
            return
        if rng.random() < 0.5:
            self.world.kill(machine)
        else:
            machine.lose_power(rng.choice(KEEPS))
        self._until(rng, "turncoat", machine, lambda: self.world.start(machine), rng.choice((0.1, 3.0, 15.0)))
        self.world.note_reach()
