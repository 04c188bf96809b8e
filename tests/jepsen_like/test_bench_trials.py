"""The trials: their sums by hand, and each on real nodes at its smallest size."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.bench import trials
from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.trials import idle, minority, numbers, outage, soak
from jepsen_like.bench.trials.base import Trial, TrialResult
from raftstore.cli.bench_process import BenchFailed


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Where sockets have room for their names."""
    with tempfile.TemporaryDirectory(prefix="trial-", dir="/tmp") as path:
        yield Path(path)


def done(trial: Trial, directory: Path) -> TrialResult:
    """Run it; what it found can be written as JSON."""
    result = asyncio.run(trial.run(directory, lambda _text: None))
    json.dumps(result.figures)
    return result


# ---- sums


def test_a_quantile_is_a_value_that_was_measured() -> None:
    """Nearest rank: the p99 of fifty is the worst of them, of two hundred the third worst."""
    assert numbers.quantile(range(1, 51), 0.99) == 50
    assert numbers.quantile(range(1, 201), 0.99) == 198
    assert numbers.spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": 3.0, "worst": 3.0}
    assert numbers.quantile([7.0], 0.5) == 7.0


def test_growth_is_judged_on_the_second_half_alone() -> None:
    """What a process takes while it warms up does not count; what it takes later does, if it is more."""
    warming_up = [*range(50), *[50.0] * 50]
    assert numbers.growth(warming_up) == 0
    assert numbers.growth([0.0] * 50 + [float(value) for value in range(50)]) == pytest.approx(34)
    assert numbers.growth([0.0] * 50 + [9.0] * 25 + [8.0] * 25) == 0


def test_a_queue_that_swings_has_not_grown() -> None:
    """Only one whose usual length is beyond all that it was earlier."""
    assert not numbers.outgrows([0.0, 90.0, 10.0, 40.0] * 10)
    assert numbers.outgrows([0.0] * 30 + [float(value) for value in range(30)])
    assert not numbers.outgrows([0.0] * 60)


def test_a_failover_is_late_by_the_earlier_reckoning_and_the_later_acceptance() -> None:
    """Killed at 0, allowed at 3000 or 3001 ms, accepted at 3004 and 3009 ms: nine milliseconds late."""
    answers = [
        {"accepted_ns": 3_004_000_000, "allowed_ns": 3_001_000_000, "refused": {}},
        {"accepted_ns": 3_009_000_000, "allowed_ns": 3_000_000_000, "refused": {"OWNER_STILL_LIVE": 9}},
    ]
    found = outage.takeover(0, answers)
    assert (found["late_ms"], found["first_late_ms"], found["allowed_after_ms"]) == (9.0, 4.0, 3_000.0)


def test_an_outage_that_was_not_asked_for_is_not_measured() -> None:
    """The two others have rows with the worst of what they saw."""
    figures: dict[str, Any] = {"killed": [{"first_ms": 300.0}, {"first_ms": 1_200.0}]}
    killed, paused, owner = outage.findings(figures)
    assert (killed.measured, killed.is_met) == (1_200.0, False)
    assert (paused.is_met, owner.is_met) == (None, None)


def test_a_commit_in_the_minority_is_no_refusal() -> None:
    """It must not be averaged away; nor may the absence of answers look like speed."""
    taken = {"seconds": 2.0, "refused": Histogram([1_000_000] * 4).as_json(), "committed": {}}
    found = minority.refusals({**taken, "outcomes": {"NO_QUORUM": 4}})
    assert (found["p99_ms"], found["per_second"]) == (pytest.approx(1.0, rel=0.01), 2.0)
    with pytest.raises(BenchFailed, match="committed"):
        minority.refusals({**taken, "outcomes": {"NO_QUORUM": 4, "committed": 1}})
    with pytest.raises(BenchFailed):
        minority.refusals({**taken, "refused": Histogram().as_json(), "outcomes": {}})


def test_the_busiest_idle_node_counts() -> None:
    """Where CPU times are not told, nothing is claimed."""
    found = idle.finding({"n1": 0.5, "n2": 1.5, "n3": 0.25}, {}, "n2")
    assert (found.measured, found.is_met) == (1.5, False)
    assert "n2 (leader) 1.50" in found.note
    assert idle.finding({"n1": 0.5, "n2": None}, {}, "n1").is_met is None


def series(**changes: list[float]) -> soak.Series:
    flat = {"resident_bytes": [1e8], "descriptors": [30.0], "threads": [12.0], "audit_backlog": [5.0]}
    return {"n1": {name: values * 100 for name, values in flat.items()}, "n2": {**_flat(flat), **changes}}


def _flat(values: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: value * 100 for name, value in values.items()}


def test_a_soak_without_growth_meets_its_targets() -> None:
    """Memory, descriptors, threads, queues: one row each."""
    assert [found.is_met for found in soak.findings(series(), 600, "")] == [True] * 4


@pytest.mark.parametrize(
    ("row", "name", "values"),
    [
        (0, "resident_bytes", [1e8 + 1e5 * number for number in range(100)]),
        (1, "descriptors", [float(number) for number in range(100)]),
        (2, "threads", [12.0] * 80 + [13.0] * 20),
        (3, "audit_backlog", [float(number) for number in range(100)]),
    ],
)
def test_one_node_that_grows_is_enough(row: int, name: str, values: list[float]) -> None:
    """Each kind of growth is noticed, and no other row is blamed."""
    met = [found.is_met for found in soak.findings(series(**{name: values}), 600, "")]
    assert met == [number != row for number in range(4)]


def test_a_short_soak_claims_nothing_about_memory_and_queues() -> None:
    """A process that has just begun grows: both are told in the figures, not judged."""
    assert [found.is_met for found in soak.findings(series(), 10, "")] == [None, True, True, None]


# ---- on real nodes


def test_every_kind_of_outage_is_measured(short_directory: Path) -> None:
    """One of each: the others commit again, and take over what the dead node owned, not before they may."""
    result = done(outage.Outage(kills=1), short_directory)
    assert [found.measured is not None for found in result.findings] == [True] * 3
    killed, paused, owner = (result.figures[kind][0] for kind in ("killed", "paused", "owner"))
    assert 0 < killed["first_ms"] <= killed["everywhere_ms"]
    assert killed["terms"] >= 1 and paused["terms"] >= 1
    assert owner["allowed_after_ms"] > 0 and not owner["led"]
    assert any("OWNER_STILL_LIVE" in refused for refused in owner["refused"])


def test_refusals_of_a_minority_are_measured(short_directory: Path) -> None:
    """Callers were told NO_QUORUM or LEASE_LOST, idle and under load."""
    trial = minority.Minority(callers=4, seconds=0.2, roles=("follower",), idle_pace_s=0.01)
    result = done(trial, short_directory)
    assert set(result.figures) == {"idle/follower", "load/follower"}
    assert all(found.measured is not None for found in result.findings)


def test_idle_nodes_are_measured(short_directory: Path) -> None:
    """All three of them."""
    trial = idle.Idle(idle_sessions=9, settle_seconds=0.0, seconds=0.2)
    result = done(trial, short_directory)
    assert len(result.figures["core_percent"]) == 3
    assert all(count is None or count > 0 for count in result.figures["wakes_per_second"].values())


def test_a_soak_samples_every_node_all_along(short_directory: Path) -> None:
    """Memory, descriptors, threads and queues, as many samples of each."""
    result = done(soak.Soak(soak_seconds=1.0, callers=4), short_directory)
    samples = result.figures["samples"]
    assert len(samples) == 3
    for found in samples.values():
        assert {"resident_bytes", "descriptors", "threads", "pending_ops", "link_bytes"} <= set(found)
        assert {len(values) for values in found.values()} == {soak.SAMPLES}
        assert min(found["descriptors"]) > 3
    assert result.figures["per_second"] > 0


def test_every_trial_says_what_it_is() -> None:
    """For the table and for whoever waits; each has a quick size."""
    for name, trial in trials.TRIALS.items():
        assert trial.name == name and trial.about and trial.target in "4567"
        quick = trials.sized(name, quick=True, given={})
        assert 0 < quick.estimate_seconds < trial.estimate_seconds
