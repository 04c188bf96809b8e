"""The machine's own limits, in the same run: what the figures of every peer are to be read beside.

Syncs are measured while nothing else runs and beside one busy process of low priority. On some virtual machines an idle
processor notices the end of a sync only at the next tick of its clock, milliseconds late, and whether it does changes
from one moment to the next; a cluster at work keeps processors awake, and a floor that is too high flatters everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack

from jepsen_like.cluster.children import EXIT_WAIT_S, dies_with_parent
from raftstore.cli.bench_limits import SYNC_BYTES, round_trip_ms, sync_ms, tls_contexts
from raftstore.cli.temp_cluster import write_cluster
from raftstore.ownership import commands

PACKS = 2_000
SYNC_SAMPLES = 40
BINDING = ("t1", "udp", "198.51.100.7:51820")


def op_bytes() -> bytes:
    """One transition as raftstore encodes it."""
    return commands.reattach(1, 1_700_000_000_000, "0123456789abcdef" * 2, 1, BINDING)


async def measure(directory: Path) -> dict[str, float]:
    """By name; each a median. `directory` is on the file system that the nodes use, and empty."""
    contexts = tls_contexts(write_cluster(directory, "bench", ("n1", "n2", "n3"), ""))
    op = op_bytes()
    fields = msgpack.unpackb(op)
    found = {
        "sync_op_idle_ms": await asyncio.to_thread(sync_ms, directory, len(op), SYNC_SAMPLES),
        "tcp_round_trip_ms": await asyncio.to_thread(round_trip_ms, None),
        "tls_round_trip_ms": await asyncio.to_thread(round_trip_ms, contexts),
        "msgpack_us": _each_us(lambda: msgpack.unpackb(msgpack.packb(fields))),
        "op_bytes": float(len(op)),
    }
    with busy_beside():
        found["sync_op_ms"] = await asyncio.to_thread(sync_ms, directory, len(op), SYNC_SAMPLES)
        found["sync_page_ms"] = await asyncio.to_thread(sync_ms, directory, SYNC_BYTES, SYNC_SAMPLES)
    return found


@contextlib.contextmanager
def busy_beside() -> Iterator[None]:
    """One process of the lowest priority that never rests; it is gone afterwards.

    In this session, unlike the nodes: some kernels share processors out among sessions first, and then its priority
    would count for nothing beside this process.
    """
    spin = "import os\nos.nice(19)\nprint(flush=True)\nwhile True: pass"
    command = [*dies_with_parent(), sys.executable, "-c", spin]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()  # it runs, and at that priority
            yield
        finally:
            child.kill()
            child.wait(EXIT_WAIT_S)


def _each_us(call: Callable[[], object]) -> float:
    samples = []
    for _ in range(PACKS):
        begun = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - begun)
    return statistics.median(samples) / 1_000
