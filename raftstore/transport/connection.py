"""One connection of one peer: hello, then frames both ways, with every buffer bounded.

A thin shell on asyncio: what arrives goes to the decoder, what leaves is gathered and written once per step. It never
decides whom to talk to: its owner (`transport.links`) judges the hello and is told of the end, once. States go one
way: GREETING, OPEN, CLOSED. A connection that is not OPEN delivers nothing and sends nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum
from typing import Protocol, cast

from raftstore.codec.frames import FrameDecoder, FrameFaultReason, FrameType, encode_frame, frame_header
from raftstore.ports import Clock
from raftstore.transport.counters import LinkEvent
from raftstore.transport.hello import Hello, Refusal, decode_hello, decode_refusal, encode_hello, encode_refusal
from raftstore.transport.ports import LinkHandler, LinkLimits
from raftstore.transport.tls import PeerName, peer_node_id

PING_BYTES = 8
FAREWELL_S = 1.0  # for a refusal to leave before the connection is cut
FRAME_COST_BYTES = 96  # what a queued frame holds beside its payload, so that tiny ones are bounded too
_PINGS_PER_RTT = 4  # a busy link is still measured, every so many ping intervals

_MESSAGE = int(FrameType.MESSAGE)


class State(IntEnum):
    """Where a connection stands."""

    GREETING = 1
    OPEN = 2
    CLOSED = 3


class ConnectionOwner(Protocol):
    """Who decides. All calls come from the loop."""

    clock: Clock
    limits: LinkLimits
    handler: LinkHandler

    def own_hello(self, connection: Connection) -> Hello: ...

    def transport_ready(self, connection: Connection) -> bool:
        """Whether to go on with the peer whose certificate was just verified; if not, the owner has ended it."""

    def hello_received(self, connection: Connection, hello: Hello | Refusal) -> None:
        """Calls `open`, `refuse` or `close` before it returns."""

    def refused_by_peer(self, connection: Connection, refusal: Refusal) -> None: ...

    def closed(self, connection: Connection, reason: LinkEvent) -> None:
        """Exactly once, when the connection delivers no more."""


class Connection(asyncio.Protocol):
    """See above. `dialed` is the peer that was dialed, None when accepted; `generation` counts the dialer's dials."""

    def __init__(self, owner: ConnectionOwner, *, secure: bool, dialed: str | None = None, generation: int = 0) -> None:
        self.dialed = dialed
        self.generation = generation
        self.secure = secure
        self.certified: PeerName | None = None
        self.peer: Hello | None = None
        self.address = "?"
        self.state = State.GREETING
        self.opened_ns = self.heard_ns = self.sent_ns = self._pinged_ns = owner.clock.now_ns()
        self.rtt_us: int | None = None
        self.lost: Exception | None = None  # what the socket or TLS said at the end
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the socket is gone
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # no stranger any more
        self._owner = owner
        self._limits = owner.limits
        self._decoder = FrameDecoder(owner.limits.frame_bytes_max, hello_bytes_max=owner.limits.hello_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._paused = False  # the transport holds enough
        self._flush_due = False
        self._doom: LinkEvent | None = None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if peer else "?"
        self.heard_ns = self._owner.clock.now_ns()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limits.handshake_timeout_ms / 1000, self._hello_overdue)
        if self.secure:
            self.certified = peer_node_id(transport.get_extra_info("ssl_object"))
        if not self._owner.transport_ready(self):
            return
        if self.dialed is not None:
            self._write_control(FrameType.HELLO, encode_hello(self._owner.own_hello(self)))

    def data_received(self, data: bytes) -> None:
        if self.state is State.CLOSED:
            return
        self.heard_ns = self._owner.clock.now_ns()
        frames = self._decoder.feed(data)
        self._deliver(frames if self.peer is not None else self._greet(frames))
        fault = self._decoder.fault
        if fault is not None:
            too_big = fault.reason is FrameFaultReason.FRAME_TOO_BIG
            self.close(LinkEvent.FRAME_TOO_BIG if too_big else LinkEvent.BAD_FRAME)

    def eof_received(self) -> None:
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.close(self._doom or LinkEvent.PEER_CLOSED)
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    # --- sending

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait here and in the transport."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._pending_bytes + waiting

    def send(self, payload: bytes, frame_type: int = _MESSAGE) -> bool:
        """Queue one frame; False when the link is not open or its queue is full, which is its end (SLOW_PEER)."""
        if self.state is not State.OPEN or self._doom is not None:
            return False
        size = len(payload) + FRAME_COST_BYTES
        waiting = self.queued_bytes if self._paused else self._pending_bytes
        if waiting + size > self._limits.send_queue_bytes_max:
            self.doom(LinkEvent.SLOW_PEER)
            return False
        self._pending.append(frame_header(frame_type, len(payload)))
        self._pending.append(payload)
        self._pending_bytes += size
        if self._pending_bytes >= self._limits.write_chunk_bytes:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_soon)
        return True

    def flush(self) -> None:
        """Write what is queued, as far as the transport takes it: one write, and one TLS record chain, for many."""
        pending, transport = self._pending, self._transport
        if not pending or self._paused or transport is None or self.state is not State.OPEN:
            return
        self.sent_ns = self._owner.clock.now_ns()
        if self._pending_bytes <= self._limits.write_chunk_bytes:
            data = b"".join(pending)
            pending.clear()
            self._pending_bytes = 0
            transport.write(data)
        else:
            while pending and not self._paused:
                transport.write(self._take_chunk())
        if self._pending_bytes + transport.get_write_buffer_size() > self._limits.send_queue_bytes_max:
            self.doom(LinkEvent.SLOW_PEER)

    def beat(self, now_ns: int) -> None:
        """Ask for a sign of life when it is time to; called several times per ping interval."""
        interval_ns = self._limits.ping_interval_ms * 1_000_000
        if now_ns - self.sent_ns >= interval_ns or now_ns - self._pinged_ns >= _PINGS_PER_RTT * interval_ns:
            self._pinged_ns = now_ns
            self.send(now_ns.to_bytes(PING_BYTES, "big"), FrameType.PING)
            self.flush()

    # --- the owner's side

    def open(self, hello: Hello) -> None:
        """The peer may talk from now on. The acceptor's own hello leaves here: before it, only refusals do."""
        self.peer = hello
        self.state = State.OPEN
        self.opened_ns = self.heard_ns
        self._end_greeting()
        if self.dialed is None:
            self.generation = hello.generation
            self._write_control(FrameType.HELLO, encode_hello(self._owner.own_hello(self)))

    def refuse(self, refusal: Refusal, reason: LinkEvent = LinkEvent.HELLO_REFUSED) -> None:
        """Say why, then close."""
        if self.state is State.CLOSED or self._transport is None:
            return
        self._write_control(FrameType.REFUSE, encode_refusal(refusal))
        self._part(self._transport, reason)

    def leave(self, reason: LinkEvent) -> None:
        """End it, but let what was queued go out as far as the transport takes it at once."""
        if self.state is State.CLOSED or self._transport is None:
            return
        self.flush()
        self._part(self._transport, reason)

    def close(self, reason: LinkEvent) -> None:
        """End it now. The owner hears of it before this returns; what was queued is lost."""
        if self.state is State.CLOSED:
            return
        if self._transport is not None:
            self._transport.abort()
        self._finish(reason)

    def doom(self, reason: LinkEvent) -> None:
        """End it from within a caller's step: nothing is sent or delivered any more; the owner hears of it soon."""
        if self._doom is None and self.state is not State.CLOSED:
            self._doom = reason
            asyncio.get_running_loop().call_soon(self.close, reason)

    @property
    def doomed(self) -> LinkEvent | None:
        """Why it is about to end."""
        return self._doom

    # --- inside

    def _greet(self, frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Handle the first frame; returns those behind it when they may be delivered."""
        if not frames:
            return []
        frame_type, payload = frames[0]
        if frame_type == FrameType.REFUSE and self.dialed is not None:
            self._owner.refused_by_peer(self, decode_refusal(payload))
            self.close(LinkEvent.REFUSED_BY_PEER)
        elif frame_type != FrameType.HELLO:
            self.close(LinkEvent.BAD_FRAME)
        else:
            self._owner.hello_received(self, decode_hello(payload))
        return self._decoder.open() if self.state is State.OPEN else []

    def _deliver(self, frames: list[tuple[int, bytes]]) -> None:
        """Give messages to the handler until something ends the connection."""
        if not frames or self.peer is None:
            return
        handler, peer_id = self._owner.handler, self.peer.node_id
        delivered = False
        for frame_type, payload in frames:
            if self.state is not State.OPEN or self._doom is not None:
                break
            if frame_type == _MESSAGE:
                delivered = True
                handler.on_message(peer_id, payload)
            else:
                self._control(frame_type, payload)
        if delivered:
            handler.on_batch_end()

    def _control(self, frame_type: int, payload: bytes) -> None:
        if frame_type == FrameType.PING and len(payload) == PING_BYTES:
            self.send(payload, FrameType.PONG)
        elif frame_type == FrameType.PONG and len(payload) == PING_BYTES:
            if int.from_bytes(payload, "big") == self._pinged_ns:  # else the answer to an older PING
                self.rtt_us = (self.heard_ns - self._pinged_ns) // 1000
        elif frame_type == FrameType.REFUSE:
            self._owner.refused_by_peer(self, decode_refusal(payload))
            self.close(LinkEvent.REFUSED_BY_PEER)
        else:
            self.close(LinkEvent.BAD_FRAME)

    def _take_chunk(self) -> bytes:
        """At least one frame, about `write_chunk_bytes`."""
        parts: list[bytes] = []
        size = 0
        while self._pending and size < self._limits.write_chunk_bytes:
            parts.append(self._pending.popleft())
            parts.append(self._pending.popleft())
            size += len(parts[-1]) + FRAME_COST_BYTES
        self._pending_bytes -= size
        return b"".join(parts)

    def _flush_soon(self) -> None:
        self._flush_due = False
        self.flush()

    def _write_control(self, frame_type: FrameType, payload: bytes) -> None:
        if self._transport is not None:
            self.sent_ns = self._owner.clock.now_ns()
            self._transport.write(encode_frame(frame_type, payload))

    def _hello_overdue(self) -> None:
        if self.state is State.GREETING:
            self.close(LinkEvent.HANDSHAKE_TIMEOUT)

    def _end_greeting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.greeted.done():
            self.greeted.set_result(None)

    def _part(self, transport: asyncio.Transport, reason: LinkEvent) -> None:
        """Close in good order; a peer that does not play along is cut off."""
        self._finish(reason)
        transport.close()
        asyncio.get_running_loop().call_later(FAREWELL_S, transport.abort)

    def _finish(self, reason: LinkEvent) -> None:
        self.state = State.CLOSED
        self._pending.clear()
        self._pending_bytes = 0
        self._end_greeting()
        self._owner.closed(self, reason)
