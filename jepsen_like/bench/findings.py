"""The table of targets: what was measured beside what the design asks for, met or missed and by how much.

Findings of the trials come as they are; those of the comparison are made here, from its summary and the machine's
limits of the same run. What could not be measured has its row all the same and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jepsen_like.bench.results import OURS
from jepsen_like.bench.trials.base import Finding

FULL, LEADER, FOLLOWER = "transition/256/all", "transition/1/leader", "transition/1/follower"
READS = ("read/1/leader", "read/1/follower")
OWNS = "owns/1/leader"
RATE_MIN, RATE_GOAL = 60_000.0, 120_000.0
ASYNCIO_CLIENT, NATIVE_BEST = "etcd-aetcd", "etcd-wire"
NOT_COMPARED = "not asked for: --parts comparison"

Entries = Mapping[tuple[str, str], Mapping[str, Any]]


def compared(
    summary: Sequence[Mapping[str, Any]], known: Mapping[str, float], *, is_asked: bool = True
) -> list[Finding]:
    """Targets 1, 2 and 3. Ratios are those of the same run."""
    entries = {(entry["case"], entry["peer"]): entry for entry in summary}
    found = [*_rates(entries), *_latencies(entries, known), *_reads(entries, known)]
    return found if is_asked else [dataclasses.replace(finding, note=NOT_COMPARED) for finding in found]


def _rates(entries: Entries) -> list[Finding]:
    goal = f"the goal beyond is {RATE_GOAL:,.0f}"
    rate = _value(entries, FULL, OURS, "per_second")
    return [
        _finding(
            "1", "transitions per second, 256 callers per node", rate, "/s", RATE_MIN, FULL, at_least=True, note=goal
        ),
        _finding(
            "1",
            f"the same to {ASYNCIO_CLIENT}'s",
            _value(entries, FULL, ASYNCIO_CLIENT, "ours_to_its_rate"),
            "times",
            10.0,
            f"{FULL} of {OURS} and {ASYNCIO_CLIENT}",
            at_least=True,
        ),
        _finding(
            "1",
            f"the same to etcd's native best ({NATIVE_BEST})",
            _value(entries, FULL, NATIVE_BEST, "ours_to_its_rate"),
            "times",
            5.0,
            f"{FULL} of {OURS} and {NATIVE_BEST}",
            at_least=True,
        ),
    ]


def _latencies(entries: Entries, known: Mapping[str, float]) -> list[Finding]:
    leader, follower = (_value(entries, case, OURS, "p50_us") for case in (LEADER, FOLLOWER))
    more = None if leader is None or follower is None else follower - leader
    return [
        _finding(
            "2",
            "one caller on the leader, p50, in (fdatasync + TLS round trip)",
            _value(entries, LEADER, OURS, "floors"),
            "times",
            2.5,
            LEADER,
        ),
        _finding(
            "2",
            f"one caller on the leader, p50, to {ASYNCIO_CLIENT}'s",
            _value(entries, LEADER, ASYNCIO_CLIENT, "ours_to_its_p50"),
            "times",
            0.6,
            f"{LEADER} of {OURS} and {ASYNCIO_CLIENT}",
        ),
        _finding(
            "2",
            "one caller on a follower, p50 beyond the leader's, against one TLS round trip",
            more,
            "us",
            _round_trips_us(known, 1),
            f"{LEADER} and {FOLLOWER}",
        ),
    ]


def _reads(entries: Entries, known: Mapping[str, float]) -> list[Finding]:
    reads = [
        _finding(
            "3",
            f"linearizable read on a {case.rpartition('/')[2]}, p50, against two TLS round trips".replace(
                "a leader", "the leader"
            ),
            _value(entries, case, OURS, "p50_us"),
            "us",
            _round_trips_us(known, 2),
            case,
        )
        for case in READS
    ]
    return [*reads, _finding("3", "owns(), p50", _value(entries, OWNS, OURS, "p50_us"), "us", 1.0, OWNS)]


def _finding(
    target: str,
    what: str,
    measured: float | None,
    unit: str,
    bound: float,
    needs: str,
    *,
    at_least: bool = False,
    note: str = "",
) -> Finding:
    return Finding(target, what, measured, unit, bound, at_least, note if measured is not None else f"needs {needs}")


def _value(entries: Entries, case: str, peer: str, name: str) -> float | None:
    found: float | None = entries.get((case, peer), {}).get(name)
    return found


def _round_trips_us(known: Mapping[str, float], count: int) -> float:
    return count * known.get("tls_round_trip_ms", 0.0) * 1_000


def rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As they stand in bench.json, by number of the target."""
    return [
        {
            "target": finding.target,
            "what": finding.what,
            "measured": finding.measured,
            "unit": finding.unit,
            "bound": finding.bound,
            "at_least": finding.at_least,
            "met": finding.is_met,
            "note": finding.note,
        }
        for finding in sorted(findings, key=lambda finding: finding.target)
    ]


# ---- for people


def table(targets: Sequence[Mapping[str, Any]]) -> Table:
    """Of `rows`."""
    found = Table(title="targets: measured beside what is to be reached", title_justify="left")
    found.add_column("", no_wrap=True)
    found.add_column("what")
    for column in ("measured", "target"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("met?")
    for number, row in enumerate(targets):
        is_last = number + 1 == len(targets) or targets[number + 1]["target"] != row["target"]
        is_known = row["measured"] is not None
        found.add_row(
            row["target"],
            row["what"],
            _shown(row["measured"], row["unit"]) if is_known else "",
            f"{'>=' if row['at_least'] else '<='} {_shown(row['bound'], row['unit'])}" if row["unit"] else "",
            verdict(row),
            end_section=is_last,
        )
    return found


def verdict(row: Mapping[str, Any]) -> str:
    """met, missed and by how much, or not measured and why."""
    note = f"; {row['note']}" if row["note"] else ""
    if row["met"] is None:
        return f"not measured{note}"
    if row["met"]:
        return f"met{note}"
    if not row["bound"]:
        return f"MISSED{note}"
    ratio = row["measured"] / row["bound"]
    return f"MISSED: {ratio:.2f} of it{note}" if row["at_least"] else f"MISSED: {ratio:.2f} times as much{note}"


def _shown(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 1_000 else 2 if abs(value) >= 1 or value == 0 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()
