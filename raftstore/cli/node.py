"""Commands about a node as a whole: drain, leadership, and what became of an op."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from raftstore.cli.exits import ERROR, NO_QUORUM, Failure
from raftstore.cli.mapping_view import set_command
from raftstore.cli.output import echo_json, show_pairs, shown
from raftstore.cli.target import PROBE_TIMEOUT_S, Target, api_command
from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.client.reading import op_id_from, session_from
from raftstore.config import NodeConfig
from raftstore.errors import RaftstoreError

DRAIN_TIMEOUT_MIN_S = 65.0  # a sticky node waits 60 s for those who take its sessions
TELL_EVERY_S = 2.0


@click.command()
@api_command
def drain(target: Target) -> None:
    """Move every session of a node away and give it no new ones, before it is stopped.

    Names the node with --node. Waits at least 60 seconds. A restarted node takes sessions again; in the sticky strategy
    a drain is a mapping change and lasts until the mapping is set without it, which this command says how to do.
    """
    if target.node_id is None:
        raise click.UsageError("say which node to drain: --node ID")

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        async with target.connect(max(target.timeout_s, DRAIN_TIMEOUT_MIN_S)) as client:
            telling = asyncio.create_task(_tell_progress(client))
            try:
                return await client.drain(), await client.mapping()
            finally:
                telling.cancel()

    done, mapping = asyncio.run(run())
    is_sticky = mapping["strategy"] == "sticky"
    if target.output == "json":
        echo_json(done)
    else:
        pairs = [("node", target.node_id), ("moved", done.get("moved")), ("failed", done.get("failed"))]
        show_pairs([*pairs, ("remaining", done.get("remaining"))] if is_sticky else pairs)
        if is_sticky:
            back = set_command(mapping["nodes"], without=target.node_id)
            click.echo(f"{target.node_id} takes no sessions, restarted or not, until: {back}")
    problem = shown(done.get("last_problem"))
    if done.get("failed"):
        raise Failure(f"{target.node_id}: {done['failed']} sessions could not be moved; the last: {problem}")
    if is_sticky and done.get("remaining"):
        waits = f"{problem}; they leave as soon as that is possible (raftstore mapping wait)"
        raise Failure(f"{target.node_id}: {done['remaining']} sessions have not left it yet: {waits}")


async def _tell_progress(client: Client) -> None:
    """Now and then, on stderr, how many sessions are still to leave."""
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        try:
            status = await client.status()
        except RaftstoreError:
            continue  # the drain itself will say what is wrong
        leaving = (status.get("mapping") or {}).get("leaving")
        if leaving:
            click.echo("; ".join(f"{count} to give to {node_id}" for node_id, count in leaving.items()), err=True)
        elif (status.get("drain") or {}).get("running"):
            click.echo(f"{status['drain']['remaining']} to move", err=True)


@click.group()
def leader() -> None:
    """Leadership of the cluster."""


@leader.command()
@click.option("--to", metavar="NODE", help="Who shall lead. [default: the member that is most caught up]")
@api_command
def transfer(target: Target, to: str | None) -> None:
    """Hand leadership to another node, without waiting for a timeout.

    \b
      raftstore leader transfer --to vpn-2
    """
    if to is not None:
        target.config.node(to)

    async def run() -> dict[str, Any]:
        node = await _leader(target)
        async with target.client(node) as client:
            return await client.transfer_leadership(to)

    done = asyncio.run(run())
    if target.output == "json":
        echo_json(done)
    else:
        click.echo(f"{done['leader']} leads")


async def _leader(target: Target) -> NodeConfig:
    """The node to ask: the given one, or whom the others name as leader."""
    if target.node_id is not None:
        return target.config.node(target.node_id)
    silent = 0
    for node in target.nodes:
        async with target.client(node, PROBE_TIMEOUT_S) as client:
            try:
                name = (await client.status())["leader"]
            except (Unreachable, NoAnswer):
                silent += 1
                continue
        if name is not None:
            return target.config.node(name)
    if silent == len(target.nodes):
        raise Failure("no node answers (start one with `raftstore run --node ID`)", ERROR)
    raise Failure("no node knows of a leader (see `raftstore status`)", NO_QUORUM)


@click.command()
@click.argument("op_id", metavar="OP_ID")
@api_command
def outcome(target: Target, op_id: str) -> None:
    """What became of an op that was answered "outcome unknown".

    OP_ID is what that answer named, NODE:INCARNATION:SEQ; the node in it is asked.
    """
    try:
        op = op_id_from(op_id)
    except ValueError:
        raise click.BadParameter("must be NODE:INCARNATION:SEQ, as the answer named it", param_hint="OP_ID") from None

    async def run() -> dict[str, Any] | None:
        async with target.client(target.config.node(op.node_id)) as client:
            return await client.outcome(op)

    found = asyncio.run(run())
    if found is None:
        raise Failure(f"{op.node_id} does not know {op_id}: restarted since, or forgotten (see `session get`)")
    if target.output == "json":
        echo_json(found)
        return
    session = None if found.get("session") is None else session_from(found["session"])
    state = None if session is None else f"{session.state.name} at {session.owner}, version {session.state_version}"
    show_pairs([("op", op_id), ("outcome", found.get("outcome")), ("reason", found.get("reason")), ("session", state)])
