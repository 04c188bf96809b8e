"""Between the peer links and the core: hellos, messages and cuts in both directions."""

from __future__ import annotations

from raftstore.config import ClusterConfig
from raftstore.node.core import Core
from raftstore.node.sticky.keeper import Sticky
from raftstore.transport.counters import LinkEvent
from raftstore.transport.hello import Hello, LocalIdentity
from raftstore.transport.links import PeerLinks
from raftstore.transport.ports import LinkHandler, LinkLimits
from raftstore.transport.tls import TlsFiles


class LinkAdapter:
    """The core's view of the links (`Links`), before and after they exist."""

    def __init__(self) -> None:
        self.links: PeerLinks | None = None

    def send(self, peer_id: str, payload: bytes) -> bool:
        return self.links is not None and self.links.send(peer_id, payload)

    def flush(self) -> None:
        if self.links is not None:
            self.links.flush()

    def drop(self, peer_id: str, reason: str) -> None:
        if self.links is not None:
            self.links.drop(peer_id, LinkEvent.MALFORMED_MESSAGE, reason)


class CoreHandler:
    """The links' view of the core (`LinkHandler`)."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        self._core.peer_connected(peer_id, hello.incarnation, hello.fresh)

    def on_disconnected(self, peer_id: str, reason: LinkEvent) -> None:
        self._core.peer_disconnected(peer_id)

    def on_message(self, peer_id: str, payload: bytes) -> None:
        self._core.receive(peer_id, payload)

    def on_batch_end(self) -> None:
        self._core.end_of_inputs()


class StickyHandler:
    """The links' view of a node that shares no log with its peers: mapping messages alone travel between them."""

    def __init__(self, core: Core, sticky: Sticky) -> None:
        self._core = core
        self._sticky = sticky

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        self._sticky.peer_connected(peer_id)

    def on_disconnected(self, peer_id: str, reason: LinkEvent) -> None:
        self._sticky.peer_disconnected(peer_id)

    def on_message(self, peer_id: str, payload: bytes) -> None:
        self._sticky.receive(peer_id, payload)

    def on_batch_end(self) -> None:
        self._core.end_of_inputs()


def make_links(
    config: ClusterConfig,
    node_id: str,
    core: Core,
    adapter: LinkAdapter,
    handler: LinkHandler,
    *,
    insecure: bool,
) -> PeerLinks:
    """The links of one node as its configuration says."""
    node = config.node(node_id)
    limits = config.limits
    adapter.links = PeerLinks(
        local=LocalIdentity(config.cluster, node_id, core.incarnation, config.digest(), core.is_fresh),
        peers={other.id: other.peer for other in config.nodes},
        bind=node.bind,
        tls=None if insecure else TlsFiles(config.ca_path, node.cert, node.key),
        handler=handler,
        clock=core.clock,
        limits=LinkLimits(frame_bytes_max=limits.frame_bytes_max, send_queue_bytes_max=limits.send_queue_bytes_max),
    )
    return adapter.links
