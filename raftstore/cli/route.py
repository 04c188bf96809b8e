"""`raftstore route`: to which node sessions map, by cluster.conf alone, or by the mapping that a node has now."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from raftstore.cli.exits import outcomes_as_exits
from raftstore.cli.output import console, echo_json, table_of
from raftstore.cli.target import TIMEOUT_DEFAULT_S, Target, config_option, output_option
from raftstore.config import ClusterConfig
from raftstore.errors import Unavailable
from raftstore.ownership.commands import validate_session_id
from raftstore.routing import FORMS, FORMULA, Mapping, MappingNode, map_text
from raftstore.types import Reason

CONFIG_EPOCH = 1  # cluster.conf states one mapping, the first


@click.command()
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option("--map", "form", type=click.Choice(FORMS), help="Print the mapping itself, for a load balancer.")
@click.option("--from-node", metavar="NODE", help="By the mapping that this node has now, which it is asked for.")
@config_option
@output_option
@click.option("--cert", type=click.Path(path_type=Path), envvar="RAFTSTORE_CERT", hidden=True)
@click.option("--key", type=click.Path(path_type=Path), envvar="RAFTSTORE_KEY", hidden=True)
def route(
    sessions: tuple[str, ...],
    form: str | None,
    from_node: str | None,
    config_path: Path,
    output: str,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Show the node to which each session maps.

    Computed from the nodes and weights of cluster.conf, by the same formula everywhere. This is placement, not
    ownership: who owns a session now is what `raftstore session get` says.

    Asks no node, so in the sticky strategy it knows the founding mapping alone: after a mapping change `raftstore
    mapping show` knows better, and so does --from-node.

    \b
      raftstore route alice bob
      raftstore route --map nginx > raftstore.map
      raftstore route --map nginx --from-node vpn-1 > raftstore.map
    """
    if bool(sessions) == (form is not None):
        raise click.UsageError("name sessions, or a form with --map; not both")
    with outcomes_as_exits(output):
        for session_id in sessions:
            validate_session_id(session_id)
        config = ClusterConfig.load(config_path)
        if from_node is None:
            mapping = mapping_of(config)
        else:
            target = Target(config_path, from_node, output, TIMEOUT_DEFAULT_S, cert, key)
            mapping = asyncio.run(_mapping_at(target, from_node))
        if form is not None:
            click.echo(map_text(mapping, form), nl=False)
            return
        owners = [(session_id, mapping.owner(session_id)) for session_id in sessions]
        if output == "json":
            routes = [{"session_id": session_id, "node": node} for session_id, node in owners]
            echo_json({"formula": FORMULA, "epoch": mapping.epoch, "digest": mapping.digest(), "routes": routes})
        else:
            console().print(table_of(("SESSION", "NODE"), owners))


def mapping_of(config: ClusterConfig) -> Mapping:
    """The mapping that a configuration states: its nodes with their weights, none draining."""
    return Mapping.of(CONFIG_EPOCH, config.weights)


async def _mapping_at(target: Target, node_id: str) -> Mapping:
    """The mapping by which a node goes now. Unavailable when it has none yet."""
    async with target.client(target.config.node(node_id)) as client:
        told: dict[str, Any] = await client.mapping()
    if not told["epoch"]:
        raise Unavailable(Reason.MAPPING_UNSETTLED, f"{node_id} has no mapping yet")
    nodes = (MappingNode(node["node_id"], node["weight"], node["draining"]) for node in told["nodes"])
    return Mapping(told["epoch"], tuple(nodes))
