"""`jepsen_like mutants`: how many seeds it takes until known defects are found, and which check finds them.

A finding counts only if the same seed passes without the defect: else it says something about the code, or about the
simulator, and nothing about the check.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import click

from jepsen_like.sim.commands import BAD_ARGUMENTS, FAILED, PASSED, SEEDS, commit_id
from jepsen_like.sim.mutants import MUTANTS, workload_of
from jepsen_like.sim.run import Options, run_seed, run_seeds


class Hunt(NamedTuple):
    """What came of the hunt for one mutant."""

    mutant: str
    commit: str
    tried: int  # seeds
    seed: int | None  # that found it; None: not found
    check: str
    seconds: float

    def row(self) -> str:
        """A line of the table."""
        seeds = str(self.tried) if self.seed is not None else "-"
        by = self.check if self.seed is not None else f"NOT FOUND in {self.tried}"
        return f"| {self.mutant} | {seeds} | {by} |"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seeds", type=SEEDS, default="0:2000", show_default=True, help="The seeds to try, without the last.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes at work at once.")
@click.option("--time-limit", type=click.IntRange(3, 3600), default=60, show_default=True, help="Virtual seconds.")
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append each result to this file; what it already says of this very commit is not hunted again.",
)
def mutants(names: tuple[str, ...], seeds: range, jobs: int, time_limit: int, keep: Path | None) -> None:
    """Show that the checkers notice known defects: each mutant, how many seeds it took, and who found it.

    Without NAMES all of them, which takes hours where one is hard to find; with --keep it goes on where it stopped.
    Exit status: 0 all found, 1 one is not, 254 bad arguments.
    """
    unknown = sorted(set(names) - set(MUTANTS))
    if unknown:
        click.echo(f"no mutant {', '.join(unknown)} (known: {', '.join(sorted(MUTANTS))})", err=True)
        sys.exit(BAD_ARGUMENTS)
    commit = commit_id()
    known = {} if keep is None else _read(keep, commit)
    missed = 0
    click.echo("| mutant | seeds until found | found by |\n|---|---|---|")
    for name in names or MUTANTS:
        hunt = known.get(name) or _hunt(name, commit, seeds, jobs, time_limit)
        if keep is not None and name not in known:
            with keep.open("a") as file:
                file.write(json.dumps(hunt._asdict()) + "\n")
        missed += hunt.seed is None
        click.echo(hunt.row())
    sys.exit(FAILED if missed else PASSED)


def _hunt(name: str, commit: str, seeds: range, jobs: int, time_limit: int) -> Hunt:
    began = time.monotonic()
    options = Options(time_limit, mutant=name, workload=workload_of(name))
    with click.progressbar(length=len(seeds), label=name, show_pos=True, file=sys.stderr) as bar:
        for tried, result in enumerate(run_seeds(seeds, options, jobs), start=1):
            bar.update(1)
            if result.valid is False and _passes_without(result.seed, options):
                took = time.monotonic() - began
                return Hunt(name, commit, tried, result.seed, result.found[0][0], round(took, 1))
    return Hunt(name, commit, len(seeds), None, "", round(time.monotonic() - began, 1))


def _passes_without(seed: int, options: Options) -> bool:
    sound = run_seed(seed, options._replace(mutant=None))
    if sound.valid is not True:
        click.echo(f"\nno finding, it fails without the mutant: {sound.line()}", err=True)
    return sound.valid is True


def _read(path: Path, commit: str) -> dict[str, Hunt]:
    """What the file says of this commit; nothing where files were changed since, nobody could say which."""
    if not path.exists() or commit.endswith("+"):
        return {}
    found: dict[str, Hunt] = {}
    for line in path.read_text().splitlines():
        fields: dict[str, Any] = json.loads(line)
        if fields["commit"] == commit and (fields["seed"] is not None or fields["tried"]):
            found[fields["mutant"]] = Hunt(**fields)
    return found
