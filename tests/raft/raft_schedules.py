"""Random schedules for the Raft cluster in memory, and the checker that watches them.

A seed decides everything: links (in order or not, with duplicates and messages of superseded connections), cuts,
crashes that forget what was not durable, wiped members, pauses, slow disks, compaction, transfers, reads. The checker
knows the five properties of the Raft paper's figure 3, and the promise to callers: what was acknowledged stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from raft_cluster import LEASED, MS, TIMING, Cluster, Member

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.seams import LEADER


class SafetyViolation(AssertionError):  # noqa: N818 - names what happened
    """One of the properties does not hold."""


class Checker:
    """Looks at every node after every event."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.leader_of: dict[int, str] = {}
        self.committed: dict[int, tuple[int, bytes, int]] = {}  # index: (term, command, term in which it committed)
        self.commit_max = 0
        self.applied: dict[int, tuple[int, bytes]] = {}
        self.checked: dict[str, tuple[Any, int]] = {}
        self.reads = self.wiped = 0
        cluster.watchers.append(self._on_applied)

    def fail(self, text: str) -> None:
        raise SafetyViolation(f"{text}: {self.cluster.describe()}")

    def _on_applied(self, member: Member, index: int, term: int, payload: bytes) -> None:
        seen = self.applied.setdefault(index, (term, payload))
        if seen != (term, payload):
            self.fail(f"{member.id} applied {payload!r} of term {term} at {index}, others {seen}")
        if index != member.raft.last_applied:
            self.fail(f"{member.id} applies {index} out of order")

    def look(self) -> None:
        for member in self.cluster.members.values():
            if member.up:
                self._commits(member)
        for member in self.cluster.members.values():
            if member.up and member.raft.role == LEADER:
                self._leader(member)

    def _leader(self, member: Member) -> None:
        """Election safety and leader completeness (figure 3)."""
        term = member.raft.term
        known = self.leader_of.get(term)
        if known == member.id:
            return
        if known is not None:
            self.fail(f"{known} and {member.id} lead term {term}")
        self.leader_of[term] = member.id
        for index, (entry_term, command, in_term) in self.committed.items():
            if in_term >= term or index <= member.journal.base_index:
                continue
            if member.journal.term_at(index) != entry_term:
                self.fail(f"leader {member.id} of term {term} lacks entry {index} {command!r}, committed in {in_term}")

    def _commits(self, member: Member) -> None:
        """State machine safety: one entry per committed index, for ever."""
        raft, journal = member.raft, member.journal
        start = self.checked.get(member.id)
        first = start[1] + 1 if start is not None and start[0] is raft else journal.base_index + 1
        for index in range(max(first, journal.base_index + 1), raft.commit_index + 1):
            command, _, term = journal[index - journal.base_index]
            seen = self.committed.setdefault(index, (term, command, raft.term))
            if seen[:2] != (term, command):
                self.fail(f"{member.id} committed {command!r} of term {term} at {index}, before it was {seen}")
        self.commit_max = max(self.commit_max, raft.commit_index)
        self.checked[member.id] = (raft, raft.commit_index)

    def logs_match(self) -> None:
        """Log matching: the same index and term mean the same prefix."""
        running = [m for m in self.cluster.members.values() if m.up]
        for position, one in enumerate(running):
            for two in running[position + 1 :]:
                low = max(one.journal.base_index, two.journal.base_index) + 1
                high = min(one.journal.last_index, two.journal.last_index)
                equal = False
                for index in range(high, low - 1, -1):
                    a = one.journal[index - one.journal.base_index]
                    b = two.journal[index - two.journal.base_index]
                    equal = equal or a[2] == b[2]
                    if equal and a != b:
                        self.fail(f"{one.id} and {two.id} differ at {index} below a common entry")

    def read(self, member: Member) -> None:
        """A linearizable read: what was committed when it began must be covered by its answer."""
        began = self.commit_max

        def answered(index: int | None) -> None:
            if index is None:
                return
            self.reads += 1
            if index < began:
                self.fail(f"a read at {member.id} answered index {index}, {began} was committed before it began")

        member.clock.ns = self.cluster.now
        member.raft.read_index(answered)


@dataclass
class Mode:
    """What a schedule may do."""

    nodes: int = 3
    reorder: bool = False
    late: bool = False
    compact: bool = True
    crash: bool = True
    wipe: bool = False
    pause: bool = True
    new: bool = False  # begin with empty directories


MODES = {
    "fifo": Mode(),
    "fifo-5": Mode(nodes=5),
    "reorder": Mode(reorder=True),
    "late": Mode(reorder=True, late=True),
    "new": Mode(new=True),
    "new-5": Mode(nodes=5, new=True, reorder=True),
    "wipe": Mode(wipe=True),
    "wipe-5": Mode(nodes=5, wipe=True),
    "wipe-late": Mode(wipe=True, reorder=True, late=True),
    "wipe-late-5": Mode(nodes=5, wipe=True, reorder=True, late=True),
}


class Schedule:
    """One random run."""

    def __init__(
        self, seed: int, mode: Mode, *, steps: int = 400, node_class: type[HardenedSyncObj] = HardenedSyncObj
    ) -> None:
        self.rng = Random(seed)
        self.mode, self.steps = mode, steps
        delay = self.rng.choice([0.5, 2, 10, 30])
        self.cluster = Cluster(
            "abcde"[: mode.nodes],
            seed=seed,
            delay_ms=delay,
            timing=LEASED if seed % 2 else TIMING,
            node_class=node_class,
            auto_sync=False,
            new=mode.new,
        )
        self.cluster.reorder, self.cluster.late = mode.reorder, mode.late
        self.checker = Checker(self.cluster)
        self.disk_speed = self.rng.choice([0.05, 0.3, 0.9])
        self.fault_rate = self.rng.choice([0.02, 0.1, 0.25, 0.4])
        self.tick_ms = self.rng.choice([[1, 1, 3, 5, 20], [5, 20, 60], [1, 5, 200]])
        self.proposed = 0

    def run(self) -> None:
        """Faults, then peace: safe throughout, and live at the end."""
        for step in range(self.steps):
            if self.mode.new and step < 60 and self.rng.random() < 0.3:
                self.cluster.connect(*self.rng.sample(self.cluster.ids, 2))
            self._tick(self.rng.choice(self.tick_ms))
            self._work()
            if self.rng.random() < self.fault_rate:
                self._fault()
            if self.rng.random() < 0.1:
                self.checker.logs_match()
        self.peace()

    # --- one tick
    def _tick(self, ms: float) -> None:
        cluster, rng = self.cluster, self.rng
        cluster.now += int(ms * MS)
        cluster.deliver_due()
        self.checker.look()
        for member in cluster.members.values():
            if not member.is_running:
                continue
            member.step()
            self.checker.look()
            while member.storage.jobs and rng.random() < self.disk_speed:
                member.sync(rng.randint(1, 3))
                self.checker.look()

    def _work(self) -> None:
        rng, cluster = self.rng, self.cluster
        for member in cluster.members.values():
            if not member.is_running or member.raft.role != LEADER:
                continue
            member.clock.ns = cluster.now
            if rng.random() < 0.5:
                for _ in range(rng.randint(1, 4)):
                    self.proposed += 1
                    member.raft.propose(f"p{self.proposed}".encode() * rng.choice([1, 1, 20]))
            if rng.random() < 0.2:
                self.checker.read(member)
            member.step()
            self.checker.look()

    def _fault(self) -> None:
        rng, cluster, mode = self.rng, self.cluster, self.mode
        a, b = rng.sample(cluster.ids, 2)
        leaders = cluster.leaders()
        if leaders and rng.random() < 0.3:
            a = rng.choice(leaders)
            b = rng.choice([i for i in cluster.ids if i != a])
        kind = rng.random()
        if kind < 0.25:
            cluster.cut(a, b)
        elif kind < 0.32:
            cluster.isolate(a)
        elif kind < 0.57:
            cluster.connect(a, b)
        elif kind < 0.63:
            cluster.connect_all()
        elif kind < 0.75 and mode.compact:
            if cluster[a].is_running:
                cluster[a].snapshot(keep=rng.choice([0, 0, 3, 10]))
        elif kind < 0.82 and mode.crash:
            if cluster[a].up:
                cluster.crash(a)
        elif kind < 0.90 and mode.crash:
            cluster.restart(a, wiped=mode.wipe and rng.random() < 0.6 and self._may_wipe(a))
        elif kind < 0.95 and mode.pause:
            cluster[a].paused_until = cluster.now + rng.choice([50, 200, 700]) * MS
        else:
            leader = cluster.leader()
            if leader is not None:
                leader.clock.ns = cluster.now
                leader.raft.transfer_leadership(rng.choice([None, a]))

    def _may_wipe(self, who: str) -> bool:
        """As many disks as the cluster can lose at once: a minority of it, and none that did not come back yet."""
        forgot = [m for m in self.cluster.members.values() if not m.storage.voter and m.id != who]
        if len(forgot) + 1 > len(self.cluster.ids) // 2:
            return False
        self.checker.wiped += 1
        return True

    # --- the end
    def peace(self, limit_ms: int = 6000) -> None:
        cluster = self.cluster
        for member in cluster.members.values():
            member.paused_until = 0
            member.storage.fail_installs = 0
            if not member.up:
                cluster.restart(member.id, connect=False)
        cluster.delay_ns, cluster.reorder = 5 * MS, False
        cluster.connect_all()
        self.disk_speed = 0.9
        end = cluster.now + limit_ms * MS
        target, term = None, 0
        while not (target is not None and self._is_settled(target)):
            if cluster.now >= end:
                raise SafetyViolation(f"no peace within {limit_ms} ms (target {target}): {cluster.describe()}")
            self._tick(5)
            leader = cluster.leader()
            if leader is not None and leader.raft.term != term:
                target = None  # what an earlier leader appended may be lost
            if leader is not None and target is None and not leader.raft.is_transferring:
                target, term = leader.raft.propose(b"peace"), leader.raft.term
        self.checker.logs_match()
        states = [m.state for m in cluster.members.values()]
        if any(s != states[0] for s in states):
            self.checker.fail("the state machines differ")

    def _is_settled(self, target: int) -> bool:
        members = self.cluster.members.values()
        return all(m.raft.last_applied >= target and m.journal.voter for m in members)


def run(seed: int, mode: str, **kwargs: Any) -> Schedule:
    """Run one schedule; a failure names its seed."""
    schedule = Schedule(seed, MODES[mode], **kwargs)
    try:
        schedule.run()
    except Exception as problem:
        raise SafetyViolation(f"mode {mode} seed {seed}: {type(problem).__name__}: {problem}") from problem
    return schedule
