"""A whole cluster.conf as one frozen value, and what is derived from it: node, digest, machine parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from raftstore.config.reading import NodeConfig, Reader, read_toml
from raftstore.config.tables import TABLES, Audit, Limits, Sessions, Storage, Timing, Tls
from raftstore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A validated cluster.conf. Every instance holds values that can work together."""

    cluster: str
    strategy: str
    partition_policy: str
    timing: Timing
    sessions: Sessions
    limits: Limits
    storage: Storage
    audit: Audit
    tls: Tls
    nodes: tuple[NodeConfig, ...]
    base_dir: Path
    source: str

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a file. ConfigError: one line that names file, key, problem and what to do."""
        return cls.from_dict(read_toml(Path(path)), base_dir=Path(path).parent, source=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, base_dir: str | Path = ".", source: str = "<dict>") -> Self:
        """The same from plain values, for tests and embedding. Relative paths start at `base_dir`."""
        return cls(**Reader(source, Path(base_dir).absolute()).read(data))

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.nodes)

    @property
    def weights(self) -> dict[str, int]:
        """Each node's share of the sessions, by id: the placement hint, or what a sticky cluster is founded with."""
        return {node.id: node.weight for node in self.nodes}

    @property
    def is_sticky(self) -> bool:
        """Whether sessions map to nodes without consensus (ownership model, section 2.1)."""
        return self.strategy == "sticky"

    @property
    def ca_path(self) -> Path:
        return self.base_dir / self.tls.ca

    @property
    def tls_dir(self) -> Path:
        return self.base_dir / self.tls.dir

    def node(self, node_id: str) -> NodeConfig:
        """The node of that id. ConfigError naming the known ones."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        known = ", ".join(self.node_ids)
        raise ConfigError(f"{self.source}: node: no node {node_id!r} (use one of: {known})")

    def digest(self) -> str:
        """Hex SHA-256 over all that must be equal on all nodes: nodes that differ in it refuse each other.

        In the shared strategy the nodes and their weights are part of it: who votes must be agreed. In the sticky one
        they are not: a running cluster grows by restarting node after node with a longer node table, and who owns
        what is decided by the mappings that the nodes have adopted, which they compare with each other.
        """
        shared: dict[str, Any] = {
            "cluster": self.cluster,
            "strategy": self.strategy,
            "partition_policy": self.partition_policy,
        }
        if not self.is_sticky:
            shared["nodes"] = sorted((node.id, str(node.peer), node.weight) for node in self.nodes)
        for table in TABLES:
            values = getattr(self, table)
            shared[table] = {f.name: getattr(values, f.name) for f in fields(values) if f.metadata["shared"]}
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()

    def machine_params(self) -> dict[str, int | str]:
        """What the ownership machine keeps as replicated state, for its `configure` op."""
        return {
            "lease_ttl_ms": self.timing.lease_ttl_ms,
            "max_clock_drift_ppm": self.timing.max_clock_drift_ppm,
            "reattach_window_ms": self.sessions.reattach_window_ms,
            "freeze_timeout_ms": self.sessions.freeze_timeout_ms,
            "ttl_max_ms": self.sessions.ttl_max_ms,
            "sessions_max": self.sessions.sessions_max,
            "partition_policy": self.partition_policy,
            "clock_resume_max_ms": self.timing.clock_resume_max_ms,
        }
