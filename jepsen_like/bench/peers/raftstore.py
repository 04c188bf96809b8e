"""raftstore itself: embedded in the callers' processes, or behind its HTTP API. Mutual TLS, every sync, audit on."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jepsen_like.bench.peers.base import NODES, POLL_S, Cluster, Presence, starting
from jepsen_like.bench.plan import Case
from raftstore.cli.bench_process import BenchFailed
from raftstore.cli.temp_cluster import write_cluster
from raftstore.client.client import Client
from raftstore.config import ClusterConfig
from raftstore.errors import RaftstoreError
from raftstore.ownership import IS_COMPILED

SETTINGS = "[storage]\ndisk_free_min_bytes = 16777216\n"
READY_WAIT_S = 20.0


def _presence() -> Presence:
    compiled = ", compiled" if IS_COMPILED else ""
    try:
        return Presence(version("raftstore") + compiled)
    except PackageNotFoundError:
        return Presence("from source" + compiled)


def _ports(config: ClusterConfig) -> list[int]:
    return [node.peer.port for node in config.nodes]


@dataclass(frozen=True)
class RaftstoreEmbedded:
    """`own_thread` as of Node; `target`: what the callers' process can be asked for; `storage`: lines of that table."""

    name: str = "raftstore"
    about: str = "the node in the callers' process; Raft; mutual TLS between nodes, every sync on, audit trail on"
    own_thread: bool = True
    target: str = "raftstore_embedded"
    settings: str = SETTINGS

    def presence(self) -> Presence:
        return _presence()

    def supports(self, case: Case) -> bool:
        return True

    async def start(self, directory: Path) -> Cluster:
        config = write_cluster(directory, "bench", NODES, self.settings)
        given = {
            "target": self.target,
            "config": str(directory / "cluster.conf"),
            "own_thread": self.own_thread,
        }
        cluster = Cluster(directory, {node: {**given, "node": node} for node in NODES}, _ports(config))
        async with starting(cluster):
            return cluster


@dataclass(frozen=True)
class RaftstoreHttp:
    """Each node's callers in a process beside it, on its Unix socket."""

    name: str = "raftstore-http"
    about: str = "the same through the HTTP API: `raftstore run` and its client in a process of their own per node"

    def presence(self) -> Presence:
        return _presence()

    def supports(self, case: Case) -> bool:
        return case.kind != "owns"

    async def start(self, directory: Path) -> Cluster:
        config = write_cluster(directory, "bench", NODES, SETTINGS)
        endpoints = {node: f"unix:{directory}/run/{node}.sock" for node in NODES}
        given = {node: {"target": "raftstore_http", "endpoint": endpoints[node]} for node in NODES}
        cluster = Cluster(directory, given, _ports(config))
        async with starting(cluster):
            for node in NODES:
                arguments = ["--config", str(directory / "cluster.conf"), "--node", node, "--log-level", "warning"]
                cluster.serve(node, [sys.executable, "-m", "raftstore", "run", *arguments])
            await asyncio.gather(*(_ready(endpoints[node]) for node in NODES))
        return cluster


async def _ready(endpoint: str) -> None:
    """Until the node says that it is."""
    loop = asyncio.get_running_loop()
    end = loop.time() + READY_WAIT_S
    async with Client(endpoint) as client:
        while loop.time() < end:
            try:
                if (await client.status())["ready"]:
                    return
            except RaftstoreError:
                pass  # not listening yet
            await asyncio.sleep(POLL_S)
    raise BenchFailed(f"{endpoint} was not ready within {READY_WAIT_S:g} s")
