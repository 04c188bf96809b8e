"""`raftstore status` of a sticky cluster: each node is a group of its own, so what counts is how their mappings agree.

Reads the same statuses as the shared strategy's table. A leader, a term and a quorum mean nothing here, and every node
has a chain of its own.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from raftstore.cli.exits import ERROR, NO_QUORUM, OK
from raftstore.cli.mapping_view import Stage, answered, newest, notes, stage, view_of
from raftstore.cli.output import duration, shown, table_of

HEADINGS = ("NODE", "STRATEGY", "MAPPING", "SETTLED", "AGREES WITH", "NOT WITH", "READY", "LEASE", "SESSIONS", "BOUND")


def is_sticky(statuses: dict[str, dict[str, Any]]) -> bool:
    return any(status.get("strategy") == "sticky" for status in statuses.values())


def table(statuses: dict[str, dict[str, Any]]) -> Table:
    """One row per node: its mapping, and which peers go by the same."""
    rows = table_of(HEADINGS, ())
    for name, status in statuses.items():
        if "unanswered" in status:
            rows.add_row(Text(name), Text("no answer", style="red"))
            continue
        mapping = status.get("mapping") or {}
        peers = mapping.get("peers", {})
        settled = mapping.get("settled")
        others = [peer_id for peer_id, peer in peers.items() if not peer["agrees"]]
        cells = [
            name,
            status.get("strategy"),
            f"epoch {mapping.get('epoch')}",
            Text(shown(settled), style="" if settled else "red"),
            ", ".join(peer_id for peer_id, peer in peers.items() if peer["agrees"]),
            Text(shown(", ".join(others)), style="red" if others else ""),
            status.get("ready"),
            duration(status.get("lease_remaining_ms")),
            status.get("sessions_total"),
            status.get("sessions_owned"),
        ]
        rows.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in cells))
    return rows


def views_of(statuses: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: status if "unanswered" in status else view_of(status) for name, status in statuses.items()}


def remarks(statuses: dict[str, dict[str, Any]]) -> list[str]:
    """What the mappings call for, and which nodes are to give their sessions away."""
    views = views_of(statuses)
    said = notes(views)
    found = newest(views)
    draining = [] if found is None else [n["node_id"] for n in found[1]["nodes"] if n["draining"]]
    return [*said, *(f"{name} is draining (raftstore mapping set without --drain {name} ends it)" for name in draining)]


def verdict(statuses: dict[str, dict[str, Any]]) -> int:
    """0 while all who answer have one mapping and it is settled, 3 while not, 1 when none answers."""
    views = views_of(statuses)
    if not answered(views):
        return ERROR
    return OK if stage(views) is Stage.SETTLED else NO_QUORUM
