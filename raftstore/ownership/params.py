"""Cluster parameters that the machine obeys: replicated state, so that replicas can never differ on them.

They begin at these defaults and change only by a `configure` op in the log. Integers only: drift is in parts per
million, because a float could round differently somewhere.
"""

from __future__ import annotations

from typing import Any

from raftstore.ownership.commands import POLICIES

Params = dict[str, int | str]

DEFAULTS: Params = {
    "clock_resume_max_ms": 86_400_000,
    "freeze_timeout_ms": 10_000,
    "lease_ttl_ms": 3_000,
    "max_clock_drift_ppm": 10_000,
    "partition_policy": "deny",
    "reattach_window_ms": 120_000,
    "sessions_max": 2_000_000,
    "ttl_max_ms": 604_800_000,
}

_YEARS_100_MS = 3_153_600_000_000

RANGES: dict[str, tuple[int, int]] = {
    "clock_resume_max_ms": (0, _YEARS_100_MS),
    "freeze_timeout_ms": (1, _YEARS_100_MS),
    "lease_ttl_ms": (1, 86_400_000),
    "max_clock_drift_ppm": (0, 1_000_000),
    "reattach_window_ms": (1, _YEARS_100_MS),
    "sessions_max": (1, 1_000_000_000),
    "ttl_max_ms": (1, _YEARS_100_MS),
}


def is_param(key: object, value: Any) -> bool:
    """Whether the key is known and the value within its range."""
    if type(key) is not str:
        return False
    if key == "partition_policy":
        return type(value) is str and value in POLICIES
    if key not in RANGES or type(value) is not int:
        return False
    low, high = RANGES[key]
    return low <= value <= high


def lease_length_ms(params: Params) -> int:
    """How long after a renewal's entry the machine waits before it calls the lease lapsed: ttl * (1 + drift), up."""
    ttl_ms, drift_ppm = int(params["lease_ttl_ms"]), int(params["max_clock_drift_ppm"])
    return ttl_ms + -(-ttl_ms * drift_ppm // 1_000_000)
