"""How a command ends: exit status and one line on stderr for everything that can become of a request.

0 ok, 1 error, 2 usage or configuration, 3 no quorum (or no settled mapping), 4 rejected, 5 outcome unknown. With
`-o json` the outcome is also an object on stdout, so that a script need not read prose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from raftstore.client import NoAnswer, Unreachable
from raftstore.errors import (
    ConfigError,
    InvalidArgument,
    OutcomeUnknown,
    RaftstoreError,
    Rejected,
    Unavailable,
)
from raftstore.types import Reason

OK, ERROR, USAGE, NO_QUORUM, REJECTED, UNKNOWN = range(6)

_UNPROVEN = (Reason.NO_QUORUM, Reason.LEASE_LOST, Reason.MAPPING_UNSETTLED)  # ownership cannot be proved here now

_HINTS = {
    Reason.OWNERSHIP_CONFLICT: "only the owner may do this: ask it with --node, or migrate the session first",
    Reason.VERSION_MISMATCH: "somebody was quicker: look again with `raftstore session get`",
    Reason.SESSION_NOT_FOUND: "see `raftstore session list`",
    Reason.SESSION_EXISTS: "see `raftstore session get`",
    Reason.SESSION_TERMINATED: "a terminated id is never used again: choose another",
    Reason.SESSION_FROZEN: "a transfer is under way: its target resumes it, or it thaws by itself",
    Reason.OWNER_STILL_LIVE: "the owner's lease may still run: try again after lease_ttl_ms, or migrate",
    Reason.NODE_DRAINING: "this node takes no sessions: use another with --node",
    Reason.NODE_NOT_LIVE: "see `raftstore status`",
    Reason.REPLAY_DETECTED: "the nonce must be larger than the last one",
    Reason.NO_QUORUM: "see `raftstore status`; nothing was changed",
    Reason.LEASE_LOST: "see `raftstore status`; nothing was changed",
    Reason.OVERLOADED: "try again in a moment; nothing was changed",
    Reason.NODE_STOPPING: "use another node with --node; nothing was changed",
    Reason.MAPPING_UNSETTLED: "see `raftstore mapping show`; nothing was changed",
}


class Failure(click.ClickException):
    """One line on stderr, an exit status, and for `-o json` an object on stdout."""

    def __init__(self, message: str, exit_code: int = ERROR, body: dict[str, Any] | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]  # declared per class, read per instance
        self.body = body

    def show(self, file: IO[Any] | None = None) -> None:
        if self.body is not None:
            click.echo(json.dumps(self.body))
        click.echo(f"raftstore: {self.message}", err=True, file=file)


@contextmanager
def outcomes_as_exits(output: str = "table") -> Iterator[None]:
    """Every error that raftstore raises on purpose becomes a Failure; what remains is a bug and shows its traceback."""
    try:
        yield
    except RaftstoreError as problem:
        failure = failure_of(problem)
        if output != "json":
            failure.body = None
        raise failure from None
    except OSError as problem:
        name = f"{problem.filename}: " if problem.filename else ""
        raise Failure(f"{name}{problem.strerror or problem}") from None


def failure_of(problem: RaftstoreError) -> Failure:
    """What to say, and which status, for each outcome."""
    match problem:
        case ConfigError():
            return Failure(str(problem), USAGE, {"outcome": "invalid", "problem": str(problem)})
        case InvalidArgument():
            body = {"outcome": "invalid", "field": problem.field, "problem": problem.problem}
            return Failure(str(problem), USAGE, body)
        case Rejected():
            return _rejected(problem)
        case Unavailable():
            code = NO_QUORUM if problem.reason in _UNPROVEN else ERROR
            body = {"outcome": "unavailable", "reason": str(problem.reason), "detail": problem.detail}
            return Failure(f"unavailable: {problem}{_hint(problem.reason)}", code, body)
        case OutcomeUnknown():
            hint = f"it may have happened: ask later with `raftstore outcome {problem.op_id}` or `session get`"
            body = {"outcome": "unknown", "op_id": str(problem.op_id), "reason": str(problem.reason)}
            return Failure(f"outcome unknown: {problem.reason} ({hint})", UNKNOWN, body)
        case NoAnswer() if problem.may_have_happened:
            hint = "it may have happened: look with `raftstore session get`"
            return Failure(f"outcome unknown: {problem} ({hint})", UNKNOWN, {"outcome": "unknown", "op_id": None})
        case Unreachable():
            body = {"outcome": "unreachable", "endpoint": problem.endpoint, "detail": problem.detail}
            hint = "is the node running? start it with `raftstore run --node ID`"
            return Failure(f"{problem} ({hint})", ERROR, body)
        case _:
            return Failure(str(problem), ERROR, {"outcome": "error", "problem": str(problem)})


def _rejected(problem: Rejected) -> Failure:
    session = problem.session
    now = ""
    if session is not None:
        now = f": {session.session_id} is {session.state.name} at {session.owner}"
        now += f", epoch {session.epoch}, version {session.state_version}"
    hint = _hint(problem.reason) if problem.owner is None else f" (ask it with --node {problem.owner})"
    return Failure(f"rejected: {problem}{now}{hint}", REJECTED, problem.as_dict())


def _hint(reason: Reason) -> str:
    hint = _HINTS.get(reason)
    return f" ({hint})" if hint else ""
