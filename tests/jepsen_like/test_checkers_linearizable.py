"""Histories of one session that one order of all ops explains, and such that none does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jepsen_like.checkers import linearizable
from jepsen_like.checkers.linearizable import Budget, OutOfBudgetError
from tests.jepsen_like import reference
from tests.jepsen_like.reference import TEST

Event = dict[str, Any]


def event(process: int, kind: str, f: str, value: Any, index: int, key: str = "s", node: str = "n1") -> Event:
    fields = {"type": kind, "process": process, "f": f, "value": value, "key": key, "node": node}
    return {"index": index, "time": index * 1_000, **fields}


def session(
    version: int, state: str = "ATTACHED", owner: str = "n1", epoch: int = 1, binding: str | None = None
) -> Event:
    fields = {"state": state, "owner": owner, "epoch": epoch, "state_version": version, "binding": binding}
    return {"session_id": "s", **fields}


class Told:
    """Writes a history of one session, op by op."""

    def __init__(self) -> None:
        self.history: list[Event] = []
        self._process = 0

    def invoke(self, f: str, node: str = "n1", **args: Any) -> tuple[int, str, str]:
        self._process += 1
        self.history.append(event(self._process, "invoke", f, args, len(self.history), node=node))
        return self._process, f, node

    def answer(self, op: tuple[int, str, str], kind: str, value: Any = None) -> None:
        process, f, node = op
        self.history.append(event(process, kind, f, value, len(self.history), node=node))

    def do(self, f: str, result: Event | None, node: str = "n1", **args: Any) -> None:
        self.answer(self.invoke(f, node, **args), "ok", result)

    @property
    def valid(self) -> bool | str:
        return linearizable.check(self.history, TEST).valid


def begun() -> Told:
    """A session at n1, version 1, bound to t1."""
    told = Told()
    told.do("create", session(1, binding="t1"), binding="t1")
    return told


# -- the session -------------------------------------------------------------------------------------------------------


def test_the_life_of_a_session_is_explained() -> None:
    """Create, reattach, migrate, resume, fail over, terminate, each seen by a read."""
    told = begun()
    told.do("reattach", session(2, binding="t2"), expected_version=1, binding="t2")
    told.do("renew", session(3, binding="t2"), expected_version=2)
    told.do("detach", session(4, "RECOVERING"), expected_version=3)
    told.do("migrate", session(6, "FROZEN", "n2", 2), expected_version=4, to="n2")
    told.do("resume", session(7, "ATTACHED", "n2", 2, "t3"), "n2", expected_version=6, binding="t3")
    told.do("failover", session(8, "RECOVERING", "n3", 3), "n3", expected_version=7)
    told.do("get", session(8, "RECOVERING", "n3", 3), "n1")
    told.do("terminate", session(9, "TERMINATED", "n3", 3), "n3", expected_version=8)
    told.do("get", session(9, "TERMINATED", "n3", 3))
    assert told.valid is True


@pytest.mark.parametrize(
    ("f", "node", "args", "result"),
    [
        ("reattach", "n2", {"expected_version": 1, "binding": "t9"}, session(2, owner="n2", epoch=2, binding="t9")),
        ("reattach", "n2", {"expected_version": 1, "binding": "t9"}, session(2, owner="n1", binding="t9")),
        ("reattach", "n1", {"expected_version": 1, "binding": "t9"}, session(2, binding="t8")),
        ("reattach", "n1", {"expected_version": 1, "binding": "t9"}, session(2, epoch=2, binding="t9")),
        ("reattach", "n1", {"expected_version": 1, "binding": "t9"}, session(3, binding="t9")),
        ("renew", "n1", {"expected_version": 1}, session(2, "RECOVERING")),
        ("detach", "n1", {"expected_version": 1}, session(2, binding="t1")),
        ("migrate", "n1", {"expected_version": 1, "to": "n2"}, session(3, "FROZEN", "n2", 1)),
        ("migrate", "n1", {"expected_version": 1, "to": "n2"}, session(3, "FROZEN", "n3", 2)),
        ("migrate", "n2", {"expected_version": 1, "to": "n3"}, session(3, "FROZEN", "n3", 2)),
        ("migrate", "n1", {"expected_version": 1, "to": "n2"}, session(2, "FROZEN", "n2", 2)),
        ("resume", "n1", {"expected_version": 1, "binding": "t9"}, session(2, binding="t9")),
        ("failover", "n1", {"expected_version": 1, "binding": "t9"}, session(2, epoch=2, binding="t9")),
        ("failover", "n2", {"expected_version": 1, "binding": "t9"}, session(2, owner="n2", epoch=1, binding="t9")),
        ("terminate", "n2", {"expected_version": 1}, session(2, "TERMINATED")),
        ("create", "n2", {"binding": "t9"}, session(1, owner="n2", binding="t9")),
        ("get", "n2", {}, session(1, binding="t2")),
        ("get", "n2", {}, session(2, "FROZEN")),
        ("get", "n2", {}, None),
    ],
)
def test_what_a_session_cannot_do_is_found(f: str, node: str, args: Event, result: Event | None) -> None:
    """From version 1 at n1, each of these answers is impossible."""
    told = begun()
    told.do(f, result, node, **args)
    assert told.valid is False


def test_an_operator_may_terminate_from_anywhere() -> None:
    """Authority is part of the model, and an operator has it."""
    told = begun()
    told.do("terminate", session(2, "TERMINATED"), "n3", expected_version=1, operator=True)
    assert told.valid is True


def test_of_two_reattaches_from_one_version_one_wins() -> None:
    """Two that both succeed from the same version are a fork, whichever versions they show."""
    for second in (2, 3):
        told = begun()
        one = told.invoke("reattach", expected_version=1, binding="t2")
        other = told.invoke("reattach", expected_version=1, binding="t3")
        told.answer(one, "ok", session(2, binding="t2"))
        told.answer(other, "ok", session(second, binding="t3"))
        assert told.valid is False


def test_a_stale_read_is_found_only_if_it_began_after_the_change_was_answered() -> None:
    """A read beside a change may see either side; one behind it may not see the past."""
    told = begun()
    renewal = told.invoke("renew", expected_version=1)
    told.do("get", session(1, binding="t1"), "n2")
    told.do("get", session(2, binding="t1"), "n3")
    told.answer(renewal, "ok", session(2, binding="t1"))
    assert told.valid is True
    told.do("get", session(1, binding="t1"), "n2")
    assert told.valid is False


def test_two_reads_beside_a_change_may_not_see_it_go_back() -> None:
    """Once one reader saw the new version, a later one sees it too."""
    told = begun()
    told.invoke("renew", expected_version=1)
    told.do("get", session(2, binding="t1"), "n3")
    told.do("get", session(1, binding="t1"), "n2")
    assert told.valid is False


def test_a_local_read_may_be_old() -> None:
    """It promises nothing."""
    told = begun()
    told.do("renew", session(2, binding="t1"), expected_version=1)
    told.do("get-local", session(1, binding="t1"), "n2")
    assert told.valid is True


def test_an_unknown_op_may_take_effect_long_after_or_never() -> None:
    """No end was seen, so there is none; but once is enough."""
    told = begun()
    lost = told.invoke("reattach", expected_version=1, binding="t2")
    told.answer(lost, "info")
    told.do("get", session(1, binding="t1"), "n2")
    assert told.valid is True
    told.do("get", session(2, binding="t2"), "n2")
    assert told.valid is True
    told.do("detach", session(3, "RECOVERING"), expected_version=2)
    told.do("reattach", session(4, binding="t4"), expected_version=3, binding="t4")
    assert told.valid is True
    told.do("get", session(5, binding="t2"), "n2")
    assert told.valid is False


def test_a_refused_op_has_no_effect() -> None:
    """What only the refused op can have done is explained by nothing."""
    told = begun()
    refused = told.invoke("reattach", expected_version=1, binding="t2")
    told.answer(refused, "fail", {"reason": "NO_QUORUM", "session": None})
    told.do("get", session(2, binding="t2"), "n2")
    assert told.valid is False


def test_a_refusal_with_a_session_is_a_read() -> None:
    """VERSION_MISMATCH shows what stands; a refusal from before any proposal may show what it likes."""
    for reason, valid in (("VERSION_MISMATCH", False), ("OWNERSHIP_CONFLICT", False), ("LEASE_LOST", True)):
        told = begun()
        told.do("renew", session(2, binding="t1"), expected_version=1)
        refused = told.invoke("renew", expected_version=7)
        told.answer(refused, "fail", {"reason": reason, "session": session(1, binding="t1")})
        assert told.valid is valid


def test_not_found_after_an_acknowledged_create_is_a_lost_session() -> None:
    """Absence is a state too, in the log that nodes share."""
    told = begun()
    refused = told.invoke("get", "n2")
    told.answer(refused, "fail", {"reason": "SESSION_NOT_FOUND", "session": None})
    assert told.valid is False
    assert linearizable.check(told.history, TEST | {"strategy": "sticky"}).valid is True


def test_a_migration_is_seen_in_between() -> None:
    """Others see the freeze before the transfer; not the transfer before the freeze."""
    told = begun()
    move = told.invoke("migrate", expected_version=1, to="n2")
    told.do("get", session(2, "FROZEN"), "n3")
    told.do("get", session(3, "FROZEN", "n2", 2), "n3")
    told.answer(move, "ok", session(3, "FROZEN", "n2", 2))
    assert told.valid is True
    told.do("get", session(2, "FROZEN"), "n3")
    assert told.valid is False


def test_an_unknown_migration_may_stop_halfway_and_thaw() -> None:
    """Frozen by an op that nobody finished, the session comes back at its old owner when the window closes."""
    told = begun()
    told.answer(told.invoke("migrate", expected_version=1, to="n2"), "info")
    told.do("get", session(3, "RECOVERING"), "n3")
    told.do("reattach", session(4, binding="t2"), expected_version=3, binding="t2")
    assert told.valid is True


def test_a_refused_migration_may_have_frozen_but_never_moved() -> None:
    """It thaws what it froze; a new owner is not among what it may leave behind."""
    told = begun()
    refused = told.invoke("migrate", expected_version=1, to="n2")
    told.answer(refused, "fail", {"reason": "NODE_NOT_LIVE", "session": session(3, "RECOVERING")})
    told.do("get", session(3, "RECOVERING"), "n3")
    assert told.valid is True
    told.do("get", session(4, "FROZEN", "n2", 2), "n3")
    assert told.valid is False


def test_windows_close_by_themselves_but_bind_nothing() -> None:
    """A session may lose its binding or end with nobody asking; it never gains a binding or an owner."""
    for state, binding, owner, epoch, valid in (
        ("RECOVERING", None, "n1", 1, True),
        ("TERMINATED", None, "n1", 1, True),
        ("ATTACHED", "t1", "n1", 1, False),
        ("RECOVERING", None, "n2", 2, False),
        ("FROZEN", None, "n1", 1, False),
    ):
        told = begun()
        told.do("get", session(2, state, owner, epoch, binding), "n2")
        assert told.valid is valid, state


def test_a_drained_node_hands_sessions_over_by_itself() -> None:
    """Where the run drains nodes, freeze and transfer happen with nobody asking."""
    told = begun()
    told.do("get", session(3, "FROZEN", "n2", 2), "n2")
    told.do("resume", session(4, "ATTACHED", "n2", 2, "t2"), "n2", expected_version=3, binding="t2")
    assert told.valid is False
    drain = {"index": len(told.history), "time": 10**9, "type": "info", "process": "nemesis", "f": "fault"}
    told.history.append(drain | {"value": {"kind": "drain", "nodes": ["n1"]}})
    assert told.valid is True


def test_one_broken_session_among_many_is_named() -> None:
    """Sessions are searched one by one, and the error says which answer nothing explains."""
    run = reference.run(5, ops=200, sessions=10)
    gets = [e for e in run.history if (e["type"], e["f"]) == ("ok", "get") and e["value"]["state_version"] > 2]
    broken = [e | {"value": e["value"] | {"epoch": 99}} if e is gets[0] else e for e in run.history]
    verdict = linearizable.check(broken, TEST)
    assert verdict.valid is False
    assert len(verdict.errors) == 1
    assert verdict.errors[0].startswith(f"{gets[0]['key']}: nothing explains get")
    assert f"to {gets[0]['index']}, ok)" in verdict.errors[0]


def test_an_op_that_the_model_does_not_know_is_not_passed_over() -> None:
    """What cannot be judged is an error of the checker, not a pass."""
    told = begun()
    told.do("merge", session(2), expected_version=1)
    with pytest.raises(ValueError, match="no model of merge"):
        linearizable.check(told.history, TEST)


# -- budget and speed --------------------------------------------------------------------------------------------------


def test_out_of_budget_is_unknown_and_no_pass() -> None:
    """A search that was given up shows nothing."""
    run = reference.run(6, ops=60)
    verdict = linearizable.check(run.history, TEST | {"linearizable_steps_max": 5})
    assert verdict.valid == "unknown"
    assert "out of budget" in verdict.errors[0]


def test_the_clock_ends_a_search_too() -> None:
    """Time is looked at every thousand turns."""
    budget = Budget(10**9, time.monotonic() - 1)
    with pytest.raises(OutOfBudgetError):
        for _ in range(1024):
            budget.spend(1)


def test_ten_thousand_ops_are_judged_in_seconds() -> None:
    """100 sessions, 60 clients: far below the time of the run itself."""
    run = reference.run(7, ops=10_000, processes=60, sessions=100)
    began = time.process_time()
    verdict = linearizable.check(run.history, TEST)
    assert verdict.valid is True
    assert verdict.stats["ops"] == 10_000
    assert time.process_time() - began < 5


def test_many_reads_at_once_cost_nothing() -> None:
    """Forty open reads and one wrong answer among them: 2 to the 40th orders are not tried."""
    told = begun()
    reads = [told.invoke("get", "n2") for _ in range(40)]
    for read in reads[:-1]:
        told.answer(read, "ok", session(1, binding="t1"))
    told.answer(reads[-1], "ok", session(9, binding="t1"))
    assert linearizable.check(told.history, TEST | {"linearizable_steps_max": 1_000}).valid is False
