"""The machine's own limits, in the same run: what the figures of every peer are to be read beside."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgpack

from raftstore.cli.bench_limits import SYNC_BYTES, round_trip_ms, sync_ms, tls_contexts
from raftstore.cli.temp_cluster import write_cluster
from raftstore.ownership import commands

PACKS = 2_000
BINDING = ("t1", "udp", "198.51.100.7:51820")


def op_bytes() -> bytes:
    """One transition as raftstore encodes it."""
    return commands.reattach(1, 1_700_000_000_000, "0123456789abcdef" * 2, 1, BINDING)


async def measure(directory: Path) -> dict[str, float]:
    """By name; each a median. `directory` is on the file system that the nodes use, and empty."""
    contexts = tls_contexts(write_cluster(directory, "bench", ("n1", "n2", "n3"), ""))
    op = op_bytes()
    fields = msgpack.unpackb(op)
    return {
        "sync_op_ms": await asyncio.to_thread(sync_ms, directory, len(op)),
        "sync_page_ms": await asyncio.to_thread(sync_ms, directory, SYNC_BYTES),
        "tcp_round_trip_ms": await asyncio.to_thread(round_trip_ms, None),
        "tls_round_trip_ms": await asyncio.to_thread(round_trip_ms, contexts),
        "msgpack_us": _each_us(lambda: msgpack.unpackb(msgpack.packb(fields))),
        "op_bytes": float(len(op)),
    }


def _each_us(call: Callable[[], object]) -> float:
    samples = []
    for _ in range(PACKS):
        begun = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - begun)
    return statistics.median(samples) / 1_000
