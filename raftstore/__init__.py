"""raftstore: which node owns the session now, decided by a cluster and proven to whoever asks."""

from raftstore.config import ClusterConfig
from raftstore.errors import (
    ConfigError,
    CorruptionError,
    InvalidArgument,
    OutcomeUnknown,
    RaftstoreError,
    Rejected,
    StorageError,
    TransportError,
    Unavailable,
)
from raftstore.node.blocking import BlockingNode
from raftstore.node.collector import calm_collector
from raftstore.node.node import Node
from raftstore.types import Binding, OpId, Reason, Session, SessionState

__version__ = "0.1.0"

__all__ = [
    "Binding",
    "BlockingNode",
    "ClusterConfig",
    "ConfigError",
    "CorruptionError",
    "InvalidArgument",
    "Node",
    "OpId",
    "OutcomeUnknown",
    "RaftstoreError",
    "Reason",
    "Rejected",
    "Session",
    "SessionState",
    "StorageError",
    "TransportError",
    "Unavailable",
    "__version__",
    "calm_collector",
]
