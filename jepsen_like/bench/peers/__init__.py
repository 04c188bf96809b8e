"""The peers by name, in the order in which they take turns."""

from __future__ import annotations

from jepsen_like.bench.peers.base import Peer
from jepsen_like.bench.peers.etcd import Etcd
from jepsen_like.bench.peers.raftstore import RaftstoreEmbedded, RaftstoreHttp
from jepsen_like.bench.peers.redis import Redis
from jepsen_like.bench.peers.stock import Stock

SAME_LOOP = "the same with the node on the callers' event loop instead of a thread of its own"
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        RaftstoreEmbedded(),
        RaftstoreEmbedded("raftstore-same-loop", SAME_LOOP, own_thread=False),
        RaftstoreHttp(),
        Etcd("etcd-aetcd", "Raft; every sync on, no TLS; through its asyncio client aetcd", "etcd_aetcd"),
        Etcd("etcd-wire", "the same through hand-made gRPC frames on one connection per process", "etcd_wire"),
        Redis(),
        Stock(),
    )
}
USUAL = tuple(name for name in PEERS if name != "raftstore-same-loop")
