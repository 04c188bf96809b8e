"""Redis: a master and two replicas, `appendfsync always` on all, one WAIT for one replica. No TLS.

It is not consensus: when the master dies, what a failover keeps is a matter of luck and of which replica is chosen.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jepsen_like.bench.peers.base import NODES, POLL_S, Cluster, Presence, starting
from jepsen_like.bench.plan import Case
from jepsen_like.bench.targets import redis_wire
from raftstore.cli.bench_process import BenchFailed
from raftstore.cli.temp_cluster import free_ports

HOW_TO_GET = "apt-get install redis-server"
READY_WAIT_S = 20.0
MASTER = NODES[0]


@dataclass(frozen=True)
class Redis:
    """Callers of all nodes speak to the master; so does its replication, and both are in the bytes on the wire."""

    name: str = "redis"
    about: str = (
        "NOT consensus: acknowledged transitions can be lost; appendfsync always, 2 replicas, WAIT 1; no TLS; "
        "wire bytes with the callers'"
    )

    def presence(self) -> Presence:
        program = shutil.which("redis-server")
        if program is None:
            return Presence(None, HOW_TO_GET)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=(\S+)", told)
        return Presence("unknown" if found is None else found.group(1))

    def supports(self, case: Case) -> bool:
        """A replica takes no transitions."""
        return case.kind != "owns" and case.place != "follower"

    async def start(self, directory: Path) -> Cluster:
        ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
        common = {"target": "redis_wire", "master_port": ports[MASTER], "leader": MASTER}
        cluster = Cluster(directory, {node: {**common, "port": ports[node]} for node in NODES}, list(ports.values()))
        async with starting(cluster):
            for node in NODES:
                (directory / node).mkdir()
                cluster.serve(node, command(node, ports, directory / node))
            await _ready(ports[MASTER])
        return cluster


def command(node: str, ports: Mapping[str, int], directory: Path) -> list[str]:
    options = {
        "port": str(ports[node]),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "repl-diskless-sync-delay": "0",
        "loglevel": "warning",
    }
    given = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
    return given if node == MASTER else [*given, "--replicaof", "127.0.0.1", str(ports[MASTER])]


async def _ready(port: int) -> None:
    """Until both replicas follow."""
    loop = asyncio.get_running_loop()
    end = loop.time() + READY_WAIT_S
    while loop.time() < end:
        try:
            _, connection = await loop.create_connection(redis_wire.Connection, "127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_S)
            continue
        try:
            told = await connection.ask(redis_wire.command(b"INFO", b"replication"))
            if isinstance(told, bytes) and told.count(b"state=online") == len(NODES) - 1:
                return
        except redis_wire.RedisFailed:
            pass  # still loading
        finally:
            connection.close()
        await asyncio.sleep(POLL_S)
    raise BenchFailed("Redis was not ready, or its replicas did not follow")
