"""The links of one node to the other members of its cluster: at most one current connection per peer.

    stranger --TLS--> certificate of a member --hello--> judged --> current connection of its peer
                                                                     (the former one is superseded: it delivers no more)

For the node: `send` never blocks and never raises, messages of a peer arrive in order, from members only, and what is
lost is lost with the connection. Knows nothing of what the messages say. Of each pair the node with the smaller id
dials (`hello.dials`). Everything runs on the loop that called `start`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping

from raftstore.errors import TransportError
from raftstore.ports import Clock
from raftstore.transport.connection import FAREWELL_S, Connection, State
from raftstore.transport.counters import LinkCounters, LinkEvent, Notices
from raftstore.transport.dialer import Dialer
from raftstore.transport.hello import Hello, LocalIdentity, Refusal, RefusalReason, dials, judge
from raftstore.transport.listener import Listener
from raftstore.transport.ports import Endpoint, LinkHandler, LinkLimits, PeerInfo
from raftstore.transport.sockets import Resolver, in_words
from raftstore.transport.tls import TlsContexts, TlsFiles

log = logging.getLogger("raftstore.transport")

BEATS_PER_PING_INTERVAL = 4
_ORDINARY_ENDS = (LinkEvent.PEER_CLOSED, LinkEvent.CLOSED_HERE, LinkEvent.SUPERSEDED, LinkEvent.ISOLATED)


class PeerLinks:
    """See above. Made anywhere; `start` binds it to the running loop."""

    def __init__(
        self,
        *,
        local: LocalIdentity,
        peers: Mapping[str, Endpoint],
        bind: Endpoint,
        tls: TlsFiles | None,
        handler: LinkHandler,
        clock: Clock,
        limits: LinkLimits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.clock = clock
        self.limits = LinkLimits() if limits is None else limits
        self.handler = handler
        self.counters = LinkCounters()
        self._local = local
        self._peers = {peer_id: peers[peer_id] for peer_id in sorted(peers) if peer_id != local.node_id}
        self._bind = bind
        self._tls = tls
        self._rng = random.Random(local.incarnation) if rng is None else rng
        self._notices = Notices()
        self._stranger_notices = Notices()  # apart, so that strangers cannot push out what is known of peers
        self._resolver = Resolver(self.limits.handshake_timeout_ms / 1000)
        self._listener: Listener | None = None
        self._dialers: dict[str, Dialer] = {}
        self._dials = 0  # the generation of the last dial
        self._connections: set[Connection] = set()  # with an open socket
        self._current: dict[str, Connection] = {}
        self._isolated: frozenset[str] = frozenset()
        self._beat_timer: asyncio.TimerHandle | None = None
        self._beat_ns = 0

    # --- the node's side

    async def start(self) -> None:
        """Listen and begin to dial. TransportError: one line that names address or file, and the remedy."""
        local = self._local
        if self._tls is None:
            for endpoint in (self._bind, *self._peers.values()):
                self._check_insecure(endpoint)
        contexts = None if self._tls is None else TlsContexts(self._tls, local.cluster, local.node_id)
        self._listener = Listener(
            local.node_id,
            self._bind,
            self._accepted,
            resolver=self._resolver,
            contexts=contexts,
            limits=self.limits,
            counters=self.counters,
            notices=self._stranger_notices,
        )
        await self._listener.start()
        for peer_id in self._peers:
            if dials(local.node_id, peer_id):
                self._start_dialer(peer_id, contexts)
        self._beat_ns = self.clock.now_ns()
        self._beat()

    async def close(self) -> None:
        """End every link and stop listening. Handlers hear on_disconnected(CLOSED_HERE) before this returns.

        What was sent before still goes out to peers that read. Takes at most about three seconds, for peers that hang.
        """
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        for dialer in self._dialers.values():
            await dialer.close()
        if self._listener is not None:
            await self._listener.close()
        self._resolver.close()
        for connection in list(self._connections):
            connection.leave(LinkEvent.CLOSED_HERE)
        if self._connections:
            await asyncio.wait([connection.ended for connection in self._connections], timeout=2 * FAREWELL_S)

    @property
    def bound(self) -> Endpoint:
        """Where this node listens; the real port when 0 was asked for."""
        return self._bind if self._listener is None else self._listener.address

    @property
    def unauthenticated(self) -> int:
        """Accepted connections that have not said who they are."""
        return 0 if self._listener is None else self._listener.strangers

    def send(self, peer_id: str, payload: bytes) -> bool:
        """Queue a message for the end of this step. Never blocks, never raises.

        False when the peer is not connected, when its queue is full (the link is dropped: a slow peer is dropped,
        not waited for) or when the message is longer than `frame_bytes_max`. True promises nothing but the attempt.
        """
        connection = self._current.get(peer_id)
        if connection is None:
            return False
        if len(payload) > self.limits.frame_bytes_max:
            self.counters.add(LinkEvent.UNSENDABLE)
            limit = self.limits.frame_bytes_max
            self._notices.say(_subject(peer_id), f"a message over frame_bytes_max ({limit} bytes) was not sent")
            return False
        return connection.send(payload)

    def flush(self) -> None:
        """Write now what `send` queued; without it that happens at the next turn of the loop."""
        for connection in self._current.values():
            connection.flush()

    def drop(self, peer_id: str, reason: LinkEvent = LinkEvent.MALFORMED_MESSAGE, detail: str = "") -> None:
        """End the current link to a peer, counted and logged; it is dialed again. on_disconnected follows soon."""
        connection = self._current.get(peer_id)
        if connection is not None and connection.doomed is None:
            self._notices.say(_subject(peer_id), f"dropped, {reason}: {detail}" if detail else f"dropped, {reason}")
            connection.doom(reason)

    def connected(self) -> frozenset[str]:
        """Peers that `send` would queue for."""
        return frozenset(peer_id for peer_id, link in self._current.items() if link.doomed is None)

    def peer_info(self, peer_id: str) -> PeerInfo | None:
        """How the current link to a peer stands; None when there is none."""
        link = self._current.get(peer_id)
        if link is None or link.peer is None:
            return None
        return PeerInfo(
            peer_id,
            link.peer.incarnation,
            link.peer.fresh,
            link.opened_ns,
            link.address,
            link.rtt_us,
            link.queued_bytes,
        )

    def set_peer_address(self, peer_id: str, address: Endpoint) -> None:
        """A known peer is elsewhere from the next dial on. KeyError for an unknown one, TransportError if insecure."""
        if peer_id not in self._peers:
            raise KeyError(peer_id)
        if self._tls is None:
            self._check_insecure(address)
        self._peers[peer_id] = address
        if peer_id in self._dialers:
            self._dialers[peer_id].move(address)

    def isolate(self, peer_ids: Iterable[str]) -> None:
        """Cut this node off from exactly these peers, until called again; for tests and demonstrations of cuts."""
        self._isolated = frozenset(peer_ids)
        for connection in list(self._connections):
            if connection.peer is not None and connection.peer.node_id in self._isolated:
                connection.doom(LinkEvent.ISOLATED)
        for dialer in self._dialers.values():
            dialer.wake()

    # --- the connections' side (ConnectionOwner)

    def own_hello(self, connection: Connection) -> Hello:
        return self._local.hello(connection.generation)

    def transport_ready(self, connection: Connection) -> bool:
        """A socket is open, its certificate verified against our CA: does it name a node, and the one we dialed?"""
        self._connections.add(connection)
        connection.ended.add_done_callback(lambda _: self._connections.discard(connection))
        if not connection.secure:
            return True
        certified = connection.certified
        if certified is None:
            subject = f"connection with {_host(connection)}, UNAUTHENTICATED_PEER"
            self._stranger_notices.say(subject, "its certificate names no node")
            connection.close(LinkEvent.UNAUTHENTICATED_PEER)
            return False
        if connection.dialed is not None and certified.name != connection.dialed:
            detail = f"the address of {connection.dialed} leads to {certified.name} (check the peer addresses)"
            self._refuse(connection, Refusal(RefusalReason.IDENTITY_MISMATCH, detail))
            return False
        return True

    def hello_received(self, connection: Connection, hello: Hello | Refusal) -> None:
        refusal = hello if isinstance(hello, Refusal) else self._judge(connection, hello)
        if refusal is not None:
            self._refuse(connection, refusal)
        elif isinstance(hello, Hello):
            if hello.node_id in self._isolated:
                connection.close(LinkEvent.ISOLATED)
            else:
                self._admit(connection, hello)

    def refused_by_peer(self, connection: Connection, refusal: Refusal) -> None:
        subject = _subject(connection.dialed or (connection.peer.node_id if connection.peer else _host(connection)))
        self._notices.say(subject, f"refused there, {refusal.reason}: {refusal.detail}", level=logging.ERROR)

    def closed(self, connection: Connection, reason: LinkEvent) -> None:
        peer = connection.peer
        if peer is None and reason is LinkEvent.PEER_CLOSED:
            reason = LinkEvent.HANDSHAKE_ABORTED
        if reason is not LinkEvent.HELLO_REFUSED:  # counted with its own reason
            self.counters.add(reason)
        if peer is None:
            self._greeting_failed(connection, reason)
        elif self._current.get(peer.node_id) is connection:
            del self._current[peer.node_id]
            level = logging.INFO if reason in _ORDINARY_ENDS else logging.WARNING
            self._notices.say(_subject(peer.node_id), f"ended, {reason}", level=level)
            self.handler.on_disconnected(peer.node_id, reason)

    # --- inside

    def _judge(self, connection: Connection, hello: Hello) -> Refusal | None:
        refusal = judge(hello, self._local, self._peers, certified=connection.certified, dialed=connection.dialed)
        former = self._current.get(hello.node_id)
        if refusal is not None or former is None or former.peer is None or connection.dialed is not None:
            return refusal
        if hello.incarnation == former.peer.incarnation and hello.generation <= former.generation:
            detail = f"{hello.node_id} has a newer connection here (this one was late)"
            return Refusal(RefusalReason.STALE_CONNECTION, detail)
        return None

    def _admit(self, connection: Connection, hello: Hello) -> None:
        """The newest authenticated connection of a peer is its link; the former one ends first."""
        peer_id = hello.node_id
        former = self._current.get(peer_id)
        if former is not None:
            if former.peer is not None and former.peer.incarnation != hello.incarnation:
                log.warning("link to %s: another process takes over (restarted, or two run with one id)", peer_id)
            former.close(former.doomed or LinkEvent.SUPERSEDED)
        connection.open(hello)
        self._current[peer_id] = connection
        self.counters.add(LinkEvent.CONNECTED)
        self._notices.clear(_subject(peer_id))
        log.info("link to %s: open, %s", peer_id, connection.address)
        self.handler.on_connected(peer_id, hello)

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        self.counters.add_refused(refusal.reason)
        if refusal.reason is RefusalReason.IDENTITY_MISMATCH and connection.secure:
            self.counters.add(LinkEvent.UNAUTHENTICATED_PEER)  # a member's certificate under another member's name
        who = connection.dialed or (connection.certified.name if connection.certified else _host(connection))
        self._notices.say(_subject(who), f"refused here, {refusal.reason}: {refusal.detail}", level=logging.ERROR)
        connection.refuse(refusal)

    def _greeting_failed(self, connection: Connection, reason: LinkEvent) -> None:
        quiet = (LinkEvent.HELLO_REFUSED, LinkEvent.REFUSED_BY_PEER, LinkEvent.UNAUTHENTICATED_PEER)
        if reason in quiet or connection.dialed is None:
            return  # said already, or an accepted connection that came to nothing
        why = f" ({in_words(connection.lost)})" if connection.lost is not None else ""
        text = f"{self._peers[connection.dialed]} ended the greeting, {reason}{why}: does it accept our certificate?"
        self._notices.say(_subject(connection.dialed), text)

    def _accepted(self) -> Connection:
        return Connection(self, secure=self._tls is not None)

    def _dialed(self, peer_id: str) -> Connection | None:
        if peer_id in self._isolated:
            return None
        self._dials += 1
        return Connection(self, secure=self._tls is not None, dialed=peer_id, generation=self._dials)

    def _start_dialer(self, peer_id: str, contexts: TlsContexts | None) -> None:
        dialer = Dialer(
            peer_id,
            self._peers[peer_id],
            self._dialed,
            now_ns=self.clock.now_ns,
            resolver=self._resolver,
            contexts=contexts,
            limits=self.limits,
            counters=self.counters,
            notices=self._notices,
            rng=self._rng,
        )
        self._dialers[peer_id] = dialer
        dialer.start()

    def _beat(self) -> None:
        """Several times per ping interval: ask for signs of life, and drop who gave none."""
        now_ns = self.clock.now_ns()
        interval_ns = self.limits.ping_interval_ms * 1_000_000
        overslept = now_ns - self._beat_ns > interval_ns  # this loop hung: what peers said may still be unread
        self._beat_ns = now_ns
        for connection in list(self._current.values()):
            if overslept:
                connection.heard_ns = now_ns
            if now_ns - connection.heard_ns > self.limits.idle_timeout_ms * 1_000_000:
                connection.close(LinkEvent.IDLE_PEER)
            elif connection.state is State.OPEN:
                connection.beat(now_ns)
        delay_s = self.limits.ping_interval_ms / 1000 / BEATS_PER_PING_INTERVAL
        self._beat_timer = asyncio.get_running_loop().call_later(delay_s, self._beat)

    def _check_insecure(self, endpoint: Endpoint) -> None:
        if not endpoint.is_loopback():
            raise TransportError(
                f"{self._local.node_id}: insecure links are for loopback addresses only, {endpoint} is not "
                "(leave insecure off and use certificates)"
            )


def _subject(peer_id: str) -> str:
    return f"link to {peer_id}"


def _host(connection: Connection) -> str:
    return connection.address.rpartition(":")[0]
