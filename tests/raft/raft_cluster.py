"""A whole Raft cluster in memory: virtual clock, seeded chance, forgetful disks, links that obey the test.

Knows the ports of raftstore.raft and nothing of its insides beyond the names that the node shows. Every message
crosses as the bytes that production sends, through the same outbox; a crash forgets all that was not yet durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from memory_storage import MS, MemoryStorage, VirtualClock

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.outbox import Outbox
from raftstore.raft.peer_messages import decode
from raftstore.raft.seams import LEADER, RaftTiming
from raftstore.raft.snapshots import SnapshotFile

TIMING = RaftTiming(
    snapshot_chunk_bytes=64,
    snapshot_window_chunks=3,
    append_bytes_max=700,
    inflight_appends_max=4,
    read_lease_ns=0,  # every read asks a majority
)
LEASED = replace(TIMING, read_lease_ns=RaftTiming().read_lease_ns)
Message = dict[str, Any]


class Member:
    """One process: the Raft node, its outbox, its applied history; and the disk that outlives it."""

    def __init__(self, world: Cluster, node_id: str, storage: MemoryStorage) -> None:
        self.world, self.id, self.storage = world, node_id, storage
        self.clock = VirtualClock(world.rng.randrange(1 << 40))
        self.clock.ns = world.now
        self.up = False
        self.paused_until = 0
        self.snapshots_taken = 0
        self.start()

    def start(self) -> None:
        self.clock.ns = self.world.now
        disk = self.storage
        base = disk.snapshot
        self.state: list[Any] = disk.state()  # [[index, payload], ...], no-ops left out
        self.applied: list[tuple[int, int, bytes]] = []  # since this start
        self.journal = HardenedJournal(
            disk,
            base_index=base.index if base else 0,
            base_term=base.term if base else 0,
            entries=list(disk.log),
            term=disk.term,
            voted_for=disk.voted_for,
            voter=disk.voter,
        )
        self.outbox = Outbox(self.journal, lambda peer, data: self.world.send(self.id, peer, data))
        self.raft = self.world.node_class(
            self.id,
            self.world.ids,
            clock=self.clock,
            rng=Random(self.world.rng.random()),
            journal=self.journal,
            transport=self.outbox,
            snapshots=self,
            apply=self._apply,
            timing=self.world.timing,
            learner=0 if disk.voter else self.world.rng.randrange(1, 1 << 62),
        )
        self.up = True
        self.paused_until = 0

    # --- SnapshotStore, with the state machine behind it
    def latest(self) -> SnapshotFile | None:
        return self.storage.latest()

    def read(self, snapshot: SnapshotFile, offset: int, size: int) -> bytes:
        return self.storage.read(snapshot, offset, size)

    def receive(self, snapshot: SnapshotFile, offset: int, data: bytes) -> int:
        return self.storage.receive(snapshot, offset, data)

    def install(self, snapshot: SnapshotFile, done: Callable[[bool], None]) -> None:
        def installed(good: bool) -> None:
            if good:
                self.state = self.storage.state()
            done(good)

        self.storage.install(snapshot, installed)

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self.applied.append((index, term, payload))
        if payload:
            self.state.append([index, payload])
        self.world.on_applied(self, index, term, payload)

    # --- running
    @property
    def is_running(self) -> bool:
        return self.up and self.world.now >= self.paused_until

    @property
    def is_fresh(self) -> bool:
        """Whether it never promised anything; what its hello says."""
        return self.journal.last_index == 0 and self.raft.term == 0

    def step(self) -> None:
        self.clock.ns = self.world.now
        self.raft.step()
        self.outbox.release()

    def receive_bytes(self, peer: str, data: bytes) -> None:
        self.clock.ns = self.world.now
        self.raft.receive(peer, decode(data))

    def sync(self, count: int | None = None) -> None:
        """The disk finishes `count` jobs."""
        job = self.storage.sync(count)
        if not job:
            return
        self.clock.ns = self.world.now
        callbacks, self.storage.callbacks = self.storage.callbacks, []
        for callback in callbacks:
            callback()
        self.raft.on_durable(job)
        self.outbox.on_durable(job)
        self.step()

    def snapshot(self, keep: int = 0) -> None:
        """Take a snapshot of what is applied; cut the log once it is durable, but for `keep` entries."""
        raft, process = self.raft, self.raft
        index = raft.last_applied
        term = self.journal.term_at(index)
        if index == 0 or term is None or index <= self.journal.base_index or raft._is_installing():
            return

        def done() -> None:
            if self.raft is process:
                self.raft.compact(max(index - keep, self.journal.base_index))

        self.storage.save(index, term, [list(row) for row in self.state], done)
        self.snapshots_taken += 1


class Cluster:
    """Members and the links between them. `step_ms` lets time pass; a seed replays everything."""

    def __init__(
        self,
        ids: Sequence[str] = ("a", "b", "c"),
        *,
        seed: int = 0,
        delay_ms: float = 1,
        timing: RaftTiming = TIMING,
        node_class: type[HardenedSyncObj] = HardenedSyncObj,
        auto_sync: bool = True,
        new: bool = False,
    ) -> None:
        self.rng = Random(seed)
        self.new = new  # whether all directories are empty, so that the members must found the cluster
        self.hellos: dict[tuple[str, str], bool] = {}  # (who, of whom): whether its hello said that it is fresh
        self.ids, self.timing, self.node_class = tuple(ids), timing, node_class
        self.now = 1_000_000_000
        self.delay_ns = int(delay_ms * MS)
        self.auto_sync = auto_sync
        self.links: dict[tuple[str, str], list[tuple[int, int, bytes]]] = {}
        self.generation: dict[tuple[str, str], int] = {}  # of the pair (sorted); absent while cut
        self.generations = 0
        self.reorder = False
        self.late = False  # whether messages of superseded connections are still delivered
        self.dropped: Callable[[str, str, Message], bool] = lambda a, b, m: False
        self.sent: list[tuple[str, str, Message]] | None = None
        self.watchers: list[Callable[[Member, int, int, bytes], None]] = []
        self.members = {i: Member(self, i, MemoryStorage(voter=not new)) for i in self.ids}
        if not new:
            self.connect_all()

    def on_applied(self, member: Member, index: int, term: int, payload: bytes) -> None:
        for watch in self.watchers:
            watch(member, index, term, payload)

    def __getitem__(self, node_id: str) -> Member:
        return self.members[node_id]

    # --- links
    def _pair(self, a: str, b: str) -> tuple[str, str]:
        return (a, b) if a < b else (b, a)

    def is_linked(self, a: str, b: str) -> bool:
        return self._pair(a, b) in self.generation

    def connect(self, a: str, b: str) -> None:
        pair = self._pair(a, b)
        if pair in self.generation or not (self[a].up and self[b].up):
            return
        self.generations += 1
        self.generation[pair] = self.generations
        for me, other in ((a, b), (b, a)):
            self[me].clock.ns = self.now
            self.hellos[me, other] = self[other].is_fresh
            self[me].raft.peer_connected(other)
        for me in (a, b):
            if self.new and self[me].is_fresh and all(self.hellos.get((me, i)) for i in self.ids if i != me):
                self[me].raft.become_voter()

    def cut(self, a: str, b: str) -> None:
        if self.generation.pop(self._pair(a, b), None) is None:
            return
        for me, other in ((a, b), (b, a)):
            self.hellos.pop((me, other), None)
            if not self.late:
                self.links.pop((me, other), None)
            if self[me].up:
                self[me].outbox.drop_peer(other)
                self[me].raft.peer_disconnected(other)

    def connect_all(self, ids: Iterable[str] | None = None) -> None:
        chosen = list(ids or self.ids)
        for position, a in enumerate(chosen):
            for b in chosen[position + 1 :]:
                self.connect(a, b)

    def isolate(self, a: str) -> None:
        for b in self.ids:
            if b != a:
                self.cut(a, b)

    def send(self, a: str, b: str, data: bytes) -> bool:
        message = decode(data)
        if self.sent is not None:
            self.sent.append((a, b, message))
        generation = self.generation.get(self._pair(a, b))
        if generation is None or self.dropped(a, b, message):
            return False
        queue = self.links.setdefault((a, b), [])
        jitter = self.rng.randrange(self.delay_ns * 4) if self.reorder else 0
        at = self.now + self.delay_ns + jitter
        if not self.reorder and queue:
            at = max(at, queue[-1][0])
        queue.append((at, generation, data))
        if self.reorder and self.rng.random() < 0.05:
            queue.append((at + self.rng.randrange(400 * MS), generation, data))
        return True

    def deliver_due(self) -> None:
        for a, b in sorted(self.links):
            if not self[b].is_running:
                continue
            queue = self.links.get((a, b), [])
            due = [m for m in queue if m[0] <= self.now]
            if not due:
                continue
            self.links[a, b] = [m for m in queue if m[0] > self.now]
            if self.reorder:
                self.rng.shuffle(due)
            for _, generation, data in due:
                if self.late or generation == self.generation.get(self._pair(a, b)):
                    self[b].receive_bytes(a, data)
            self[b].step()

    # --- faults
    def crash(self, a: str) -> None:
        self.isolate(a)
        self[a].up = False
        self[a].storage.crash()

    def restart(self, a: str, *, wiped: bool = False, connect: bool = True) -> None:
        if self[a].up:
            self.crash(a)
        if wiped:
            self[a].storage = MemoryStorage(voter=False)
        self[a].start()
        if connect:
            for b in self.ids:
                if b != a:
                    self.connect(a, b)

    # --- time
    def step_ms(self, ms: float = 1) -> None:
        """Let `ms` pass in one go: links deliver, disks sync (if `auto_sync`), everybody who runs steps."""
        self.now += int(ms * MS)
        self.deliver_due()
        for member in self.members.values():
            if not member.is_running:
                continue
            member.step()
            if self.auto_sync:
                member.sync()

    def run_ms(self, ms: int, step_ms: float = 1) -> None:
        end = self.now + ms * MS
        while self.now < end:
            self.step_ms(step_ms)

    def run_until(self, condition: Callable[[], bool], limit_ms: int = 5000, step_ms: float = 1) -> None:
        end = self.now + limit_ms * MS
        while not condition():
            assert self.now < end, f"not reached within {limit_ms} ms: {self.describe()}"
            self.step_ms(step_ms)

    # --- looking
    def leaders(self) -> list[str]:
        return [m.id for m in self.members.values() if m.up and m.raft.role == LEADER]

    def leader(self) -> Member | None:
        """The leader of the highest term that is ready to serve, if any."""
        ready = [m for m in self.members.values() if m.is_running and m.raft.is_leader_ready]
        return max(ready, key=lambda m: m.raft.term) if ready else None

    def elect(self, who: str | None = None) -> Member:
        """Run until a leader is ready; with `who`, make that one campaign first."""
        if who is not None:
            for member in self.members.values():
                member.clock.ns = self.now
                if member.up:
                    member.raft._election_deadline_ns = member.clock.now_ns() + (0 if member.id == who else 450 * MS)
        self.run_until(lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None
        return leader

    def propose(self, leader: Member, payload: bytes) -> int:
        leader.clock.ns = self.now
        index = leader.raft.propose(payload)
        assert index is not None, f"{leader.id} refused"
        leader.step()
        return index

    def commit(self, payload: bytes, limit_ms: int = 3000) -> int:
        """Propose at the leader and run until every running member has applied it."""
        leader = self.leader() or self.elect()
        index = self.propose(leader, payload)
        self.run_until(
            lambda: all(m.raft.last_applied >= index for m in self.members.values() if m.is_running), limit_ms
        )
        return index

    def payloads(self, who: str) -> list[bytes]:
        """What the state machine of `who` holds, in order."""
        return [bytes(row[1]) for row in self[who].state]

    def describe(self) -> str:
        rows = []
        for m in self.members.values():
            r = m.raft
            rows.append(
                f"{m.id}{'' if m.up else '(down)'} role={r.role} term={r.term} log={m.journal.base_index}"
                f"..{r.last_log_index} commit={r.commit_index} applied={r.last_applied} learner={r.is_learner}"
            )
        return "; ".join(rows)
