"""A cluster's files in a temporary place, for commands that start nodes: configuration, CA, certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from raftstore.config import ClusterConfig
from raftstore.errors import TransportError
from raftstore.transport.certs import create_ca, issue_node

SOCKET_ROOM = 60  # bytes that a socket's path needs beside the temporary directory

CONFIG = """\
cluster = "{cluster}"

{settings}

{nodes}
"""
NODE = """\
[[node]]
id = "{id}"
peer = "127.0.0.1:{port}"
api = "unix:run/{id}.sock"
"""


def write_cluster(directory: Path, cluster: str, node_ids: Sequence[str], settings: str) -> ClusterConfig:
    """Write cluster.conf, with `settings` as further tables, and certificates for nodes on loopback; read it back."""
    ca = create_ca(cluster)
    ca.write(directory / "ca.pem", directory / "ca.key")
    for node_id in node_ids:
        issued = issue_node(ca, cluster, node_id, hosts=["127.0.0.1"])
        issued.write(directory / f"{node_id}.pem", directory / f"{node_id}.key")
    nodes = [NODE.format(id=i, port=p) for i, p in zip(node_ids, free_ports(len(node_ids)), strict=True)]
    text = CONFIG.format(cluster=cluster, settings=settings, nodes="\n".join(nodes))
    (directory / "cluster.conf").write_text(text)
    return ClusterConfig.load(directory / "cluster.conf")


def temporary_directory() -> Path:
    """A private directory whose path is short enough for Unix sockets."""
    for parent in (None, "/tmp", os.getcwd()):
        with contextlib.suppress(OSError):
            path = Path(tempfile.mkdtemp(prefix="raftstore-", dir=parent))
            if len(str(path)) + SOCKET_ROOM <= 100 or parent == os.getcwd():
                return path
            path.rmdir()
    raise TransportError("no temporary directory can be made (set TMPDIR to a writable one)")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
