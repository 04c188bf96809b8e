"""`raftstore route`: to which node sessions map, computed from cluster.conf without asking any node."""

from __future__ import annotations

from pathlib import Path

import click

from raftstore.cli.exits import outcomes_as_exits
from raftstore.cli.output import console, echo_json, table_of
from raftstore.cli.target import config_option, output_option
from raftstore.config import ClusterConfig
from raftstore.ownership.commands import validate_session_id
from raftstore.routing import FORMS, FORMULA, Mapping, map_text

CONFIG_EPOCH = 1  # cluster.conf states one mapping, the first


@click.command()
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option("--map", "form", type=click.Choice(FORMS), help="Print the mapping itself, for a load balancer.")
@config_option
@output_option
def route(sessions: tuple[str, ...], form: str | None, config_path: Path, output: str) -> None:
    """Show the node to which each session maps.

    Computed from the nodes and weights of cluster.conf, by the same formula everywhere. This is placement, not
    ownership: who owns a session now is what `raftstore session get` says.

    \b
      raftstore route alice bob
      raftstore route --map nginx > raftstore.map
    """
    if bool(sessions) == (form is not None):
        raise click.UsageError("name sessions, or a form with --map; not both")
    with outcomes_as_exits(output):
        for session_id in sessions:
            validate_session_id(session_id)
        mapping = mapping_of(ClusterConfig.load(config_path))
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
