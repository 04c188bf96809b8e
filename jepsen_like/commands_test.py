"""`jepsen_like test`, `test-all` and `analyze`: real processes, real faults, a verdict, an exit status.

Exit status: 0 pass, 1 fail, 2 unknown, 254 bad arguments, 255 crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from jepsen_like import store as runs
from jepsen_like.cluster import hosts as host_kinds
from jepsen_like.cluster.namespaces import NetworkError
from jepsen_like.nemeses import schedule
from jepsen_like.report import write_report
from jepsen_like.runner import Plan, Run, show_progress
from jepsen_like.workloads.catalogue import WORKLOADS

PASS, FAIL, UNKNOWN, BAD_ARGUMENTS, CRASH = 0, 1, 2, 254, 255
UNAVAILABLE = -1  # no run, for want of its faults: unknown where it was asked for by name, left out of a sweep
INTERRUPTED = -2  # unknown, and the end of a sweep
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ERRORS_SHOWN = 5  # of each checker
REENTERED = "JEPSEN_LIKE_REENTERED"

_CONCURRENCY = re.compile(r"(\d+)(n?)")


def parse_concurrency(text: str, nodes: int) -> int:
    """ "10" workers, or "2n": two per node. ValueError otherwise."""
    found = _CONCURRENCY.fullmatch(text)
    workers = 0 if found is None else int(found[1]) * (nodes if found[2] else 1)
    if not 1 <= workers <= 1_000:
        raise ValueError(f"concurrency {text!r}: a number from 1 to 1000, or such as 2n, per node")
    return workers


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `test` and `test-all` share."""
    options = [
        click.option("--nodes", type=int, default=5, show_default=True, help="How many nodes: 1, 3, 5 or 7."),
        click.option("--time-limit", type=float, default=60, show_default=True, help="Seconds of load and faults."),
        click.option("--concurrency", default="2n", show_default=True, help="Workers; 2n: two per node."),
        click.option("--rate", type=float, default=200, show_default=True, help="Ops per second, of all workers."),
        click.option("--seed", type=int, help="Decides faults and ops; default: a fresh one, which is printed."),
        click.option("--store", type=click.Path(path_type=Path), default=Path("store"), show_default=True),
        click.option("--policy", type=click.Choice(["deny", "terminate"]), default="deny", show_default=True),
        click.option("--hosts", type=click.Choice(host_kinds.KINDS), default="auto", show_default=True),
        click.option("--stock", is_flag=True, help="Against stock PySyncObj instead of raftstore."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("test")
@click.option("--workload", type=click.Choice(sorted(WORKLOADS)), default="ownership", show_default=True)
@click.option("--nemesis", default="all", show_default=True, help=f"{', '.join(schedule.NEMESES)}; all; none.")
@_options
def test_command(**given: Any) -> None:
    """Run one workload on real processes while nemeses break things, then check what happened."""
    _enter_namespace(given["hosts"])
    status = _run(_plan(**given))
    sys.exit(UNKNOWN if status in (UNAVAILABLE, INTERRUPTED) else status)


@click.command("test-all")
@click.option("--workloads", default="all", show_default=True, help="Names with commas between.")
@click.option("--nemeses", default="each,all", show_default=True, help="Names; each: one by one; all: together.")
@_options
def test_all_command(workloads: str, nemeses: str, **given: Any) -> None:
    """Sweep workloads and nemeses, one run after the other; the worst verdict counts.

    With --seed each run takes the next seed, so that no two have the same faults at the same times.
    """
    _enter_namespace(given["hosts"])
    wanted = list(WORKLOADS) if workloads == "all" else workloads.split(",")
    faults = [fault for name in nemeses.split(",") for fault in (schedule.NEMESES if name == "each" else [name])]
    pairs = [(workload, fault) for workload in wanted for fault in faults if _makes_sense(workload, fault)]
    first = given.pop("seed")
    seeds = [None if first is None else first + number for number in range(len(pairs))]
    plans = [
        _plan(workload=w, nemesis=fault, seed=seed, **given) for (w, fault), seed in zip(pairs, seeds, strict=True)
    ]
    statuses = []
    for number, plan in enumerate(plans, start=1):
        click.echo(f"--- {number} of {len(plans)}: {plan.name}")
        statuses.append((_run(plan), plan.name))
        if statuses[-1][0] in (CRASH, INTERRUPTED):
            break
    click.echo("--- summary")
    for status, name in statuses:
        click.echo(f"{_WORDS.get(status, 'CRASH'):11} {name}")
    sys.exit(_worst([status for status, _ in statuses]))


def _worst(statuses: Sequence[int]) -> int:
    """That of a sweep. Where nothing at all could be run, nothing is known."""
    found = [status for status in statuses if status not in (UNAVAILABLE, INTERRUPTED)]
    found += [UNKNOWN for status in statuses if status == INTERRUPTED]
    return max(found, key=(PASS, UNKNOWN, FAIL, CRASH).index, default=UNKNOWN)


def _makes_sense(workload: str, fault: str) -> bool:
    unfit = schedule.NEVER_STICKY if workload == "sticky" else schedule.STICKY_ONLY
    if fault in unfit:
        click.echo(f"left out: {fault} with {workload}: it means nothing there")
    return fault not in unfit


@click.command("analyze")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def analyze_command(directory: Path) -> None:
    """Check the history of an old run again."""
    if not (directory / "history.jsonl").exists() or not (directory / "test.json").exists():
        _bad(f"{directory}: no run (it has no history.jsonl and test.json)")
    try:
        results = runs.judge(directory, runs.kept_verdicts(directory))
        write_report(directory)
    except Exception:
        traceback.print_exc()
        sys.exit(CRASH)
    sys.exit(show(results, directory))


def _plan(*, workload: str, nemesis: str, nodes: int, time_limit: float, **given: Any) -> Plan:
    """A plan from the options. Ends with status 254 where they make none."""
    try:
        names = schedule.parse_names(nemesis)
        workers = parse_concurrency(given.pop("concurrency"), nodes)
        if workload not in WORKLOADS:
            raise ValueError(f"no workload {workload!r} (there are: {', '.join(sorted(WORKLOADS))})")
        if nodes not in (1, 3, 5, 7):
            raise ValueError(f"{nodes} nodes: use 1, 3, 5 or 7")
        if not 1 <= time_limit <= 86_400 or not 0 < given["rate"] <= 10_000:
            raise ValueError("time limit from 1 to 86400 seconds, rate up to 10000 per second")
    except ValueError as problem:
        _bad(str(problem))
    seed = given.pop("seed")
    given["seed"] = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    return Plan(workload=workload, nemeses=names, nodes=nodes, time_limit_s=time_limit, workers=workers, **given)


def _bad(problem: str) -> NoReturn:
    click.echo(f"jepsen_like: {problem}", err=True)
    sys.exit(BAD_ARGUMENTS)


def _enter_namespace(hosts: str) -> None:
    """Without root, start again as root of a user namespace of our own, where this machine lets us."""
    if hosts == "loopback" or os.geteuid() == 0 or os.environ.get(REENTERED):
        return
    if host_kinds.can_become_root_of_a_namespace():
        os.environ[REENTERED] = "1"
        inside = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "jepsen_like", *sys.argv[1:]]
        os.execvp("unshare", inside)


def _run(plan: Plan) -> int:
    """One run, to its exit status. An interrupt cleans up and is no verdict."""
    click.echo(f"{plan.name}: seed {plan.seed}, again with: {replay(plan)}")
    run = Run(plan, click.echo)
    try:
        results = asyncio.run(_with_progress(run))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted: healed and cleaned up; no verdict")
        return INTERRUPTED
    except NetworkError as problem:
        click.echo(f"jepsen_like: {problem}", err=True)
        return CRASH
    except Exception:
        traceback.print_exc()
        return CRASH
    status = show(results, run.directory)
    return UNAVAILABLE if status == UNKNOWN and run.is_unavailable else status


async def _with_progress(run: Run) -> dict[str, Any]:
    work = asyncio.ensure_future(run.run())
    _cancel_when_interrupted(work)
    is_terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        click.echo(f"\r{line[:118]:118}" if is_terminal else line, nl=not is_terminal, err=True)

    progress = asyncio.create_task(show_progress(run, say, 1.0 if is_terminal else 10.0))
    try:
        return await work
    finally:
        progress.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await progress


def _cancel_when_interrupted(work: asyncio.Future[Any]) -> None:
    """By the first signal. More of them do not disturb the cleaning up, whoever is in a hurry."""
    is_told = False

    def interrupted() -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            click.echo("interrupted: cleaning up")
            work.cancel()

    for number in INTERRUPTS:
        asyncio.get_running_loop().add_signal_handler(number, interrupted)


def replay(plan: Plan) -> str:
    """The command line that orders the same run."""
    known = dataclasses.asdict(plan)
    words = ["python", "-m", "jepsen_like", "test", "--workload", plan.workload]
    words += ["--nemesis", ",".join(plan.nemeses) or "none", "--concurrency", str(plan.workers)]
    for option, name in (("nodes", "nodes"), ("time-limit", "time_limit_s"), ("rate", "rate"), ("seed", "seed")):
        words += [f"--{option}", f"{known[name]:g}" if isinstance(known[name], float) else str(known[name])]
    words += ["--policy", plan.policy, *(["--stock"] if plan.stock else [])]
    return shlex.join(words)


_WORDS = {PASS: "PASS", FAIL: "FAIL", UNKNOWN: "UNKNOWN", UNAVAILABLE: "unavailable", INTERRUPTED: "interrupted"}


def show(results: dict[str, Any], directory: Path) -> int:
    """The verdict with its reasons, for people; the exit status."""
    for name, verdict in results["checkers"].items():
        word = {True: "ok", False: "FAILED"}.get(verdict["valid"], "unknown")
        click.echo(f"  {name:16} {word}")
        for error in verdict["errors"][:ERRORS_SHOWN]:
            click.echo(f"    {error}")
        if len(verdict["errors"]) > ERRORS_SHOWN:
            click.echo(f"    and {len(verdict['errors']) - ERRORS_SHOWN} more")
    status = {True: PASS, False: FAIL}.get(results["valid"], UNKNOWN)
    click.echo(f"{_WORDS[status]}: {results['events']} events, {directory}")
    return status
