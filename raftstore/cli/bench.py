"""`raftstore bench`: what three real nodes do on this machine, beside what its disk and loopback do.

Three processes with mutual TLS, every sync on and the audit trail on, each with its callers embedded. The figures are
of one run on one machine; the ratios to the machine's own sync and round trip travel better than they do.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from raftstore.cli.bench_limits import ECHO_BYTES, round_trip_ms, sync_ms, tls_contexts
from raftstore.cli.bench_process import BenchFailed, Process
from raftstore.cli.temp_cluster import temporary_directory, write_cluster
from raftstore.errors import RaftstoreError

NODE_IDS = ("vpn-1", "vpn-2", "vpn-3")
SINGLE_OPS = 1_500
SETTINGS = "[storage]\ndisk_free_min_bytes = 16777216\n"


@click.command()
@click.option("--callers", default=256, show_default=True, help="Concurrent callers per node.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of the load.")
@click.option("--kills", default=3, show_default=True, help="How often to kill -9 the leader.")
@click.option("--same-loop", is_flag=True, help="Callers on the node's own event loop, not in a thread beside it.")
@click.option("--output", "-o", type=click.Choice(("table", "json")), default="table", show_default=True, help="Form.")
def bench(callers: int, seconds: float, kills: int, same_loop: bool, output: str) -> None:
    """Measure three nodes on this machine: throughput, latency, reads, owns(), and the gap after a leader's death.

    Everything runs in a temporary directory, which is removed. About half a minute; each kill adds some seconds.
    """
    console = Console(stderr=True, highlight=False)
    try:
        result = asyncio.run(_run(console, callers, seconds, kills, "same-loop" if same_loop else "own-thread"))
    except KeyboardInterrupt:
        sys.exit(1)
    except RaftstoreError as problem:
        console.print(f"raftstore bench: {problem}", markup=False)
        sys.exit(1)
    if output == "json":
        click.echo(json.dumps(result, indent=2))
    else:
        Console(highlight=False).print(_table(result))


async def _run(console: Console, callers: int, seconds: float, kills: int, place: str) -> dict[str, Any]:
    directory = temporary_directory()
    processes = {n: _process(directory, n, place) for n in NODE_IDS}
    try:
        console.print("starting three nodes ...")
        config = write_cluster(directory, "bench", NODE_IDS, SETTINGS)
        one_sync_ms = sync_ms(directory)
        one_round_trip_ms = await asyncio.to_thread(round_trip_ms, tls_contexts(config))
        for process in processes.values():
            await process.start()
        await asyncio.gather(*(p.answer() for p in processes.values()))
        return await _measure(console, processes, one_sync_ms, one_round_trip_ms, callers, seconds, kills)
    finally:
        for process in processes.values():
            await process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _process(directory: Path, node_id: str, place: str) -> Process:
    command = [sys.executable, "-m", "raftstore.cli.bench_node", str(directory / "cluster.conf"), node_id, place]
    return Process(node_id, command, directory / f"{node_id}.log")


async def _measure(
    console: Console,
    processes: dict[str, Process],
    one_sync_ms: float,
    one_round_trip_ms: float,
    callers: int,
    seconds: float,
    kills: int,
) -> dict[str, Any]:
    leader = await _leader(processes)
    follower = next(n for n in NODE_IDS if n != leader)
    console.print("one caller ...")
    single = {"leader": await processes[leader].ask("single", count=SINGLE_OPS)}
    single["follower"] = await processes[follower].ask("single", count=SINGLE_OPS)
    console.print(f"{callers} callers per node for {seconds:g} s ...")
    loads = await asyncio.gather(*(p.ask("load", callers=callers, seconds=seconds) for p in processes.values()))
    result: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "sync_p50_ms": one_sync_ms,
        "tls_round_trip_ms": one_round_trip_ms,
        "single": single,
        "load": {
            "callers_per_node": callers,
            "transitions_per_second": sum(x["ops"] / x["seconds"] for x in loads),
            "cpu_us_per_transition": sum(x["cpu_seconds"] for x in loads) / sum(x["ops"] for x in loads) * 1e6,
            "latency": {x: max(load["latency"][x] for load in loads) for x in ("p50_ms", "p99_ms", "max_ms")},
        },
        "leader_kills": [],
    }
    for number in range(kills):
        console.print(f"kill -9 of the leader, {number + 1} of {kills} ...")
        result["leader_kills"].append(await _kill_leader(processes))
    return result


async def _leader(processes: dict[str, Process]) -> str:
    for _ in range(200):
        status = await processes["vpn-1"].ask("status")
        if status["leader"]:
            return str(status["leader"])
        await asyncio.sleep(0.05)
    raise BenchFailed("no leader")


async def _kill_leader(processes: dict[str, Process]) -> float:
    """Milliseconds from the kill to the first commit that another node's caller sees."""
    leader = await _leader(processes)
    other = processes[next(n for n in NODE_IDS if n != leader)]
    begun = time.perf_counter()
    await processes[leader].kill()
    await other.ask("first_commit")
    took_ms = (time.perf_counter() - begun) * 1000
    await processes[leader].start()
    await processes[leader].answer()
    return took_ms


def _table(result: dict[str, Any]) -> Table:
    one_sync_ms, rtt_ms = result["sync_p50_ms"], result["tls_round_trip_ms"]
    floor_ms = one_sync_ms + rtt_ms
    title = f"three nodes, {result['cpus']} CPUs, mutual TLS, every sync on, audit on"
    table = Table(title=title, title_justify="left")
    for column in ("what", "measured", "beside this machine"):
        table.add_column(column)
    table.add_row("one 4 KiB write and fdatasync, p50", f"{one_sync_ms:.3f} ms", "")
    table.add_row(f"{ECHO_BYTES} bytes there and back over TLS on loopback, p50", f"{rtt_ms:.3f} ms", "")
    load = result["load"]
    table.add_row(
        f"transitions per second, {load['callers_per_node']} callers per node",
        f"{load['transitions_per_second']:,.0f}",
        f"{load['transitions_per_second'] * one_sync_ms / 1000:,.1f} per sync time",
    )
    table.add_row(
        "  CPU time of all three nodes and their callers per transition", f"{load['cpu_us_per_transition']:.0f} us", ""
    )
    latency = load["latency"]
    table.add_row("  their latency, p50 / p99", f"{latency['p50_ms']:.1f} / {latency['p99_ms']:.1f} ms", "")
    for place, single in result["single"].items():
        p50 = single["op"]["p50_ms"]
        table.add_row(f"one caller on the {place}, p50", f"{p50:.3f} ms", f"{p50 / floor_ms:.1f} x (sync + round trip)")
        read = single["read"]["p50_ms"]
        table.add_row("  linearizable read there, p50", f"{read:.3f} ms", f"{read / rtt_ms:.1f} x round trip")
        table.add_row("  owns()", f"{single['owns_us']:.2f} us", "")
    kills = sorted(result["leader_kills"])
    if kills:
        table.add_row(
            f"first commit after kill -9 of the leader, {len(kills)} times",
            f"p50 {statistics.median(kills):.0f} ms, worst {kills[-1]:.0f} ms",
            "",
        )
    return table
