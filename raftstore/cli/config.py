"""`raftstore config check`: is the file good, do the certificates fit, and is it the same file everywhere?"""

from __future__ import annotations

from pathlib import Path

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.cli.output import console, echo_json, show_pairs, table_of
from raftstore.cli.target import config_option, output_option
from raftstore.config import ClusterConfig, NodeConfig
from raftstore.errors import TransportError
from raftstore.transport.tls import TlsFiles, check_files


@click.group()
def config() -> None:
    """The configuration file."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@config_option
@click.option("--node", "-n", "node_id", metavar="ID", help="This node's certificate must be here and good.")
@output_option
def check(file: Path | None, config_path: Path, node_id: str | None, output: str) -> None:
    """Check cluster.conf without starting anything.

    Exits with 2 and one line naming file and key when it cannot be used. The digest must be the same on every node:
    nodes with different digests refuse each other. With strategy "sticky" it leaves out the nodes, so that a cluster
    can be grown node by node. Certificates are checked where their files are.

    \b
      raftstore config check
      raftstore config check /etc/raftstore/cluster.conf --node vpn-1
    """
    with outcomes_as_exits(output):
        found = ClusterConfig.load(file or config_path)
        asked = () if node_id is None else (found.node(node_id),)
        certificates = {node.id: _certificate(found, node, required=node in asked) for node in found.nodes}
        _show(found, certificates, output)
        bad = [problem for problem in certificates.values() if problem not in ("good", "not here")]
        if bad:
            raise Failure(bad[0])


def _certificate(config: ClusterConfig, node: NodeConfig, *, required: bool) -> str:
    if not node.cert.exists() and not required:
        return "not here"
    try:
        check_files(TlsFiles(config.ca_path, node.cert, node.key), config.cluster, node.id)
    except TransportError as problem:
        return str(problem)
    return "good"


def _show(config: ClusterConfig, certificates: dict[str, str], output: str) -> None:
    about = {
        "file": config.source,
        "cluster": config.cluster,
        "strategy": config.strategy,
        "digest": config.digest(),
    }
    if output == "json":
        nodes = [
            {"node": n.id, "peer": str(n.peer), "api": str(n.api), "certificate": certificates[n.id]}
            for n in config.nodes
        ]
        echo_json({**about, "nodes": nodes})
        return
    show_pairs(list(about.items()))
    rows = [(n.id, n.peer, n.bind, n.api, n.data_dir, certificates[n.id]) for n in config.nodes]
    console().print(table_of(("NODE", "PEER", "BIND", "API", "DATA", "CERTIFICATE"), rows))
