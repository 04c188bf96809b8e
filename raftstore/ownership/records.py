"""What the machine remembers of a session and of a node: immutable, compact, cheap to copy.

Records are tuples of integers and text. A session's binding is kept as one string (its three fields joined by a
line feed, which no field can hold): a million sessions have to fit in memory. `to_session` gives the value that the
API shows.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from raftstore.types import Binding, Reason, Session, SessionState

ATTACHED: Final = 1  # SessionState, as the plain integers that records hold
RECOVERING: Final = 2
FROZEN: Final = 3
TERMINATED: Final = 4
_STATES: Final = {int(state): state for state in SessionState}  # an enum's own look-up takes longer than all the rest
STATE_NAMES: Final[tuple[str | None, ...]] = (None, *(state.name for state in SessionState))

# Result codes: a Result's first item is an index into this table. Part of the snapshot format: append only.
REASONS: Final[tuple[Reason | None, ...]] = (
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
REASON_TEXTS: Final[tuple[str | None, ...]] = tuple(None if reason is None else reason.value for reason in REASONS)
OK: Final = 0
OWNERSHIP_CONFLICT: Final = 1
VERSION_MISMATCH: Final = 2
SESSION_NOT_FOUND: Final = 3
SESSION_EXISTS: Final = 4
SESSION_EXPIRED: Final = 5
SESSION_TERMINATED: Final = 6
SESSION_FROZEN: Final = 7
INVALID_TRANSITION: Final = 8
REPLAY_DETECTED: Final = 9
NODE_NOT_LIVE: Final = 10
NODE_FENCED: Final = 11
NODE_DRAINING: Final = 12
OWNER_STILL_LIVE: Final = 13
REQUEST_EXPIRED: Final = 14
LIMIT_EXCEEDED: Final = 15
MALFORMED: Final = 16


_new: Final = tuple.__new__  # a NamedTuple without the cost of its own constructor


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


# A record whose numbers go on as the objects they are: compiled, a record's own are taken apart and made anew.
Row = tuple[Any, ...]
EPOCH_AT: Final = 3  # in a row
VERSION_AT: Final = 4
CREATED_AT: Final = 6
EXPIRES_AT: Final = 7
NONCE_AT: Final = 13
OWNED_SINCE_AT: Final = 16


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
    return None if stored is None else _new(Binding, stored.split("\n"))


def to_session(record: SessionRecord) -> Session:
    """The public form of a session record."""
    row: Row = record
    (
        session_id, state, owner, epoch, state_version, binding, created_at_ms, expires_at_ms, reattach_by_ms,
        freeze_by_ms, target, reason, _, _, _, policy, _,
    ) = row  # fmt: skip
    return _new(
        Session,
        (
            session_id, _STATES[state], owner, epoch, state_version, to_binding(binding), created_at_ms, expires_at_ms,
            reattach_by_ms, freeze_by_ms, target, reason, policy,
        ),
    )  # fmt: skip


def is_lost(node: NodeRecord | None, now_ms: int) -> bool:
    """Whether no incarnation of the node can act as owner any more (design, node lease)."""
    return node is None or (node.lease_until_ms <= now_ms and node.fence_until_ms <= now_ms)
