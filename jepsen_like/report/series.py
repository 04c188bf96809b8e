"""Latencies and rates as numbers, before anybody draws them: points, quantiles over windows, ops per second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jepsen_like.history import Op

OUTCOMES = ("ok", "fail", "info")
QUANTILES = (0.5, 0.95, 0.99, 1.0)
LATENCY_MIN_NS = 10_000  # drawn for what took less: in a simulation much takes no time, and the axis is logarithmic
WINDOWS = 60  # over a whole run, none shorter than WINDOW_MIN_S
WINDOW_MIN_S = 0.5
NS = 1_000_000_000


class Point(NamedTuple):
    """One op that ended: when it was asked and how long its answer took."""

    time_s: float
    latency_ms: float
    f: str
    outcome: str


def points(ops: Iterable[Op]) -> list[Point]:
    """Ops with a completion. An open one has no latency; an `info` has the time its caller waited."""
    return [
        Point(
            op.invoke["time"] / NS, max(op.completion["time"] - op.invoke["time"], LATENCY_MIN_NS) / 1e6, op.f, op.type
        )
        for op in ops
        if op.completion is not None
    ]


def window_s(end_s: float) -> float:
    return max(end_s / WINDOWS, WINDOW_MIN_S)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Of values in order: the smallest that at least that share of them does not exceed."""
    return ordered[max(0, min(len(ordered) - 1, -int(-q * len(ordered) // 1) - 1))]


def quantiles(found: Iterable[Point], end_s: float) -> dict[float, list[tuple[float, float]]]:
    """By quantile: (middle of the window in s, latency in ms), windows without an op left out."""
    width = window_s(end_s)
    windows: dict[int, list[float]] = {}
    for point in found:
        windows.setdefault(int(point.time_s // width), []).append(point.latency_ms)
    series: dict[float, list[tuple[float, float]]] = {q: [] for q in QUANTILES}
    for number, latencies in sorted(windows.items()):
        ordered = sorted(latencies)
        for q in QUANTILES:
            series[q].append(((number + 0.5) * width, quantile(ordered, q)))
    return series


def rates(ops: Iterable[Op], end_s: float) -> dict[str, list[tuple[float, float]]]:
    """By outcome: (begin of the window in s, ops per second that ended in it), zeros included."""
    width = window_s(end_s)
    count = int(end_s // width) + 1
    counts = {outcome: [0] * count for outcome in OUTCOMES}
    for op in ops:
        if op.completion is not None and op.type in counts:
            counts[op.type][min(int(op.completion["time"] / NS // width), count - 1)] += 1
    return {
        outcome: [(number * width, n / width) for number, n in enumerate(found)] for outcome, found in counts.items()
    }


__all__ = ["OUTCOMES", "QUANTILES", "Point", "points", "quantile", "quantiles", "rates", "window_s"]
