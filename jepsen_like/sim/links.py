"""The peer links of one process on the simulated network: the contract of `raftstore.transport.links.PeerLinks`.

Of each pair the node with the smaller id dials; the newest connection of a peer is its link, the former one is
superseded and delivers no more (unless the plan lets it: nothing above may rest on that); messages arrive in order;
what is lost is lost with the connection; a silent peer is dropped. Handlers are called on the process's loop, never
inside `send`, `flush` or `drop`.
"""

from __future__ import annotations

from collections.abc import Iterable

from jepsen_like.sim.loop import SimLoop
from jepsen_like.sim.network import REPEAT_MAX_NS, Network
from jepsen_like.sim.scheduler import MS
from raftstore.transport.counters import LinkCounters, LinkEvent
from raftstore.transport.hello import Hello, LocalIdentity, dials
from raftstore.transport.ports import LinkHandler, LinkLimits, PeerInfo

FRAME_OVERHEAD_BYTES = 40
BACKOFF_MAX_NS = 10_000 * MS
CONNECTIONS_KEPT = 64  # dead ones, until they are swept


class End:
    """One end of a connection."""

    __slots__ = (
        "arrival",
        "connection",
        "doomed",
        "heard",
        "held_since",
        "is_open",
        "links",
        "out",
        "peer",
        "queued",
        "since",
        "waiting",
    )

    def __init__(self, links: SimLinks, connection: Connection) -> None:
        self.links = links
        self.connection = connection
        self.peer: Hello | None = None
        self.is_open = True
        self.doomed: LinkEvent | None = None
        self.arrival = 0  # when what was sent last from here arrives: nothing overtakes it
        self.heard = 0
        self.since = 0
        self.out: list[bytes] = []  # of this step
        self.queued = 0  # bytes on their way
        self.waiting: list[list[bytes]] = []  # what ran into a cut
        self.held_since = 0  # when the first of it did

    @property
    def other(self) -> End | None:
        connection = self.connection
        return connection.acceptor if self is connection.dialer else connection.dialer


class Connection:
    """One TCP connection: dialed by one process, accepted by another."""

    __slots__ = ("acceptor", "broken", "dialer", "generation", "network", "target")

    def __init__(self, network: Network, links: SimLinks, target: str, generation: int) -> None:
        self.network = network
        self.target = target
        self.generation = generation
        self.dialer = End(links, self)
        self.acceptor: End | None = None
        self.broken = False
        network.connections.append(self)
        if len(network.connections) > CONNECTIONS_KEPT:
            network.connections = [known for known in network.connections if known.is_alive()]

    def is_alive(self) -> bool:
        return not self.broken and (self.dialer.is_open or (self.acceptor is not None and self.acceptor.is_open))

    def is_between(self, one: str, other: str) -> bool:
        return (self.dialer.links.node_id, self.target) in ((one, other), (other, one))

    def break_off(self) -> None:
        """It dies with what is on its way. One end may not hear of it but by silence."""
        self.broken = True
        rng, scheduler = self.network.rng, self.network.scheduler
        for end in (self.dialer, self.acceptor):
            if end is not None and end.is_open and rng.random() < 0.8:
                when = scheduler.now + int(rng.random() * REPEAT_MAX_NS)
                life = end.links.loop.life
                scheduler.at(
                    when, end.links.loop.run, end.links.close_end, end, LinkEvent.PEER_CLOSED, life=life, on_loop=True
                )

    def repeat(self) -> None:
        """A cut has healed: what waited is on its way again."""
        for end in (self.dialer, self.acceptor):
            if end is not None and end.waiting:
                end.links.repeat(end)


class SimLinks:
    """All links of one process."""

    def __init__(
        self, network: Network, loop: SimLoop, local: LocalIdentity, handler: LinkHandler, limits: LinkLimits
    ) -> None:
        self.network = network
        self.loop = loop
        self.local = local
        self.node_id = local.node_id
        self.handler = handler
        self.limits = limits
        self.counters = LinkCounters()
        self.unauthenticated = 0
        self._current: dict[str, End] = {}
        self._isolated: frozenset[str] = frozenset()
        self._dialing: dict[str, End] = {}
        self._backoff_ms: dict[str, int] = {}
        self._dials = 0
        self._is_closed = False
        self._flush_asked = False
        self._beat_at = 0

    # --- the node's side -------------------------------------------------------------------------------------
    async def start(self) -> None:
        self.network.listening[self.node_id] = self
        for peer in self.network.node_ids:
            if dials(self.node_id, peer):
                self._dial_in(peer, 0)
        self._beat_at = self.network.scheduler.now
        self._beat_soon()

    async def close(self) -> None:
        self._is_closed = True
        if self.network.listening.get(self.node_id) is self:
            self.network.forget(self.node_id)
        for end in [*self._current.values(), *self._dialing.values()]:
            self.close_end(end, LinkEvent.CLOSED_HERE)

    def send(self, peer_id: str, payload: bytes) -> bool:
        end = self._current.get(peer_id)
        if end is None or end.doomed is not None or len(payload) > self.limits.frame_bytes_max:
            return False
        if end.queued + len(payload) > self.limits.send_queue_bytes_max:
            self._doom(end, LinkEvent.SLOW_PEER)
            return False
        end.out.append(payload)
        end.queued += len(payload) + FRAME_OVERHEAD_BYTES
        if not self._flush_asked:
            self._flush_asked = True
            self.loop.call_soon(self.flush)
        return True

    def flush(self) -> None:
        self._flush_asked = False
        for end in self._current.values():
            if end.out:
                batch, end.out = end.out, []
                if end.doomed is None:
                    self.travel(end, batch)

    def drop(self, peer_id: str, reason: LinkEvent = LinkEvent.MALFORMED_MESSAGE, detail: str = "") -> None:
        end = self._current.get(peer_id)
        if end is not None and end.doomed is None:
            self._doom(end, reason)

    def isolate(self, peer_ids: Iterable[str]) -> None:
        self._isolated = frozenset(peer_ids)
        for peer_id, end in list(self._current.items()):
            if peer_id in self._isolated:
                self._doom(end, LinkEvent.ISOLATED)

    def connected(self) -> frozenset[str]:
        return frozenset(peer_id for peer_id, end in self._current.items() if end.doomed is None)

    def peer_info(self, peer_id: str) -> PeerInfo | None:
        end = self._current.get(peer_id)
        if end is None or end.peer is None:
            return None
        return PeerInfo(peer_id, end.peer.incarnation, end.peer.fresh, end.since, peer_id, None, end.queued)

    def _doom(self, end: End, reason: LinkEvent) -> None:
        end.doomed = reason
        self.loop.call_soon(self.close_end, end, reason)

    # --- on the way ------------------------------------------------------------------------------------------
    def travel(self, end: End, batch: list[bytes]) -> None:
        """Send what one step wrote: it arrives together, after everything that was sent before."""
        network, target = self.network, self._far(end)
        network.messages += len(batch)
        when = max(end.arrival, network.scheduler.now + network.delay_ns(self.node_id, target))
        if network.bytes_per_s:
            size = sum(map(len, batch)) + FRAME_OVERHEAD_BYTES * len(batch)
            when += size * 1_000_000_000 // network.bytes_per_s
        end.arrival = when
        network.scheduler.at(when, self._arrive, end, batch)

    def _far(self, end: End) -> str:
        connection = end.connection
        return connection.target if end is connection.dialer else connection.dialer.links.node_id

    def _arrive(self, end: End, batch: list[bytes]) -> None:
        if end.connection.broken:
            return
        if end.waiting or self.network.is_blocked(self.node_id, self._far(end)):
            if not end.waiting:
                end.held_since = self.network.scheduler.now
            end.waiting.append(batch)
            return
        self._pass_on(end, batch)

    def repeat(self, end: End) -> None:
        """What ran into a cut is sent again, in order, behind what is on its way: the longer ago it was, the later."""
        network = self.network
        now = network.scheduler.now
        again = int(network.rng.random() * min(now - end.held_since, BACKOFF_MAX_NS))  # TCP tries ever more seldom
        end.arrival = max(end.arrival, now + again + network.delay_ns(self.node_id, self._far(end)))
        network.scheduler.at(end.arrival, self._drain, end)

    def _drain(self, end: End) -> None:
        if end.connection.broken or self.network.is_blocked(self.node_id, self._far(end)):
            return
        batches, end.waiting = end.waiting, []
        for batch in batches:
            self._pass_on(end, batch)

    def _pass_on(self, end: End, batch: list[bytes]) -> None:
        network, target = self.network, self._far(end)
        end.queued -= sum(map(len, batch)) + FRAME_OVERHEAD_BYTES * len(batch)
        other = end.other
        if other is None or not other.is_open or other.links.loop.life.is_dead:
            if not network.is_off(target):
                self._reset(end)
            return
        loop, now = other.links.loop, network.scheduler.now
        life = loop.life
        if life.paused_until < now and life.stalled_until < now:
            loop.run(other.links.deliver, other, batch)
            life.watch()
        else:
            network.scheduler.at(now, loop.run, other.links.deliver, other, batch, life=life, on_loop=True)

    def _reset(self, end: End) -> None:
        """Nobody listens there any more: the sender is told."""
        network, loop = self.network, self.loop
        when = network.scheduler.now + network.delay_ns(self._far(end), self.node_id)
        if not network.is_blocked(self._far(end), self.node_id):
            network.scheduler.at(
                when, loop.run, self.close_end, end, LinkEvent.PEER_CLOSED, life=loop.life, on_loop=True
            )

    def deliver(self, end: End, batch: list[bytes]) -> None:
        """Messages of one peer have come, on this process's loop."""
        peer = end.peer
        if peer is None or not end.is_open or end.doomed is not None:
            return
        if self._current.get(peer.node_id) is not end and not self.network.superseded_deliver:
            return
        end.heard = self.network.scheduler.now
        for payload in batch:
            self.handler.on_message(peer.node_id, payload)
        self.handler.on_batch_end()

    # --- dialing and accepting -------------------------------------------------------------------------------
    def _dial_in(self, peer: str, delay_ns: int) -> None:
        scheduler, loop = self.network.scheduler, self.loop
        scheduler.at(scheduler.now + delay_ns, loop.run, self._dial, peer, life=loop.life, on_loop=True)

    def _dial(self, peer: str) -> None:
        if self._is_closed or peer in self._current or peer in self._dialing:
            return
        if peer in self._isolated:
            self._dial_again(peer)
            return
        self._dials += 1
        network = self.network
        connection = Connection(network, self, peer, self._dials)
        self._dialing[peer] = connection.dialer
        there = 3 * network.delay_ns(self.node_id, peer)  # TCP and TLS before the hello
        network.scheduler.at(network.scheduler.now + there, self._hello_arrives, connection, self._hello(connection))
        timeout = network.scheduler.now + self.limits.handshake_timeout_ms * MS
        network.scheduler.at(
            timeout, self.loop.run, self._give_up_dial, connection.dialer, life=self.loop.life, on_loop=True
        )

    def _hello(self, connection: Connection) -> Hello:
        return self.local.hello(connection.generation)

    def _hello_arrives(self, connection: Connection, hello: Hello) -> None:
        network, target = self.network, connection.target
        if network.is_blocked(self.node_id, target) or network.is_blocked(target, self.node_id):
            return
        accepting = network.listening.get(target)
        if accepting is None or accepting.loop.life.is_dead:
            if not network.is_off(target):
                self._reset(connection.dialer)
            return
        loop = accepting.loop
        network.scheduler.at(
            network.scheduler.now, loop.run, accepting.accept, connection, hello, life=loop.life, on_loop=True
        )

    def accept(self, connection: Connection, hello: Hello) -> None:
        """A hello has come, on this process's loop."""
        if self._is_closed or connection.broken or hello.node_id in self._isolated:
            self._reset_later(connection)
            return
        former = self._current.get(hello.node_id)
        if former is not None and former.peer is not None and _is_late(former, hello):
            self._reset_later(connection)
            return
        end = connection.acceptor = End(self, connection)
        network = self.network
        when = network.scheduler.now + network.delay_ns(self.node_id, hello.node_id)
        end.arrival = when
        network.scheduler.at(when, self._answer_arrives, connection, self._hello(connection))
        self._admit(end, hello)

    def _reset_later(self, connection: Connection) -> None:
        connection.dialer.links._reset(connection.dialer)

    def _answer_arrives(self, connection: Connection, hello: Hello) -> None:
        dialer = connection.dialer
        if connection.broken or self.network.is_blocked(self.node_id, dialer.links.node_id):
            return
        loop = dialer.links.loop
        scheduler = self.network.scheduler
        scheduler.at(scheduler.now, loop.run, dialer.links.answered, dialer, hello, life=loop.life, on_loop=True)

    def answered(self, end: End, hello: Hello) -> None:
        """The acceptor's hello has come back, on this process's loop."""
        if end.is_open and self._dialing.get(hello.node_id) is end and not self._is_closed:
            del self._dialing[hello.node_id]
            self._backoff_ms.pop(hello.node_id, None)
            self._admit(end, hello)

    def _give_up_dial(self, end: End) -> None:
        if self._dialing.get(end.connection.target) is end:
            self.close_end(end, LinkEvent.HANDSHAKE_TIMEOUT)

    def _admit(self, end: End, hello: Hello) -> None:
        former = self._current.get(hello.node_id)
        if former is not None:
            self.close_end(former, LinkEvent.SUPERSEDED)
        end.peer = hello
        end.heard = end.since = self.network.scheduler.now
        self._current[hello.node_id] = end
        self.counters.add(LinkEvent.CONNECTED)
        self.handler.on_connected(hello.node_id, hello)

    # --- ends ------------------------------------------------------------------------------------------------
    def close_end(self, end: End, reason: LinkEvent) -> None:
        """This end of a connection is over; the other hears of it, if it can."""
        if not end.is_open:
            return
        end.is_open = self.network.superseded_deliver and reason is LinkEvent.SUPERSEDED
        self.counters.add(reason)
        peer_id = self._far(end)
        if reason is not LinkEvent.PEER_CLOSED:
            self.say_goodbye(end)
        if self._dialing.get(peer_id) is end:
            del self._dialing[peer_id]
        if self._current.get(peer_id) is end:
            del self._current[peer_id]
            self.handler.on_disconnected(peer_id, reason)
        if end is end.connection.dialer:
            self._dial_again(peer_id)

    def _dial_again(self, peer_id: str) -> None:
        if self._is_closed or not dials(self.node_id, peer_id):
            return
        backoff = self._backoff_ms.get(peer_id, self.limits.backoff_min_ms)
        self._backoff_ms[peer_id] = min(2 * backoff, self.limits.backoff_max_ms)
        self._dial_in(peer_id, int(backoff * MS * (0.5 + 0.5 * self.network.rng.random())))

    def say_goodbye(self, end: End) -> None:
        """The FIN travels behind what was sent; a cut swallows it."""
        network = self.network
        when = max(end.arrival, network.scheduler.now + network.delay_ns(self.node_id, self._far(end)))
        network.scheduler.at(when, self._goodbye_arrives, end)

    def _goodbye_arrives(self, end: End) -> None:
        other = end.other
        if other is None or not other.is_open or self.network.is_blocked(self.node_id, self._far(end)):
            return
        loop, scheduler = other.links.loop, self.network.scheduler
        scheduler.at(
            scheduler.now, loop.run, other.links.close_end, other, LinkEvent.PEER_CLOSED, life=loop.life, on_loop=True
        )

    def abandon(self) -> None:
        """The process was killed: its machine says goodbye for it."""
        for end in [*self._current.values(), *self._dialing.values()]:
            self.say_goodbye(end)

    # --- signs of life ---------------------------------------------------------------------------------------
    def _beat_soon(self) -> None:
        self.loop.call_later(self.limits.ping_interval_ms / 1000, self._beat)

    def _beat(self) -> None:
        """Whoever gave no sign of life for too long is dropped. Pings travel like this: unseen, but by cuts."""
        if self._is_closed:
            return
        now = self.network.scheduler.now
        overslept = now - self._beat_at > 2 * self.limits.ping_interval_ms * MS
        self._beat_at = now
        for end in list(self._current.values()):
            if overslept or self._hears(end):
                end.heard = now
            elif now - end.heard > self.limits.idle_timeout_ms * MS:
                self.close_end(end, LinkEvent.IDLE_PEER)
        self._beat_soon()

    def _hears(self, end: End) -> bool:
        other = end.other
        if other is None or not other.is_open or end.connection.broken or other.waiting:
            return False
        life, now = other.links.loop.life, self.network.scheduler.now
        if life.is_dead or life.paused_until > now or life.stalled_until > now:
            return False
        return not self.network.is_blocked(self._far(end), self.node_id)


def _is_late(former: End, hello: Hello) -> bool:
    """Whether a hello was overtaken by that of a newer connection of the same process."""
    assert former.peer is not None
    return hello.incarnation == former.peer.incarnation and hello.generation <= former.connection.generation
