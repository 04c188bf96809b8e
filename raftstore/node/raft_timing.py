"""The Raft room's timing and bounds, from the configuration."""

from __future__ import annotations

from raftstore.config import ClusterConfig
from raftstore.raft.seams import RaftTiming


def raft_timing(config: ClusterConfig) -> RaftTiming:
    """Milliseconds become nanoseconds; an append_entries message fits a frame."""
    timing = config.timing
    return RaftTiming(
        election_timeout_min_ns=timing.election_timeout_min_ms * 1_000_000,
        election_timeout_max_ns=timing.election_timeout_max_ms * 1_000_000,
        read_lease_ns=timing.election_timeout_min_ms * (1_000_000 - 2 * timing.max_clock_drift_ppm),  # of either clock
        heartbeat_interval_ns=timing.heartbeat_interval_ms * 1_000_000,
        append_bytes_max=min(config.limits.entry_bytes_max, config.limits.frame_bytes_max // 2),
        inflight_appends_max=config.limits.inflight_entries_max,
    )
