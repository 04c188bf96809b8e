"""A network of machines, each alone in its log, with honest nodes between them and a judge who sees everything.

What nodes do here is the protocol that `placement` assumes, written down as briefly as it can be: pull, hand over,
admit, forget; in doubt decline and reclaim; confirm, settle, close. Messages are lost, doubled and overtaken; ops wait
in a node's queue while others are applied; nodes stop at any time and lose what was not in their log; operators set
mappings at two places at once and declare nodes lost. Rules that the nodes keep can be switched off by name.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import lru_cache
from typing import Any

from raftstore.ownership import (
    REASONS,
    Machine,
    MappingRecord,
    SessionRecord,
    adopt,
    batches,
    close,
    confirm,
    create_mapped,
    encode_batch,
    forget,
    freeze,
    invariants,
    join,
    reattach,
    reclaim,
    renew,
    renew_lease,
    restore,
    resume,
    settle,
    terminate,
    thaw,
    transfer,
)
from raftstore.ownership import commands as c
from raftstore.ownership.events import SESSION_ADMITTED, SESSION_HANDED_OVER
from raftstore.ownership.placement import has
from raftstore.ownership.sweep import overdue
from raftstore.routing import Mapping, MappingNode

B1 = ("t1", "udp", "198.51.100.7:51820")
FROZEN, TERMINATED = 3, 4
NODES = ("a", "b", "c", "d")
SESSIONS = tuple(f"s{n}" for n in range(8))
TTL_MS = 50_000
TTL_MAX_MS = 60_000
MAIL_MAX = 40  # on their way; older ones are lost
OVERTAKEN_MAX = 12  # how many messages another one can overtake
INCARNATION = 1_000


@lru_cache(maxsize=4_096)
def to_mapping(record: MappingRecord) -> Mapping:
    return Mapping(record.epoch, tuple(MappingNode(*node) for node in record.nodes))


class World:
    """All machines, the messages between them, and the judge who sees everything."""

    def __init__(self, seed: int, without: str = "") -> None:
        self.rng = random.Random(seed)
        self.without = frozenset(without.split())
        self.now_ms = 1_000
        self.mail: list[tuple[str, str, tuple[Any, ...]]] = []  # (from, to, message)
        self.nodes: dict[str, Node] = {}
        self.newest: dict[str, SessionRecord] = {}  # of each session: the newest record that any owner's log has made
        self.excused: set[str] = set()  # sessions that a lost node may have held
        self.done: Counter[str] = Counter()
        self.stores = 0
        for node_id in NODES[:3]:
            self.start(node_id)
        first = MappingRecord(1, tuple((n, 1, False) for n in NODES[:3]), NODES[:3], ())  # type: ignore[misc]
        for node in self.nodes.values():
            node.propose(adopt, *first)

    def start(self, node_id: str) -> None:
        self.stores += 1
        self.nodes[node_id] = Node(self, node_id, INCARNATION * self.stores)

    def send(self, giver: str, taker: str, *message: Any) -> None:
        self.mail.append((giver, taker, message))

    # -- one step of the world

    def step(self) -> None:
        rng = self.rng
        kind = rng.random()
        node = rng.choice(list(self.nodes.values()))
        if kind < 0.40:
            for _ in range(rng.randrange(1, 12)):
                self.deliver(lossy=True)
        elif kind < 0.68:
            node.apply_some(rng.choice((1, 2, 3, 99)))
        elif kind < 0.82:
            node.tick()
        elif kind < 0.96:
            node.caller(rng)
        elif kind < 0.968:
            node.operator(rng)
        elif kind < 0.975:
            node.restart()
        elif kind < 0.98 and len(self.nodes) < len(NODES):
            self.start(next(n for n in NODES if n not in self.nodes))
        else:
            self.now_ms += rng.choice((1, 1, 300, 300, 1_000, 3_000, 20_000))

    def deliver(self, *, lossy: bool) -> None:
        if not self.mail:
            return
        place = self.rng.randrange(min(len(self.mail), OVERTAKEN_MAX)) if lossy else 0
        chance = self.rng.random() if lossy else 0.5
        giver, taker, message = self.mail[place] if chance < 0.08 else self.mail.pop(place)
        del self.mail[:-MAIL_MAX]
        if taker in self.nodes and chance < 0.96:
            self.nodes[taker].receive(giver, *message)

    def declare_lost(self, node_id: str) -> None:
        """It stops for ever; what it sent is not delivered any more. What may have been on it is excused."""
        gone = self.nodes.pop(node_id)
        self.mail = [mail for mail in self.mail if node_id not in mail[:2]]
        self.excused |= set(gone.machine.sessions) | set(gone.machine.departed)
        for node in self.nodes.values():
            self.excused |= {sid for sid, record in node.machine.sessions.items() if record.owner == node_id}
            node.told.pop(node_id, None)

    def with_another_disk(self) -> set[str]:
        """Nodes that some other one knows by a data directory which they lost: operators must declare them lost."""
        known = [(peer, store) for node in self.nodes.values() if node.place for peer, store in node.place.stores]
        return {
            peer
            for peer, store in known
            if peer in self.nodes and self.nodes[peer].place and self.nodes[peer].place.store_id != store
        }

    def heal(self) -> None:
        """Everything arrives, everything is applied, nobody asks for anything: until nothing is left to do."""
        for _ in range(120):
            for node in self.nodes.values():
                node.tick()
                node.apply_some(99)
            while self.mail:
                self.deliver(lossy=False)
                for node in self.nodes.values():
                    node.apply_some(99)
            if all(node.is_at_rest() for node in self.nodes.values()):
                return
            self.now_ms += 700

    # -- the judge

    def changed(self, node: Node, record: SessionRecord, admitted: bool) -> None:
        """Every change that a log makes to a session comes after every change that any other log has made to it."""
        known = self.newest.get(record.session_id)
        if record.state_version == 1 and record.session_id in self.excused and not admitted:
            self.excused.discard(record.session_id)  # it begins anew, and counts from here on
            known = None
        place = f"{node.node_id}: {record.session_id} version {record.state_version}"
        if known is not None and record.session_id not in self.excused:
            if admitted:
                same = (known.epoch, known.state_version) == (record.epoch, record.state_version)
                assert same, f"two owners: {place} admitted, {known.state_version} is the newest"
            else:
                assert record.state_version == known.state_version + 1, f"two owners: {place} after {known}"
                assert record.epoch >= known.epoch, f"two owners: {place}: epoch went back from {known}"
        self.newest[record.session_id] = record

    def judge(self) -> None:
        """At this moment nobody is owned twice, and everybody who ever was is somewhere."""
        held: dict[str, list[str]] = {}
        somewhere: set[str] = set()
        for node_id, node in self.nodes.items():
            for sid, record in node.machine.sessions.items():
                somewhere.add(sid)
                if record.owner == node_id and record.state != TERMINATED and sid not in self.excused:
                    held.setdefault(sid, []).append(node_id)
        for sid, owners in held.items():
            assert len(owners) == 1, f"two owners: {sid} is owned by {owners}"
        forgotten = set(self.newest) - somewhere - self.excused
        assert not forgotten, f"forgotten: {forgotten}"


class Node:
    """A machine alone in its log, the ops that wait for it, and what the node believes of its peers."""

    def __init__(self, world: World, node_id: str, incarnation: int) -> None:
        self.world, self.node_id, self.incarnation = world, node_id, incarnation
        self.machine = Machine()
        self.index = self.seq = 0
        self.forget_everything()
        self.apply(join(1, 2**50))
        self.apply(c.configure(2, 2**50, {"lease_ttl_ms": 100, "ttl_max_ms": TTL_MAX_MS}))

    def forget_everything(self) -> None:
        """What a stopped process loses."""
        self.queue: list[tuple[str | None, Any, tuple[Any, ...]]] = []
        self.busy: set[str] = set()
        self.told: dict[str, tuple[MappingRecord, bool, bool]] = {}
        self.acks: dict[tuple[str, bytes], dict[str, Any]] = {}  # by peer and mapping

    @property
    def place(self) -> Any:
        return self.machine.placement

    def owner(self, sid: str) -> str | None:
        return to_mapping(self.place.mapping).owner(sid)

    def has(self, sid: str, version: int, moved_at: int | None) -> bool:
        return has(self.machine.sessions.get(sid), self.machine.departed.get(sid), version, moved_at)

    # -- the log

    def propose(self, build: Any, *args: Any) -> None:
        self.queue.append((None, build, args))

    def propose_for(self, sid: str, build: Any, *args: Any) -> None:
        """One op at a time for a session on its way."""
        if sid not in self.busy:
            self.busy.add(sid)
            self.queue.append((sid, build, (sid, *args)))

    def apply_some(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            sid, build, args = self.queue.pop(0)
            self.apply(build(self.seq + 1, 2**50, *args))
            self.busy.discard(sid or "")

    def apply(self, op: bytes) -> None:
        self.seq += 2
        self.index += 1
        low = max(0, self.seq - 4)
        ops = [renew_lease(self.seq, 2**50), op] if self.machine.nodes else [op]
        data = encode_batch(self.world.now_ms, 0, None, [(self.node_id, self.incarnation, low, ops)])
        before = dict(self.machine.sessions)
        marks = dict(self.machine.departed)
        applied = self.machine.apply(self.index, 1, data)
        _, (code, _) = applied.groups[0][2][-1]
        self.world.done[f"{c.OP_NAMES[batches.unpack(op)[0]]} {REASONS[code] or 'OK'}"] += 1
        kinds = {event[4] for event in applied.events}
        for record in applied.changed:
            admitted = SESSION_ADMITTED in kinds
            old = before.get(record.session_id)
            assert admitted or invariants.check_change(old, record) == []
            assert old is None or record.state_version > old.state_version
            self.world.changed(self, record, admitted)
        for sid in before.keys() - self.machine.sessions.keys():
            assert SESSION_HANDED_OVER in kinds
            assert self.machine.departed[sid] == (before[sid].state_version, self.place.mapping.epoch)
        assert marks.keys() <= self.machine.departed.keys() | self.machine.sessions.keys()
        assert invariants.check(self.machine) == []
        self.world.judge()

    def restart(self) -> None:
        """Some of what waits was in the log already; the rest is gone, with all that was only in memory."""
        self.apply_some(self.world.rng.randrange(len(self.queue) + 1))
        self.forget_everything()
        digest = self.machine.state_digest()
        self.machine = restore(list(self.machine.freeze_state().chunks()))
        assert self.machine.state_digest() == digest
        self.incarnation += 1
        self.world.now_ms += 101
        self.apply(join(self.seq + 1, 2**50))

    # -- what a node does by itself

    def tick(self) -> None:
        """Tell the peers, pull what is missing, settle, close, take up what arrived, sweep."""
        world = self.world
        due = [(s.session_id, s.state_version) for s in self.machine.sessions.values()]
        if any(overdue(s, self.machine.nodes, world.now_ms) for s in self.machine.sessions.values()):
            self.propose(c.sweep, due)
        if self.place is None:
            for peer in world.nodes:
                world.send(self.node_id, peer, "mapping", None, False, False)
            return
        mapping, settled = self.place.mapping, self.place.is_settled
        for peer in world.nodes:
            if peer != self.node_id:
                world.send(self.node_id, peer, "mapping", mapping, settled, self.place.is_closed)
        waits = self.place.waits_for(self.node_id)
        if not settled:
            for peer in waits:
                self.pull(peer)
            if not waits:
                self.propose(settle, mapping.epoch)
        elif not self.place.is_closed and (self.all_settled() or self.somebody_closed()):
            self.propose(close, mapping.epoch)
        for sid, record in self.machine.sessions.items():
            if record.transferred and record.owner == self.node_id == self.owner(sid):
                self.propose_for(sid, resume, record.state_version, None)
            elif record.owner in mapping.lost and record.state != TERMINATED:
                world.excused.add(sid)  # nobody can say what the lost node made of it
                self.propose_for(sid, forget, record.state_version, record.owner, mapping.epoch)

    def all_settled(self) -> bool:
        mapping = self.place.mapping
        others = [n for n in self.place.involved if n != self.node_id and n not in mapping.lost]
        return all(self.told.get(peer, ())[:2] == (mapping, True) for peer in others)

    def somebody_closed(self) -> bool:
        """A peer that has closed this mapping waited for this node too, and so for all whom this node involves."""
        mapping = self.place.mapping
        return self.node_id in mapping.node_ids and (mapping, True, True) in self.told.values()

    def pull(self, peer: str) -> None:
        world, mapping = self.world, self.place.mapping
        acks = tuple(self.acks.get((peer, mapping.digest()), {}).items())
        world.send(self.node_id, peer, "pull", mapping.digest(), self.place.store_id, acks, world.now_ms)

    def receive(self, peer: str, kind: str, *message: Any) -> None:
        getattr(self, f"on_{kind}")(peer, *message)

    def on_mapping(self, peer: str, mapping: MappingRecord | None, settled: bool, closed: bool) -> None:
        if mapping is None:
            return
        if self.place is None or mapping.epoch > self.place.mapping.epoch:
            self.propose(adopt, *mapping)
        if mapping.epoch >= self.told.get(peer, (mapping,))[0].epoch:  # links keep the order, the world does not
            self.told[peer] = (mapping, settled, closed)

    def on_pull(self, peer: str, digest: bytes, store: int, acks: Any, asked_ms: int) -> None:
        """A peer with our mapping wants its sessions; it has some of them already and will never have others."""
        place, off = self.place, self.world.without
        if place is None or (digest != place.mapping.digest() and "digest" not in off):
            return
        if peer in place.mapping.lost or store in place.gone or place.store_of(peer) not in (None, store):
            return
        for sid, (version, is_there) in acks:
            record = self.machine.sessions.get(sid)
            if is_there:
                self.propose_for(sid, forget, version, peer, place.mapping.epoch)
            elif record is not None and (self.owner(sid) != peer or "decline" in off):
                self.propose_for(sid, reclaim, version, place.mapping.epoch)
        rows, doubts, left = [], [], False
        for sid, record in self.machine.sessions.items():
            away = record.owner != self.node_id and record.state != TERMINATED
            if self.owner(sid) == peer:
                left = left or not (away and "away" in off)
                if sid in self.busy:
                    continue
                if record.state == TERMINATED or record.owner == peer:
                    rows.append(record)
                elif not away:
                    self.advance(record, peer)
            elif record.owner == peer and away:
                doubts.append((sid, record.state_version, record.owner_inc))
                left = True
        if "done" in off:
            left = bool(rows)
        self.world.send(
            self.node_id, peer, "handed", place.mapping.digest(), place.store_id, tuple(rows), tuple(doubts), not left,
            place.involved, asked_ms,
        )  # fmt: skip

    def advance(self, record: SessionRecord, target: str) -> None:
        """The next op that a session needs on its way out."""
        sid, version = record.session_id, record.state_version
        if record.state != FROZEN:
            self.propose_for(sid, freeze, version, "MAPPING", target)
        elif record.transferred:
            self.propose_for(sid, resume, version, None)
        elif record.target == target:
            self.propose_for(sid, transfer, version)
        else:
            self.propose_for(sid, thaw, version)

    def on_handed(
        self, peer: str, digest: bytes, store: int, rows: Any, doubts: Any, done: bool, others: Any, asked_ms: int
    ) -> None:
        place, off = self.place, self.world.without
        if place is None or (digest != place.mapping.digest() and "digest" not in off):
            return
        acks: dict[str, Any] = {}
        for s in rows:
            reason, moved_at = (s.reason, None) if s.state == TERMINATED else (None, s.owner_inc)
            if self.has(s.session_id, s.state_version, moved_at):
                acks[s.session_id] = (s.state_version, True)
            elif self.owner(s.session_id) == self.node_id or "admit" in off:
                self.propose(
                    c.admit, s.session_id, place.mapping.epoch, peer, s.epoch, s.state_version, s.nonce, s.policy,
                    s.created_at_ms, s.expires_at_ms, reason, reason and s.owner, moved_at or 0,
                )  # fmt: skip
        for sid, version, moved_at in doubts:
            if self.has(sid, version, moved_at):
                acks[sid] = (version, True)
            elif self.owner(sid) != self.node_id or "decline" in off:
                acks[sid] = (version, False)
        self.acks[peer, digest] = acks
        if done and not rows:
            self.propose(confirm, peer, place.mapping.epoch, digest, store, others)
        elif acks:
            self.pull(peer)

    # -- callers and operators

    def may(self, sid: str) -> bool:
        """Whether this node can prove that nobody else has the session."""
        if self.place is None or self.owner(sid) != self.node_id:
            return False
        trail = self.place.trail
        unanimous = bool(trail) and all(to_mapping(m).owner(sid) == self.node_id for m in trail)
        return sid in self.machine.sessions or unanimous or "trail" in self.world.without

    def caller(self, rng: random.Random) -> None:
        mine = [sid for sid in SESSIONS if self.may(sid)]
        if not mine:
            return
        sid = rng.choice(mine)
        record = self.machine.sessions.get(sid)
        if record is None:
            self.propose(create_mapped, sid, rng.choice((None, B1)), TTL_MS, None, self.place.mapping.epoch)
            return
        version = record.state_version
        if rng.random() < 0.05:
            self.propose(terminate, sid, version, "POLICY", rng.random() < 0.5)
        else:
            self.propose(*rng.choice(((reattach, sid, version, B1), (renew, sid, version, TTL_MS))))

    def operator(self, rng: random.Random) -> None:
        """A mapping with the next epoch: nodes come and go, weights change, sometimes a node is declared lost."""
        if self.place is None:
            return
        world, current = self.world, self.place.mapping
        lost = set() if self.place.is_closed else set(current.lost)
        others = [n for n in world.nodes if n != self.node_id]
        if rng.random() < 0.1 and len(others) > 1 and not lost:
            lost.add(rng.choice(others))
            world.declare_lost(next(iter(lost)))
        ids = [n for n in NODES if rng.random() < 0.7 and n not in lost]
        nodes = [(n, rng.choice((0, 1, 1, 3)), rng.random() < 0.15) for n in ids]
        if not any(weight and not draining for _, weight, draining in nodes):
            return
        sources = {*self.place.involved, *current.node_ids, *ids} - lost
        self.propose(adopt, current.epoch + 1, nodes, sources, lost)

    def is_at_rest(self) -> bool:
        """Nothing waits, the mapping is closed, and everything is where it belongs."""
        if self.queue or self.place is None:
            return not self.queue
        return self.place.is_closed and all(
            self.owner(sid) == self.node_id and (record.owner == self.node_id or record.state == TERMINATED)
            for sid, record in self.machine.sessions.items()
        )
