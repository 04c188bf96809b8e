"""`raftstore audit ...`: read the trail of ownership changes, and prove that it is whole and equal on all nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.cli.output import console, echo_json, shown, table_of
from raftstore.cli.target import Target, api_command, config_option, output_option
from raftstore.config import ClusterConfig
from raftstore.errors import ConfigError
from raftstore.node.audit_lines import list_files
from raftstore.node.audit_verify import VerifyReport, compare, verify_files

TAIL_DEFAULT = 20


@click.group()
def audit() -> None:
    """The trail of every ownership change and every refusal."""


@audit.command()
@click.option("--lines", type=click.IntRange(0), default=TAIL_DEFAULT, show_default=True, help="The last so many.")
@click.option("--after", type=click.IntRange(0), metavar="NUMBER", help="All after this event, instead of the last.")
@click.option("--follow", "-f", is_flag=True, help="Go on as events come, until interrupted.")
@api_command
def tail(target: Target, lines: int, after: int | None, follow: bool) -> None:
    """Show audit events of a node.

    With `-o json` one object a line, as they are in the files.

    \b
      raftstore audit tail --follow
      raftstore audit tail --after 1200 -o json | jq 'select(.event=="Refused")'
    """

    async def run() -> None:
        async with target.connect() as client:
            start = after
            if start is None:
                start = max(0, (await client.status())["event_seq"] - lines)
            async for event in client.events(start, follow=follow):
                click.echo(json.dumps(event) if target.output == "json" else line_of(event))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        if not follow:
            raise


def line_of(event: dict[str, Any]) -> str:
    """One event as one line for people."""
    number, name = event.get("number"), event.get("event")
    if name == "AuditGap":
        return f"{number:>8} {'':24} AuditGap: events {event.get('from')} to {event.get('to')} are not in the files"
    parts = [f"{number:>8} {_time_of(event):24} {name}"]
    if event.get("session_id"):
        parts.append(str(event["session_id"]))
    if event.get("from_state") != event.get("to_state"):
        parts.append(f"{shown(event.get('from_state'))} -> {shown(event.get('to_state'))}")
    for key, label in (("node", "by"), ("owner", "owner"), ("epoch", "epoch"), ("state_version", "version")):
        if event.get(key):
            parts.append(f"{label} {event[key]}")
    if event.get("reason"):
        parts.append(f"({event['reason']})")
    if event.get("detail") and not event.get("session_id"):
        parts.append(str(event["detail"]))  # of a node or a mapping there is nothing else to tell
    return "  ".join(parts)


def _time_of(event: dict[str, Any]) -> str:
    wall_ms = event.get("wall_ms")
    if not isinstance(wall_ms, int):
        return "-"
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@audit.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@config_option
@click.option("--node", "-n", "node_id", metavar="ID", help="Only this node's files. [default: all nodes']")
@output_option
def verify(files: tuple[Path, ...], config_path: Path, node_id: str | None, output: str) -> None:
    """Recompute the hash chain of audit files and compare the nodes.

    Without FILES: those of every node whose audit directory is on this machine. With FILES, or directories of them:
    exactly those; files of one directory belong together. Sticky nodes have each a chain of its own: they are not
    compared. Exits with 1 when anything is damaged, missing or different.

    \b
      raftstore audit verify
      raftstore audit verify collected/vpn-1 collected/vpn-2 collected/vpn-3
    """
    with outcomes_as_exits(output):
        trails, absent = (_given(files), []) if files else _of_nodes(config_path, node_id)
        reports = [verify_files(paths) for paths in trails]
        are_separate = _are_separate(config_path)
        differences = [] if are_separate else compare(reports)
        _show(reports, differences, absent, output, are_separate)
        damaged = sum(bool(report.problems) for report in reports)
        if damaged or differences:
            raise Failure(f"audit: {damaged} of {len(reports)} trails are damaged, {len(differences)} differences")


def _are_separate(config_path: Path) -> bool:
    """Whether the configuration, where there is a readable one, says that each node keeps a log of its own."""
    try:
        return ClusterConfig.load(config_path).is_sticky
    except ConfigError:
        return False  # files from elsewhere need none


def _given(files: Sequence[Path]) -> list[list[Path]]:
    """The named files, and those of named directories, by the directory they are in."""
    trails: dict[Path, list[Path]] = {}
    for path in files:
        found = list_files(path) if path.is_dir() else [path]
        if not found:
            raise Failure(f"{path}: no audit files (their names are audit-NUMBER.jsonl)")
        for one in found:
            trails.setdefault(one.parent, []).append(one)
    return list(trails.values())


def _of_nodes(config_path: Path, node_id: str | None) -> tuple[list[list[Path]], list[str]]:
    config = ClusterConfig.load(config_path)
    trails, absent = [], []
    for node in (config.node(node_id),) if node_id is not None else config.nodes:
        found = list_files(node.audit_dir) if node.audit_dir.is_dir() else []
        if found:
            trails.append(found)
        else:
            absent.append(f"{node.id}: no audit files in {node.audit_dir}: not compared (copy them here and name them)")
    if not trails:
        raise Failure(f"nothing to verify: {'; '.join(absent)}")
    return trails, absent


def _show(
    reports: Sequence[VerifyReport],
    differences: Sequence[str],
    absent: Iterable[str],
    output: str,
    are_separate: bool,
) -> None:
    if output == "json":
        echo_json(
            {
                "trails": [_as_dict(report) for report in reports],
                "differences": list(differences),
                "not_compared": list(absent),
            }
        )
        return
    headings = ("NODE", "FIRST", "LAST", "LOG INDEX", "CHAIN HEAD", "GAPS", "VERDICT")
    rows = [
        (r.node, r.first, r.last, r.last_index, r.head.hex()[:16], len(r.gaps), "DAMAGED" if r.problems else "whole")
        for r in reports
    ]
    console().print(table_of(headings, rows))
    for report in reports:
        for problem in report.problems:
            click.echo(f"{report.node}: {problem}")
        if report.unfinished:
            click.echo(f"{report.node}: being written, or cut by a crash: {report.unfinished}")
    for text in (*differences, *absent):
        click.echo(text)
    if are_separate:
        click.echo('strategy "sticky": each node has a chain of its own, so they are not compared')
    elif len(reports) > 1 and not differences and not any(report.problems for report in reports):
        click.echo(f"the chains of {', '.join(report.node for report in reports)} are equal where they overlap")


def _as_dict(report: VerifyReport) -> dict[str, Any]:
    return {
        "node": report.node,
        "cluster": report.cluster,
        "files": [str(path) for path in report.paths],
        "first": report.first,
        "last": report.last,
        "last_index": report.last_index,
        "head": report.head.hex(),
        "gaps": [list(gap) for gap in report.gaps],
        "problems": report.problems,
        "unfinished": report.unfinished,
    }
