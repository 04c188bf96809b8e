"""`raftstore cert`: new certificates from the cluster's CA, where its key is kept. Nodes take them up by themselves."""

from __future__ import annotations

from pathlib import Path

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.cli.target import config_option
from raftstore.config import ClusterConfig
from raftstore.transport.certs import Issued, issue_client, issue_node

_ca_key = click.option(
    "--ca-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The CA's private key. [default: beside its certificate, with the suffix .key]",
)


@click.group()
def cert() -> None:
    """Issue certificates with the cluster's private CA.

    Run it where the CA's key is. Peer links use a node's new files from their next connection on, without a restart.
    """


@cert.command("renew")
@config_option
@_ca_key
@click.argument("node_ids", metavar="NODE...", nargs=-1, required=True)
def renew(config_path: Path, ca_key: Path | None, node_ids: tuple[str, ...]) -> None:
    """Write new certificates and keys for these nodes, over the old ones.

    \b
      raftstore cert renew vpn-1 vpn-2 vpn-3
    """
    with outcomes_as_exits():
        config = ClusterConfig.load(config_path)
        nodes = [config.node(node_id) for node_id in node_ids]
        ca = _read_ca(config, ca_key)
        for node in nodes:
            issued = issue_node(ca, config.cluster, node.id, [node.peer.host])
            _write(issued, node.cert, node.key, overwrite=True)
            click.echo(f"{node.cert}, {node.key}: node {node.id} (copy both to it)")


@cert.command("client")
@config_option
@_ca_key
@click.argument("name")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def client(config_path: Path, ca_key: Path | None, name: str, directory: Path) -> None:
    """Write a certificate for an operator or a program that uses the HTTP API over TCP. Overwrites nothing.

    \b
      raftstore cert client alice .
    """
    with outcomes_as_exits():
        config = ClusterConfig.load(config_path)
        issued = issue_client(_read_ca(config, ca_key), config.cluster, name)
        directory.mkdir(parents=True, exist_ok=True)
        pem, key = directory / f"{name}.pem", directory / f"{name}.key"
        _write(issued, pem, key, overwrite=False)
        click.echo(f"{pem}, {key}: use with --cert and --key")


def _read_ca(config: ClusterConfig, ca_key: Path | None) -> Issued:
    return Issued.read(config.ca_path, ca_key or config.ca_path.with_suffix(".key"))


def _write(issued: Issued, cert_path: Path, key_path: Path, *, overwrite: bool) -> None:
    try:
        issued.write(cert_path, key_path, overwrite=overwrite)
    except FileExistsError as problem:
        raise Failure(f"{problem} (choose another name or directory, or move it away)") from None
    except OSError as problem:
        raise Failure(f"{cert_path.parent}: cannot write: {problem.strerror}") from None
