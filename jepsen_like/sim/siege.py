"""Callers who come at the worst moment: when a lease lapses, a TTL ends, two leaders reign, a log is cut.

Who besieges sees through all walls: the moment is read from the machines' own state. What is asked then is what any
caller may ask, and what is told goes into the history like everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from jepsen_like.sim.scheduler import MS
from raftstore.raft.seams import LEADER
from raftstore.types import Session, SessionState

if TYPE_CHECKING:
    from jepsen_like.sim.load import Known, Load
    from jepsen_like.sim.process import Process

SIEGE_OPS_MAX = 90  # failovers that one siege tries
CLOSE_OPS_MAX = 30  # of one that comes at the moment itself
LOOKS_MAX = 80  # for the moment at which a lease lapses
LOOK_AGAIN_MS = 40
EARLY_READS = 4  # of a new leader
RIVALRY_OPS_MAX = 12  # writes under a new leader while an old one still reigns
FILLER_SLOT = 1_000  # sessions that only fill the log have slots from here on
FILLERS = 32
LATE_OPS = 5
FOUND_TRIES_MAX = 100  # for the first session of a cluster
FOUND_AGAIN_MS = 30
SHORT_TTL_MS = 4_500  # sessions that end within a run


class Siege:
    """What `load` asks at moments of its choice."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.world = load.world
        self.plan = load.plan
        self._fillers = 0

    # --- something to lose -----------------------------------------------------------------------------------
    def furnish(self, node_id: str, rng: Random) -> None:
        """Let that node own something, so that there is something to lose."""
        process = self.world.running(node_id)
        able = [known for known in self.load.known if known.session is None or known.session.owner == node_id]
        if process is None or (self.plan.is_sticky and not able):
            return
        if not able:
            known = rng.choice(self.load.known)
            assert known.session is not None
            owner = self.world.running(known.session.owner)
            if owner is not None:
                self.load.do(owner, known, "migrate", rng, to=node_id)
            return
        known = rng.choice(able)
        if known.session is None:
            self.load.do(process, known, "create", rng)
        elif known.session.state is not SessionState.ATTACHED:
            frozen = known.session.state is SessionState.FROZEN
            self.load.do(process, known, "resume" if frozen else "reattach", rng)

    def found(self, rng: Random, then: Callable[[str], None], tries: int = FOUND_TRIES_MAX) -> None:
        """Ask for the first session of all until there is one; `then` is told its owner."""
        process = self.load.any_node(rng)

        def told(kind: str, reason: str | None) -> None:
            if kind == "ok" and process is not None:
                then(process.node_id)
            elif tries:
                self.world.later(FOUND_AGAIN_MS * MS, self.found, rng, then, tries - 1)

        if process is None:
            told("fail", None)
        else:
            self.load.do(process, self.load.known[0], "create", rng, then=told)

    def _owned_by(self, node_id: str) -> list[Known]:
        return [known for known in self.load.known if known.session is not None and known.session.owner == node_id]

    # --- failovers -------------------------------------------------------------------------------------------
    def besiege(self, node_id: str, rng: Random) -> None:
        """Something has befallen that node: others want one of its sessions, and ask until they get it."""
        if self.plan.is_sticky:
            return  # no node takes over there; the mapping does
        mine = self._owned_by(node_id)
        if not mine:
            return
        if rng.random() < 0.6:
            self._await_lapse(node_id, rng.choice(mine), rng, LOOKS_MAX)
            return
        spacing_ms = rng.choice((15, 30, 60))
        others = self._others(node_id)
        if others:
            tries = min(SIEGE_OPS_MAX, 3 * self.plan.timing["lease_ttl_ms"] // spacing_ms)
            self.hunt(rng.choice(others), rng.choice(mine), rng, tries, spacing_ms)

    def _others(self, node_id: str) -> list[Process]:
        return [process for process in self.world.serving() if process.node_id != node_id]

    def _await_lapse(self, node_id: str, known: Known, rng: Random, looks: int) -> None:
        """Come when the leader of the others is about to call the lease lapsed, and ask every few milliseconds."""
        if looks == 0 or self.world.is_ending or known.session is None or known.session.owner != node_id:
            return
        others = self._others(node_id)
        leader = next((process for process in others if process.core.raft.is_leader_ready), None)
        wait_ms = LOOK_AGAIN_MS
        if leader is not None:
            record = leader.core.replica.machine.nodes.get(node_id)
            left_ms = 0 if record is None else record.lease_until_ms - leader.core.cluster_clock.now_ms()
            if left_ms <= LOOK_AGAIN_MS:
                self.hunt(rng.choice(others), known, rng, CLOSE_OPS_MAX, rng.choice((3, 5, 10)))
                return
            wait_ms = left_ms - LOOK_AGAIN_MS // 2
        self.world.later(wait_ms * MS, self._await_lapse, node_id, known, rng, looks - 1)

    def hunt(self, process: Process, known: Known, rng: Random, tries: int, spacing_ms: int) -> None:
        """A failover; as long as the owner's lease runs, or nobody can say, it is tried again."""
        key = known.key

        def again() -> None:
            session, next_process = known.session, self.load.any_node(rng)
            if session is None or known.key != key or self.world.is_ending:
                return
            if next_process is None or next_process.node_id == session.owner:
                next_process = process if process in self.world.serving() else None
            if next_process is not None:
                self.hunt(next_process, known, rng, tries - 1, spacing_ms)

        def told(kind: str, reason: str | None) -> None:
            if tries and kind != "ok":
                self.world.later(int(rng.uniform(0.2, 1.8) * spacing_ms * MS), again)

        if known.session is not None:
            self.load.do(process, known, "failover", rng, then=told)

    # --- two leaders -----------------------------------------------------------------------------------------
    def rivalry(self, leader: Process, rng: Random) -> None:
        """There is a new leader. Read under it at once; while an old one still reigns, write under the new, read there.

        What was acknowledged before must be seen, however little the new leader knows of what is committed.
        """
        for _ in range(EARLY_READS):
            self.world.later(int(rng.uniform(0, 30) * MS), self._read_early, leader, rng.choice(self.load.known), rng)
        key_owners = [
            (known, owner)
            for known in self.load.known
            if known.session is not None and (owner := self.world.running(known.session.owner)) is not None
        ]
        if key_owners and self._old_leaders(leader):
            known, owner = rng.choice(key_owners)
            self._contend(leader, owner, known, rng, RIVALRY_OPS_MAX)

    def _read_early(self, leader: Process, known: Known, rng: Random) -> None:
        """At somebody who follows it: what it has applied itself is all there, but its followers ask it."""
        following = [p for p in self.world.serving() if p.core.raft.leader_id == leader.node_id]
        if following and not self.world.is_ending:
            self.load.do(rng.choice(following), known, "get", rng)

    def _old_leaders(self, leader: Process) -> list[Process]:
        running = [machine.process for machine in self.world.machine_list if machine.process is not None]
        return [p for p in running if p is not leader and p.core is not None and p.core.raft.role == LEADER]

    def _contend(self, leader: Process, owner: Process, known: Known, rng: Random, left: int) -> None:
        old = self._old_leaders(leader)
        if not old or left == 0 or self.world.is_ending or known.session is None or owner.life.is_dead:
            return

        def written(kind: str, reason: str | None) -> None:
            if kind == "ok":
                self._read_under(old, known, rng)
            self.world.later(rng.randint(1, 4) * MS, self._contend, leader, owner, known, rng, left - 1)

        self.load.do(owner, known, "renew", rng, then=written)

    def _read_under(self, old: list[Process], known: Known, rng: Random) -> None:
        """Reads wherever the old leader is still believed in."""
        reigning = {process.node_id for process in old}
        for process in self.world.serving():
            if process.core.raft.leader_id in reigning:
                self.load.do(process, known, "get", rng)

    # --- a log that goes on without somebody -----------------------------------------------------------------
    def overtake(self, node_id: str, for_ms: float, rng: Random) -> None:
        """That node is about to hear nothing: it asks until then and a little longer, others fill the log."""
        for _ in range(LATE_OPS):
            at_ms = rng.uniform(-1, 0.6) * self.plan.timing["election_timeout_min_ms"]
            self.world.later(int(max(0.0, at_ms) * MS), self.ask_at, node_id, rng)
        for _ in range(FILLERS):
            self.world.later(int(rng.uniform(0, 0.9) * for_ms * MS), self._fill, node_id, rng)
        self.world.later(int(rng.uniform(0, 0.5) * for_ms * MS), self._end_one_of, node_id, rng)

    def ask_at(self, node_id: str, rng: Random) -> None:
        """One op at that node, on a session of its own where it has one."""
        process = self.world.running(node_id)
        if process is None or self.world.is_ending:
            return
        known = rng.choice(self._owned_by(node_id) or self.load.known)
        if known.session is None or rng.random() < 0.3:
            self.load.do(process, self._filler(), "create", rng)
        else:
            self.load.do(process, known, rng.choice(("renew", "reattach", "detach")), rng)

    def _fill(self, but: str, rng: Random) -> None:
        others = self._others(but)
        if others and not self.world.is_ending:
            self.load.do(rng.choice(others), self._filler(), "create", rng)

    def _filler(self) -> Known:
        self._fillers += 1
        return self.load.one_more(FILLER_SLOT + self._fillers)

    def _end_one_of(self, node_id: str, rng: Random) -> None:
        """An operator terminates a session of the node that hears nothing."""
        others, mine = self._others(node_id), self._owned_by(node_id)
        if others and mine and not self.world.is_ending:
            self.load.do(rng.choice(others), rng.choice(mine), "terminate", rng)

    # --- the end of a TTL ------------------------------------------------------------------------------------
    def expiry(self, process: Process, known: Known, session: Session, rng: Random) -> None:
        """Some come back when their session has just ended."""
        if process.life.is_dead or process.core is None:
            return
        left_ms = session.expires_at_ms - process.core.cluster_clock.now_ms()
        if left_ms > SHORT_TTL_MS or rng.random() < 0.5:
            return
        for _ in range(LATE_OPS):
            self.world.later((left_ms + rng.randint(-10, 110)) * MS, self._come_late, known, session.session_id, rng)

    def _come_late(self, known: Known, session_id: str, rng: Random) -> None:
        session = known.session
        if session is None or session.session_id != session_id or self.world.is_ending:
            return
        owner = self.world.running(session.owner)
        if owner is not None:
            self.load.do(owner, known, rng.choice(("reattach", "renew", "detach")), rng)
