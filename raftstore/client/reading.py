"""From answers to outcomes: JSON of a node's API becomes a Session, or the exception that the node itself would raise.

An answer is checked before it is believed: what does not read as one is RequestFailed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from raftstore.client.problems import RequestFailed
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, OpId, Reason, Session, SessionState


def session_from(data: Mapping[str, Any]) -> Session:
    """The inverse of `Session.as_dict`. KeyError, TypeError or ValueError when it is none."""
    binding = data["binding"]
    return Session(
        session_id=_text(data["session_id"]),
        state=SessionState[data["state"]],
        owner=_text(data["owner"]),
        epoch=_number(data["epoch"]),
        state_version=_number(data["state_version"]),
        binding=None if binding is None else Binding(**{k: _text(v) for k, v in binding.items()}),
        created_at_ms=_number(data["created_at_ms"]),
        expires_at_ms=_number(data["expires_at_ms"]),
        reattach_by_ms=data.get("reattach_by_ms"),
        freeze_by_ms=data.get("freeze_by_ms"),
        target=data.get("target"),
        reason=data.get("reason"),
        policy=_text(data.get("policy", "deny")),
    )


class Placed(NamedTuple):
    """A session, and the node to which the mapping sends it: a hint of placement, and no part of the session."""

    session: Session
    preferred_owner: str | None  # None when no node takes sessions

    def as_dict(self) -> dict[str, Any]:
        """As the API shows a session."""
        return self.session.as_dict() | {"preferred_owner": self.preferred_owner}


def placed_from(data: Mapping[str, Any]) -> Placed:
    """A session as the API shows it. KeyError, TypeError or ValueError when it is none."""
    return Placed(session_from(data), node_from(data.get("preferred_owner")))


def node_from(value: Any) -> str | None:
    """A node's id, or nothing. TypeError when it is neither."""
    return None if value is None else _text(value)


def op_id_from(text: str) -> OpId:
    """The inverse of `str(OpId)`. ValueError when it is none."""
    node_id, incarnation, seq = text.split(":")
    return OpId(node_id, int(incarnation, 16), int(seq))


def raise_outcome(endpoint: str, status: int, body: Any) -> NoReturn:
    """An answer other than 200, as what it means."""
    try:
        match body["outcome"]:
            case "rejected":
                raise _rejected(body)
            case "unavailable":
                raise Unavailable(Reason(body["reason"]), _text(body.get("detail", "")))
            case "unknown":
                raise OutcomeUnknown(op_id_from(body["op_id"]), Reason(body.get("reason", "DEADLINE_PASSED")))
            case "invalid":
                raise InvalidArgument(_text(body["field"]), _text(body["problem"]))
            case other:
                raise RequestFailed(endpoint, status, _text(body.get("problem", str(other))))
    except InvalidArgument:
        raise  # it is a ValueError too
    except (KeyError, TypeError, ValueError):
        raise RequestFailed(endpoint, status, "the answer is not that of a raftstore node") from None


def _rejected(body: Mapping[str, Any]) -> Rejected:
    shown = body["session"]
    placed = None if shown is None else placed_from(shown)
    return Rejected(
        Reason(body["reason"]),
        None if placed is None else placed.session,
        owner=node_from(body.get("owner")),
        detail=_text(body.get("detail", "")),
        preferred_owner=node_from(body.get("preferred_owner")) if placed is None else placed.preferred_owner,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value
