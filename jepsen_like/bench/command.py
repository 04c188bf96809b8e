"""`jepsen_like bench`: raftstore, its peers and the machine's limits in one run."""

from __future__ import annotations

import asyncio
import io
import os
import platform
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jepsen_like.bench import findings, plot, results
from jepsen_like.bench.parts import COMPARISON, PARTS, run_parts
from jepsen_like.bench.peers import PEERS, USUAL
from jepsen_like.bench.peers.base import Peer, cores
from jepsen_like.bench.plan import KINDS, Plan, cases_of
from jepsen_like.bench.trials import sized
from jepsen_like.store import make_directory, write_json

CONCURRENCY = (1, 64, 256)
CALLERS_MAX = 4_096
FULL = {"rounds": 3, "seconds": 2.0, "warm_up_seconds": 1.0}
QUICK = {"rounds": 1, "seconds": 0.4, "warm_up_seconds": 0.2}
TABLE_WIDTH = 170
ALL = "all"
INTERRUPTED = 255


def _names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in PEERS]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(PEERS)}")
    return names


def _parts(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Those asked for, in the order in which they are run."""
    names = {name.strip() for name in value.split(",") if name.strip()}
    unknown = sorted(names - {*PARTS, ALL})
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(PARTS)}, {ALL}")
    return PARTS if ALL in names else tuple(name for name in PARTS if name in names)


def _numbers(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({int(number) for number in value.split(",")}))
    except ValueError:
        raise click.BadParameter("whole numbers with commas between them") from None
    if not all(1 <= number <= CALLERS_MAX for number in numbers):
        raise click.BadParameter(f"from 1 to {CALLERS_MAX}")
    return numbers


@click.command("bench")
@click.option("--quick", is_flag=True, help="Under a minute: one short round of what the targets are stated in.")
@click.option("--peers", default=",".join(USUAL), show_default=True, callback=_names, help="Which, in which order.")
@click.option(
    "--concurrency", default=",".join(map(str, CONCURRENCY)), show_default=True, callback=_numbers, help="Per node."
)
@click.option("--seconds", type=click.FloatRange(0.05, 600), help="Length of each measurement. [2; quick: 0.4]")
@click.option("--rounds", "round_count", type=click.IntRange(1, 100), help="Turns of every peer. [3; quick: 1]")
@click.option(
    "--parts", default=COMPARISON, show_default=True, callback=_parts, help=f"Of {', '.join(PARTS)}; or {ALL}."
)
@click.option("--kills", type=click.IntRange(1, 1_000), help="Outages of each kind. [50; quick: 3]")
@click.option("--soak-seconds", type=click.FloatRange(1, 86_400), help="Length of the soak. [600; quick: 10]")
@click.option("--sessions", type=click.IntRange(3_000, 2_000_000), help="Of the scale. [1000000; quick: 20000]")
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), default=Path("store"), show_default=True)
def bench_command(
    quick: bool,
    peers: tuple[str, ...],
    concurrency: tuple[int, ...],
    seconds: float | None,
    round_count: int | None,
    parts: tuple[str, ...],
    store: Path,
    **sizes: float | None,
) -> None:
    """Measure raftstore beside its peers and beside what this machine can do.

    Three nodes of each, on loopback and this disk, in turn, round after round. Peers that are not installed are named
    with what brings them. Writes bench.json, bench.txt and bench.png into STORE/bench/TIME. Exit status: 0 all that is
    installed was measured, 1 a peer or a trial failed; targets that are missed do not count here.
    """
    usual = QUICK if quick else FULL
    measured, absent = present(peers if COMPARISON in parts else ())
    plan = Plan(
        tuple(measured),
        cases_of(concurrency, few=quick) if COMPARISON in parts else (),
        round_count or int(usual["rounds"]),
        seconds or usual["seconds"],
        usual["warm_up_seconds"],
    )
    trials = [sized(name, quick=quick, given=sizes) for name in parts if name != COMPARISON]
    console = Console(stderr=True, highlight=False)
    for name, missing in absent.items():
        console.print(f"{name} is absent: {missing}", markup=False)
    estimate_s = plan.estimate_seconds + sum(trial.estimate_seconds for trial in trials)
    console.print(f"{', '.join(parts)}: about {estimate_s:.0f} s and the starts of nodes")
    try:
        work = run_parts(plan, measured, trials, lambda text: console.print(text, markup=False))
        found = asyncio.run(_until_told(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; nothing is left running")
        sys.exit(INTERRUPTED)
    result = complete(plan, measured, absent, found)
    click.echo(report(result, make_directory(store, "bench", is_test=False)))
    sys.exit(1 if result["problems"] else 0)


def present(names: tuple[str, ...]) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers that can be measured here, and by name what the others lack."""
    found = {name: PEERS[name].presence() for name in names}
    absent = {name: presence.missing for name, presence in found.items() if presence.version is None}
    return {name: PEERS[name] for name in names if name not in absent}, absent


async def _until_told(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """SIGTERM is as good as Ctrl-C: what was started is stopped."""
    task = asyncio.create_task(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def complete(
    plan: Plan, measured: Mapping[str, Peer], absent: Mapping[str, str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """All of bench.json."""
    limits = results.limits(found["limits"])
    summary = results.summary(found["rows"], limits)
    return {
        "machine": {
            "cpus": cores(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "plan": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "cases": [case.name for case in plan.cases],
            "kinds": KINDS,
        },
        "peers": {name: {"version": peer.presence().version, "about": peer.about} for name, peer in measured.items()},
        "absent": dict(absent),
        "limits": limits,
        "summary": summary,
        "targets": findings.rows([*findings.compared(summary, limits, is_asked=bool(plan.cases)), *found["findings"]]),
        "trials": dict(found["trials"]),
        "problems": list(found["problems"]),
        "limits_by_turn": list(found["limits"]),
        "rows": list(found["rows"]),
    }


def report(result: Mapping[str, Any], directory: Path) -> str:
    """Write the files; the text of the table, and where they are."""
    text = io.StringIO()
    console = Console(file=text, width=TABLE_WIDTH, highlight=False)
    for table in [*results.tables(result), findings.table(result["targets"])]:
        console.print(table)
    (directory / "bench.txt").write_text(text.getvalue())
    write_json(directory / "bench.json", result)
    why = plot.write(result, directory / "bench.png")
    drawn = "bench.png" if not why else f"no picture: {why}"
    return f"{text.getvalue()}\n{directory}: bench.txt, bench.json, {drawn}"
