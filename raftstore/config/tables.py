"""The table of cluster.conf: every key with its unit (last in its name), default, range, and whether nodes must agree.

These dataclasses ARE the table: validation, `key_table()` and the check of cluster.conf.example all read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, cast

STRATEGIES = ("shared", "sticky")
POLICIES = ("deny", "terminate")
WEIGHT_MAX = 1_000  # of a node, relative to the others; 0 gets no session
STICKY_NODES_MAX = 64  # as many as one mapping can hold; the shared strategy is bounded by its majority


def _num(default: int, low: int, high: int, *, shared: bool = False) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "shared": shared})


def _text(default: str) -> Any:
    return field(default=default, metadata={"shared": False})


@dataclass(frozen=True, slots=True)
class Timing:
    """[timing]: Raft timers, leases and deadlines. Milliseconds; drift in parts per million."""

    election_timeout_min_ms: int = _num(300, 20, 60_000, shared=True)
    election_timeout_max_ms: int = _num(600, 30, 120_000, shared=True)
    heartbeat_interval_ms: int = _num(50, 5, 20_000, shared=True)
    lease_ttl_ms: int = _num(3_000, 60, 600_000, shared=True)
    max_clock_drift_ppm: int = _num(10_000, 1, 200_000, shared=True)
    op_timeout_ms: int = _num(2_000, 10, 600_000)
    op_timeout_max_ms: int = _num(60_000, 10, 600_000)
    clock_resume_max_ms: int = _num(86_400_000, 0, 3_153_600_000_000, shared=True)
    loop_stall_max_ms: int = _num(1_000, 50, 60_000)


@dataclass(frozen=True, slots=True)
class Sessions:
    """[sessions]: how long sessions live, and how many there may be."""

    ttl_default_ms: int = _num(3_600_000, 1, 31_536_000_000)
    ttl_max_ms: int = _num(604_800_000, 1, 31_536_000_000, shared=True)
    reattach_window_ms: int = _num(120_000, 1, 604_800_000, shared=True)
    freeze_timeout_ms: int = _num(10_000, 1, 3_600_000, shared=True)
    sessions_max: int = _num(2_000_000, 1, 100_000_000, shared=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]: the bound of every queue, batch and body. What lies beyond is refused, never kept."""

    pending_ops_max: int = _num(8_192, 1, 65_536)
    batch_ops_max: int = _num(1_024, 1, 65_536, shared=True)
    entry_bytes_max: int = _num(1_048_576, 4_096, 16_777_216, shared=True)
    frame_bytes_max: int = _num(4_194_304, 65_536, 67_108_864, shared=True)
    send_queue_bytes_max: int = _num(33_554_432, 65_536, 1_073_741_824)
    inflight_entries_max: int = _num(64, 1, 4_096)
    api_body_bytes_max: int = _num(65_536, 1_024, 1_048_576)
    api_connections_max: int = _num(1_024, 8, 65_536)


@dataclass(frozen=True, slots=True)
class Storage:
    """[storage]: where a node keeps its log and snapshots, and when it makes them smaller."""

    data_dir: str = _text("data")
    wal_segment_bytes: int = _num(67_108_864, 1_048_576, 1_073_741_824)
    snapshot_every_bytes: int = _num(67_108_864, 65_536, 1_099_511_627_776)
    snapshot_every_entries: int = _num(200_000, 100, 1_000_000_000)
    disk_free_min_bytes: int = _num(268_435_456, 0, 1_099_511_627_776)


@dataclass(frozen=True, slots=True)
class Audit:
    """[audit]: the files of audit events, and how many of them stay."""

    dir: str = _text("")
    file_bytes_max: int = _num(67_108_864, 65_536, 1_099_511_627_776)
    files_max: int = _num(16, 2, 100_000)
    backlog_events_max: int = _num(1_000_000, 1_000, 100_000_000)


@dataclass(frozen=True, slots=True)
class Tls:
    """[tls]: the cluster's private CA, and the directory with ID.pem and ID.key of each node."""

    ca: str = _text("ca.pem")
    dir: str = _text(".")


TABLES: dict[str, type[Any]] = {
    "timing": Timing,
    "sessions": Sessions,
    "limits": Limits,
    "storage": Storage,
    "audit": Audit,
    "tls": Tls,
}


class KeySpec(NamedTuple):
    """One row of the table; `low` and `high` are None for text."""

    name: str  # "timing.lease_ttl_ms"
    default: int | str
    low: int | None
    high: int | None
    shared: bool  # must be equal on all nodes


def key_table() -> Iterator[KeySpec]:
    """Every key outside [[node]], with default and range."""
    yield KeySpec("strategy", "shared", None, None, True)
    yield KeySpec("partition_policy", "deny", None, None, True)
    for table, kind in TABLES.items():
        for f in fields(kind):
            meta = f.metadata
            yield KeySpec(
                f"{table}.{f.name}",
                cast("int | str", f.default),
                meta.get("low"),
                meta.get("high"),
                meta["shared"],
            )
