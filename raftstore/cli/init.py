"""`raftstore init`: a new cluster's configuration, private CA and certificates, for one machine or several."""

from __future__ import annotations

from pathlib import Path

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.cli.target import OPERATOR
from raftstore.config import STRATEGIES, Address, ClusterConfig
from raftstore.transport.certs import Issued, create_ca, issue_client, issue_node

CONFIG_NAME = "cluster.conf"
CA_NAME = "ca"


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--nodes",
    type=click.IntRange(1, 99),
    default=3,
    show_default=True,
    help="1, 3, 5 or 7; with --strategy sticky any number up to 64.",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default=STRATEGIES[0],
    show_default=True,
    help="How sessions find their owner: a store that all nodes share, or a mapping from session id to node.",
)
@click.option("--cluster", default="vpn", show_default=True, metavar="NAME", help="The cluster's name.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Where the nodes are: one for all, or one per node in their order. [default: 127.0.0.1]",
)
@click.option(
    "--base-port",
    type=click.IntRange(1, 65_000),
    default=7400,
    show_default=True,
    help="The first node's port; the others' follow, or are the same where each has its own host.",
)
def init(directory: Path, nodes: int, strategy: str, cluster: str, hosts: tuple[str, ...], base_port: int) -> None:
    """Write cluster.conf, a private CA, a certificate per node and one for operators into DIR.

    Overwrites nothing.

    \b
      raftstore init mycluster
      raftstore init mycluster --nodes 3 --host 10.0.0.1 --host 10.0.0.2 --host 10.0.0.3
      raftstore init mycluster --strategy sticky --nodes 4
    """
    with outcomes_as_exits():
        if len(hosts) not in (0, 1, nodes):
            raise click.UsageError(f"{len(hosts)} hosts for {nodes} nodes: give one for all, or one per node")
        config = _planned(directory, strategy, cluster, _peers(nodes, hosts or ("127.0.0.1",), base_port))
        existing = [path for path in _paths(directory, config) if path.exists()]
        if existing:
            raise Failure(f"{existing[0]}: exists already (choose another directory, or move it away)")
        _write(directory, config)
        _say_what_next(directory, config)


def _peers(nodes: int, hosts: tuple[str, ...], base_port: int) -> list[Address]:
    """One host has a port per node; several hosts have the same port each."""
    if len(hosts) > 1:
        return [Address(host, base_port) for host in hosts]
    return [Address(hosts[0], base_port + i) for i in range(nodes)]


def _planned(directory: Path, strategy: str, cluster: str, peers: list[Address]) -> ClusterConfig:
    """What will be written, checked as it will be read."""
    tables = [{"id": f"vpn-{i}", "peer": str(peer)} for i, peer in enumerate(peers, 1)]
    return ClusterConfig.from_dict(
        {"cluster": cluster, "strategy": strategy, "node": tables},
        base_dir=directory,
        source=str(directory / CONFIG_NAME),
    )


def _paths(directory: Path, config: ClusterConfig) -> list[Path]:
    names = [CA_NAME, *config.node_ids, OPERATOR]
    pairs = [directory / f"{name}{suffix}" for name in names for suffix in (".pem", ".key")]
    return [directory / CONFIG_NAME, *pairs]


def _write(directory: Path, config: ClusterConfig) -> None:
    """Certificates first, cluster.conf last: a directory with a cluster.conf is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    ca = create_ca(config.cluster)
    _write_pair(directory, CA_NAME, ca, "the cluster's private CA")
    for node in config.nodes:
        issued = issue_node(ca, config.cluster, node.id, [node.peer.host])
        _write_pair(directory, node.id, issued, f"node {node.id} at {node.peer}")
    _write_pair(directory, OPERATOR, issue_client(ca, config.cluster, OPERATOR), "operators, for APIs on TCP")
    path = directory / CONFIG_NAME
    with path.open("x", encoding="utf-8") as file:
        file.write(_text_of(config))
    click.echo(f"{path}: {len(config.nodes)} nodes, cluster {config.cluster}, strategy {config.strategy}")


def _write_pair(directory: Path, name: str, issued: Issued, what: str) -> None:
    issued.write(directory / f"{name}.pem", directory / f"{name}.key")
    click.echo(f"{directory / name}.pem, .key: {what}")


def _text_of(config: ClusterConfig) -> str:
    other = next(strategy for strategy in STRATEGIES if strategy != config.strategy)
    lines = [
        "# The same file on every node. Every key, its default and what it trades: cluster.conf.example.",
        "# Check a change with: raftstore config check",
        "",
        f'cluster = "{config.cluster}"',
        f'strategy = "{config.strategy}"         # or "{other}"; chosen before the first start',
        'partition_policy = "deny"   # or "terminate"',
    ]
    for node in config.nodes:
        lines += ["", "[[node]]", f'id = "{node.id}"', f'peer = "{node.peer}"']
    return "\n".join(lines) + "\n"


def _say_what_next(directory: Path, config: ClusterConfig) -> None:
    path = directory / CONFIG_NAME
    click.echo("\nNext, each in a terminal of its own:")
    for node in config.nodes:
        click.echo(f"  raftstore run --config {path} --node {node.id}")
    click.echo(f"then:\n  raftstore status --config {path}")
    if any(not node.peer.is_loopback() for node in config.nodes):
        click.echo(
            f"\nEvery node needs {CONFIG_NAME}, {CA_NAME}.pem and its own ID.pem and ID.key; "
            f"{CA_NAME}.key stays here, or somewhere safer."
        )
