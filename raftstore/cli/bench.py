"""`raftstore bench`: what three real nodes do on this machine, beside what its disk and loopback do.

Three processes with mutual TLS, every sync on and the audit trail on, each with its callers embedded. The figures are
of one run on one machine; the ratios to the machine's own sync and round trip travel better than they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from raftstore.cli.temp_cluster import temporary_directory, write_cluster
from raftstore.config import ClusterConfig
from raftstore.errors import RaftstoreError
from raftstore.transport.tls import TlsFiles, client_context, server_context

NODE_IDS = ("vpn-1", "vpn-2", "vpn-3")
SINGLE_OPS = 1_500
SYNC_SAMPLES = 200
SYNC_BYTES = 4_096
ECHO_SAMPLES = 500
ECHO_BYTES = 100
ANSWER_TIMEOUT_S = 60.0
LINE_BYTES_MAX = 1 << 22
SETTINGS = "[storage]\ndisk_free_min_bytes = 16777216\n"


class BenchFailed(RaftstoreError):  # noqa: N818 - says what happened
    """A node of the benchmark ended or did not answer."""


class Process:
    """One `bench_node` process."""

    def __init__(self, directory: Path, node_id: str, place: str) -> None:
        self.node_id = node_id
        self._place = place
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self._directory / f"{self.node_id}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "raftstore.cli.bench_node",
                str(self._directory / "cluster.conf"),
                self.node_id,
                self._place,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_BYTES_MAX,
            )

    async def answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_TIMEOUT_S)
        except TimeoutError:
            line = b""
        if not line:
            end = (self._directory / f"{self.node_id}.log").read_text(errors="replace")[-1500:]
            raise BenchFailed(f"{self.node_id} gave no answer:\n{end}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        return await self.answer()

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


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
    processes = {n: Process(directory, n, place) for n in NODE_IDS}
    try:
        console.print("starting three nodes ...")
        config = write_cluster(directory, "bench", NODE_IDS, SETTINGS)
        sync_ms = _sync_ms(directory)
        round_trip_ms = await asyncio.to_thread(_round_trip_ms, config)
        for process in processes.values():
            await process.start()
        await asyncio.gather(*(p.answer() for p in processes.values()))
        return await _measure(console, processes, sync_ms, round_trip_ms, callers, seconds, kills)
    finally:
        for process in processes.values():
            await process.kill()
        shutil.rmtree(directory, ignore_errors=True)


async def _measure(
    console: Console,
    processes: dict[str, Process],
    sync_ms: float,
    round_trip_ms: float,
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
        "sync_p50_ms": sync_ms,
        "tls_round_trip_ms": round_trip_ms,
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


def _sync_ms(directory: Path) -> float:
    """Median of one 4 KiB write with fdatasync in the directory that the nodes use."""
    path = directory / "sync-probe"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.pwrite(fd, bytes(SYNC_BYTES * SYNC_SAMPLES), 0)
        os.fsync(fd)
        samples = []
        for i in range(SYNC_SAMPLES):
            begun = time.perf_counter()
            os.pwrite(fd, bytes(SYNC_BYTES), i * SYNC_BYTES)
            os.fdatasync(fd)
            samples.append(time.perf_counter() - begun)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(samples) * 1000


def _round_trip_ms(config: ClusterConfig) -> float:
    """Median round trip of a small message between two threads of this process, over TLS as nodes use it."""
    one, other = (TlsFiles(config.ca_path, n.cert, n.key) for n in config.nodes[:2])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = threading.Thread(target=_echo, args=(listener, other), daemon=True)
        echo.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            client_context(one).wrap_socket(plain) as sock,
        ):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            samples = []
            for _ in range(ECHO_SAMPLES):
                begun = time.perf_counter()
                sock.sendall(bytes(ECHO_BYTES))
                sock.recv(ECHO_BYTES)
                samples.append(time.perf_counter() - begun)
        echo.join()
    return statistics.median(samples) * 1000


def _echo(listener: socket.socket, files: TlsFiles) -> None:
    plain, _ = listener.accept()
    with plain, server_context(files).wrap_socket(plain, server_side=True) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := sock.recv(ECHO_BYTES):
                sock.sendall(data)


def _table(result: dict[str, Any]) -> Table:
    sync_ms, rtt_ms = result["sync_p50_ms"], result["tls_round_trip_ms"]
    floor_ms = sync_ms + rtt_ms
    title = f"three nodes, {result['cpus']} CPUs, mutual TLS, every sync on, audit on"
    table = Table(title=title, title_justify="left")
    for column in ("what", "measured", "beside this machine"):
        table.add_column(column)
    table.add_row("one 4 KiB write and fdatasync, p50", f"{sync_ms:.3f} ms", "")
    table.add_row(f"{ECHO_BYTES} bytes there and back over TLS on loopback, p50", f"{rtt_ms:.3f} ms", "")
    load = result["load"]
    table.add_row(
        f"transitions per second, {load['callers_per_node']} callers per node",
        f"{load['transitions_per_second']:,.0f}",
        f"{load['transitions_per_second'] * sync_ms / 1000:,.1f} per sync time",
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
