"""One schedule, two libraries: the stock class and ours behind the same few verbs.

A schedule says who campaigns, what is delivered, lost, repeated or late, and when a process dies; it never looks
inside. What a driver adds is what an embedder would: it asks the leader, and tells its caller what came of it. The
state machine is a toy: `acquire(session, who)` succeeds for the first, `put(value)` leaves a mark in the history.
"""

from __future__ import annotations

import collections
import contextlib
import pickle
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pysyncobj.syncobj as stock_module
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from raft_cluster import MS, Member, MemoryStorage

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.peer_messages import decode, encode
from raftstore.raft.seams import CANDIDATE, LEADER, RaftTiming

REASONS = {value: name for name, value in vars(FAIL_REASON).items() if not name.startswith("_")}
OK = "SUCCESS"


class StockClock:
    """Seconds of the stock library; each look may cost `step_s`."""

    def __init__(self) -> None:
        self.now_s, self.step_s = 1000.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@contextlib.contextmanager
def virtual_stock_time() -> Iterator[StockClock]:
    """Replace the stock module's clock and randomness; put the real ones back at the end."""
    clock = StockClock()
    kept = stock_module.monotonicTime, stock_module.random
    stock_module.monotonicTime, stock_module.random = clock, random.Random(1)
    try:
        yield clock
    finally:
        stock_module.monotonicTime, stock_module.random = kept


class Told:
    """What one client was told, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, str]] = []

    def __call__(self, result: Any, error: int | str) -> None:
        self.calls.append((result, error if isinstance(error, str) else REASONS[error]))

    @property
    def succeeded(self) -> bool:
        return (True, OK) in self.calls


class Links:
    """Queues of encoded messages, one per direction; nothing moves by itself."""

    ids: tuple[str, ...]

    def _start_links(self) -> None:
        self.queues: dict[tuple[str, str], collections.deque[bytes]] = collections.defaultdict(collections.deque)
        self.up: set[tuple[str, str]] = set()

    def _connected(self, a: str, b: str) -> None:
        raise NotImplementedError

    def _disconnected(self, a: str, b: str) -> None:
        raise NotImplementedError

    def inject(self, a: str, b: str, raw: bytes) -> None:
        raise NotImplementedError

    def send(self, a: str, b: str, raw: bytes) -> bool:
        if (a, b) in self.up:
            self.queues[a, b].append(raw)
        return (a, b) in self.up

    def connect(self, a: str, b: str) -> None:
        if (a, b) not in self.up:
            self.up |= {(a, b), (b, a)}
            self._connected(a, b)
            self._connected(b, a)

    def cut(self, a: str, b: str) -> None:
        """The connection breaks; what was on its way is lost."""
        if (a, b) in self.up:
            self.up -= {(a, b), (b, a)}
            self.queues[a, b].clear()
            self.queues[b, a].clear()
            self._disconnected(a, b)
            self._disconnected(b, a)

    def isolate(self, a: str) -> None:
        for b in self.ids:
            if b != a:
                self.cut(a, b)

    def connect_all(self, ids: Iterable[str] | None = None) -> None:
        chosen = list(ids or self.ids)
        for a in chosen:
            for b in chosen:
                if a < b:
                    self.connect(a, b)

    def take(self, a: str, b: str) -> bytes:
        return self.queues[a, b].popleft()

    def deliver(self, a: str, b: str, count: int | None = None) -> int:
        """Deliver what is queued now from `a` to `b`, at most `count` messages."""
        count = len(self.queues[a, b]) if count is None else min(count, len(self.queues[a, b]))
        for _ in range(count):
            self.inject(a, b, self.take(a, b))
        return count

    def flush(self, only: Iterable[str] | None = None, rounds: int = 60) -> None:
        """Deliver until silence among `only`."""
        members = set(only or self.ids)
        for _ in range(rounds):
            moved = [self.deliver(a, b) for a, b in sorted(self.queues) if a in members and b in members]
            if not any(moved):
                return


class StockTransport(Transport):
    """The stock library's own extension point, over the test's queues."""

    def __init__(self, links: Stock, me: str) -> None:
        super().__init__(None, None, None)
        self.links, self.me = links, me

    def send(self, node: Any, message: Any) -> bool:
        return self.links.send(self.me, node.id, pickle.dumps(message))

    def destroy(self) -> None:
        """Queues need no closing."""


class StockSessions(SyncObj):
    """The toy machine on the stock class."""

    def __init__(self, me: str, links: Stock, **conf: Any) -> None:
        others = [Node(i) for i in links.ids if i != me]
        super().__init__(Node(me), others, SyncObjConf(autoTick=False, **conf), transport=StockTransport(links, me))
        self.owner: dict[str, str] = {}
        self.history: list[Any] = []

    @replicated
    def acquire(self, session: str, who: str) -> bool:
        return self.owner.setdefault(session, who) == who

    @replicated
    def put(self, value: Any, padding: str = "") -> bool:
        self.history.append(value)
        return True

    @replicated
    def poison(self) -> None:
        self.history.append("poison")
        raise ValueError("a command that raises")


class Stock(Links):
    """The stock class, as it is."""

    def __init__(
        self, ids: str, clock: StockClock, path: Path, *, batch_bytes: int = 1 << 16, files: bool = False, **conf: Any
    ) -> None:
        self.ids, self.clock, self.path, self.files = tuple(ids), clock, path, files
        self.conf = {"appendEntriesBatchSizeBytes": batch_bytes, **conf}
        self._start_links()
        self.nodes = {i: self._new(i) for i in self.ids}
        self.connect_all()

    def _new(self, i: str) -> StockSessions:
        files = {"journalFile": f"{self.path}/{i}.j", "fullDumpFile": f"{self.path}/{i}.d"} if self.files else {}
        return StockSessions(i, self, **{"useFork": False, **files, **self.conf})

    def close(self) -> None:
        for node in self.nodes.values():
            node._doDestroy()

    def _transport(self, a: str) -> Transport:
        return self.nodes[a]._SyncObj__transport

    def _connected(self, a: str, b: str) -> None:
        self._transport(a)._onNodeConnected(Node(b))

    def _disconnected(self, a: str, b: str) -> None:
        self._transport(a)._onNodeDisconnected(Node(b))

    def inject(self, a: str, b: str, raw: bytes) -> None:
        self._transport(b)._onMessageReceived(Node(a), pickle.loads(raw))

    def tick(self, *who: str, ms: float = 1) -> None:
        self.clock.now_s += ms / 1000
        for i in who or self.ids:
            self.nodes[i].doTick(0)

    def beat(self, leader: str) -> None:
        """Let a heartbeat interval pass at the leader."""
        self.tick(leader, ms=110)

    def campaign(self, who: str) -> None:
        self.nodes[who]._SyncObj__raftElectionDeadline = 0
        self.tick(who)

    def elect(self, who: str, voters: str) -> bool:
        self.campaign(who)
        for voter in voters:
            self.deliver(who, voter)
            self.deliver(voter, who)
        return self.leads(who)

    def settle(self, leader: str, only: str | None = None, rounds: int = 4) -> None:
        for _ in range(rounds):
            self.beat(leader)
            self.flush(only)
            self.tick(*(only or self.ids))
            self.flush(only)

    def acquire(self, at: str, session: str, who: str) -> Told:
        told = Told()
        self.nodes[at].acquire(session, who, callback=told)
        self.tick(at)
        return told

    def put(self, at: str, value: Any, padding: int = 0) -> Told:
        told = Told()
        self.nodes[at].put(value, "x" * padding, callback=told)
        self.tick(at)
        return told

    def compact(self, at: str) -> None:
        """Take a snapshot and cut the log."""
        self.nodes[at].forceLogCompaction()
        self.tick(at)
        self.tick(at)

    def restart(self, who: str) -> None:
        """The process dies and comes back with what it kept; its links stay down."""
        self.isolate(who)
        self.nodes[who]._doDestroy()
        self.nodes[who] = self._new(who)
        self.tick(who)

    def late_reset(self, follower: str, leader: str, next_index: int) -> None:
        """A late copy of the follower's "I cannot place that, go on from there"."""
        message = {"type": "next_node_idx", "next_node_idx": next_index, "reset": True, "success": False}
        self.inject(follower, leader, pickle.dumps(message))

    def leads(self, who: str) -> bool:
        return bool(self.nodes[who]._isLeader())

    def term(self, who: str) -> int:
        return int(self.nodes[who].raftCurrentTerm)

    def applied(self, who: str) -> int:
        return int(self.nodes[who].raftLastApplied)

    def log(self, who: str) -> list[tuple[int, int]]:
        return [(e[1], e[2]) for e in self.nodes[who]._SyncObj__raftLog[:]]

    def owner(self, who: str, session: str) -> str | None:
        return self.nodes[who].owner.get(session)

    def history(self, who: str) -> list[Any]:
        return self.nodes[who].history


class Ours(Links):
    """The hardened class, with disks that hold what they were asked to once `sync` ran."""

    def __init__(self, ids: str = "ABC", *, batch_bytes: int = 1 << 16, auto_sync: bool = True, **_: Any) -> None:
        self.ids, self.auto_sync = tuple(ids), auto_sync
        self.node_class = HardenedSyncObj
        self.timing = RaftTiming(append_bytes_max=batch_bytes, snapshot_chunk_bytes=64)
        self.rng = random.Random(1)
        self.now = 1_000_000_000
        self.waiting: dict[str, dict[int, tuple[int, Told]]] = {i: {} for i in self.ids}
        self._start_links()
        self.members = {i: Member(self, i, MemoryStorage()) for i in self.ids}  # type: ignore[arg-type]
        self.connect_all()

    # --- the world, as a Member sees it
    def on_applied(self, member: Member, index: int, term: int, payload: bytes) -> None:
        result = self._replay(member)[0] if payload else None
        pending = self.waiting[member.id].pop(index, None)
        if pending is not None:
            ours = pending[0] == term
            pending[1](result if ours else None, OK if ours else "DISCARDED")

    def _replay(self, member: Member) -> tuple[Any, dict[str, str], list[Any]]:
        """The toy machine: result of the last command, owners, history."""
        owner: dict[str, str] = {}
        history: list[Any] = []
        result: Any = None
        for _, payload in member.state:
            kind, first, second = msgpack.unpackb(payload)
            if kind == "acquire":
                result = owner.setdefault(first, second) == second
            else:
                history.append(first)
                result = True
        return result, owner, history

    def _run(self, who: str) -> None:
        member = self.members[who]
        member.step()
        while self.auto_sync and member.storage.jobs:
            member.sync()
        base = member.journal.base_index
        for index in [i for i in self.waiting[who] if i <= base]:
            self.waiting[who].pop(index)[1](None, "UNKNOWN")  # a snapshot took its place

    def _connected(self, a: str, b: str) -> None:
        self.members[a].raft.peer_connected(b)

    def _disconnected(self, a: str, b: str) -> None:
        self.members[a].outbox.drop_peer(b)
        self.members[a].raft.peer_disconnected(b)

    def inject(self, a: str, b: str, raw: bytes) -> None:
        self.members[b].receive_bytes(a, raw)
        self._run(b)

    def tick(self, *who: str, ms: float = 1) -> None:
        self.now += int(ms * MS)
        for i in who or self.ids:
            self._run(i)

    def beat(self, leader: str) -> None:
        self.tick(leader, ms=60)

    def campaign(self, who: str) -> None:
        """Its timer fires, linked nodes say that they would vote, and the requests for votes stand in the queues."""
        self.now += 350 * MS  # past everybody's patience with the last leader
        raft = self.members[who].raft
        for member in self.members.values():
            member.clock.ns = self.now
            member.raft._election_deadline_ns = member.clock.now_ns() + (0 if member.id == who else 1000 * MS)
        self._run(who)
        for other in self.ids:
            if raft.role != CANDIDATE and (who, other) in self.up:
                asked, self.queues[who, other] = list(self.queues[who, other]), collections.deque()
                for raw in asked:
                    if decode(raw)["type"] == "pre_vote":
                        self.inject(who, other, raw)
                    else:
                        self.queues[who, other].append(raw)
                answers, self.queues[other, who] = list(self.queues[other, who]), collections.deque()
                for raw in answers:
                    self.inject(other, who, raw)
        for other in self.ids:
            queue = self.queues[who, other]
            self.queues[who, other] = collections.deque(r for r in queue if decode(r)["type"] != "pre_vote")

    def elect(self, who: str, voters: str) -> bool:
        self.campaign(who)
        for voter in voters:
            self.deliver(who, voter)
            self.deliver(voter, who)
        return self.leads(who)

    def settle(self, leader: str, only: str | None = None, rounds: int = 4) -> None:
        for _ in range(rounds):
            self.beat(leader)
            self.flush(only)
            self.tick(*(only or self.ids))
            self.flush(only)

    def _propose(self, at: str, command: list[Any]) -> Told:
        told = Told()
        member = self.members[at]
        member.clock.ns = self.now
        index = member.raft.propose(msgpack.packb(command))
        if index is None:
            told(None, "UNAVAILABLE")
        else:
            self.waiting[at][index] = (member.raft.term, told)
        self._run(at)
        return told

    def acquire(self, at: str, session: str, who: str) -> Told:
        return self._propose(at, ["acquire", session, who])

    def put(self, at: str, value: Any, padding: int = 0) -> Told:
        return self._propose(at, ["put", value, "x" * padding])

    def compact(self, at: str) -> None:
        self.members[at].clock.ns = self.now
        self.members[at].snapshot()
        self.tick(at)

    def restart(self, who: str) -> None:
        self.isolate(who)
        self.waiting[who].clear()
        self.members[who].storage.crash()
        self.members[who].start()

    def late_reset(self, follower: str, leader: str, next_index: int) -> None:
        term = self.members[leader].raft.term
        answer = {"type": "next_node_idx", "term": term, "probe": 0, "sent_ns": 0, "learner": 0, "success": False}
        rejected = self.members[leader].raft.last_log_index
        self.inject(follower, leader, encode(answer | {"rejected": rejected, "next_node_idx": next_index}))

    def leads(self, who: str) -> bool:
        return self.members[who].raft.role == LEADER

    def term(self, who: str) -> int:
        return self.members[who].raft.term

    def applied(self, who: str) -> int:
        return self.members[who].raft.last_applied

    def log(self, who: str) -> list[tuple[int, int]]:
        return [(e[1], e[2]) for e in self.members[who].journal[:]]

    def owner(self, who: str, session: str) -> str | None:
        return self._replay(self.members[who])[1].get(session)

    def history(self, who: str) -> list[Any]:
        return self._replay(self.members[who])[2]


Driver = Stock | Ours


def two_owners(one: Told, two: Told) -> bool:
    """Whether two clients were both told that the session is theirs."""
    return one.succeeded and two.succeeded
