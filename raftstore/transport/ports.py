"""What a user of the links hands in and gets back: bounds, callbacks, and how a link stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from raftstore.codec.frames import FRAME_BYTES_MAX, HELLO_BYTES_MAX
from raftstore.config.addresses import Address
from raftstore.transport.counters import LinkEvent
from raftstore.transport.hello import Hello

Endpoint = Address  # host name, IPv4 or IPv6, and a port; 0 binds any free port


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The bound of everything a peer, or a stranger, can make this node keep or wait for."""

    frame_bytes_max: int = FRAME_BYTES_MAX  # one message; a longer one is not sent, and a longer one received cuts off
    hello_bytes_max: int = HELLO_BYTES_MAX  # one frame before authentication
    send_queue_bytes_max: int = 32 << 20  # per peer; beyond it the peer is dropped (SLOW_PEER)
    write_chunk_bytes: int = 256 << 10  # written at once; more than this never waits for the end of a step
    unauthenticated_max: int = 64  # connections that have not said who they are; then one is closed (ACCEPT_LIMIT)
    accept_interval_ms: int = 2  # per accepted connection, before the next are taken: at most 500 handshakes a second
    handshake_timeout_ms: int = 3_000  # each for the name and TCP connection, for TLS, and for the hello
    ping_interval_ms: int = 500  # a PING when nothing else was sent for so long
    idle_timeout_ms: int = 2_000  # a peer not heard for so long is dropped (IDLE_PEER)
    backoff_min_ms: int = 50  # before the first new dial, doubling to the next, with jitter of a half
    backoff_max_ms: int = 1_000  # also how long a link must have lasted for the backoff to start anew
    relisten_ms: int = 200  # before listening is tried again after it failed


class LinkHandler(Protocol):
    """The node's side. Called on the loop, never inside a call of `PeerLinks.send`, `flush` or `drop`.

    Per peer: on_connected, then messages in the order sent, then on_disconnected, then on_connected again. A handler
    must not raise: an exception is a bug, goes to the loop's exception handler and costs the connection.
    """

    def on_connected(self, peer_id: str, hello: Hello) -> None: ...

    def on_disconnected(self, peer_id: str, reason: LinkEvent) -> None: ...

    def on_message(self, peer_id: str, payload: bytes) -> None:
        """One message: at most `frame_bytes_max` bytes from an authenticated member, unchecked otherwise."""

    def on_batch_end(self) -> None:
        """All messages of one read were given: the moment to send what they led to, at once."""


class PeerInfo(NamedTuple):
    """The current link to a peer."""

    peer_id: str
    incarnation: int
    fresh: bool
    since_ns: int  # local monotonic
    address: str
    rtt_us: int | None  # of the last PING; None before the first PONG
    queued_bytes: int  # waiting here, not yet given to the socket
