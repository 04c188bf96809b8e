"""What a caller can be told when the answer is not "committed". Each class answers: did it happen?

Rejected: no, the cluster decided against it. Unavailable: no, this node refused before proposing.
OutcomeUnknown: it may have; `Node.outcome(op_id)` will tell. (Design: what a caller can learn.)
"""

from __future__ import annotations

from raftstore.types import OpId, Reason, Session


class RaftstoreError(Exception):
    """Base of every error that raftstore raises on purpose."""


class ConfigError(RaftstoreError):
    """The configuration cannot be used. The message is one line that names the file and the key."""


class StorageError(RaftstoreError):
    """The disk failed, or holds what cannot be trusted. The message names file, offset and remedy."""


class CorruptionError(StorageError):
    """Bytes on disk that were once durable are not what was written: the node refuses to start."""


class TransportError(RaftstoreError):
    """A listening address, certificate or handshake failed. The message says which and what to do."""


class InvalidArgument(RaftstoreError, ValueError):  # noqa: N818 - reads as the sentence the caller sees
    """A caller's argument is outside its documented bounds. `field` names it. Nothing was proposed."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Rejected(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """The machine refused; nothing changed. `session` is the session as it stands, where there is one."""

    def __init__(self, reason: Reason, session: Session | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.session = session


class Unavailable(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """This node refused before proposing: not applied, now or ever."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class OutcomeUnknown(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """Proposed, and no answer before the deadline. `Node.outcome(op_id)` tells once it is decided."""

    def __init__(self, op_id: OpId, reason: Reason = Reason.DEADLINE_PASSED) -> None:
        super().__init__(f"{reason}: {op_id}")
        self.op_id = op_id
        self.reason = reason
