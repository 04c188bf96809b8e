"""cluster.conf: what every node of a cluster, and every operator's command, must know before it starts.

For: reading TOML into frozen values, and refusing what cannot work with one line "FILE: KEY: problem (what to do)".
Leaves to others: opening sockets, certificates and data directories; a configuration is checked without touching
any of them.
"""

from raftstore.config.addresses import Address, ApiEndpoint
from raftstore.config.cluster import ClusterConfig
from raftstore.config.reading import NodeConfig
from raftstore.config.tables import (
    STICKY_NODES_MAX,
    STRATEGIES,
    WEIGHT_MAX,
    Audit,
    KeySpec,
    Limits,
    Sessions,
    Storage,
    Timing,
    Tls,
    key_table,
)

__all__ = [
    "STICKY_NODES_MAX",
    "STRATEGIES",
    "WEIGHT_MAX",
    "Address",
    "ApiEndpoint",
    "Audit",
    "ClusterConfig",
    "KeySpec",
    "Limits",
    "NodeConfig",
    "Sessions",
    "Storage",
    "Timing",
    "Tls",
    "key_table",
]
