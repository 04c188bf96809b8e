"""Where sessions belong when nodes share no log: the sticky strategy (ownership model, section 2.1).

Theory of operation. Each node runs the machine for itself alone. A mapping, known to all nodes, sends every session id
to one node; it changes only as a whole, under a higher epoch. This module keeps the node's place in such a change, in
the log, and moves single sessions between two machines. What the mapping says of one session is computed elsewhere.

    trail      the mappings that this node went through since one was last settled here, that one first. A session that
               all of them send here cannot have been anywhere else. An empty trail: nothing is certain yet.
    involved   the nodes that may hold sessions: of the mapping, and of all that were adopted since the last one that
               was closed. One has confirmed when it has adopted the very same mapping, holds no session for this node
               any more, and by its epoch can never make one. It says whom it involves itself, because it may have
               given sessions to nodes of which nobody here has heard; so the circle closes over everybody who may
               hold one.
    settled    all involved have confirmed: whatever maps here is here or nowhere. The trail begins anew.
    closed     all involved have settled it: only the nodes of this mapping can hold sessions.

Why no session has two owners. A node lets a session be created only where its trail is unanimous, under the epoch by
which that was judged (`create_mapped` names it, and is refused under another). It gives one away only by freeze and
transfer in its own log, durable before the other node hears of it; from then on its machine refuses every op on it.
The other installs it once: `admit` names the epoch too, and when it goes on from there a `departed` mark says at which
version and under which mapping. What was transferred to this node before that mapping was here already; what was
transferred later was not, whatever its version: an id that a lost node held may have begun anew elsewhere. A node takes
one back (`reclaim`) only when the other, at a later epoch that excludes an `admit` for ever, has never had it.
`forget` and `reclaim` name the epoch as well: what a peer said under one mapping says nothing under the next.

This rests on the callers: they admit only what the present mapping sends here, and confirm only when nothing that maps
to the peer is left, what is away included. And on the operators: all nodes descend from one founding, and no data
directory is put back to an older state.

A node that was declared lost confirms nothing: an operator vouched that it does not run. What it may have held is open
again only when the longest TTL has passed, and never under an id that this node has seen go there.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgpack

from raftstore.ownership import events
from raftstore.ownership import records as r
from raftstore.ownership.records import FROZEN, Mark, NodeRecord, Result, SessionRecord
from raftstore.ownership.step import Op, Step

NODES_MAX = 64  # of one mapping
INVOLVED_MAX = 128  # nodes that may hold sessions while mappings change; bounds the stores, too
TRAIL_MAX = 8  # adopted and not settled; beyond it nothing counts as certain until the newest is settled
GONE_MAX = 128  # data directories that were declared lost, newest last

_OK: Result = (0, None)


class MappedNode(NamedTuple):
    """A node in a mapping: its weight relative to the others, and whether its sessions are to leave it."""

    node_id: str
    weight: int
    draining: bool


class MappingRecord(NamedTuple):
    """One mapping as it stands in the log. Equal records have equal digests, on every node."""

    epoch: int
    nodes: tuple[MappedNode, ...]  # by id
    sources: tuple[str, ...]  # sorted: whom its maker knew to be involved
    lost: tuple[str, ...]  # sorted; declared dead by an operator, in none of the nodes

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(node.node_id for node in self.nodes)

    def digest(self) -> bytes:
        """SHA-256 over all of it."""
        return hashlib.sha256(msgpack.packb(self)).digest()


class Placement(NamedTuple):
    """What a machine knows of mappings."""

    mapping: MappingRecord
    store_id: int  # names this log for ever: a node that lost its disk comes back with another
    trail: tuple[MappingRecord, ...]
    confirmed: tuple[str, ...]  # of the involved, sorted
    stores: tuple[tuple[str, int], ...]  # (node, its store_id) of all that ever confirmed, by node
    gone: tuple[int, ...]  # store ids that were declared lost
    involved: tuple[str, ...]  # sorted
    opens_at_ms: int  # cluster time before which it cannot be settled
    previous: MappingRecord | None = None  # by which this node went before: what an operator may go back to

    @property
    def is_settled(self) -> bool:
        return self.trail == (self.mapping,)

    @property
    def is_closed(self) -> bool:
        return self.is_settled and self.involved == self.mapping.node_ids

    def waits_for(self, node_id: str) -> list[str]:
        """Involved nodes that have not confirmed to `node_id` yet, which is this node."""
        known = {node_id, *self.confirmed, *self.mapping.lost}
        return [involved for involved in self.involved if involved not in known]

    def confirmed_epoch_of(self, node_id: str) -> int:
        """An epoch that the node had adopted when it confirmed, as far as this log still tells; 0 for none."""
        if node_id in self.confirmed:
            return self.mapping.epoch
        if self.trail and node_id in self.trail[0].node_ids and self.store_of(node_id) is not None:
            return self.trail[0].epoch  # settled: all its nodes had confirmed it
        return 0

    def store_of(self, node_id: str) -> int | None:
        """The store id under which that node confirmed; None when it never did, or was declared lost since."""
        return dict(self.stores).get(node_id)


def read_placement(fields: Any) -> Placement:
    """A placement from the values of a snapshot. ValueError when they are none."""
    try:
        mapping, store_id, trail, confirmed, stores, gone, involved, opens_at_ms, previous = fields
        placement = Placement(
            read_mapping(mapping),
            store_id,
            tuple(read_mapping(passed) for passed in trail),
            tuple(confirmed),
            tuple((node_id, store) for node_id, store in stores),
            tuple(gone),
            tuple(involved),
            opens_at_ms,
            None if previous is None else read_mapping(previous),
        )
        numbers = (store_id, opens_at_ms, *gone, *(store for _, store in placement.stores))
        texts = (*confirmed, *involved, *(node_id for node_id, _ in placement.stores))
    except (TypeError, ValueError) as problem:
        raise ValueError(f"snapshot holds an unusable placement: {problem}") from None
    if not all(type(number) is int for number in numbers) or not all(type(text) is str for text in texts):
        raise ValueError("snapshot holds an unusable placement")
    return placement


def epoch_of(placement: Placement | None) -> int:
    """The mapping's epoch; 0 in a machine without one."""
    return 0 if placement is None else placement.mapping.epoch


def is_away(step: Step, record: SessionRecord) -> bool:
    """Whether the session was given to a node of another machine: nothing here may change it any more."""
    return record.owner not in step.nodes


# -- the mapping ------------------------------------------------------------------------------------------------------


def read_mapping(fields: Any) -> MappingRecord:
    """The record of four decoded fields that are known to be well-formed."""
    epoch, nodes, sources, lost = fields
    return MappingRecord(epoch, tuple(MappedNode(*node) for node in nodes), tuple(sources), tuple(lost))


def adopt(step: Step, actor: NodeRecord, op: Op) -> Result:
    """A mapping with a higher epoch takes the place of the present one; from here on only it counts."""
    mapping = read_mapping(op[3:7])
    old = step.placement
    if mapping.epoch <= epoch_of(old):
        return step.refuse(op, r.VERSION_MISMATCH)
    opens_at_ms = step.soon_ms("ttl_max_ms") if mapping.lost else 0
    involved = {*mapping.sources, *mapping.node_ids, *_still_involved(old)}
    if len(involved) > INVOLVED_MAX:
        return step.refuse(op, r.LIMIT_EXCEEDED)
    everybody = tuple(sorted(involved))
    if old is None:
        step.placement = Placement(mapping, actor.incarnation, (), (), (), (), everybody, opens_at_ms)
    else:
        trail = (*old.trail, mapping) if old.trail and len(old.trail) < TRAIL_MAX else ()
        gone = [store for node, store in old.stores if node in mapping.lost]
        step.placement = old._replace(
            mapping=mapping,
            trail=trail,
            confirmed=(),
            stores=tuple(known for known in old.stores if known[0] not in mapping.lost),
            gone=(*old.gone, *gone)[-GONE_MAX:],
            involved=everybody,
            previous=old.mapping,
            opens_at_ms=opens_at_ms if mapping.lost else (0 if old.is_settled else old.opens_at_ms),
        )
    step.note(events.MAPPING_ADOPTED, op[0], op[1], describe(mapping))
    return _OK


def _still_involved(old: Placement | None) -> set[str]:
    """Nodes of before that may hold sessions. What lost ones held is over once the mapping that says so is settled."""
    if old is None:
        return set()
    return set(old.involved).difference(old.mapping.lost if old.is_settled else ())


def describe(mapping: MappingRecord) -> str:
    """One line for people: "epoch 2: n1=1 n2=1 n3=0 n4=1,draining; lost n5"."""
    nodes = " ".join(f"{n.node_id}={n.weight}{',draining' if n.draining else ''}" for n in mapping.nodes)
    return f"epoch {mapping.epoch}: {nodes}" + (f"; lost {' '.join(mapping.lost)}" if mapping.lost else "")


def confirm(step: Step, actor: NodeRecord, op: Op) -> Result:
    """A node has adopted the same mapping and holds nothing for this node any more."""
    _, _, _, peer, epoch, digest, store_id, others = op
    placement = step.placement
    if placement is None or (epoch, digest) != (placement.mapping.epoch, placement.mapping.digest()):
        return step.refuse(op, r.VERSION_MISMATCH)
    known = placement.store_of(peer)
    if peer in placement.mapping.lost or store_id in placement.gone or (known is not None and known != store_id):
        return step.refuse(op, r.NODE_FENCED)
    if peer not in placement.waits_for(actor.node_id):
        return _OK
    involved = {*placement.involved, *others}
    if len(involved) > INVOLVED_MAX:
        return step.refuse(op, r.LIMIT_EXCEEDED)
    stores = {**dict(placement.stores), peer: store_id}
    step.placement = placement._replace(
        confirmed=tuple(sorted((*placement.confirmed, peer))),
        stores=tuple(sorted(stores.items())),
        involved=tuple(sorted(involved)),
    )
    step.note(events.MAPPING_CONFIRMED, op[0], op[1], f"epoch {epoch}: {peer}")
    return _OK


def settle(step: Step, actor: NodeRecord, op: Op) -> Result:
    """All involved have confirmed: what maps here is here or nowhere."""
    placement = step.placement
    if placement is None or op[3] != placement.mapping.epoch:
        return step.refuse(op, r.VERSION_MISMATCH)
    if placement.is_settled:
        return _OK
    if placement.waits_for(actor.node_id) or step.now_ms < placement.opens_at_ms:
        return step.refuse(op, r.INVALID_TRANSITION)
    step.placement = placement._replace(trail=(placement.mapping,))
    step.note(events.MAPPING_SETTLED, op[0], op[1], f"epoch {placement.mapping.epoch}")
    return _OK


def close(step: Step, actor: NodeRecord, op: Op) -> Result:
    """All involved have settled the mapping: from now on only its own nodes can hold sessions."""
    placement = step.placement
    if placement is None or op[3] != placement.mapping.epoch:
        return step.refuse(op, r.VERSION_MISMATCH)
    if not placement.is_settled:
        return step.refuse(op, r.INVALID_TRANSITION)
    if not placement.is_closed:
        ids = placement.mapping.node_ids
        stores = tuple(known for known in placement.stores if known[0] in ids)  # what others held is here or nowhere
        step.placement = placement._replace(involved=ids, stores=stores)
        step.note(events.MAPPING_CLOSED, op[0], op[1], f"epoch {placement.mapping.epoch}")
    return _OK


# -- one session from machine to machine ------------------------------------------------------------------------------


def admit(step: Step, actor: NodeRecord, op: Op) -> Result:
    """Install a session that another node transferred to this one, exactly as its owner's log left it.

    Not a transition: version and epoch stay. Offered again, it changes nothing. It waits, FROZEN, to be resumed; a
    tombstone stays that of the owner under whom the session ended.
    """
    _, _, _, sid, at_epoch, giver, epoch, version, nonce, policy, created_at_ms, expires_at_ms, reason, owner = op[:14]
    record = step.sessions.get(sid)
    if step.placement is None or at_epoch != step.placement.mapping.epoch:
        return step.refuse(op, r.OWNERSHIP_CONFLICT, record, sid)
    if has(record, step.departed.get(sid), version, op[14] if reason is None else None):
        return (0, record)
    if record is not None and (record.state == r.TERMINATED or not is_away(step, record)):
        return step.refuse(op, r.INVALID_TRANSITION, record)  # a fork: it lives here under a version that is older
    is_new = record is None and sid not in step.departed  # one that comes back takes the place of its mark
    if is_new and len(step.sessions) + len(step.departed) >= int(step.params["sessions_max"]):
        return step.refuse(op, r.LIMIT_EXCEEDED, None, sid)
    state = FROZEN if reason is None else r.TERMINATED
    frozen = reason is None
    created_at_ms = min(created_at_ms, step.now_ms)  # clocks differ
    new = SessionRecord(
        sid, state, owner or actor.node_id, epoch, version, None, created_at_ms, expires_at_ms, None,
        step.soon_ms("freeze_timeout_ms") if frozen else None, actor.node_id if frozen else None,
        "MAPPING" if frozen else reason, actor.incarnation, nonce, frozen, policy, step.index,
    )  # fmt: skip
    step.departed.pop(sid, None)
    return step.commit(op, record, new, events.SESSION_ADMITTED, reason, giver)


def has(record: SessionRecord | None, mark: Mark | None, version: int, moved_at: int | None) -> bool:
    """Whether that version of a session is here, or went on from here; `mark` is that of its last departure.

    `moved_at` is the epoch under which it was transferred to this node; None of a tombstone. It was here if this node
    gave it away under a later mapping. A mark from before says nothing of it: the session may have been lost since and
    begun anew. A tombstone can come back as it went: it must be taken, or it is nowhere.
    """
    if record is not None and record.state_version >= version:
        return True
    return mark is not None and moved_at is not None and mark.version >= version and mark.epoch > moved_at


def forget(step: Step, actor: NodeRecord, op: Op) -> Result:
    """The other node has the session on its disk: only a mark of it stays here."""
    _, _, _, sid, version, taker, at_epoch = op
    record = step.sessions.get(sid)
    if step.placement is None or at_epoch != step.placement.mapping.epoch:
        return step.refuse(op, r.OWNERSHIP_CONFLICT, record, sid)
    if record is None:
        mark = step.departed.get(sid)
        known = mark is not None and mark.version >= version
        return _OK if known else step.refuse(op, r.SESSION_NOT_FOUND, None, sid)
    if record.state_version != version:
        return step.refuse(op, r.VERSION_MISMATCH, record)
    if taker == actor.node_id or (record.state != r.TERMINATED and record.owner != taker):
        return step.refuse(op, r.INVALID_TRANSITION, record)
    return step.remove(op, record, events.SESSION_HANDED_OVER, taker, at_epoch)


def reclaim(step: Step, actor: NodeRecord, op: Op) -> Result:
    """The node that was to have the session never got it and never will: it belongs to this node again."""
    _, _, _, sid, version, at_epoch = op
    record = step.sessions.get(sid)
    if step.placement is None or at_epoch != step.placement.mapping.epoch:
        return step.refuse(op, r.OWNERSHIP_CONFLICT, record, sid)
    if record is None:
        return step.refuse(op, r.SESSION_NOT_FOUND, None, sid)
    if record.state_version != version:
        return step.refuse(op, r.VERSION_MISMATCH, record)
    if record.state == r.TERMINATED or not is_away(step, record):
        return step.refuse(op, r.INVALID_TRANSITION, record)
    new = record._replace(
        owner=actor.node_id,
        epoch=record.epoch + 1,
        state_version=record.state_version + 1,
        freeze_by_ms=step.soon_ms("freeze_timeout_ms"),
        target=actor.node_id,
        owner_inc=actor.incarnation,
    )
    return step.commit(op, record, new, events.OWNER_CHANGED, "RECLAIMED", record.owner)
