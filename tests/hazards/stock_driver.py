"""The stock class behind the verbs of a schedule: its own logic untouched, its clock, chance and links replaced."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysyncobj.syncobj as stock_module
from hazard_links import Links, Told
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport


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
