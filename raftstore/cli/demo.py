"""`raftstore demo`: three real processes, real faults, and a table of what was promised and whether it was kept."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from raftstore.cli.demo_cluster import DemoCluster
from raftstore.cli.demo_scenes import Demo
from raftstore.cli.demo_stage import Promises, Stage
from raftstore.cli.demo_sticky import StickyDemo
from raftstore.cli.demo_terminate import TerminateDemo
from raftstore.config.tables import POLICIES, STRATEGIES
from raftstore.errors import RaftstoreError

SCENE_WIDTH = 100


@click.command()
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="shared",
    show_default=True,
    help="How nodes agree on owners: one replicated log (shared), or a mapping and a log per node (sticky).",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="deny",
    show_default=True,
    help="What becomes of sessions whose owner is lost: they wait (deny), or end for good (terminate). Shared only.",
)
def demo(strategy: str, policy: str) -> None:
    """Show the promise on three real node processes: less than half a minute, no root, nothing left behind.

    Starts a cluster on loopback with certificates of its own in a temporary directory and uses it, with real
    operations and kill -9 only. Ends with a table of the promises. Exit status 0 only if every one was kept.

    \b
      raftstore demo
          create, race, migrate, partition, kill, expire and drain; a majority decides
      raftstore demo --policy terminate
          the same, but what is lost with its owner ends, and both sides say why
      raftstore demo --strategy sticky
          ids map to nodes without consensus: two of three nodes killed, mapping changes under load,
          interrupted by kill -9, stale, and in conflict; all nodes are asked all the while who owns what
    """
    if strategy == "sticky" and policy == "terminate":
        problem = "has no meaning with --strategy sticky: there no node can find another's sessions lost"
        raise click.UsageError(f"--policy terminate {problem}")
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(width=SCENE_WIDTH, highlight=False)
    begun = time.monotonic()
    try:
        promises = asyncio.run(_run(console, strategy, policy))
    except KeyboardInterrupt:
        console.print("interrupted; the processes are stopped and their files removed")
        sys.exit(1)
    except RaftstoreError as problem:
        console.print(f"raftstore demo: {problem}", markup=False)
        sys.exit(1)
    console.print(_table(promises))
    console.print(f"{time.monotonic() - begun:.0f} s; all processes are stopped and their files removed")
    sys.exit(0 if promises.all_kept else 1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


async def _run(console: Console, strategy: str, policy: str) -> Promises:
    number = 0

    def title(text: str) -> None:
        nonlocal number
        number += 1
        console.print(f"\n[bold]{number}. {text}[/bold]")

    def say(text: str) -> None:
        console.print(f"   {text}", markup=False)

    console.print("starting three node processes with certificates and directories of their own ...")
    stage = _stage(strategy, policy)
    async with DemoCluster(strategy=strategy, policy=policy, lease_ttl_ms=stage.lease_ttl_ms) as cluster:
        return await stage(cluster, say, title).run()


def _stage(strategy: str, policy: str) -> type[Stage]:
    if strategy == "sticky":
        return StickyDemo
    return TerminateDemo if policy == "terminate" else Demo


def _table(promises: Promises) -> Table:
    table = Table(title="\nWhat was promised", title_justify="left")
    table.add_column("promise")
    table.add_column("kept")
    table.add_column("evidence")
    for promise, kept, evidence in promises.rows:
        table.add_row(promise, "[green]yes[/green]" if kept else "[red]NO[/red]", evidence)
    return table
