"""The simulator on the command line: exit statuses, the line that replays, the mutants table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from jepsen_like.cli import main
from jepsen_like.sim import commands_mutants, defects, mutants
from jepsen_like.sim.commands_mutants import Hunt
from jepsen_like.sim.run import Options, run_seed
from raftstore.node.dispatch import Dispatcher


def test_a_seed_that_passes_exits_with_0() -> None:
    """One line says so, with the digest by which two runs are compared."""
    done = CliRunner().invoke(main, ["sim", "--seed", "1", "--time-limit", "6"])
    assert done.exit_code == 0, done.output
    assert "seed 1: passed, digest" in done.output


def test_a_seed_that_fails_exits_with_1_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    """The history and the verdict are kept where they were asked for."""
    options = ["sim", "--seeds", "3:6", "--mutant", "commit-by-a-minority", "--time-limit", "30"]
    done = CliRunner().invoke(main, [*options, "--store", str(tmp_path)])
    assert done.exit_code == 1, done.output
    line = next(line for line in done.output.splitlines() if "python -m jepsen_like sim --seed" in line)
    assert "--mutant commit-by-a-minority" in line
    run = tmp_path / f"sim-{line.split()[5]}"
    results = json.loads((run / "results.json").read_text())
    assert results["valid"] is False
    assert results["checkers"]["run"]["errors"]
    assert line.strip() in (run / "index.html").read_text()
    again = CliRunner().invoke(main, ["analyze", str(run)])
    assert again.exit_code == 1, again.output


@pytest.mark.parametrize("arguments", [["--seeds", "5"], ["--seeds", "5:5"], ["--seed", "1", "--seeds", "1:2"]])
def test_bad_arguments_run_nothing(arguments: list[str]) -> None:
    """A range that is none is refused."""
    assert CliRunner().invoke(main, ["sim", *arguments]).exit_code not in (0, 1)


def test_the_mutants_table_names_the_check_that_found_it() -> None:
    """A mutant that tells nobody of lost rights is found, by the check of fences."""
    done = CliRunner().invoke(main, ["mutants", "fenced-callback-missing", "--seeds", "0:20", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "| fenced-callback-missing |" in done.output
    assert "fenced |" in done.output


def test_what_was_hunted_at_this_commit_is_not_hunted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line in the file stands for it; of another commit, or of changed files, it does not."""
    kept = tmp_path / "mutants.jsonl"
    hunt = Hunt("version-not-raised", "abc1234", 7, 6, "versions", 1.0)
    kept.write_text(json.dumps(hunt._asdict()) + "\n")
    hunted: list[str] = []

    def nothing(name: str, commit: str, *_: object) -> Hunt:
        hunted.append(name)
        return Hunt(name, commit, 2, None, "", 0.1)

    monkeypatch.setattr(commands_mutants, "_hunt", nothing)
    for commit, code in (("abc1234", 0), ("abc1235", 1), ("abc1234+", 1)):
        monkeypatch.setattr(commands_mutants, "commit_id", lambda commit=commit: commit)
        done = CliRunner().invoke(main, ["mutants", "version-not-raised", "--keep", str(kept)])
        assert done.exit_code == code, done.output
    assert hunted == ["version-not-raised"] * 2
    assert len(kept.read_text().splitlines()) == 3


def test_an_unknown_mutant_is_refused() -> None:
    """A misspelt name is told, with the known ones."""
    done = CliRunner().invoke(main, ["mutants", "no-such"])
    assert done.exit_code == 254
    assert "vote-not-persisted" in done.output


@pytest.fixture
def original() -> Iterator[object]:
    yield vars(Dispatcher)["fenced"]


def test_a_mutant_leaves_nothing_behind(original: object) -> None:
    """After its context everything is as before, for every mutant of the table."""
    for make in mutants.MUTANTS.values():
        with make():
            pass
    assert vars(Dispatcher)["fenced"] is original


def test_an_inherited_attribute_is_taken_out_again() -> None:
    """What a class only inherited is not left in it."""

    class Base:
        def value(self) -> int:
            return 1

    class Derived(Base):
        pass

    with defects.attribute(Derived, "value", lambda before: lambda self: before(self) + 1)():
        assert Derived().value() == 2
    assert "value" not in vars(Derived)


def test_a_mutant_changes_what_happens() -> None:
    """The same seed with a defect is another run."""
    sound = run_seed(3, Options(time_limit_s=8))
    broken = run_seed(3, Options(time_limit_s=8, mutant="read-without-quorum"))
    assert sound.digest != broken.digest
