"""A latency histogram with fixed buckets, cheap enough for every op."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BUCKETS_NS = [int(s * 1e9) for s in BUCKETS_S]


class Histogram:
    """Counts durations by bucket, in the form that `status()["histograms"]` shows."""

    __slots__ = ("_counts", "_sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_ns = 0

    def observe_ns(self, duration_ns: int) -> None:
        self._counts[bisect_left(_BUCKETS_NS, duration_ns)] += 1
        self._sum_ns += duration_ns

    def as_dict(self) -> dict[str, Any]:
        """Upper bounds in seconds, counts per bucket (the last one: beyond all bounds), sum in seconds."""
        return {"le": list(BUCKETS_S), "counts": list(self._counts), "sum": self._sum_ns / 1e9}
