"""What the machine remembers of a session and of a node: immutable, compact, cheap to copy.

Records are tuples of integers and text. A session's binding is kept as one string (its three fields joined by a
line feed, which no field can hold): a million sessions have to fit in memory. `to_session` gives the value that the
API shows.
"""

from __future__ import annotations

from typing import NamedTuple

from raftstore.types import Binding, Reason, Session, SessionState

ATTACHED, RECOVERING, FROZEN, TERMINATED = 1, 2, 3, 4  # SessionState, as the plain integers that records hold
STATE_NAMES: tuple[str | None, ...] = (None, *(state.name for state in SessionState))

# Result codes: a Result's first item is an index into this table. Part of the snapshot format: append only.
REASONS: tuple[Reason | None, ...] = (
    None,
    Reason.OWNERSHIP_CONFLICT,
    Reason.VERSION_MISMATCH,
    Reason.SESSION_NOT_FOUND,
    Reason.SESSION_EXISTS,
    Reason.SESSION_EXPIRED,
    Reason.SESSION_TERMINATED,
    Reason.SESSION_FROZEN,
    Reason.INVALID_TRANSITION,
    Reason.REPLAY_DETECTED,
    Reason.NODE_NOT_LIVE,
    Reason.NODE_FENCED,
    Reason.NODE_DRAINING,
    Reason.OWNER_STILL_LIVE,
    Reason.REQUEST_EXPIRED,
    Reason.LIMIT_EXCEEDED,
    Reason.MALFORMED,
)
REASON_TEXTS: tuple[str | None, ...] = tuple(None if reason is None else reason.value for reason in REASONS)
OK = 0
(
    OWNERSHIP_CONFLICT,
    VERSION_MISMATCH,
    SESSION_NOT_FOUND,
    SESSION_EXISTS,
    SESSION_EXPIRED,
    SESSION_TERMINATED,
    SESSION_FROZEN,
    INVALID_TRANSITION,
    REPLAY_DETECTED,
    NODE_NOT_LIVE,
    NODE_FENCED,
    NODE_DRAINING,
    OWNER_STILL_LIVE,
    REQUEST_EXPIRED,
    LIMIT_EXCEEDED,
    MALFORMED,
) = range(1, len(REASONS))


class SessionRecord(NamedTuple):
    """A session as of one transition. Times are milliseconds of cluster time."""

    session_id: str
    state: int
    owner: str
    epoch: int
    state_version: int
    binding: str | None  # "transport_id\nproto\nremote"
    created_at_ms: int
    expires_at_ms: int
    reattach_by_ms: int | None  # while RECOVERING
    freeze_by_ms: int | None  # while FROZEN
    target: str | None  # while FROZEN
    reason: str | None  # why it is detached, frozen or terminated
    owner_inc: int  # incarnation of the owner when it acquired the session or last took part in its bindings; where the
    # owner is a node of another machine, the epoch of the mapping under which the session went to it
    nonce: int  # highest seen
    transferred: bool  # while FROZEN: the owner is the target already
    policy: str  # "deny" or "terminate": what becomes of it when its owner is lost
    owned_since: int  # index of the log entry that gave it its owner


class Mark(NamedTuple):
    """What stays of a session that went to another machine."""

    version: int  # as it went
    epoch: int  # of the mapping under which it was forgotten here


class NodeRecord(NamedTuple):
    """A node as the machine knows it: one current incarnation, and how long older ones may still act."""

    node_id: str
    incarnation: int
    lease_until_ms: int  # of the current incarnation; lapsed once the cluster clock reaches it
    fence_until_ms: int  # until then some older incarnation may still act as owner
    draining: bool
    left: bool
    former: tuple[int, ...]  # recent older incarnations, newest last, bounded


Result = tuple[int, SessionRecord | None]  # (index into REASONS, session as of this transition or refusal)


def join_binding(fields: list[str] | tuple[str, ...] | None) -> str | None:
    """The stored form of a binding that is known to be valid."""
    return None if fields is None else "\n".join(fields)


def to_binding(stored: str | None) -> Binding | None:
    """The public form of a stored binding."""
    return None if stored is None else Binding(*stored.split("\n"))


def to_session(record: SessionRecord) -> Session:
    """The public form of a session record."""
    return Session(
        record.session_id,
        SessionState(record.state),
        record.owner,
        record.epoch,
        record.state_version,
        to_binding(record.binding),
        record.created_at_ms,
        record.expires_at_ms,
        record.reattach_by_ms,
        record.freeze_by_ms,
        record.target,
        record.reason,
        record.policy,
    )


def is_lost(node: NodeRecord | None, now_ms: int) -> bool:
    """Whether no incarnation of the node can act as owner any more (design, node lease)."""
    return node is None or (node.lease_until_ms <= now_ms and node.fence_until_ms <= now_ms)
