"""From the rows of all rounds to what people read: medians over rounds, latencies of all rounds together, ratios.

Every figure stands beside a peer of the same run or beside the machine's own limit: absolute times of a shared machine
say little. What could not be known is None, and shown as such.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from jepsen_like.bench.histogram import Histogram, merged

OURS = "raftstore"
QUANTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}
MEDIANS = ("per_second", "cpu_us_per_op", "syncs_per_op", "disk_bytes_per_op", "wire_bytes_per_op")
SYNCS = ("sync_op_ms", "sync_op_idle_ms", "sync_page_ms")
UNKNOWN = "not known"


def summary(rows: Sequence[Mapping[str, Any]], known: Mapping[str, float]) -> list[dict[str, Any]]:
    """One entry per case and peer, cases and peers in the order in which they were first measured."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["peer"]), []).append(row)
    cases = list(dict.fromkeys(case for case, _ in groups))
    found = [_entry(case, peer, groups[case, peer]) for case in cases for at, peer in groups if at == case]
    ours = {entry["case"]: entry for entry in found if entry["peer"] == OURS}
    for entry in found:
        entry["floors"] = _ratio(entry["p50_us"], floor_us(entry["case"], known))
        entry["ours_to_its_rate"] = _ratio(_of(ours, entry, "per_second"), entry["per_second"])
        entry["ours_to_its_p50"] = _ratio(_of(ours, entry, "p50_us"), entry["p50_us"])
    return found


def _entry(case: str, peer: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    latency = merged(Histogram.from_json(row["latency"]) for row in rows)
    entry: dict[str, Any] = {"case": case, "peer": peer, "rounds": len(rows)}
    entry |= {name: median([row[name] for row in rows]) for name in MEDIANS}
    entry |= {name: _us(latency.quantile_ns(q)) for name, q in QUANTILES.items()}
    entry["max_us"] = latency.max_ns / 1_000
    entry["ops"] = sum(row["ops"] for row in rows)
    entry["refused"] = sum(row["refused"] for row in rows)
    entry["failures"] = sum(count for row in rows for count in row["failures"].values())
    entry["resident_bytes"] = median([_most(row["resident_bytes"]) for row in rows])
    return entry


def limits(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians over the turns by name, and `sync_floor_ms`: the least that a sync took in any turn, by its median."""
    if not turns:
        return {}
    found = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    return found | {"sync_floor_ms": min(turn[name] for turn in turns for name in SYNCS)}


def median(values: Iterable[float | None]) -> float | None:
    """None unless all are known."""
    given = list(values)
    known = [value for value in given if value is not None]
    return statistics.median(known) if known and len(known) == len(given) else None


def floor_us(case: str, known: Mapping[str, float]) -> float | None:
    """The least an op can take here: a sync and a TLS round trip, for a read the round trip alone."""
    kind = case.partition("/")[0]
    if kind in ("owns", "read-local", "mixed") or "sync_floor_ms" not in known:
        return None
    return (known["tls_round_trip_ms"] + (known["sync_floor_ms"] if kind != "read" else 0.0)) * 1_000


def _of(ours: Mapping[str, Mapping[str, Any]], entry: Mapping[str, Any], name: str) -> float | None:
    return ours[entry["case"]][name] if entry["case"] in ours else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _us(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / 1_000


def _most(resident: Mapping[str, int | None]) -> int | None:
    """Of the nodes, not of callers outside of them."""
    known = [size for name, size in resident.items() if size is not None and not name.endswith(" callers")]
    return max(known, default=None)


# ---- for people


def tables(result: Mapping[str, Any]) -> list[Table]:
    compared = [_peers(result), _measured(result)] if result["summary"] or result["absent"] else []
    return [_machine(result), *compared, *_problems(result)]


def _machine(result: Mapping[str, Any]) -> Table:
    known, machine = result["limits"], result["machine"]
    table = Table(title=f"this machine: {machine['cpus']} CPUs, {machine['system']}", title_justify="left")
    table.add_column("limit, median over turns")
    table.add_column("measured", justify="right")
    size = f"{known.get('op_bytes', 0):.0f} bytes"
    for text, name, unit in (
        (f"write of {size} (one op) and fdatasync, beside a busy process", "sync_op_ms", "ms"),
        ("the same while nothing else runs", "sync_op_idle_ms", "ms"),
        ("write of 4 KiB and fdatasync, beside a busy process", "sync_page_ms", "ms"),
        ("the least of these in any turn: the floor", "sync_floor_ms", "ms"),
        ("100 bytes there and back, TCP on loopback", "tcp_round_trip_ms", "ms"),
        ("the same over TLS", "tls_round_trip_ms", "ms"),
        ("msgpack of one op, to bytes and back", "msgpack_us", "us"),
    ):
        table.add_row(text, UNKNOWN if name not in known else f"{known[name]:.3f} {unit}")
    return table


def _peers(result: Mapping[str, Any]) -> Table:
    table = Table(title="peers, three nodes each, in turn", title_justify="left")
    for column in ("peer", "version", "what it is here"):
        table.add_column(column)
    for name, peer in result["peers"].items():
        table.add_row(name, peer["version"], peer["about"])
    for name, missing in result["absent"].items():
        table.add_row(name, "absent", missing)
    return table


def _measured(result: Mapping[str, Any]) -> Table:
    title = f"{result['plan']['rounds']} round(s) of {result['plan']['seconds']:g} s; kind/callers per node/where"
    table = Table(title=title, title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("peer", no_wrap=True)
    for column in ("per s", "p50 us", "p99 us", "p50 in floors", "ours/its rate", "ours/its p50", "CPU us"):
        table.add_column(column, justify="right")
    for column in ("syncs", "disk B", "wire B", "node MiB", "refused"):
        table.add_column(column, justify="right")
    entries = result["summary"]
    for number, entry in enumerate(entries):
        is_last = number + 1 == len(entries) or entries[number + 1]["case"] != entry["case"]
        table.add_row(*_cells(entry), end_section=is_last)
    table.caption = (
        "Per op: CPU of nodes and callers, syncs of all nodes, bytes that became dirty in files, bytes on TCP between "
        f"nodes. Floor: fdatasync + TLS round trip, for reads the round trip. ?: {UNKNOWN}."
    )
    return table


def _cells(entry: Mapping[str, Any]) -> list[str]:
    is_ours = entry["peer"] == OURS
    memory = entry["resident_bytes"]
    failed = f" +{entry['failures']} failed" if entry["failures"] else ""
    return [
        entry["case"],
        entry["peer"],
        _shown(entry["per_second"], ",.0f"),
        _time(entry["p50_us"]),
        _time(entry["p99_us"]),
        "" if entry["floors"] is None else f"{entry['floors']:.1f}",
        "" if is_ours else _times(entry["ours_to_its_rate"]),
        "" if is_ours else _times(entry["ours_to_its_p50"]),
        _shown(entry["cpu_us_per_op"], ",.1f"),
        _shown(entry["syncs_per_op"], ".3f"),
        _shown(entry["disk_bytes_per_op"], ",.0f"),
        _shown(entry["wire_bytes_per_op"], ",.0f"),
        _shown(None if memory is None else memory / (1 << 20), ",.0f"),
        f"{entry['refused']:,}{failed}" if entry["refused"] or failed else "",
    ]


def _time(value_us: float | None) -> str:
    return _shown(value_us, ",.2f" if value_us is not None and value_us < 10 else ",.0f")


def _times(ratio: float | None) -> str:
    """ "?" too where ours was not measured."""
    return _shown(ratio, ".1g" if ratio is not None and ratio < 0.1 else ",.2f")


def _shown(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def _problems(result: Mapping[str, Any]) -> list[Table]:
    if not result["problems"]:
        return []
    table = Table("what failed", title_justify="left")
    for problem in result["problems"]:
        table.add_row(problem)
    return [table]
