"""Leaders, nodes without a majority, availability, and all checkers together."""

from __future__ import annotations

from typing import Any

import pytest

from jepsen_like.checkers import availability, leaders, quorumless
from jepsen_like.checkers.compose import CHECKERS, check_all, worst
from jepsen_like.history import Event, Verdict
from tests.jepsen_like import reference
from tests.jepsen_like.reference import MS, TEST


def at(ms: int, kind: str, f: str, **more: Any) -> Event:
    return {
        "time": ms * MS,
        "type": kind,
        "f": f,
        "process": "observer",
        "key": None,
        "node": None,
        "value": None,
        **more,
    }


def numbered(*events: Event) -> list[Event]:
    return [event | {"index": index} for index, event in enumerate(sorted(events, key=lambda event: event["time"]))]


def op(begin: int, end: int, kind: str, process: int, node: str = "n1", f: str = "renew", **more: Any) -> list[Event]:
    base = {"process": process, "node": node, "key": "s"}
    return [at(begin, "invoke", f, **base), at(end, kind, f, **base, **more)]


# -- leaders -----------------------------------------------------------------------------------------------------------


def leads(ms: int, node: str, term: int, role: str = "leader") -> Event:
    return at(ms, "ok", "role", node=node, value={"term": term, "role": role})


def test_one_leader_per_term_is_fine() -> None:
    """A leader may be seen often, and followers of its term too."""
    history = numbered(leads(1, "n1", 1), leads(2, "n1", 1), leads(3, "n2", 1, "follower"), leads(4, "n2", 2))
    verdict = leaders.check(history, TEST)
    assert (verdict.valid, verdict.stats["terms"], verdict.stats["highest_term"]) == (True, 2, 2)


def test_two_leaders_of_one_term_are_named() -> None:
    """With the events by which they were seen."""
    verdict = leaders.check(numbered(leads(1, "n1", 7), leads(2, "n2", 8), leads(9, "n3", 7)), TEST)
    assert verdict.errors == ["term 7 has two leaders: n1 (event 0) and n3 (2)"]


def test_no_leader_seen_is_unknown_except_where_each_node_is_its_own() -> None:
    """Sticky nodes have no leader in common, and their terms say nothing of each other."""
    assert leaders.check([], TEST).valid == "unknown"
    assert leaders.check(numbered(leads(1, "n1", 1), leads(2, "n2", 1)), TEST | {"strategy": "sticky"}).valid is True
    assert leaders.check([], TEST | {"strategy": "sticky"}).valid is True


# -- nodes without a majority ------------------------------------------------------------------------------------------


def lost(ms: int, node: str = "n1") -> Event:
    return at(ms, "ok", "quorum", node=node, value=False)


def found(ms: int, node: str = "n1") -> Event:
    return at(ms, "ok", "quorum", node=node, value=True)


LIMIT = 3_600  # election timeout + lease


@pytest.mark.parametrize(
    ("events", "valid"),
    [
        (op(6_000, 6_001, "ok", 1), False),
        (op(6_000, 6_001, "ok", 1, f="get"), False),
        (op(6_000, 6_001, "ok", 1, f="get-local"), True),
        (op(6_000, 6_001, "ok", 1, node="n2"), True),
        (op(6_000, 6_001, "fail", 1), True),
        (op(1_100, 1_000 + LIMIT, "ok", 1), True),
        (op(900, 6_000, "ok", 1), True),  # asked before the loss: its answer was held up
        ([found(5_000), *op(6_000, 6_001, "ok", 1)], True),
        ([lost(2_000), *op(5_000, 5_001, "ok", 1)], False),  # said twice: it counts from the first
        ([found(2_000), lost(3_000), *op(6_000, 6_001, "ok", 1)], True),
        ([at(6_000, "ok", "owns", node="n1", key="s", value={"owns": True, "epoch": 1})], False),
        ([at(6_000, "ok", "owns", node="n1", key="s", value={"owns": False, "epoch": 1})], True),
        ([at(4_000, "ok", "owns", node="n1", key="s", value={"owns": True, "epoch": 1})], True),
        ([at(6_000, "ok", "packet", node="n1", key="s", value={"epoch": 1})], False),
        ([at(6_000, "ok", "packet", node="n1", key="s", value={"epoch": 1, "asked": 4_000 * MS})], True),
        ([at(6_000, "ok", "owns", node="n1", key="s", value={"from": 0, "to": 5_000 * MS, "epoch": 1})], False),
        ([at(6_000, "ok", "owns", node="n1", key="s", value={"from": 0, "to": 4_000 * MS, "epoch": 1})], True),
    ],
)
def test_a_node_without_majority_serves_nothing_beyond_its_lease(events: list[Event], valid: bool) -> None:
    """n1 loses the majority at one second."""
    assert quorumless.check(numbered(lost(1_000), *events), TEST).valid is valid


@pytest.mark.parametrize(
    ("asked_ms", "kind", "more", "valid"),
    [
        (9_000, "info", {"error": "DEADLINE_PASSED"}, False),
        (9_000, "fail", {"error": "NO_QUORUM"}, True),
        (9_000, "info", {"error": "CALLER_LEFT"}, True),  # who leaves is told nothing
        (2_000, "info", {"error": "DEADLINE_PASSED"}, True),  # it could not know yet
    ],
)
def test_a_deaf_node_leaves_nobody_in_doubt(asked_ms: int, kind: str, more: dict[str, Any], valid: bool) -> None:
    """It hears nobody from one second on: after two elections' time it knows, and what it takes then it refuses."""
    deaf = at(1_000, "info", "deaf", node="n1", value=True)
    history = numbered(deaf, *op(asked_ms, asked_ms + 400, kind, 1, value={"reason": more["error"]}, **more))
    assert quorumless.check(history, TEST).valid is valid
    healed = at(8_500, "info", "deaf", node="n1", value=False)
    assert quorumless.check(numbered(healed, *history), TEST).valid is True


def test_how_fast_the_minority_refuses_is_told() -> None:
    """A figure always, a verdict where the test asks for one."""
    history = numbered(lost(0), *op(5_000, 5_002, "fail", 1), *op(6_000, 6_040, "fail", 2), *op(1, 900, "fail", 3))
    verdict = quorumless.check(history, TEST)
    assert verdict.valid is True
    assert verdict.stats == {
        "answers_without_quorum": 2,
        "deaf": 0,
        "refusal_p50_ms": 2.0,
        "refusal_p99_ms": 40.0,
        "refusal_max_ms": 40.0,
    }
    assert quorumless.check(history, TEST | {"refusal_max_ms": 39}).valid is False
    assert quorumless.check(history, TEST | {"refusal_max_ms": 40}).valid is True


def test_where_every_node_had_its_majority_there_is_nothing_to_judge() -> None:
    """No loss is no failure."""
    assert quorumless.check(numbered(*op(1, 2, "ok", 1)), TEST).valid is True


# -- availability ------------------------------------------------------------------------------------------------------


def fault(ms: int, f: str = "fault", kind: str | None = "partition", **more: Any) -> Event:
    return at(ms, "info", f, process="nemesis", value={"kind": kind, "nodes": ["n1"], **more})


def test_gaps_and_recovery_are_told_fault_by_fault() -> None:
    """From its effect to its healing, and from there to the next success."""
    history = numbered(
        *op(0, 100, "ok", 1),
        fault(150),
        fault(200, effective=True),
        *op(210, 400, "ok", 1),
        *op(410, 990, "fail", 1),
        fault(950, "heal"),
        fault(1_000, "heal", effective=True),
        *op(1_010, 1_300, "ok", 1),
    )
    verdict = availability.check(history, TEST)
    (told,) = verdict.stats["faults"]
    assert told == {
        "kind": "partition",
        "nodes": ["n1"],
        "begin_s": 0.2,
        "end_s": 1.0,
        "ok_during": 1,
        "longest_gap_ms": 600.0,
        "recovery_ms": 300.0,
    }
    assert (verdict.valid, verdict.stats["longest_gap_ms"], verdict.stats["recovery_max_ms"]) == (True, 900.0, 300.0)


def test_a_heal_ends_the_faults_of_its_kind_and_one_without_a_kind_all() -> None:
    """Faults overlap."""
    history = numbered(
        fault(1), fault(2, kind="kill"), fault(3, "heal"), fault(4, kind="pause"), fault(5, "heal", None)
    )
    assert [(f.kind, f.begin // MS, (f.end or 0) // MS) for f in availability.faults(history)] == [
        ("partition", 1, 3),
        ("kill", 2, 5),
        ("pause", 4, 5),
    ]


def test_a_recovery_that_took_too_long_is_a_failure_where_the_test_says_so() -> None:
    """But not when nobody asked, and not when the run ended before the time was up."""
    slow = numbered(fault(1), fault(10, "heal"), *op(20, 2_000, "ok", 1))
    assert availability.check(slow, TEST).valid is True
    assert availability.check(slow, TEST | {"recovery_max_ms": 1_000}).valid is False
    assert availability.check(slow, TEST | {"recovery_max_ms": 1_990}).valid is True
    idle = numbered(fault(1), fault(10, "heal"), *op(1_900, 2_000, "ok", 1))
    assert availability.check(idle, TEST | {"recovery_max_ms": 1_000}).valid is True
    short = numbered(fault(1), fault(10, "heal"), *op(20, 500, "fail", 1))
    assert availability.check(short, TEST | {"recovery_max_ms": 1_000}).valid is True


# -- all together ------------------------------------------------------------------------------------------------------


def test_the_worst_verdict_wins() -> None:
    """False before unknown before True."""
    assert worst([True, "unknown", False]) is False
    assert worst([True, "unknown", True]) == "unknown"
    assert worst([True, True]) is True
    assert worst([]) is True


def test_a_checker_that_fails_is_unknown_and_the_others_still_run() -> None:
    """Its last line is kept, for whoever mends it."""

    def broken(*_: Any) -> Verdict:
        raise KeyError("epoch")

    def fine(*_: Any) -> Verdict:
        return Verdict(True, "fine")

    verdict = check_all([], TEST, None, {"broken": broken, "fine": fine})
    assert verdict.valid == "unknown"
    assert verdict.errors == ["broken: KeyError: 'epoch'"]
    assert verdict.stats["fine"]["valid"] is True
    assert verdict.stats["broken"]["seconds"] >= 0


def test_all_checkers_pass_the_tiny_world() -> None:
    """And each says how long it took."""
    run = reference.run(11)
    verdict = check_all(run.history, TEST, run.finals)
    assert (verdict.valid, verdict.errors, set(verdict.stats)) == (True, [], set(CHECKERS))
    assert all("seconds" in told for told in verdict.stats.values())


def test_a_run_names_the_questions_it_can_answer() -> None:
    """Without a look at the data path, the other checkers still give a verdict."""
    run = reference.run(12)
    history = [event for event in run.history if event["f"] not in ("owns", "packet")]
    assert check_all(history, TEST, run.finals).valid == "unknown"
    names = [name for name in CHECKERS if name != "dual_owner"]
    assert check_all(history, TEST | {"checkers": names}, run.finals).valid is True


def test_a_history_that_is_none_is_unknown() -> None:
    """Nothing is shown by what cannot be read."""
    verdict = check_all(numbered(at(1, "ok", "get", process=1, key="s")), TEST, {})
    assert verdict.valid == "unknown"
    assert any("index 0: process 1 completes what it never invoked" in error for error in verdict.errors)
