"""What the trial of very many sessions found, beside the bounds of the design's target 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.histogram import Histogram, merged
from jepsen_like.bench.trials.base import Finding

TARGET = "6"
SESSION_BYTES_MAX = 600.0
RATIO_MIN = 0.9
STALL_MS_MAX = 50.0
RESTART_S_MAX = 15.0
CAUGHT_UP_S_MAX = 60.0
DRAIN_S_MAX = 30.0

Figures = Mapping[str, Any]


def findings(figures: Figures) -> list[Finding]:
    """One row for each promise, with what one should know beside it."""
    return [
        _memory(figures),
        _throughput(figures),
        _snapshot(figures["snapshot_full"], "at full load"),
        _snapshot(figures["snapshot_light"], "at a light load"),
        _expiry(figures),
        _drain(figures),
        *_restarts(figures),
    ]


def _at_most(what: str, measured: float | None, unit: str, bound: float, note: str) -> Finding:
    return Finding(TARGET, what, measured, unit, bound, note=note)


def _memory(figures: Figures) -> Finding:
    each = figures["memory"]["per_session"]
    told = ", ".join(f"{node} {value:,.0f}" for node, value in each.items())
    what = f"resident memory per session and node at {figures['sessions']:,}"
    return _at_most(what, max(each.values(), default=None), "bytes", SESSION_BYTES_MAX, told or "not told here")


def _throughput(figures: Figures) -> Finding:
    found = figures["throughput"]
    rates = " ".join(f"{few:,.0f} {many:,.0f}" for few, many in zip(found["few"], found["many"], strict=True))
    writing = " ".join(f"{share:.0%}" for share in found["beside_snapshots"])
    note = (
        f"in turn: {rates}/s; of them beside a snapshot being written: {writing}; "
        f"callers that go through all {found['all_in_turn']:,.0f}/s; "
        f"filled at {figures['fill']['per_second']:,.0f}/s"
    )
    what = f"throughput at {figures['sessions']:,} sessions over that at a thousand"
    return Finding(TARGET, what, found["ratio"], "", RATIO_MIN, at_least=True, note=note)


def _snapshot(found: Figures, load: str) -> Finding:
    took_s = max(found["snapshot_ms"]) / 1_000
    during, else_ = (quantile_ms(found, name, 0.999) for name in ("snapshot", "quiet"))
    note = (
        f"{found['worst_ms']['quiet']:.0f} ms without one, an idle loop beside it {found['idle_ms']:.0f} ms; "
        f"p99.9 of a transition {during} ms, without {else_} ms; "
        f"written in {took_s:.1f} s at {found['per_second']:,.0f}/s"
    )
    return _at_most(f"loop stall while a snapshot is written, {load}", stall_ms(found), "ms", STALL_MS_MAX, note)


def _expiry(figures: Figures) -> Finding:
    found = figures["expiry"]
    worst = max(found["worst_ms"].values())
    note = (
        f"an idle loop beside it {found['idle_ms']:.0f} ms; at a light load, {found['per_second']:,.0f}/s; "
        f"swept in {found['swept_seconds']:.1f} s, each refused from its own time on"
    )
    return _at_most(f"loop stall while {figures['moved']:,} sessions are due at once", worst, "ms", STALL_MS_MAX, note)


def _drain(figures: Figures) -> Finding:
    found = figures["drain"]
    before, load = found["before"], found["meanwhile"]
    note = (
        f"{found['moved']:,} moved, {found['failed']:,} failed; callers of the others {load['per_second']:,.0f}/s, "
        f"p99 {all_ms(load, 0.99)} ms; before {before['per_second']:,.0f}/s, {all_ms(before, 0.99)} ms"
    )
    return _at_most("drain of one node beside full load of the others", found["seconds"], "s", DRAIN_S_MAX, note)


def _restarts(figures: Figures) -> list[Finding]:
    one, wiped, everyone = (figures[name] for name in ("restart_one", "wiped", "restart_all"))
    return [
        _at_most("restart of one node to serving", one["seconds"], "s", RESTART_S_MAX, _meanwhile(one)),
        _at_most("restart of all nodes to serving", everyone["seconds"], "s", RESTART_S_MAX, ""),
        _at_most("a node that lost its disk caught up", wiped["seconds"], "s", CAUGHT_UP_S_MAX, _meanwhile(wiped)),
    ]


def _meanwhile(found: Figures) -> str:
    load = found["meanwhile"]
    return f"{found['sessions']:,} sessions; others' callers {load['per_second']:,.0f}/s, p99 {all_ms(load, 0.99)} ms"


def stall_ms(found: Figures) -> float:
    return float(found["worst_ms"]["snapshot"])


def quantile_ms(found: Figures, name: str, share: float) -> str:
    return _shown(Histogram.from_json(found["latency"][name]), share)


def all_ms(found: Figures, share: float) -> str:
    """Of all, whether or not a snapshot was being written."""
    return _shown(merged(map(Histogram.from_json, found["latency"].values())), share)


def _shown(histogram: Histogram, share: float) -> str:
    value = histogram.quantile_ns(share)
    return "?" if value is None else f"{value / 1e6:,.1f}"
