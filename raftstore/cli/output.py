"""What people and programs read: tables on a terminal, the same without cutting when piped, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raftstore.types import Session

PIPED_WIDTH = 10_000  # a pipe has no width: nothing is to be cut or folded


def console() -> Console:
    """A console on the present stdout; colours and width only where there is a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PIPED_WIDTH, color_system=None)


def echo_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


def table_of(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table; text from elsewhere is shown as it is, never read as markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")  # a narrow terminal folds, it hides nothing
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
    return table


def show_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """One thing, line by line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(shown(value)))
    console().print(table)


def shown(value: Any) -> str:
    """A value for a cell: "-" for nothing, yes and no for truth."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def duration(ms: int | None) -> str:
    """Milliseconds for people."""
    if ms is None:
        return "-"
    if ms < 10_000:
        return f"{ms} ms"
    seconds = ms // 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds} s"


SESSION_HEADINGS = ("SESSION", "STATE", "OWNER", "EPOCH", "VERSION", "BINDING", "TARGET", "REASON")


def session_row(session: Session) -> tuple[Any, ...]:
    binding = session.binding
    return (
        session.session_id,
        session.state.name,
        session.owner,
        session.epoch,
        session.state_version,
        None if binding is None else f"{binding.transport_id} {binding.proto} {binding.remote}",
        session.target,
        session.reason,
    )


def session_pairs(session: Session, now_ms: int | None = None) -> list[tuple[str, Any]]:
    """A session for people; times relative to the cluster clock where it is known."""

    def when(moment_ms: int | None) -> str | None:
        if moment_ms is None or now_ms is None:
            return None if moment_ms is None else f"{moment_ms} ms of cluster time"
        rest_ms = moment_ms - now_ms
        return f"in {duration(rest_ms)}" if rest_ms >= 0 else f"{duration(-rest_ms)} ago"

    names = ("session", "state", "owner", "epoch", "version", "binding", "target", "reason")
    times = [
        ("created", when(session.created_at_ms)),
        ("expires", when(session.expires_at_ms)),
        ("reattach by", when(session.reattach_by_ms)),
        ("freeze ends", when(session.freeze_by_ms)),
    ]
    optional = ("target", "reason", "reattach by", "freeze ends")
    pairs = [*zip(names, session_row(session), strict=True), ("policy", session.policy), *times]
    return [(name, value) for name, value in pairs if value is not None or name not in optional]
