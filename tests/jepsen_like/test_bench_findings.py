"""The table of targets: what is met, missed, and not known."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from jepsen_like.bench import findings, parts, run, trials
from jepsen_like.bench.plan import Plan
from jepsen_like.bench.trials.base import Finding, TrialResult
from jepsen_like.cli import main
from raftstore.cli.bench_process import BenchFailed

KNOWN = {"tls_round_trip_ms": 0.05, "sync_floor_ms": 0.15}
NO_COMPARISON = Plan((), (), rounds=1, seconds=0, warm_up_seconds=0)


def entry(case: str, peer: str, **figures: Any) -> dict[str, Any]:
    return {"case": case, "peer": peer, **figures}


def told(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(findings.table(rows))
    return text.getvalue()


def row(**changes: Any) -> dict[str, Any]:
    finding = dataclasses.replace(Finding("4", "leader killed, p99", 500.0, "ms", 1_000.0), **changes)
    return findings.rows([finding])[0]


def test_a_target_is_met_up_to_its_bound_and_at_it() -> None:
    """At most 1000: 1000 is met; at least 1000: the same."""
    assert row(measured=1_000.0)["met"] is True
    assert row(measured=1_000.1)["met"] is False
    assert row(measured=1_000.0, at_least=True)["met"] is True
    assert row(measured=999.9, at_least=True)["met"] is False


def test_a_target_that_is_missed_says_by_how_much() -> None:
    """Twice as much as it may be; half of what it should be."""
    assert findings.verdict(row(measured=2_000.0)) == "MISSED: 2.00 times as much"
    assert findings.verdict(row(measured=500.0, at_least=True)) == "MISSED: 0.50 of it"
    assert findings.verdict(row(measured=3.0, bound=0.0)) == "MISSED"


def test_what_could_not_be_measured_has_a_row_that_says_why() -> None:
    """It is neither met nor missed."""
    found = row(measured=None, note="nobody led")
    assert found["met"] is None
    assert "not measured; nobody led" in told([found])


def test_ratios_of_the_comparison_stand_beside_the_targets() -> None:
    """Targets 1 to 3 from a summary: each measured figure beside its bound."""
    summary = [
        entry("transition/256/all", "raftstore", per_second=50_000.0),
        entry("transition/256/all", "etcd-aetcd", ours_to_its_rate=11.0),
        entry("transition/256/all", "etcd-wire", ours_to_its_rate=4.0),
        entry("transition/1/leader", "raftstore", floors=2.0, p50_us=400.0),
        entry("transition/1/leader", "etcd-aetcd", ours_to_its_p50=0.7),
        entry("transition/1/follower", "raftstore", p50_us=440.0),
        entry("read/1/leader", "raftstore", p50_us=90.0),
        entry("read/1/follower", "raftstore", p50_us=110.0),
        entry("owns/1/leader", "raftstore", p50_us=0.8),
    ]
    rows = findings.rows(findings.compared(summary, KNOWN))
    assert [(found["target"], found["met"]) for found in rows] == [
        *(("1", met) for met in (False, True, False)),
        *(("2", met) for met in (True, False, True)),
        *(("3", met) for met in (True, False, True)),
    ]
    assert rows[5]["measured"] == pytest.approx(40.0)
    assert rows[5]["bound"] == pytest.approx(50.0)


def test_without_a_comparison_its_targets_are_not_measured() -> None:
    """All nine rows are there and say what they need."""
    rows = findings.rows(findings.compared([], {}))
    assert [found["met"] for found in rows] == [None] * 9
    assert all("needs " in found["note"] for found in rows)


@dataclasses.dataclass(frozen=True)
class MadeUp:
    name: str = "outage"
    about: str = "made up"
    target: str = "4"
    estimate_seconds: float = 1.0
    kills: int = 50
    is_broken: bool = False

    async def run(self, directory: Path, say: run.Say) -> TrialResult:
        if self.is_broken:
            raise BenchFailed("n1 said nothing\nand more")
        return TrialResult({"kills": self.kills}, [Finding("4", "made up", 1.0, "ms", 2.0)])


async def no_limits(_directory: Path) -> dict[str, float]:
    return {}


def test_a_trial_that_fails_is_named_and_its_target_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silence nor success."""
    monkeypatch.setattr(parts.limits, "measure", no_limits)
    monkeypatch.setattr(parts, "TRIALS", {"outage": MadeUp()})
    found = asyncio.run(parts.run_parts(NO_COMPARISON, {}, [MadeUp(is_broken=True)], lambda _text: None))
    assert found["problems"] == ["outage: n1 said nothing\nand more"]
    assert [(one.target, one.measured, one.note) for one in found["findings"]] == [
        ("4", None, "it failed: n1 said nothing")
    ]


def test_a_trial_that_nobody_asked_for_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says what is missing from it, and one that ran brings its own rows."""
    monkeypatch.setattr(parts.limits, "measure", no_limits)
    monkeypatch.setattr(parts, "TRIALS", {"outage": MadeUp(), "other": MadeUp("other", target="5")})
    found = asyncio.run(parts.run_parts(NO_COMPARISON, {}, [MadeUp()], lambda _text: None))
    assert found["trials"] == {"outage": {"kills": 50}}
    assert [(one.target, one.is_met) for one in found["findings"]] == [("4", True), ("5", None)]


def test_sizes_come_from_the_trial_then_from_quick_then_from_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is given wins; one that the trial does not have is not its affair."""
    monkeypatch.setattr(trials, "TRIALS", {"outage": MadeUp()})
    monkeypatch.setattr(trials, "QUICK", {"outage": {"kills": 3}})
    kills = [
        trials.sized("outage", quick=quick, given={"kills": kills, "soak_seconds": 9})
        for quick, kills in ((False, None), (True, None), (True, 7))
    ]
    assert kills == [MadeUp(kills=50), MadeUp(kills=3), MadeUp(kills=7)]


@pytest.mark.parametrize(("given", "said"), [("lunch", "lunch: choose from"), (",", "nothing: choose from")])
def test_an_unknown_part_is_a_bad_argument(given: str, said: str) -> None:
    """The answer lists those that there are."""
    ended = CliRunner().invoke(main, ["bench", "--parts", given])
    assert ended.exit_code == 254
    assert said in ended.output
    assert "comparison" in ended.output
