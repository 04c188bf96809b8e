"""Is there one order of all ops, session by session, that explains every answer and keeps to real time?

The search of Wing and Gong with Lowe's memory of where it has been: take any op that was invoked before the first
answer still unexplained, let it take effect, go on; turn back where nothing fits. Where it has been is the set of ops
that took effect, as bits, and the state. Sessions are independent, so each is searched alone.

An op of unknown outcome has no end: it may take effect at any later time, or never. A read that fits may be taken at
once, whatever else could be: it changes nothing, so nothing is lost. What the model does by itself is tried only while
the first unexplained answer shows a later version. Out of budget, the verdict is "unknown".
(Ownership model, sections 4 and 6.)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jepsen_like.checkers.models import Model, Session, Step
from jepsen_like.history import Errors, Event, Finals, Op, Verdict, by_key, pair

NAME = "linearizable"
STEPS_MAX = 2_000_000  # of one session's search, see `_cost`
SECONDS_MAX = 120.0  # of all sessions together
LAST_SHOWN = 4  # ops before the place where a search got stuck
DRAINS = ("drain", "member", "mapping")  # faults in whose course nodes hand sessions over by themselves


class OutOfBudgetError(Exception):
    """The search was given up: nothing is known."""


class Budget:
    """How long one search may go on."""

    def __init__(self, steps_max: int, until: float) -> None:
        self.left = steps_max
        self._until = until
        self._look = 0

    def spend(self, cost: int) -> None:
        self.left -= cost
        self._look += 1
        if self.left < 0 or (not self._look % 1024 and time.monotonic() > self._until):
            raise OutOfBudgetError


class Outcome(NamedTuple):
    """Of one search. `stuck`: the answer that nothing explains, `state`: where the longest attempt had come."""

    valid: bool
    stuck: Step | None = None
    state: Any = None
    last: tuple[Op, ...] = ()


class _Link:
    """The begin or the end of a step, in the order of the history; taken out while the step has taken effect."""

    __slots__ = ("bit", "end", "next", "previous", "step")

    def __init__(self, step: Step | None, bit: int = 0) -> None:
        self.step = step
        self.bit = bit
        self.end: _Link | None = None  # of a begin that has one
        self.previous: _Link | None = None
        self.next: _Link | None = None


def search(model: Model, steps: Sequence[Step], budget: Budget) -> Outcome:
    """Whether the steps can have taken effect in some order. OutOfBudgetError when that takes too long to tell."""
    head = _chain(steps)
    missing = sum(step.ret is not None for step in steps)
    state, done = model.initial, 0
    been = {(done, state)}
    path: list[tuple[list[_Move], _Link | None, Any]] = []
    moves, stuck = _moves(head, state, model)
    furthest, fewest = Outcome(False, stuck, state), missing
    cost = _cost(steps)
    while missing:
        budget.spend(cost)
        if moves:
            link, new = moves.pop()
            at = (done | link.bit if link else done, new)
            if at in been:
                continue
            been.add(at)
            path.append((moves, link, state))
            done, state = at
            if link is not None:
                missing -= _take_out(link)
            moves, stuck = _moves(head, state, model)
            if missing < fewest or (missing == fewest and not moves):
                furthest, fewest = Outcome(False, stuck, state, _last(path)), missing
        elif path:
            moves, link, state = path.pop()
            if link is not None:
                missing += _put_back(link)
                done ^= link.bit
        else:
            return furthest
    return Outcome(True)


_Move = tuple[_Link | None, Any]  # None: the model moves by itself


def _moves(head: _Link, state: Any, model: Model) -> tuple[list[_Move], Step | None]:
    """What may happen next, best last, and the first step that has to have happened."""
    found: list[_Move] = []
    first: Step | None = None
    link = head.next
    while link is not None:
        step = link.step
        assert step is not None
        if not link.bit:
            first = step
            break
        new = step.apply(state)
        if new is not None:
            if step.is_read:
                return [(link, new)], step
            found.append((link, new))
        link = link.next
    if first is None:
        return found, None
    version = model.version(state)
    if version > first.before:
        return [], first
    by_itself: list[_Move] = [(None, new) for new in model.internal(state)] if version < first.before else []
    return by_itself + found[::-1], first


def _chain(steps: Iterable[Step]) -> _Link:
    """All begins and ends, in order; the bit of an end is 0."""
    marks: list[tuple[int, int, _Link]] = []
    for number, step in enumerate(steps):
        begin = _Link(step, 1 << number)
        marks.append((step.call, number, begin))
        if step.ret is not None:
            begin.end = _Link(step)
            marks.append((step.ret, number, begin.end))
    marks.sort(key=lambda mark: mark[:2])
    head = last = _Link(None)
    for _, _, link in marks:
        last.next, link.previous = link, last
        last = link
    return head


def _take_out(begin: _Link) -> int:
    """The step has taken effect. 1 if it had to."""
    for link in (begin, begin.end):
        if link is not None:
            assert link.previous is not None
            link.previous.next = link.next
            if link.next is not None:
                link.next.previous = link.previous
    return int(begin.end is not None)


def _put_back(begin: _Link) -> int:
    """The opposite, in the opposite order."""
    for link in (begin.end, begin):
        if link is not None:
            assert link.previous is not None
            link.previous.next = link
            if link.next is not None:
                link.next.previous = link
    return int(begin.end is not None)


def _cost(steps: Sequence[Step]) -> int:
    """What one turn of a search costs, in time and memory: the bits grow with the number of steps."""
    return 1 + len(steps) // 512


def _last(path: Sequence[tuple[Any, _Link | None, Any]]) -> tuple[Op, ...]:
    links = [link for _, link, _ in path[-LAST_SHOWN:] if link is not None]
    return tuple(link.step.op for link in links if link.step is not None)


# -- the checker -------------------------------------------------------------------------------------------------------


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """Sessions one by one. `test`: linearizable_steps_max, linearizable_seconds_max, nodes, strategy."""
    return check_ops(by_key(pair(history)), session_model(history, test), test)


def session_model(history: Iterable[Event], test: Mapping[str, Any]) -> Session:
    """With what this run makes possible: nodes hand sessions over by themselves when drained, or by a mapping."""
    sticky = test.get("strategy") == "sticky"
    nodes = tuple(str(node) for node in test.get("nodes") or ())
    drained = any(event["f"] == "drain" or (event["f"] == "fault" and _is_drain(event)) for event in history)
    return Session(nodes, transfers=sticky or drained, refusals_read=not sticky)


def _is_drain(event: Event) -> bool:
    value = event.get("value")
    kind = str(value.get("kind")) if isinstance(value, Mapping) else ""
    return any(word in kind for word in DRAINS)


def check_ops(keys: Mapping[str, Sequence[Op]], model: Model, test: Mapping[str, Any]) -> Verdict:
    """The same for ops at hand and any model."""
    errors = Errors()
    until = time.monotonic() + float(test.get("linearizable_seconds_max", SECONDS_MAX))
    steps_max = int(test.get("linearizable_steps_max", STEPS_MAX))
    unknown: list[str] = []
    turns = ops = 0
    for key, its_ops in keys.items():
        steps = [step for op in its_ops for step in model.steps(op)]
        ops += len(its_ops)
        budget = Budget(steps_max, until)
        try:
            outcome = search(model, steps, budget)
        except OutOfBudgetError:
            unknown.append(key)
            continue
        turns += steps_max - budget.left
        if not outcome.valid:
            errors.add(_explain(key, outcome))
    stats = {"keys": len(keys), "ops": ops, "turns": turns, "unknown": len(unknown)}
    nothing = f"out of budget for {len(unknown)} of {len(keys)} sessions: {', '.join(unknown[:5])}" if unknown else ""
    return errors.verdict(NAME, stats, nothing=nothing)


def _explain(key: str, outcome: Outcome) -> str:
    stuck = None if outcome.stuck is None else outcome.stuck.op
    told = "" if stuck is None or stuck.completion is None else f", told {stuck.completion.get('value')!r}"
    after = "; ".join(str(op) for op in outcome.last) or "nothing"
    return f"{key}: nothing explains {stuck}{told}; the longest attempt ends in {tuple(outcome.state)!r} after {after}"
