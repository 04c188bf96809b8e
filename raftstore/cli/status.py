"""`raftstore status`: one row per node, asked all at once; a node that does not answer has a row that says so."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raftstore.cli import status_sticky
from raftstore.cli.exits import ERROR, NO_QUORUM, OK
from raftstore.cli.output import console, duration, echo_json, shown, table_of
from raftstore.cli.target import Target, api_command
from raftstore.config import NodeConfig
from raftstore.errors import RaftstoreError

NODE_TIMEOUT_MAX_S = 2.0  # a node that hangs must not hide the others for longer
HEADINGS = (
    "NODE",
    "ROLE",
    "TERM",
    "COMMIT",
    "APPLIED",
    "LAG",
    "LAST CONTACT",
    "QUORUM",
    "LEASE",
    "SESSIONS",
    "BOUND",
    "CHAIN HEAD",
)
HEAD_SHOWN = 12


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="SECONDS", help="How often."
)
@click.option("--rounds", type=click.IntRange(1), hidden=True, help="End a watch after so many rounds.")
@api_command
def status(target: Target, watch: bool, interval: float, rounds: int | None) -> None:
    """One row per node: role, log, lease, sessions, chain head.

    SESSIONS are those whose owner it is, BOUND those for which it may act right now.

    Works without a leader. Exits with 3 when no node knows of a quorum, with 1 when none answers or chain heads differ.

    In the sticky strategy: the mapping of each node and with whom it agrees; exits with 3 while that is not settled.
    """
    if watch and target.output == "table":
        _watch(target, interval, rounds)
        return
    views = asyncio.run(_ask_all(target))
    if target.output == "json":
        echo_json({"nodes": [view | {"node": name} for name, view in views.items()], "notes": _notes(views)})
    else:
        console().print(render(views))
    code = _verdict(views)
    if code != OK:
        raise click.exceptions.Exit(code)


def _watch(target: Target, interval_s: float, rounds: int | None) -> None:
    done = 0
    try:
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(render(asyncio.run(_ask_all(target))), refresh=True)
                done += 1
                if done == rounds:
                    return
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return  # how a watch ends


async def _ask_all(target: Target) -> dict[str, dict[str, Any]]:
    answers = await asyncio.gather(*(_ask(target, node) for node in target.nodes))
    return {node.id: answer for node, answer in zip(target.nodes, answers, strict=True)}


async def _ask(target: Target, node: NodeConfig) -> dict[str, Any]:
    """The node's status, or {"unanswered": why}."""
    try:
        async with target.client(node, min(target.timeout_s, NODE_TIMEOUT_MAX_S)) as client:
            return await client.status()
    except RaftstoreError as problem:
        return {"unanswered": getattr(problem, "detail", "") or str(problem)}


def render(views: dict[str, dict[str, Any]]) -> Group:
    """The table, and below it what deserves attention."""
    rows = status_sticky.table(views) if status_sticky.is_sticky(views) else _table(views)
    return Group(rows, *(Text(note) for note in _notes(views)))


def _table(views: dict[str, dict[str, Any]]) -> Table:
    leader = next((v for v in views.values() if v.get("role") == "leader"), {})
    as_peer = {row["node"]: row for row in leader.get("peers", [])}
    table = table_of(HEADINGS, ())
    for name, view in views.items():
        if "unanswered" in view:
            table.add_row(Text(name), Text("no answer", style="red"))
            continue
        peer = as_peer.get(name, {})
        own: dict[str, Any] = next((row for row in view.get("nodes", []) if row["node"] == name), {})
        is_leader = view.get("role") == "leader"
        quorum = view.get("quorum")
        cells = [
            Text(name),
            Text(shown(view.get("role")), style="bold" if is_leader else ""),
            view.get("term"),
            view.get("commit_index"),
            view.get("applied_index"),
            0 if is_leader else peer.get("lag"),
            "leads" if is_leader else duration(peer.get("last_contact_ms")),
            Text(shown(quorum), style="" if quorum else "red"),
            duration(view.get("lease_remaining_ms")),
            own.get("sessions"),
            view.get("sessions_owned"),
            f"{str(view.get('chain_head'))[:HEAD_SHOWN]} @{view.get('chain_index')}",
        ]
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in cells))
    return table


def _notes(views: dict[str, dict[str, Any]]) -> list[str]:
    if status_sticky.is_sticky(views):
        return status_sticky.remarks(views) + _security_notes(views)
    notes = [f"{name} does not answer: {view['unanswered']}" for name, view in views.items() if "unanswered" in view]
    notes += [f"{name} has stopped serving: {v['stopped']}" for name, v in views.items() if v.get("stopped")]
    notes += [f"{a} and {b} DIFFER at log index {index}: one must be rebuilt" for a, b, index in _divergent(views)]
    notes += _security_notes(views)
    draining = {row["node"] for v in views.values() for row in v.get("nodes", []) if row.get("draining")}
    notes += [f"{name} is draining" for name in sorted(draining)]
    if _verdict(views) == NO_QUORUM:
        notes.append("no node knows of a quorum: ops are refused until a majority is connected")
    return notes


def _security_notes(views: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for name, view in views.items():
        kinds = sorted({str(event.get("kind")) for event in view.get("security_events", [])})
        if kinds:
            notes.append(f"{name} reports security events: {', '.join(kinds)} (see its log, or `status -o json`)")
    return notes


def _divergent(views: dict[str, dict[str, Any]]) -> list[tuple[str, str, int]]:
    seen: dict[int, tuple[str, str]] = {}
    found = []
    for name, view in views.items():
        index, head = view.get("chain_index"), view.get("chain_head")
        if index is None or head is None:
            continue
        first, first_head = seen.setdefault(index, (name, head))
        if head != first_head:
            found.append((first, name, index))
    return found


def _verdict(views: dict[str, dict[str, Any]]) -> int:
    if status_sticky.is_sticky(views):
        return status_sticky.verdict(views)
    answered = [view for view in views.values() if "unanswered" not in view]
    if not answered or _divergent(views):
        return ERROR
    return OK if any(view.get("quorum") for view in answered) else NO_QUORUM
