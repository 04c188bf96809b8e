"""Small sums that trials share: quantiles of a few values, and whether something grew."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of all does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "worst": max(values)}


def thirds(samples: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last third of the second half: what comes before is warming up."""
    half = samples[len(samples) // 2 :]
    third = max(1, len(half) // 3)
    return half[:third], half[-third:]


def growth(samples: Sequence[float]) -> float:
    """By how much the median of the last third of the second half lies above that of its first third; not below 0."""
    first, last = thirds(samples)
    return max(0.0, statistics.median(last) - statistics.median(first))


def outgrows(samples: Sequence[float]) -> bool:
    """For what swings, as queues do: whether the last third's median lies above all that the first third held."""
    first, last = thirds(samples)
    return statistics.median(last) > max(first)
