"""The hardened class behind the verbs of a schedule, with disks in memory, its outbox and the bytes of its wire."""

from __future__ import annotations

import collections
import random
from typing import Any

import msgpack
from hazard_links import OK, Links, Told
from raft_cluster import MS, Member, MemoryStorage

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.peer_messages import decode, encode
from raftstore.raft.seams import CANDIDATE, LEADER, RaftTiming


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
