"""What runs as a node: raftstore as it is shipped, or the same node inside a small gateway.

A program knows its configuration file and how its processes are started. Leaves to the cluster when they run and where.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jepsen_like.cluster.hosts import Hosts
from raftstore.config import ClusterConfig
from raftstore.transport.certs import create_ca, issue_node

CLUSTER = "jepsen"
TIMING_MS = {
    "election_timeout_min_ms": 300,
    "election_timeout_max_ms": 600,
    "heartbeat_interval_ms": 50,
    "lease_ttl_ms": 2_000,
    "op_timeout_ms": 1_500,
}
SESSIONS_MS = {"ttl_default_ms": 60_000, "reattach_window_ms": 8_000, "freeze_timeout_ms": 2_000}
MAX_CLOCK_DRIFT_PPM = 10_000
SNAPSHOT_EVERY_ENTRIES = 400  # often, so that logs are cut and snapshots sent within a minute


class Program(Protocol):
    """The software under test."""

    def write(self, directory: Path, nodes: Sequence[str], hosts: Hosts) -> None:
        """Everything that its processes read, into `directory`."""

    def command(self, directory: Path, node: str, hosts: Hosts) -> list[str]: ...

    def parameters(self) -> dict[str, object]:
        """What checkers must know of it: timing in milliseconds, strategy, policy."""


@dataclass(frozen=True)
class Raftstore:
    """`raftstore run`, or with `gateway` a process that embeds the node and answers UDP packets while it owns."""

    policy: str = "deny"
    strategy: str = "shared"
    gateway: bool = False
    timing_ms: Mapping[str, int] = field(default_factory=lambda: dict(TIMING_MS))
    sessions_ms: Mapping[str, int] = field(default_factory=lambda: dict(SESSIONS_MS))

    def write(self, directory: Path, nodes: Sequence[str], hosts: Hosts) -> None:
        ca = create_ca(CLUSTER)
        ca.write(directory / "ca.pem", directory / "ca.key")
        for node in nodes:
            issued = issue_node(ca, CLUSTER, node, hosts=[hosts.peer(node).rpartition(":")[0]])
            issued.write(directory / f"{node}.pem", directory / f"{node}.key")
        (directory / "cluster.conf").write_text(self._text(nodes, hosts))
        ClusterConfig.load(directory / "cluster.conf")

    def _text(self, nodes: Sequence[str], hosts: Hosts) -> str:
        lines = [f'cluster = "{CLUSTER}"', f'strategy = "{self.strategy}"', f'partition_policy = "{self.policy}"']
        lines += ["", "[timing]", *(f"{key} = {value}" for key, value in self.timing_ms.items())]
        lines += [f"max_clock_drift_ppm = {MAX_CLOCK_DRIFT_PPM}"]
        lines += ["", "[sessions]", *(f"{key} = {value}" for key, value in self.sessions_ms.items())]
        lines += ["", "[storage]", "disk_free_min_bytes = 0", "wal_segment_bytes = 2097152"]
        lines += [f"snapshot_every_entries = {SNAPSHOT_EVERY_ENTRIES}"]
        for node in nodes:
            lines += ["", "[[node]]", f'id = "{node}"', f'peer = "{hosts.peer(node)}"']
            lines += [f'bind = "{hosts.bind(node)}"', f'api = "unix:run/{node}.sock"']
        return "\n".join(lines) + "\n"

    def command(self, directory: Path, node: str, hosts: Hosts) -> list[str]:
        config = str(directory / "cluster.conf")
        if not self.gateway:
            return [sys.executable, "-m", "raftstore", "run", "--config", config, "--node", node]
        host, port = hosts.udp(node)
        return [sys.executable, "-m", "jepsen_like.cluster.gateway", config, node, host, str(port)]

    def parameters(self) -> dict[str, object]:
        known = {"strategy": self.strategy, "policy": self.policy, "max_clock_drift_ppm": MAX_CLOCK_DRIFT_PPM}
        return {**known, **self.timing_ms, **self.sessions_ms}
