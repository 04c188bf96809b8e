"""What a caller can be told when the answer is not "committed". Each class answers: did it happen?

Rejected: no, the cluster decided against it. Unavailable: no, this node refused before proposing.
OutcomeUnknown: it may have; `Node.outcome(op_id)` will tell. (Design: what a caller can learn.)
"""

from __future__ import annotations

from typing import Any

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
    """Refused; nothing changed. `session` is the session as it stands, where there is one.

    `owner`: the node to ask instead, where the refuser knows it; `detail`: a sentence for people, or empty.
    `preferred_owner`: the node to which the mapping sends the session, a hint of placement that travels in answers to
    remote callers; on the node itself `Node.preferred_owner` tells.
    """

    def __init__(
        self,
        reason: Reason,
        session: Session | None = None,
        *,
        owner: str | None = None,
        detail: str = "",
        preferred_owner: str | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.session = session
        self.owner = owner
        self.detail = detail
        self.preferred_owner = preferred_owner

    def as_dict(self) -> dict[str, Any]:
        """The refusal as plain JSON types; `preferred_owner` among the session's fields, or at the top without one."""
        hint = {"preferred_owner": self.preferred_owner}
        body: dict[str, Any] = {"outcome": "rejected", "reason": str(self.reason), "session": None}
        if self.session is not None:
            body["session"] = self.session.as_dict() | hint
            hint = {}
        given = {"owner": self.owner, "detail": self.detail, **hint}
        return body | {name: value for name, value in given.items() if value}


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
