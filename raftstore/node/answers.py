"""From what the machine or the node decided to what the caller sees: one session, or one exception."""

from __future__ import annotations

from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.node.proposals import Answer
from raftstore.ownership import to_session
from raftstore.types import OpId, Reason, Session

# Refused by this node before anything was proposed: certainly without effect, now and ever.
BEFORE_PROPOSAL = frozenset(
    {Reason.NO_QUORUM, Reason.LEASE_LOST, Reason.NODE_STOPPING, Reason.OVERLOADED, Reason.MAPPING_UNSETTLED}
)


def session_or_raise(answer: Answer, op_id: OpId) -> Session:
    """The session as of the transition; Rejected, Unavailable or OutcomeUnknown otherwise."""
    maybe = result_or_raise(answer, op_id)
    assert maybe is not None  # only ops of the node itself have no session
    return maybe


def result_or_raise(answer: Answer, op_id: OpId) -> Session | None:
    """The same for any op; None when it concerns no session."""
    if not answer.decided:
        raise OutcomeUnknown(op_id, answer.reason or Reason.DEADLINE_PASSED)
    session = None if answer.record is None else to_session(answer.record)
    if answer.reason is None:
        return session
    if answer.reason in BEFORE_PROPOSAL:
        raise Unavailable(answer.reason, answer.detail)
    raise Rejected(answer.reason, session, owner=answer.owner, detail=answer.detail)
