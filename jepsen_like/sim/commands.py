"""`jepsen_like sim`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from jepsen_like.report import write_report
from jepsen_like.sim.mutants import MUTANTS
from jepsen_like.sim.run import Options, Result, plan_of, run_plan, run_seeds
from jepsen_like.sim.shrink import describe, shrink

PASSED, FAILED, UNKNOWN, BAD_ARGUMENTS = 0, 1, 2, 254


class SeedRange(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """`A:B`, the seeds from A up to B, without B."""

    name = "A:B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        first, colon, end = str(value).partition(":")
        if not colon or not first.isdigit() or not end.isdigit() or int(end) <= int(first):
            self.fail(f"{value!r} is not A:B with two numbers, the second larger", param, ctx)
        return range(int(first), int(end))


SEEDS = SeedRange()


@click.command()
@click.option("--seed", type=click.IntRange(min=0), help="Run this one seed.")
@click.option("--seeds", type=SEEDS, help="Run the seeds from A up to B, without B.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes at work at once.")
@click.option("--time-limit", type=click.IntRange(3, 3600), default=60, show_default=True, help="Virtual seconds.")
@click.option("--mutant", type=click.Choice(sorted(MUTANTS)), help="Switch on a known defect in the code under test.")
@click.option("--policy", type=click.Choice(["deny", "terminate"]), help="Partition policy; else each seed's own.")
@click.option("--workload", type=click.Choice(["mix", "sticky"]), default="mix", show_default=True)
@click.option("--beyond-drift", is_flag=True, help="Let clocks drift beyond the configured bound; says what breaks.")
@click.option("--shrink", "shrinks", is_flag=True, help="Look for a shorter schedule that fails too.")
@click.option("--store", type=click.Path(file_okay=False), help="Keep history and verdict of every failing seed here.")
@click.option("--commit", help="The commit that the line to replay names; told, not checked out.")
def sim(
    seed: int | None,
    seeds: range | None,
    jobs: int,
    time_limit: int,
    mutant: str | None,
    policy: str | None,
    workload: str,
    beyond_drift: bool,
    shrinks: bool,
    store: str | None,
    commit: str | None,
) -> None:
    """Run whole clusters in one process, on virtual time: one seed decides everything.

    Exit status: 0 all passed, 1 one failed, 2 one is unknown, 254 bad arguments, 255 crashed.
    """
    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds exclude each other")
    chosen = seeds if seeds is not None else range(seed or 0, (seed or 0) + 1)
    if commit is not None and commit != (here := commit_id()):
        click.echo(f"this is commit {here}, the seed was found at {commit}: it may go another way here", err=True)
    options = Options(time_limit, policy, workload, mutant, beyond_drift)
    sys.exit(_run(chosen, options, jobs, shrinks, store))


def _run(seeds: range, options: Options, jobs: int, shrinks: bool, store: str | None) -> int:
    began, worst, faults, events = time.monotonic(), PASSED, 0, 0
    bar = click.progressbar(length=len(seeds), label="seeds", show_pos=True, file=sys.stderr)
    with bar:
        for result in run_seeds(seeds, options, jobs):
            bar.update(1)
            faults += result.stats["faults"]
            events += result.stats["events"]
            if result.valid is not True:
                worst = FAILED if result.valid is False or worst == FAILED else UNKNOWN
                _tell(result, options, shrinks, store)
            elif len(seeds) == 1:
                click.echo(result.line())
    took = time.monotonic() - began
    word = {PASSED: "passed", FAILED: "FAILED", UNKNOWN: "unknown"}[worst]
    click.echo(
        f"{word}: {len(seeds)} seeds, {faults} faults, {events} events in {took:.1f} s "
        f"({len(seeds) / took:.2f} seeds/s)"
    )
    return worst


def _tell(result: Result, options: Options, shrinks: bool, store: str | None) -> None:
    """What failed, and the one line that does it again."""
    click.echo(f"\n{result.line()}\n  {replay_line(result.seed, options)}")
    plan = plan_of(result.seed, options)
    if store is not None:
        directory = Path(store) / f"sim-{result.seed}"
        run_plan(plan, options._replace(store=str(directory), replay=replay_line(result.seed, options)))
        write_report(directory)
        click.echo(f"  kept in {directory}, to be read from {directory / 'index.html'}")
    if shrinks:
        checker = result.found[0][0]
        smaller = shrink(plan, lambda tried: any(name == checker for name, _ in run_plan(tried, options).found))
        for line in describe(smaller):
            click.echo(f"  {line}")


def replay_line(seed: int, options: Options) -> str:
    """The command that runs this seed alike."""
    parts = [f"python -m jepsen_like sim --seed {seed} --commit {commit_id()}"]
    if options.time_limit_s != 60:
        parts.append(f"--time-limit {options.time_limit_s}")
    if options.policy:
        parts.append(f"--policy {options.policy}")
    if options.workload != "mix":
        parts.append(f"--workload {options.workload}")
    if options.mutant:
        parts.append(f"--mutant {options.mutant}")
    if options.beyond_drift:
        parts.append("--beyond-drift")
    return " ".join(parts)


def commit_id() -> str:
    """The short id of the commit that this code is from, where git knows; with a + where files were changed since."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "..", "../../raftstore")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + "+" if changed else commit


def _git(*arguments: str) -> str:
    where = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
