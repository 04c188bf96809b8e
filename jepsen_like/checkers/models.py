"""What a single copy would do: a session as a versioned register, and a plain register to test the search itself.

A model turns an op of the history into steps. A step is a function from a state to the next one, or None where that
could not have happened. A step with an end must take effect before it; one without an end may, or may never. The
session's model is written from the ownership model (sections 1, 3, 4 and 6), not from the code under test:

    op          from                      to                        who
    create      nothing                   ATTACHED or RECOVERING    becomes owner; version 1, epoch 1
    reattach    ATTACHED, RECOVERING      ATTACHED                  owner
    detach      ATTACHED                  RECOVERING                owner
    renew       ATTACHED, RECOVERING      the same                  owner
    freeze      ATTACHED, RECOVERING      FROZEN                    owner   } a migration is these two,
    transfer    FROZEN                    FROZEN, new owner         owner   } and others see what is between
    thaw        FROZEN                    RECOVERING                owner
    resume      FROZEN, transferred       ATTACHED or RECOVERING    the new owner
    failover    any but TERMINATED        ATTACHED or RECOVERING    any other node
    terminate   any but TERMINATED        TERMINATED                owner, or an operator

Each needs the version that it names, and adds one. What nobody asked for and yet may happen at any time (windows that
close, late commits undone) is `internal`: sound, because a state that it explains wrongly shows in its version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from jepsen_like.history import Op, binding_of

Apply = Callable[[Any], Any]  # a state to the next one, or None: it cannot have happened here

ATTACHED, RECOVERING, FROZEN, TERMINATED = "ATTACHED", "RECOVERING", "FROZEN", "TERMINATED"
LIVE = (ATTACHED, RECOVERING)
UNBOUNDED = 1 << 62  # a version that no session reaches

# Refused by the log itself, at one moment between invoke and answer: the session shown is what stood there then.
DECIDED_IN_LOG = frozenset(
    (
        *("OWNERSHIP_CONFLICT", "VERSION_MISMATCH", "SESSION_EXISTS", "SESSION_EXPIRED", "SESSION_TERMINATED"),
        *("SESSION_FROZEN", "INVALID_TRANSITION", "REPLAY_DETECTED", "OWNER_STILL_LIVE", "NODE_DRAINING"),
        "LIMIT_EXCEEDED",
    )
)
NOT_FOUND = "SESSION_NOT_FOUND"


class Step(NamedTuple):
    """Something that takes effect at one moment after position `call` and before `ret`; no `ret`: or never."""

    call: int
    ret: int | None
    apply: Apply
    op: Op
    is_read: bool = False  # leaves the state alone
    before: int = UNBOUNDED  # the highest version at which it can take effect


class Model(Protocol):
    """A sequential specification. States are hashable."""

    initial: Any

    def steps(self, op: Op) -> list[Step]:
        """What the op did or may have done; empty when it says nothing."""

    def internal(self, state: Any) -> list[Any]:
        """States that may follow with nobody asking."""

    def version(self, state: Any) -> int:
        """Never less than before; 0 where there is no such thing."""


# -- the ownership session ---------------------------------------------------------------------------------------------


class State(NamedTuple):
    """A session as the model knows it. The first five are what callers see."""

    version: int
    epoch: int
    owner: str | None
    state: str | None
    binding: str | None
    target: str | None = None  # while FROZEN
    transferred: bool = False


ABSENT = State(0, 0, None, None, None)


class Request(NamedTuple):
    """What an op asked for."""

    node: str | None
    binding: str | None
    to: str | None
    operator: bool


def bound(state: State, owner: str | None, binding: str | None) -> State:
    """The session at `owner`: ATTACHED with a binding, else RECOVERING; a new owner makes a new epoch."""
    epoch = state.epoch + (owner != state.owner)
    return State(state.version + 1, epoch, owner, RECOVERING if binding is None else ATTACHED, binding)


def moved(state: State, owner: str | None) -> State:
    return State(state.version + 1, state.epoch + 1, owner, FROZEN, None, owner, True)


def ended(state: State) -> State:
    return State(state.version + 1, state.epoch, state.owner, TERMINATED, None)


def _create(state: State, asked: Request) -> State | None:
    return bound(state, asked.node, asked.binding) if state == ABSENT else None


def _reattach(state: State, asked: Request) -> State | None:
    return bound(state, asked.node, asked.binding) if state.owner == asked.node and state.state in LIVE else None


def _detach(state: State, asked: Request) -> State | None:
    return bound(state, asked.node, None) if state.owner == asked.node and state.state == ATTACHED else None


def _renew(state: State, asked: Request) -> State | None:
    if state.owner != asked.node or state.state not in LIVE:
        return None
    return state._replace(version=state.version + 1)


def _freeze(state: State, asked: Request) -> State | None:
    if state.owner != asked.node or state.state not in LIVE or asked.to == asked.node:
        return None
    return State(state.version + 1, state.epoch, state.owner, FROZEN, None, asked.to)


def _transfer(state: State, asked: Request) -> State | None:
    if state.owner != asked.node or state.state != FROZEN or state.transferred:
        return None
    return moved(state, state.target) if asked.to in (None, state.target) else None


def _thaw(state: State, asked: Request) -> State | None:
    may = state.owner == asked.node and state.state == FROZEN and not state.transferred
    return bound(state, state.owner, None) if may else None


def _resume(state: State, asked: Request) -> State | None:
    may = state.owner == asked.node and state.state == FROZEN and state.transferred
    return bound(state, asked.node, asked.binding) if may else None


def _failover(state: State, asked: Request) -> State | None:
    may = state != ABSENT and state.owner != asked.node and state.state != TERMINATED
    return bound(state, asked.node, asked.binding) if may else None


def _terminate(state: State, asked: Request) -> State | None:
    may = state != ABSENT and state.state != TERMINATED and (asked.operator or state.owner == asked.node)
    return ended(state) if may else None


EFFECTS: dict[str, Callable[[State, Request], State | None]] = {
    "create": _create,
    "reattach": _reattach,
    "detach": _detach,
    "renew": _renew,
    "freeze": _freeze,
    "transfer": _transfer,
    "thaw": _thaw,
    "resume": _resume,
    "failover": _failover,
    "terminate": _terminate,
}

Seen = tuple[int, int, str | None, str | None, str | None]


def seen_of(session: Mapping[str, Any]) -> Seen:
    """A session in an answer, as far as callers see it."""
    owner, state = session.get("owner"), session.get("state")
    return (session["state_version"], session["epoch"], owner, state, binding_of(session.get("binding")))


class Session:
    """One session. `transfers`: nodes also hand sessions over by themselves (drain, change of the mapping)."""

    initial = ABSENT

    def __init__(self, nodes: tuple[str, ...] = (), *, transfers: bool = False, refusals_read: bool = True) -> None:
        self._nodes = nodes if transfers else ()
        self._refusals_read = refusals_read  # a refusal shows the one true session, not a replica's idea of it

    def version(self, state: State) -> int:
        return state.version

    def steps(self, op: Op) -> list[Step]:
        if op.f == "get-local":
            return []
        if op.f == "get" or op.type == "fail":
            return self._reading(op) + ([self._begun(op)] if op.f == "migrate" else [])
        if op.f == "migrate":
            expected = op.args.get("expected_version")
            half = None if expected is None else expected + 1
            return [_step(op, "freeze", expected, None), _step(op, "transfer", half, op.session)]
        if op.f not in EFFECTS:
            raise ValueError(f"no model of {op}")
        expected = 0 if op.f == "create" else op.args.get("expected_version")
        return [_step(op, op.f, expected, op.session)]

    def _begun(self, op: Op) -> Step:
        """A migration that was refused may have frozen the session before; it is thawed then."""
        return _step(op, "freeze", op.args.get("expected_version"), None)._replace(ret=None)

    def _reading(self, op: Op) -> list[Step]:
        if op.type == "info":
            return []
        if op.session is not None and (op.type == "ok" or (self._refusals_read and op.reason in DECIDED_IN_LOG)):
            return [_read(op, seen_of(op.session))]
        absent = op.type == "ok" or (self._refusals_read and op.reason == NOT_FOUND)
        return [_read(op, ABSENT[:5])] if absent else []

    def internal(self, state: State) -> list[State]:
        if state.state is None or state.state == TERMINATED:
            return []
        follow = [ended(state)]
        if state.state != RECOVERING:
            follow.append(bound(state, state.owner, None))
        follow += self._handed_over(state)
        return follow

    def _handed_over(self, state: State) -> Iterator[State]:
        if not self._nodes:
            return
        if state.state == FROZEN:
            yield from (moved(state, node) for node in self._nodes if node != state.owner)
        else:
            yield State(state.version + 1, state.epoch, state.owner, FROZEN, None)


def _step(op: Op, f: str, expected: int | None, session: Mapping[str, Any] | None) -> Step:
    """A transition; `session` is what its caller was told of the result, if anything."""
    effect = EFFECTS[f]
    args = op.args
    asked = Request(op.node, binding_of(args.get("binding")), args.get("to"), bool(args.get("operator")))
    seen = None if session is None or op.type != "ok" else seen_of(session)
    if expected is None and seen is not None:
        expected = seen[0] - 1

    def apply(state: State) -> State | None:
        if expected is not None and state.version != expected:
            return None
        new = effect(state, asked)
        return None if new is None or (seen is not None and new[:5] != seen) else new

    return Step(op.call, op.ret, apply, op, before=UNBOUNDED if expected is None else expected)


def _read(op: Op, seen: Seen) -> Step:
    return Step(op.call, op.ret, lambda state: state if state[:5] == seen else None, op, True, seen[0])


# -- a register --------------------------------------------------------------------------------------------------------


class Register:
    """Read, write and compare-and-set of one value: {"value": v}, {"expected": v, "new": v}; an `ok` read's value."""

    def __init__(self, initial: Any = None) -> None:
        self.initial = (initial,)

    def version(self, _state: Any) -> int:
        return 0

    def internal(self, _state: Any) -> list[Any]:
        return []

    def steps(self, op: Op) -> list[Step]:
        if op.type == "fail" or (op.f == "read" and op.type == "info"):
            return []
        args = op.args
        if op.f == "read":
            assert op.completion is not None  # it is ok
            seen = (op.completion["value"],)
            return [Step(op.call, op.ret, lambda state: state if state == seen else None, op, True)]
        if op.f == "write":
            written = (args["value"],)
            return [Step(op.call, op.ret, lambda _state: written, op)]
        if op.f == "cas":
            expected, new = (args["expected"],), (args["new"],)
            return [Step(op.call, op.ret, lambda state: new if state == expected else None, op)]
        raise ValueError(f"no model of {op}")
