"""`raftstore mapping ...`: the sticky strategy's mapping of sessions to nodes: look at it, change it, wait for it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from raftstore.cli.exits import ERROR, NO_QUORUM, OK, USAGE, Failure
from raftstore.cli.mapping_ask import WAIT_DEFAULT_S, ask_all, best, mapping_before, require_sticky, wait_settled
from raftstore.cli.mapping_view import (
    Stage,
    View,
    Views,
    answered,
    connected,
    described,
    notes,
    opens_in_ms,
    stage,
    table,
)
from raftstore.cli.output import console, duration, echo_json, table_of
from raftstore.cli.target import Target, api_command
from raftstore.errors import InvalidArgument
from raftstore.routing import Mapping, MappingNode, moved

SAMPLE = 10_000  # session ids whose places a dry run compares
GOES_ON = "the change goes on by itself: `raftstore mapping wait` waits for it, `mapping show` tells how far it is"


@click.group()
def mapping() -> None:
    """Which node has which sessions, in the sticky strategy; and how that changes.

    A change is one operation: it gets the next epoch, every node adopts it, and exactly the sessions that must move do.

    \b
      raftstore mapping show --all
      raftstore mapping set vpn-1=1 vpn-2=1 vpn-3=1 vpn-4=1 --dry-run
      raftstore mapping set vpn-1=1 vpn-2=1 vpn-3=1 vpn-4=1
      raftstore mapping set vpn-1=1 vpn-2=1 vpn-3=1 vpn-4=1 --drain vpn-2
      raftstore mapping rollback
    """


@mapping.command()
@click.option("--all", "everyone", is_flag=True, help="Ask all nodes, and say where they differ.")
@api_command
def show(target: Target, everyone: bool) -> None:
    """The mapping as one node has it (or all), and how far it is settled.

    Exits with 3 while it is not settled, with 1 when no node answers.
    """
    require_sticky(target)
    if everyone and target.node_id is not None:
        raise click.UsageError("name a node with --node, or ask --all; not both")

    async def run() -> Views:
        if everyone:
            return await ask_all(target)
        name, view, _ = await best(target)
        return {name: view}

    views = asyncio.run(run())
    _show(target, views)
    _end(stage(views))


@mapping.command("set")
@click.argument("weights", nargs=-1, required=True, metavar="NODE=WEIGHT...")
@click.option("--drain", multiple=True, metavar="NODE", help="This one gives its sessions away and gets none.")
@click.option("--lost", multiple=True, metavar="NODE", help="This one will never run again; its sessions are gone.")
@click.option("--yes-it-will-never-run-again", "sure", is_flag=True, help="Answers the question that --lost asks.")
@click.option("--epoch", type=click.IntRange(2, 2**53 - 1), help="The epoch that this change must get, or be refused.")
@click.option("--dry-run", is_flag=True, help="Say which share of sessions would move from where to where.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when all sessions are in place.")
@api_command
def set_(
    target: Target,
    weights: tuple[str, ...],
    drain: tuple[str, ...],
    lost: tuple[str, ...],
    sure: bool,
    epoch: int | None,
    dry_run: bool,
    wait: bool,
) -> None:
    """Set the mapping: all nodes that shall have sessions, each with its weight. A node left out gets none.

    A node must be in cluster.conf of all nodes first. Waits up to 60 seconds unless --timeout says otherwise.

    \b
      raftstore mapping set vpn-1=2 vpn-2=1 vpn-3=1
    """
    require_sticky(target)
    nodes = _read_weights(weights, drain)
    if lost and not dry_run and not sure:
        _ask_whether_lost(target, lost)
    _change(target, lambda _views, _current: _given(nodes), lost, epoch, dry_run, wait)


@mapping.command()
@click.option("--dry-run", is_flag=True, help="Say which share of sessions would move from where to where.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when all sessions are in place.")
@api_command
def rollback(target: Target, dry_run: bool, wait: bool) -> None:
    """Go back to the mapping before: a new epoch with its nodes, weights and drains.

    Works at any moment of a change, settled or not. Once more, and the change is there again.
    """
    require_sticky(target)

    async def before(views: Views, current: View) -> list[dict[str, Any]]:
        found = mapping_before(views, current["epoch"])
        if found is None:
            known = "nobody knows the mapping before" if current["epoch"] > 1 else "it is the first"
            raise Failure(f"mapping epoch {current['epoch']}: {known}: say which one with `raftstore mapping set`")
        if target.output != "json":
            click.echo(f"back to the nodes of epoch {found['epoch']}: {described(found)}")
        nodes: list[dict[str, Any]] = found["nodes"]
        return nodes

    _change(target, before, (), None, dry_run, wait)


@mapping.command("wait")
@api_command
def wait_(target: Target) -> None:
    """Wait until the mapping is settled and closed on every node that answers.

    Exits with 0 then, with 3 when that takes longer than --timeout (60 seconds unless given), with 1 when no node
    answers.
    """
    require_sticky(target)
    now, views = _waited(target, 0)
    _show(target, views)
    _end(now)


# --- a change -----------------------------------------------------------------------------------------------------


async def _given(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return nodes


def _change(
    target: Target,
    nodes_of: Callable[[Views, View], Any],
    lost: Sequence[str],
    epoch: int | None,
    dry_run: bool,
    wait: bool,
) -> None:
    """Through the node with the newest mapping, under the epoch that follows on it."""

    async def run() -> tuple[View, View, list[dict[str, Any]], str]:
        name, current, views = await best(target)
        nodes = await nodes_of(views, current)
        if dry_run:
            return current, current, nodes, name
        _check_silent(views, lost)
        draining = [node["node_id"] for node in nodes if node["draining"]]
        weights = {node["node_id"]: node["weight"] for node in nodes}
        async with target.client(target.config.node(name)) as client:
            following = current["epoch"] + 1 if epoch is None else epoch
            changed = await client.change_mapping(weights, draining=draining, lost=lost, epoch=following)
        return current, changed, nodes, name

    current, changed, nodes, name = asyncio.run(run())
    if dry_run:
        _show_moves(target, current, nodes, lost)
        return
    if target.output != "json":
        click.echo(f"mapping epoch {changed['epoch']} is in the log of {name}: {described(changed)}")
    if not wait:
        if target.output == "json":
            echo_json(changed)
        else:
            click.echo(GOES_ON)
        return
    now, views = _waited(target, changed["epoch"])
    _show(target, views)
    if now is Stage.OPENS_LATER:
        click.echo(f"all that can be done is done; the last ids open in {duration(opens_in_ms(views))}", err=True)
        return
    _end(now)


def _waited(target: Target, epoch: int) -> tuple[Stage, Views]:
    """Waits; an interruption says that the change does not end with it."""
    source = click.get_current_context().get_parameter_source("timeout_s")
    timeout_s = WAIT_DEFAULT_S if source is ParameterSource.DEFAULT else target.timeout_s
    try:
        return asyncio.run(wait_settled(target, timeout_s, epoch))
    except KeyboardInterrupt:
        raise Failure(f"interrupted: {GOES_ON}", ERROR) from None


def _read_weights(texts: Sequence[str], drain: Sequence[str]) -> list[dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = re.fullmatch(r"([a-z0-9-]{1,32})=(\d{1,6})", text)
        if match is None:
            raise click.BadParameter(f"{text!r} is not NODE=WEIGHT, such as vpn-1=1", param_hint="NODE=WEIGHT")
        if match[1] in nodes:
            raise click.BadParameter(f"{match[1]} is given twice", param_hint="NODE=WEIGHT")
        nodes[match[1]] = {"node_id": match[1], "weight": int(match[2]), "draining": match[1] in drain}
    strangers = [node_id for node_id in drain if node_id not in nodes]
    if strangers:
        raise click.BadParameter(f"{strangers[0]} is not among the nodes: give its weight too", param_hint="--drain")
    return list(nodes.values())


def _ask_whether_lost(target: Target, lost: Sequence[str]) -> None:
    """What must never be done by a slip of the hand: two owners could come of it."""
    ttl_max_ms = target.config.sessions.ttl_max_ms
    for node_id in lost:
        click.echo(
            f"{node_id} is to be declared lost. Its sessions are gone. Ids that it may have held stay closed for "
            f"{duration(ttl_max_ms)}, until no session of it can be alive. Should it run again with its data "
            "directory, two nodes could own one session: be sure that it is off, and wipe its disk.",
            err=True,
        )
        typed = click.prompt(f"Type {node_id} if it will never run again", default="", show_default=False, err=True)
        if typed != node_id:
            raise Failure(
                "not confirmed: nothing was changed (--yes-it-will-never-run-again answers for a script)", USAGE
            )


def _check_silent(views: Views, lost: Sequence[str]) -> None:
    """A node that answers, or to which any other has a link, is not lost. The asked node alone might not know."""
    for node_id in lost:
        linked = [name for name, view in answered(views).items() if node_id in connected(view)]
        if node_id in answered(views) or linked:
            how = f"it is connected to {linked[0]}" if linked else "it answers"
            problem = f"{node_id} runs ({how}): only a node that will never run again can be declared lost; stop it"
            raise InvalidArgument("lost", problem)


# --- what would move ----------------------------------------------------------------------------------------------


def _show_moves(target: Target, current: View, nodes: list[dict[str, Any]], lost: Sequence[str]) -> None:
    for node_id in (*(node["node_id"] for node in nodes), *lost):
        if node_id not in target.config.node_ids:
            known = ", ".join(target.config.node_ids)
            raise InvalidArgument("nodes", f"no node {node_id!r} in {target.config.source} (known: {known})")
    old, new = _as_mapping(current["epoch"], current["nodes"]), _as_mapping(current["epoch"] + 1, nodes)
    if not any(node.takes_sessions for node in new.nodes):
        raise InvalidArgument("nodes", "no node would take sessions: one needs a weight above 0 and must not drain")
    sample = (f"session-{number}" for number in range(SAMPLE))
    moves = Counter((before, after) for _, before, after in moved(old, new, sample))
    rows = [
        {"from": before, "to": after, "share": count / SAMPLE, "lost": before in lost}
        for (before, after), count in sorted(moves.items(), key=str)
    ]
    total = sum(moves.values()) / SAMPLE
    if target.output == "json":
        changes = {"dry_run": True, "epoch": new.epoch, "sampled": SAMPLE, "share": total, "moves": rows}
        echo_json(changes)
        return
    if rows:
        shown = [(row["from"], row["to"], f"{row['share']:.1%}", "gone" if row["lost"] else "move") for row in rows]
        console().print(table_of(("FROM", "TO", "SHARE", "SESSIONS"), shown))
    click.echo(f"{total:.1%} of {SAMPLE} sampled ids change their node in epoch {new.epoch}; nothing was changed")


def _as_mapping(epoch: int, nodes: Sequence[dict[str, Any]]) -> Mapping:
    return Mapping(epoch, tuple(MappingNode(n["node_id"], n["weight"], n["draining"]) for n in nodes))


# --- what is shown ------------------------------------------------------------------------------------------------


def _show(target: Target, views: Views) -> None:
    if target.output == "json":
        answers = [{"node": name, **view} for name, view in views.items()]
        echo_json({"stage": stage(views).value, "nodes": answers, "notes": notes(views)})
        return
    console().print(table(views))
    for note in notes(views):
        click.echo(note)


def _end(now: Stage) -> None:
    codes = {Stage.SETTLED: OK, Stage.SILENT: ERROR}
    code = codes.get(now, NO_QUORUM)
    if code != OK:
        raise click.exceptions.Exit(code)
