"""The ownership state machine: which op takes a session from where to where, and who may ask.

Theory of operation. A session has one owner, and every change of it is one transition, numbered by `state_version`.
An op names the version it expects, so of two ops that were made from the same view one succeeds and the other is
told what it did not know. `epoch` counts owners. The machine decides from the log alone (its time is the entry's), so
every replica decides alike, and a refusal changes nothing but the audit trail.

Every op meets these checks in this order; the first that fails is the answer. (1 to 7 are made in `machine`.)

     1  well-formed                                         MALFORMED
     2  node known; incarnation current                     NODE_NOT_LIVE; NODE_FENCED if a newer one has joined
     3  op not seen before                                  its first result again, without a new event
     4  seq not below the node's low_seq                    REQUEST_EXPIRED
     5  deadline not before the entry's time                REQUEST_EXPIRED
     6  node has not left                                   NODE_NOT_LIVE
     7  node's lease runs (join, renew_lease: not asked)    NODE_NOT_LIVE
     8  session exists (create: does not, and the mapping   SESSION_NOT_FOUND (SESSION_TERMINATED, SESSION_EXISTS,
        by which it is made still holds)                    OWNERSHIP_CONFLICT)
     9  session not terminated                              SESSION_TERMINATED
    10  TTL and reattach window run at the entry's time     SESSION_EXPIRED
    11  authority, and with it the expected version         see the three kinds below
    12  the op leaves the session's state                   SESSION_FROZEN or INVALID_TRANSITION, by the table
    13  the op's own conditions                             REPLAY_DETECTED, NODE_DRAINING, LIMIT_EXCEEDED ...

Authority:

    OWNER     not the owner: OWNERSHIP_CONFLICT. Wrong version: VERSION_MISMATCH. The session belongs to an older
              incarnation of the owner that may still act (its lease has not lapsed): OWNER_STILL_LIVE.
    OPERATOR  as OWNER, but an op marked as an operator's needs the right version only.
    SUCCESSOR the owner itself: INVALID_TRANSITION. Wrong version: OWNERSHIP_CONFLICT while the present owner lives
              (someone else was faster), else VERSION_MISMATCH. Owner lives: OWNER_STILL_LIVE.
    Nobody has authority over a session that went to a node of another machine: OWNERSHIP_CONFLICT (see `placement`).

Answers to the ownership model: section 3 (transfer in four steps), 4 (one CAS wins), 5 (no continuation on both
sides), 6 (versions), 8 (invariants). Node ops are in `nodes`, the sweep in `sweep`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from raftstore.ownership import commands, events
from raftstore.ownership import records as r
from raftstore.ownership.placement import epoch_of, is_away
from raftstore.ownership.records import ATTACHED, FROZEN, OK, RECOVERING, NodeRecord, Result, SessionRecord, is_lost
from raftstore.ownership.step import Op, Step, attached, recovering
from raftstore.ownership.sweep import terminated

_new: Final = tuple.__new__


# -- standing and authority: checks 9 to 11 -------------------------------------------------------------------------


def standing(record: SessionRecord, now_ms: int) -> int:
    """Whether the session is alive at this very time, whatever the sweep has got to (strict TTL)."""
    if record.state == r.TERMINATED:
        return r.SESSION_TERMINATED
    if now_ms >= record.expires_at_ms:
        return r.SESSION_EXPIRED
    if record.reattach_by_ms is not None and now_ms >= record.reattach_by_ms:
        return r.SESSION_EXPIRED
    return OK


def _owner(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> int:
    if record.owner != actor.node_id:
        return r.OWNERSHIP_CONFLICT
    if record.state_version != op[4]:
        return r.VERSION_MISMATCH
    return _succession(actor, record, step.now_ms)


def _succession(owner: NodeRecord, record: SessionRecord, now_ms: int) -> int:
    """A newer incarnation is no proof that the older process is dead: only its lapsed lease is."""
    if record.owner_inc != owner.incarnation and now_ms < owner.fence_until_ms:
        return r.OWNER_STILL_LIVE
    return OK


def _operator(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> int:
    if not op[6]:
        return _owner(step, actor, op, record)
    if is_away(step, record):
        return r.OWNERSHIP_CONFLICT
    return OK if record.state_version == op[4] else r.VERSION_MISMATCH


def _successor(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> int:
    if record.owner == actor.node_id:
        return r.INVALID_TRANSITION
    if is_away(step, record):
        return r.OWNERSHIP_CONFLICT
    lost = is_lost(step.nodes.get(record.owner), step.now_ms)
    if record.state_version != op[4]:
        return r.VERSION_MISMATCH if lost else r.OWNERSHIP_CONFLICT
    return OK if lost else r.OWNER_STILL_LIVE


# -- effects: check 13 and the transition ----------------------------------------------------------------------------


def _bind(
    step: Step,
    actor: NodeRecord,
    op: Op,
    record: SessionRecord,
    event: int,
    binding: list[str] | None,
    reason: str | None,
) -> Result:
    """The session comes to the actor: ATTACHED with a binding, else RECOVERING. A new owner makes a new epoch."""
    epoch = record.epoch if record.owner == actor.node_id else record.epoch + 1
    stored = r.join_binding(binding)
    if stored is None:
        by_ms = step.soon_ms("reattach_window_ms")
        new = recovering(record, actor.node_id, epoch, actor.incarnation, by_ms, reason)
    else:
        new = attached(record, actor.node_id, epoch, actor.incarnation, stored, record.nonce)
    return step.commit(op, record, new, event, reason, None if binding is None else binding[0])


def _reattach(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    nonce = op[6]
    if nonce is None:
        nonce = record.nonce
    elif nonce <= record.nonce:
        return step.refuse(op, r.REPLAY_DETECTED, record)
    binding = op[5]
    new = attached(record, record.owner, record.epoch, actor.incarnation, "\n".join(binding), nonce)
    return step.commit(op, record, new, events.REATTACHED, None, binding[0])


def _detach(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    by_ms = step.soon_ms("reattach_window_ms")
    new = recovering(record, record.owner, record.epoch, actor.incarnation, by_ms, op[5])
    return step.commit(op, record, new, events.DETACHED, op[5], None)


def _renew(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    """Leaves `owner_inc` alone: a binding of an older process stays that process's, for the sweep to find."""
    if op[5] > step.params["ttl_max_ms"]:
        return step.refuse(op, r.LIMIT_EXCEEDED, record)
    new = record._replace(state_version=record.state_version + 1, expires_at_ms=step.now_ms + op[5])
    return step.commit(op, record, new, events.RENEWED, None, None)


def _freeze(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    reason, target = op[5], op[6]
    if target == actor.node_id:
        return step.refuse(op, r.INVALID_TRANSITION, record)
    code = _can_take(step, target)
    if code:
        return step.refuse(op, code, record)
    new = record._replace(
        state=FROZEN,
        state_version=record.state_version + 1,
        binding=None,
        reattach_by_ms=None,
        freeze_by_ms=step.soon_ms("freeze_timeout_ms"),
        target=target,
        reason=reason,
        owner_inc=actor.incarnation,
    )
    return step.commit(op, record, new, events.FROZE, reason, target)


def _can_take(step: Step, target_id: str) -> int:
    """Whether a node can be given a session. One of another machine is known by the mapping alone."""
    placement = step.placement
    if placement is not None:
        return OK if target_id in placement.mapping.node_ids else r.NODE_NOT_LIVE
    target = step.nodes.get(target_id)
    if target is None or target.left or target.lease_until_ms <= step.now_ms:
        return r.NODE_NOT_LIVE
    return r.NODE_DRAINING if target.draining else OK


def _transfer(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    """The new owner gets a full freeze timeout of its own to resume in."""
    target_id = record.target or ""
    code = r.INVALID_TRANSITION if record.transferred else _can_take(step, target_id)
    if code:
        return step.refuse(op, code, record)
    target = step.nodes.get(target_id)
    new = record._replace(
        owner=target_id,
        epoch=record.epoch + 1,
        state_version=record.state_version + 1,
        freeze_by_ms=step.soon_ms("freeze_timeout_ms"),
        owner_inc=epoch_of(step.placement) if target is None else target.incarnation,
        transferred=True,
    )
    return step.commit(op, record, new, events.OWNER_CHANGED, "TRANSFER", record.owner)


def _resume(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    if not record.transferred:
        return step.refuse(op, r.INVALID_TRANSITION, record)
    return _bind(step, actor, op, record, events.RESUMED, op[5], None)


def _thaw(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    if record.transferred:
        return step.refuse(op, r.INVALID_TRANSITION, record)
    by_ms = step.soon_ms("reattach_window_ms")
    new = recovering(record, record.owner, record.epoch, actor.incarnation, by_ms, None)
    return step.commit(op, record, new, events.THAWED, None, None)


def _failover(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    if actor.draining:
        return step.refuse(op, r.NODE_DRAINING, record)
    return _bind(step, actor, op, record, events.OWNER_CHANGED, op[5], "FAILOVER")


def _terminate(step: Step, actor: NodeRecord, op: Op, record: SessionRecord) -> Result:
    detail = "OPERATOR" if op[6] else None
    return step.commit(op, record, terminated(record, op[5]), events.TERMINATED_EVENT, op[5], detail)


# -- the table ---------------------------------------------------------------------------------------------------------

Authority = Callable[[Step, NodeRecord, Op, SessionRecord], int]
Effect = Callable[[Step, NodeRecord, Op, SessionRecord], Result]


class Row(NamedTuple):
    """One op on an existing session. `admits` is check 12: by state, OK or the code of the refusal."""

    authority: Authority
    from_states: tuple[int, ...]
    to_states: tuple[int, ...]
    effect: Effect
    admits: tuple[int, ...]


_SAME = ()  # the state stays
_LIVE = (ATTACHED, RECOVERING)
_ANY = (ATTACHED, RECOVERING, FROZEN)  # but TERMINATED


def _row(
    authority: Authority,
    from_states: tuple[int, ...],
    to_states: tuple[int, ...],
    effect: Effect,
    when_frozen: int = r.INVALID_TRANSITION,
) -> Row:
    refusals = (r.INVALID_TRANSITION, r.INVALID_TRANSITION, r.INVALID_TRANSITION, when_frozen, r.SESSION_TERMINATED)
    admits = tuple(OK if state in from_states else code for state, code in enumerate(refusals))
    return Row(authority, from_states, to_states, effect, admits)


TABLE: Final[dict[int, Row]] = {
    #                          authority   from         to             effect
    commands.REATTACH: _row(_owner, _LIVE, (ATTACHED,), _reattach, r.SESSION_FROZEN),
    commands.DETACH: _row(_owner, (ATTACHED,), (RECOVERING,), _detach, r.SESSION_FROZEN),
    commands.RENEW: _row(_owner, _LIVE, _SAME, _renew, r.SESSION_FROZEN),
    commands.FREEZE: _row(_owner, _LIVE, (FROZEN,), _freeze),
    commands.TRANSFER: _row(_owner, (FROZEN,), (FROZEN,), _transfer),  # not transferred yet; epoch + 1
    commands.RESUME: _row(_owner, (FROZEN,), _LIVE, _resume),  # transferred
    commands.THAW: _row(_owner, (FROZEN,), (RECOVERING,), _thaw),  # not transferred
    commands.FAILOVER: _row(_successor, _ANY, _LIVE, _failover),  # epoch + 1
    commands.TERMINATE: _row(_operator, _ANY, (r.TERMINATED,), _terminate),
}


def change(step: Step, actor: NodeRecord, op: Op) -> Result:
    """Apply an op on an existing session: checks 8 to 13, then the effect."""
    sid = op[3]
    record = step.sessions.get(sid)
    if record is None:
        return step.refuse(op, r.SESSION_NOT_FOUND, None, sid)
    row = TABLE[op[0]]
    code = standing(record, step.now_ms) or row.authority(step, actor, op, record) or row.admits[record.state]
    if code:
        return step.refuse(op, code, record)
    return row.effect(step, actor, op, record)


def create(step: Step, actor: NodeRecord, op: Op) -> Result:
    """Apply a create: from nothing to ATTACHED or RECOVERING, owned by the actor, version and epoch 1.

    Where a mapping places sessions, the op names the epoch by which it was judged to belong here.
    """
    _, _, _, sid, binding, ttl_ms, policy = op[:7]
    record = step.sessions.get(sid)
    if record is not None:
        return step.refuse(op, standing(record, step.now_ms) or r.SESSION_EXISTS, record)
    at_epoch = op[7] if op[0] == commands.CREATE_MAPPED else 0
    if at_epoch != epoch_of(step.placement) or sid in step.departed:
        return step.refuse(op, r.OWNERSHIP_CONFLICT, None, sid)
    if actor.draining:
        return step.refuse(op, r.NODE_DRAINING, None, sid)
    params = step.params
    if ttl_ms > params["ttl_max_ms"] or len(step.sessions) + len(step.departed) >= params["sessions_max"]:  # type: ignore[operator]
        return step.refuse(op, r.LIMIT_EXCEEDED, None, sid)
    now_ms = step.now_ms
    stored = r.join_binding(binding)
    state = ATTACHED if stored is not None else RECOVERING
    by_ms = None if stored is not None else step.soon_ms("reattach_window_ms")
    policy = str(params["partition_policy"]) if policy is None else commands.POLICIES[policy == "terminate"]
    new = _new(
        SessionRecord,
        (
            sid, state, actor.node_id, 1, 1, stored, now_ms, now_ms + ttl_ms, by_ms, None, None, None,
            actor.incarnation, 0, False, policy, step.index,
        ),
    )  # fmt: skip
    return step.commit(op, None, new, events.SESSION_CREATED, None, None if binding is None else binding[0])


def refusal_of_reattach(record: SessionRecord | None, actor: NodeRecord | None, incarnation: int, now_ms: int) -> int:
    """The code with which a reattach of this node, at the current version, would be refused now; OK if it would not."""
    if actor is not None and incarnation in actor.former:
        return r.NODE_FENCED
    if actor is None or actor.incarnation != incarnation or actor.left or actor.lease_until_ms <= now_ms:
        return r.NODE_NOT_LIVE
    if record is None:
        return r.SESSION_NOT_FOUND
    code = standing(record, now_ms)
    if code:
        return code
    if record.owner != actor.node_id:
        return r.OWNERSHIP_CONFLICT
    return _succession(actor, record, now_ms) or TABLE[commands.REATTACH].admits[record.state]
