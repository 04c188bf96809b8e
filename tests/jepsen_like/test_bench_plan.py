"""The order of the benchmark's measurements."""

from __future__ import annotations

import pytest

from jepsen_like.bench.plan import Case, Plan, cases_of
from jepsen_like.bench.run import chosen


def test_peers_take_turns() -> None:
    """A B A B, never A A B B."""
    plan = Plan(("a", "b"), (), rounds=2, seconds=1, warm_up_seconds=0)
    assert list(plan.turns()) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_one_caller_is_measured_on_the_leader_and_on_a_follower_and_many_on_one_node_and_on_all() -> None:
    """All places that the figures are stated for."""
    names = [case.name for case in cases_of((1, 64)) if case.kind == "transition"]
    assert names == ["transition/1/leader", "transition/1/follower", "transition/64/leader", "transition/64/all"]


def test_every_kind_is_measured_unless_few_are_asked_for() -> None:
    """The short form leaves out races, mixes and local reads only."""
    kinds = {case.kind for case in cases_of((1, 64, 256))}
    assert kinds - {case.kind for case in cases_of((1, 64, 256), few=True)} == {"race", "mixed", "read-local"}


@pytest.mark.parametrize("concurrency", [(1,), (256,), (1, 8)])
def test_no_case_is_measured_twice(concurrency: tuple[int, ...]) -> None:
    """However few numbers of callers are asked for."""
    cases = cases_of(concurrency)
    assert len(cases) == len(set(cases))


def test_a_case_that_does_not_exist_is_refused() -> None:
    """A misspelt kind would measure something else."""
    with pytest.raises(ValueError, match="no such case"):
        Case("transiton", 1, "all")


def test_callers_are_where_the_case_says() -> None:
    """On the leader, on one other node, on all."""
    nodes = ["n1", "n2", "n3"]
    assert [chosen(place, nodes, "n1") for place in ("leader", "follower", "all")] == [["n1"], ["n2"], nodes]
