"""The command line: what it accepts, how it refuses, how a run is said again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from jepsen_like.cli import main
from jepsen_like.commands_test import (
    BAD_ARGUMENTS,
    CRASH,
    FAIL,
    INTERRUPTED,
    PASS,
    UNAVAILABLE,
    UNKNOWN,
    _worst,
    parse_concurrency,
    replay,
    show,
)
from jepsen_like.runner import Plan


def test_concurrency_is_a_number_or_a_number_per_node() -> None:
    """ "12" and "3n" are understood, nothing else is."""
    assert parse_concurrency("12", 5) == 12
    assert parse_concurrency("3n", 5) == 15
    for wrong in ("", "n", "0", "0n", "2.5", "-1", "2n2", "1001"):
        with pytest.raises(ValueError, match="concurrency"):
            parse_concurrency(wrong, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nemesis", "kil"], "no nemesis 'kil'"),
        (["--nodes", "4"], "4 nodes"),
        (["--concurrency", "many"], "concurrency 'many'"),
        (["--time-limit", "0"], "time limit"),
        (["--rate", "-1"], "rate"),
        (["--nodes", "three"], "'three' is not a valid integer"),
        (["--workload", "bank"], "'bank' is not one of"),
        (["--speed", "9"], "No such option"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: list[str], said: str) -> None:
    """Status 254 and one line that says what is wrong; nothing is started."""
    found = CliRunner().invoke(main, ["test", "--hosts", "loopback", *arguments])
    assert found.exit_code == BAD_ARGUMENTS
    assert said.lower() in found.output.lower()


def test_an_unknown_command_is_refused() -> None:
    """The status of bad arguments is never that of a verdict."""
    assert CliRunner().invoke(main, ["tets"]).exit_code == BAD_ARGUMENTS
    assert CliRunner().invoke(main, ["--tets"]).exit_code == BAD_ARGUMENTS


def test_a_directory_that_is_no_run_is_not_analyzed(tmp_path: Path) -> None:
    """`analyze` says what is missing."""
    found = CliRunner().invoke(main, ["analyze", str(tmp_path)])
    assert found.exit_code == BAD_ARGUMENTS and "no run" in found.output


def test_a_run_is_replayed_by_one_line() -> None:
    """The printed line names everything that decides the run."""
    plan = Plan("lease", ["kill", "pause"], 3, 12.5, 6, 100.0, 42, "terminate", stock=True)
    line = replay(plan)
    for part in ("--workload lease", "--nemesis kill,pause", "--nodes 3", "--time-limit 12.5", "--seed 42", "--stock"):
        assert part in line
    assert "--policy terminate" in line and "--concurrency 6" in line


@pytest.mark.parametrize(("valid", "status"), [(True, PASS), (False, FAIL), ("unknown", UNKNOWN)])
def test_the_verdict_is_the_exit_status(
    valid: bool | str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pass, fail and unknown are 0, 1 and 2, and the reasons are shown."""
    errors = [] if valid is True else [f"problem {i}" for i in range(9)]
    results = json.loads(
        json.dumps({"valid": valid, "events": 3, "checkers": {"c": {"valid": valid, "errors": errors}}})
    )
    assert show(results, tmp_path) == status
    shown = capsys.readouterr().out
    assert ("problem 4" in shown and "and 4 more" in shown) == bool(errors)


def test_a_nemesis_that_cannot_be_had_is_told_and_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`member` alone: nothing is run and nothing is known; in a sweep it is named as unavailable."""
    with tempfile.TemporaryDirectory(prefix="jl", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        options = ["--hosts", "loopback", "--nodes", "1", "--seed", "5", "--store", str(tmp_path)]
        alone = CliRunner().invoke(main, ["test", "--nemesis", "member", *options])
        swept = CliRunner().invoke(main, ["test-all", "--workloads", "lease", "--nemeses", "member,member", *options])
    assert alone.exit_code == UNKNOWN and "unavailable: member: " in alone.output
    assert "none of the faults asked for is available" in alone.output
    assert swept.exit_code == UNKNOWN and "unavailable lease-member" in swept.output
    assert "--seed 5 " in swept.output and "--seed 6 " in swept.output  # each run of a sweep has its own


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ([PASS, UNAVAILABLE, PASS], PASS),
        ([UNAVAILABLE], UNKNOWN),
        ([UNKNOWN, UNAVAILABLE, PASS], UNKNOWN),
        ([FAIL, UNKNOWN, PASS], FAIL),
        ([PASS, CRASH], CRASH),
        ([PASS, INTERRUPTED], UNKNOWN),
        ([FAIL, INTERRUPTED], FAIL),
    ],
)
def test_the_worst_of_a_sweep_counts(statuses: list[int], worst: int) -> None:
    """What could not be run does not count, unless there was nothing else."""
    assert _worst(statuses) == worst
