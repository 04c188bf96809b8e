"""The stock library under raftstore, tuned, in the callers' processes: what its hardening costs, or gains."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jepsen_like.bench.peers.base import NODES, Cluster, Presence, starting
from jepsen_like.bench.plan import Case
from raftstore.cli.temp_cluster import free_ports


@dataclass(frozen=True)
class Stock:
    """Always there: raftstore needs the library."""

    name: str = "pysyncobj"
    about: str = (
        "Raft that NEVER SYNCS: a power loss loses what it acknowledged; in the callers' process; no TLS; "
        "a read goes through the log"
    )

    def presence(self) -> Presence:
        return Presence(version("pysyncobj"))

    def supports(self, case: Case) -> bool:
        return case.kind != "owns"

    async def start(self, directory: Path) -> Cluster:
        ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
        addresses = {node: f"127.0.0.1:{port}" for node, port in ports.items()}
        names = {address: node for node, address in addresses.items()}
        given = {
            node: {
                "target": "stock",
                "address": addresses[node],
                "others": [addresses[other] for other in NODES if other != node],
                "names": names,
                "journal": str(directory / f"{node}.journal"),
            }
            for node in NODES
        }
        cluster = Cluster(directory, given, list(ports.values()))
        async with starting(cluster):
            return cluster
