"""How long did nothing succeed, fault by fault, and how soon did it again? Figures, not a promise.

Safety before availability, so a gap is no failure. Where the test sets `recovery_max_ms`, the time from a healing to
the next success of the cluster must not be longer, provided that somebody asked for something in that time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from jepsen_like.history import Errors, Event, Finals, Verdict, pair

NAME = "availability"
MS = 1_000_000
FAULTS_MAX = 1_000  # told one by one


class Fault(NamedTuple):
    """One fault, from when it took effect to its healing; None: it was never healed."""

    kind: str
    nodes: tuple[str, ...]
    begin: int
    end: int | None


def faults(history: Iterable[Event]) -> list[Fault]:
    """What nemeses did. A heal ends all open faults of its kind, one without a kind ends all.

    Where a run tells orders from effects (`effective` true), only effects count.
    """
    history = list(history)
    told = any(event["f"] in ("fault", "heal") and _details(event).get("effective") for event in history)
    found: list[Fault] = []
    open_faults: list[int] = []
    for event in history:
        value = _details(event)
        if event["f"] not in ("fault", "heal") or (told and not value.get("effective")):
            continue
        kind = value.get("kind")
        if event["f"] == "fault":
            open_faults.append(len(found))
            found.append(Fault(str(kind), tuple(map(str, value.get("nodes") or ())), event["time"], None))
            continue
        for place in [p for p in open_faults if kind in (None, "all", found[p].kind)]:
            found[place] = found[place]._replace(end=event["time"])
            open_faults.remove(place)
    return found


def _details(event: Event) -> Mapping[str, Any]:
    value = event.get("value")
    return value if isinstance(value, Mapping) else {}


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """True, with figures, unless `recovery_max_ms` is set and was passed."""
    errors = Errors()
    ops = [op for op in pair(history) if op.f != "get-local"]
    good = sorted(op.completion["time"] for op in ops if op.type == "ok" and op.completion is not None)
    asked = sorted(op.invoke["time"] for op in ops)
    end = history[-1]["time"] if history else 0
    limit = test.get("recovery_max_ms")
    told: list[dict[str, Any]] = []
    for fault in faults(history):
        figures = _figures(fault, good, end)
        told.append(figures)
        if limit is not None and fault.end is not None and _too_long(fault.end, good, asked, end, limit * MS):
            errors.add(f"{fault.kind}: no success within {limit} ms after it was healed at {fault.end / 1e9:.3f} s")
    recoveries = [figures["recovery_ms"] for figures in told if figures["recovery_ms"] is not None]
    stats = {
        "ok": len(good),
        "ops": len(ops),
        "longest_gap_ms": round(_longest_gap(good, 0, end) / MS, 3),
        "recovery_max_ms": max(recoveries, default=None),
        "faults": told[:FAULTS_MAX],
    }
    return errors.verdict(NAME, stats)


def _figures(fault: Fault, good: Sequence[int], end: int) -> dict[str, Any]:
    until = end if fault.end is None else fault.end
    healed = None if fault.end is None else _next(good, fault.end)
    during = bisect_right(good, until) - bisect_left(good, fault.begin)
    return {
        "kind": fault.kind,
        "nodes": list(fault.nodes),
        "begin_s": round(fault.begin / 1e9, 3),
        "end_s": None if fault.end is None else round(fault.end / 1e9, 3),
        "ok_during": during,
        "longest_gap_ms": round(_longest_gap(good, fault.begin, until) / MS, 3),
        "recovery_ms": None if healed is None or fault.end is None else round((healed - fault.end) / MS, 3),
    }


def _next(times: Sequence[int], after: int) -> int | None:
    place = bisect_left(times, after)
    return times[place] if place < len(times) else None


def _longest_gap(good: Sequence[int], begin: int, end: int) -> int:
    """The longest time without a success between two moments."""
    inside = good[bisect_left(good, begin) : bisect_right(good, end)]
    edges = [begin, *inside, end]
    return max(later - earlier for earlier, later in pairwise(edges))


def _too_long(healed: int, good: Sequence[int], asked: Sequence[int], end: int, limit_ns: int) -> bool:
    """Nothing succeeded in the time allowed, though it had passed and somebody had asked."""
    first = _next(good, healed)
    if end < healed + limit_ns or (first is not None and first <= healed + limit_ns):
        return False
    return bisect_right(asked, healed + limit_ns) > bisect_left(asked, healed)
