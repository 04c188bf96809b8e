"""The nouns of raftstore: values that every room shares.

Knows nothing of I/O, time or Raft. Answers to sections 1, 6 and 8 of the ownership model: a session has one
owner, a version that only grows, and at most one bound transport.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, NamedTuple


class SessionState(IntEnum):
    """Where a session stands. The numbers are part of the log and snapshot formats: never reuse one."""

    ATTACHED = 1  # one binding
    RECOVERING = 2  # no binding; may reattach until reattach_by_ms
    FROZEN = 3  # a transfer is under way; nothing may bind
    TERMINATED = 4  # final; kept so that the identity cannot be created again


class Reason(StrEnum):
    """Why something was refused. Stable, part of the API."""

    # refused by the machine, in the log, alike on every replica
    OWNERSHIP_CONFLICT = "OWNERSHIP_CONFLICT"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_EXISTS = "SESSION_EXISTS"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_TERMINATED = "SESSION_TERMINATED"
    SESSION_FROZEN = "SESSION_FROZEN"
    INVALID_TRANSITION = "INVALID_TRANSITION"
    REPLAY_DETECTED = "REPLAY_DETECTED"
    NODE_NOT_LIVE = "NODE_NOT_LIVE"
    NODE_FENCED = "NODE_FENCED"
    NODE_DRAINING = "NODE_DRAINING"
    OWNER_STILL_LIVE = "OWNER_STILL_LIVE"
    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    MALFORMED = "MALFORMED"
    # refused before any proposal: certainly never applied
    NO_QUORUM = "NO_QUORUM"
    LEASE_LOST = "LEASE_LOST"
    NODE_STOPPING = "NODE_STOPPING"
    OVERLOADED = "OVERLOADED"
    MAPPING_UNSETTLED = "MAPPING_UNSETTLED"
    # what a caller is told when the answer did not come in time
    DEADLINE_PASSED = "DEADLINE_PASSED"


class Binding(NamedTuple):
    """The session's active transport. Each field is 1 to 128 bytes of printable ASCII."""

    transport_id: str
    proto: str
    remote: str


class Session(NamedTuple):
    """A session as of one committed transition. Times are milliseconds of cluster time (not wall time)."""

    session_id: str
    state: SessionState
    owner: str
    epoch: int
    state_version: int
    binding: Binding | None
    created_at_ms: int
    expires_at_ms: int
    reattach_by_ms: int | None = None
    freeze_by_ms: int | None = None
    target: str | None = None
    reason: str | None = None
    policy: str = "deny"  # what becomes of it when its owner is lost (ownership model, section 5)

    def as_dict(self) -> dict[str, Any]:
        """The session as plain JSON types, with the state by name."""
        return {
            "session_id": self.session_id,
            "state": self.state.name,
            "owner": self.owner,
            "epoch": self.epoch,
            "state_version": self.state_version,
            "binding": None if self.binding is None else self.binding._asdict(),
            "created_at_ms": self.created_at_ms,
            "expires_at_ms": self.expires_at_ms,
            "reattach_by_ms": self.reattach_by_ms,
            "freeze_by_ms": self.freeze_by_ms,
            "target": self.target,
            "reason": self.reason,
            "policy": self.policy,
        }


class OpId(NamedTuple):
    """Names one request for ever: unique per node incarnation."""

    node_id: str
    incarnation: int
    seq: int

    def __str__(self) -> str:
        return f"{self.node_id}:{self.incarnation:016x}:{self.seq}"
