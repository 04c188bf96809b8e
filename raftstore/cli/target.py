"""Which node a command talks to, and how: from cluster.conf and the common options to a connected client.

Without --node the first node that answers is used, in the order of the file: every node answers for the cluster, and
ops that only an owner may do are refused with the owner's name.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.config import ClusterConfig, NodeConfig
from raftstore.transport.tls import TlsFiles, client_context

TIMEOUT_DEFAULT_S = 5.0
PROBE_TIMEOUT_S = 2.0  # how long one node may take to answer while the first one that does is looked for
ANSWER_MARGIN_S = 1.0  # the node itself answers when the time is up: wait that much longer for it
OPERATOR = "operator"  # the client certificate that `raftstore init` writes


@dataclass(frozen=True)
class Target:
    """The common options of a command that talks to nodes."""

    config_path: Path
    node_id: str | None
    output: str
    timeout_s: float
    cert: Path | None
    key: Path | None

    @functools.cached_property
    def config(self) -> ClusterConfig:
        return ClusterConfig.load(self.config_path)

    @property
    def timeout_ms(self) -> int:
        """The deadline of an op: the node answers by then, if only with "unknown"."""
        return max(1, min(round(self.timeout_s * 1000), self.config.timing.op_timeout_max_ms))

    @property
    def nodes(self) -> tuple[NodeConfig, ...]:
        """The nodes that the command is about: the one asked for, or all."""
        return (self.config.node(self.node_id),) if self.node_id is not None else self.config.nodes

    def client(self, node: NodeConfig, timeout_s: float | None = None) -> Client:
        """A client of that node. TransportError when certificates are needed and missing."""
        timeout_s = self.timeout_s + ANSWER_MARGIN_S if timeout_s is None else timeout_s
        api = node.api
        if api.path is not None:
            return Client(f"unix:{api.path}", timeout_s=timeout_s)
        if api.kind == "tcp-insecure":
            return Client(f"http://{api.address}", timeout_s=timeout_s)
        return Client(f"https://{api.address}", self._tls(), timeout_s=timeout_s)

    @asynccontextmanager
    async def connect(self, timeout_s: float | None = None) -> AsyncIterator[Client]:
        """A client of the node asked for, or of the first that answers. Failure names all that did not."""
        silent: list[str] = []
        for node in self.nodes:
            if self.node_id is None and len(self.nodes) > 1:
                async with self.client(node, PROBE_TIMEOUT_S) as probe:
                    try:
                        await probe.status()
                    except (Unreachable, NoAnswer) as problem:
                        silent.append(f"{node.id} ({problem.detail})")
                        continue
            async with self.client(node, timeout_s) as client:
                yield client
                return
        raise Failure(
            f"no node answers: {', '.join(silent)} (start one with `raftstore run -c {self.config_path} --node ID`)",
            body={"outcome": "unreachable", "nodes": silent} if self.output == "json" else None,
        )

    def _tls(self) -> ssl.SSLContext:
        directory = self.config.tls_dir
        cert = self.cert or directory / f"{OPERATOR}.pem"
        key = self.key or directory / f"{OPERATOR}.key"
        return client_context(TlsFiles(self.config.ca_path, cert, key))


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--config, by environment RAFTSTORE_CONFIG, else ./cluster.conf."""
    return click.option(
        "--config",
        "-c",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="RAFTSTORE_CONFIG",
        default=Path("cluster.conf"),
        show_default=True,
        help="The cluster's configuration file.",
    )(function)


output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)


def api_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The common options, handed to the command as one Target; outcomes become exit statuses."""

    @config_option
    @click.option("--node", "-n", "node_id", metavar="ID", help="Ask this node. [default: the first that answers]")
    @output_option
    @click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0.001, 600),
        default=TIMEOUT_DEFAULT_S,
        show_default=True,
        metavar="SECONDS",
        help="Give up after this.",
    )
    @click.option("--cert", type=click.Path(path_type=Path), envvar="RAFTSTORE_CERT", hidden=True)
    @click.option("--key", type=click.Path(path_type=Path), envvar="RAFTSTORE_KEY", hidden=True)
    @functools.wraps(function)
    def command(
        config_path: Path,
        node_id: str | None,
        output: str,
        timeout_s: float,
        cert: Path | None,
        key: Path | None,
        **arguments: Any,
    ) -> None:
        with outcomes_as_exits(output):
            function(Target(config_path, node_id, output, timeout_s, cert, key), **arguments)

    return command
