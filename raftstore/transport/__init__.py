"""Links between the members of a cluster: mutual TLS, hello, bounded frames, one current connection per peer.

For `node`, which hands in a handler and sends bytes. Knows nothing of Raft, ops or sessions.
"""

from raftstore.transport.counters import LinkCounters, LinkEvent
from raftstore.transport.hello import Hello, LocalIdentity, RefusalReason
from raftstore.transport.links import PeerLinks
from raftstore.transport.ports import Endpoint, LinkHandler, LinkLimits, PeerInfo
from raftstore.transport.tls import TlsFiles

__all__ = [
    "Endpoint",
    "Hello",
    "LinkCounters",
    "LinkEvent",
    "LinkHandler",
    "LinkLimits",
    "LocalIdentity",
    "PeerInfo",
    "PeerLinks",
    "RefusalReason",
    "TlsFiles",
]
