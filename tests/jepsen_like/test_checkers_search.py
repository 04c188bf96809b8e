"""The search for one order, and others: detangle's, and one that tries everything. All give the same verdicts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import detangle

from jepsen_like.checkers.linearizable import Budget, check_ops, search
from jepsen_like.checkers.models import ABSENT, Model, Register, Session, State, Step
from jepsen_like.history import Op, by_key, pair
from tests.jepsen_like import reference

Event = dict[str, Any]


def event(process: int, kind: str, f: str, value: Any, index: int) -> Event:
    fields = {"type": kind, "process": process, "f": f, "value": value, "key": "s", "node": "n1"}
    return {"index": index, "time": index * 1_000, **fields}


def register_history(rng: Random, *, valid: bool) -> list[Event]:
    """A register under three or four clients; not valid: the answers of some reads and swaps are made up."""
    value: int = 0
    history: list[Event] = []
    open_ops: dict[int, tuple[str, Event, str | None, Any]] = {}
    idle = list(range(rng.randrange(2, 5)))
    fresh = len(idle)
    left = rng.randrange(3, 11)
    while left or open_ops:
        choice = rng.random()
        if choice < 0.4 and left and idle:
            process, left = idle.pop(rng.randrange(len(idle))), left - 1
            f = rng.choice(("read", "write", "cas"))
            new = {"value": rng.randrange(3), "expected": rng.randrange(3), "new": rng.randrange(3)}
            args = {
                "read": {},
                "write": {"value": new["value"]},
                "cas": {"expected": new["expected"], "new": new["new"]},
            }[f]
            open_ops[process] = (f, args, None, None)
            history.append(event(process, "invoke", f, args, len(history)))
        elif open_ops:
            process = rng.choice(list(open_ops))
            f, args, outcome, seen = open_ops[process]
            if outcome is None and choice < 0.75:
                outcome, seen = "ok", value
                if f == "write":
                    value = args["value"]
                elif f == "cas":
                    outcome = "ok" if value == args["expected"] else "fail"
                    value = args["new"] if outcome == "ok" else value
                open_ops[process] = (f, args, outcome, seen)
            elif outcome is not None or choice > 0.9:
                del open_ops[process]
                if rng.random() < 0.15 or outcome is None:
                    history.append(event(process, "info", f, None, len(history)))
                    idle.append(fresh)
                    fresh += 1
                    continue
                if not valid and rng.random() < 0.25:
                    seen = rng.randrange(3)
                    outcome = rng.choice(("ok", "fail")) if f == "cas" else outcome
                history.append(event(process, outcome, f, seen if f == "read" else None, len(history)))
                idle.append(process)
    return history


def detangles_verdict(ops: Iterable[Op]) -> bool:
    """What detangle says of a register's history."""
    history = detangle.History()
    marks = sorted(
        [(op.call, True, op) for op in ops] + [(op.ret, False, op) for op in ops if op.ret is not None],
        key=lambda m: m[0],
    )
    calls: dict[int, Any] = {}
    for _, is_call, op in marks:
        if is_call:
            args = op.args
            arg = (args["expected"], args["new"]) if op.f == "cas" else args.get("value")
            calls[op.call] = history.invoke(op.index, op.f, arg)
        elif op.type == "fail":
            history.fail(calls[op.call])
        else:
            assert op.completion is not None
            history.ok(calls[op.call], op.completion["value"] if op.f == "read" else True)
    return bool(history.check(detangle.lin.Register(0)).ok)


def test_our_search_and_detangles_agree_on_registers() -> None:
    """Some thousand small histories, valid and broken: the same verdict on each, and plenty of either."""
    verdicts = []
    for seed in range(4_000):
        history = register_history(Random(seed), valid=seed % 2 == 0)
        ops = pair(history)
        ours = check_ops(by_key(ops), Register(0), {}).valid
        assert ours is detangles_verdict(ops), f"seed {seed}"
        assert ours or seed % 2, f"seed {seed}: a valid history was refused"
        verdicts.append(ours)
    assert verdicts.count(False) > 400


class OnItsOwn(Session):
    """The session's model without what happens by itself: detangle's models follow from ops alone."""

    def internal(self, state: State) -> list[State]:
        return []


class StepModel(detangle.lin.Model):
    """Steps of ours as operations of detangle."""

    def init(self) -> State:
        return ABSENT

    def step(self, state: Any, op: Any) -> tuple[bool, Any]:
        new = op.arg.apply(state)
        return new is not None, new


def detangles_verdict_on(steps: Sequence[Step]) -> bool:
    operations = []
    for number, step in enumerate(steps):
        status = "info" if step.ret is None else "ok"
        ret = None if step.ret is None else step.ret + 1
        operations.append(detangle.lin.Operation(number, number, "step", step, step.call + 1, 0.0, None, status, ret))
    return bool(detangle.lin.check(operations, StepModel()).ok)


class Still(reference.World):
    """A world in which no window closes; what remains by itself is the thaw of a migration that was refused."""

    def sweep(self) -> None:
        pass


def spoiled(history: list[Event], rng: Random) -> list[Event]:
    """One answer is another one's, or off by one."""
    answers = [e for e in history if e["type"] == "ok" and isinstance(e["process"], int)]
    if not answers:
        return history
    chosen = rng.choice(answers)
    value = dict(chosen["value"])
    if rng.random() < 0.5:
        value = dict(rng.choice(answers)["value"])
    else:
        field = rng.choice(("state_version", "epoch"))
        value[field] += rng.choice((-1, 1))
    return [e | {"value": value} if e is chosen else e for e in history]


def test_our_search_and_detangles_agree_on_sessions() -> None:
    """Short lives of one session under many clients, half of them spoiled."""
    verdicts = []
    for seed in range(1_200):
        rng = Random(seed)
        history = Still(seed, processes=4, sessions=1).run(rng.randrange(4, 12)).history
        if seed % 2:
            history = spoiled(history, rng)
        steps = [step for op in pair(history) for step in OnItsOwn().steps(op)]
        ours = search(OnItsOwn(), steps, Budget(10**6, time.monotonic() + 60)).valid
        assert ours is detangles_verdict_on(steps), f"seed {seed}"
        verdicts.append(ours)
    assert min(verdicts.count(False), verdicts.count(True)) > 200


def without_wit(model: Model, steps: Sequence[Step], state: Any, done: frozenset[int], by_itself: int) -> bool:
    """Tries every order, with up to so many changes that nobody asked for in a row; no memory, no short cuts."""
    missing = [step for number, step in enumerate(steps) if number not in done and step.ret is not None]
    if not missing:
        return True
    limit = min(step.ret for step in missing if step.ret is not None)
    for number, step in enumerate(steps):
        if number not in done and step.call < limit:
            new = step.apply(state)
            if new is not None and without_wit(model, steps, new, done | {number}, 2):
                return True
    follow = model.internal(state) if by_itself else []
    return any(without_wit(model, steps, new, done, by_itself - 1) for new in follow)


def test_short_cuts_lose_nothing() -> None:
    """With windows that close by themselves, the search says what trying everything says."""
    verdicts = []
    for seed in range(1_500):
        rng = Random(seed)
        history = reference.run(seed, rng.randrange(3, 8), processes=3, sessions=1).history
        if seed % 2:
            history = spoiled(history, rng)
        steps = [step for op in pair(history) for step in Session().steps(op)]
        ours = search(Session(), steps, Budget(10**6, time.monotonic() + 60)).valid
        assert ours is without_wit(Session(), steps, ABSENT, frozenset(), 2), f"seed {seed}"
        assert ours or seed % 2, f"seed {seed}: a valid history was refused"
        verdicts.append(ours)
    assert verdicts.count(False) > 100
