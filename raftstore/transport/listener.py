"""The listening socket: takes connections, bounds those that have not said who they are, and comes back to life.

Accepting is done here rather than by asyncio's server, so that running out of descriptors has our answer: one
connection is turned away through a spare descriptor, accepting pauses, and goes on by itself once there are
descriptors again. A listening socket that fails is made anew on the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable

from raftstore.errors import TransportError
from raftstore.transport.connection import Connection, State
from raftstore.transport.counters import LinkCounters, LinkEvent, Notices
from raftstore.transport.ports import Endpoint, LinkLimits
from raftstore.transport.sockets import (
    OUT_OF_DESCRIPTORS,
    Resolved,
    Resolver,
    handshake_failure,
    hang_up,
    in_words,
    listen_error,
    listening_socket,
    prepare_socket,
)
from raftstore.transport.tls import TlsContexts

_SUBJECT = "listening"
_ACCEPTS_PER_TURN = 8  # then other work has its turn


class Listener:
    """Accepts for one node. `make` gives a new accepted Connection; the rest is the connection's and its owner's."""

    def __init__(
        self,
        who: str,
        bind: Endpoint,
        make: Callable[[], Connection],
        *,
        resolver: Resolver,
        contexts: TlsContexts | None,
        limits: LinkLimits,
        counters: LinkCounters,
        notices: Notices,
    ) -> None:
        self.address = bind  # with the real port once started
        self._who = who
        self._make = make
        self._resolver = resolver
        self._contexts = contexts
        self._limits = limits
        self._counters = counters
        self._notices = notices
        self._resolved: Resolved | None = None
        self._socket: socket.socket | None = None
        self._spare: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._strangers: dict[socket.socket, str] = {}  # oldest first; value: the address it came from
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def strangers(self) -> int:
        """Connections that have not said who they are."""
        return len(self._strangers)

    async def start(self) -> None:
        """Listen. TransportError with the address and the remedy."""
        try:
            self._resolved = (await self._resolver.resolve(self.address))[0]
        except OSError as problem:  # TimeoutError and SSLError are ones
            raise listen_error(self._who, self.address, OSError(0, in_words(problem))) from None
        self._listen()

    async def close(self) -> None:
        """Stop listening; connections that were not greeted end."""
        self._closed = True
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        for sock in self._strangers:
            hang_up(sock)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    # --- the socket

    def _listen(self) -> None:
        if self._resolved is None:
            raise RuntimeError("the listener was not started")
        sock = listening_socket(self._who, self.address, self._resolved)
        bound = sock.getsockname()
        self.address = self.address._replace(port=bound[1])
        family, address = self._resolved
        self._resolved = family, (address[0], bound[1], *address[2:])
        self._socket = sock
        self._accept_again()

    def _stop_listening(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """One thing is waited for at a time: the next accept, or the next try to listen."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, callback)

    def _accept_again(self) -> None:
        self._hold_spare()
        if self._socket is not None and not self._closed:
            asyncio.get_running_loop().add_reader(self._socket, self._acceptable, self._socket)

    def _relisten(self) -> None:
        try:
            self._listen()
        except TransportError as problem:
            self._notices.say(_SUBJECT, str(problem))
            self._later(self._limits.relisten_ms, self._relisten)
        else:
            self._notices.say(_SUBJECT, f"listens on {self.address} again")

    # --- accepting

    def _acceptable(self, listening: socket.socket) -> None:
        """Take a few, then pause in proportion: a flood of handshakes leaves most of the processor to the links."""
        taken = 0
        while taken < _ACCEPTS_PER_TURN:
            try:
                sock, source = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as problem:
                if problem.errno in OUT_OF_DESCRIPTORS:
                    self._out_of_descriptors(listening)
                else:
                    self._lost(problem)
                return
            self._take(sock, str(source[0]))
            taken += 1
        if taken:
            asyncio.get_running_loop().remove_reader(listening)
            self._later(taken * self._limits.accept_interval_ms, self._accept_again)

    def _take(self, sock: socket.socket, source: str) -> None:
        prepare_socket(sock)
        if len(self._strangers) >= self._limits.unauthenticated_max:
            self._turn_out_one()
        self._strangers[sock] = source
        task = asyncio.get_running_loop().create_task(self._greet(sock, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turn_out_one(self) -> None:
        """The source with the most strangers loses its oldest: a flood from one host locks no other host out."""
        self._counters.add(LinkEvent.ACCEPT_LIMIT)
        busiest = Counter(self._strangers.values()).most_common(1)[0][0]
        oldest = next(sock for sock, source in self._strangers.items() if source == busiest)
        del self._strangers[oldest]
        hang_up(oldest)
        limit = self._limits.unauthenticated_max
        self._notices.say(
            f"connections from {busiest}", f"over {limit} connections wait unauthenticated, the oldest are closed"
        )

    async def _greet(self, sock: socket.socket, source: str) -> None:
        """From accept to the end of the greeting: TLS, then the hello, each in bounded time."""
        try:
            connection = await self._handshake(sock)
        except OSError as problem:  # TimeoutError and SSLError are ones
            event = handshake_failure(problem)
            self._counters.add(event)
            self._notices.say(f"connection from {source}, {event}", in_words(problem))
            self._strangers.pop(sock, None)
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([connection.greeted])
            if connection.state is State.CLOSED:  # a refusal may still be on its way out: it counts until it is gone
                await asyncio.wait([connection.ended])
        self._strangers.pop(sock, None)

    async def _handshake(self, sock: socket.socket) -> Connection:
        loop = asyncio.get_running_loop()
        connection = self._make()
        timeout_s = self._limits.handshake_timeout_ms / 1000
        if self._contexts is None:
            await loop.connect_accepted_socket(lambda: connection, sock)
        else:
            await loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self._contexts.server(), ssl_handshake_timeout=timeout_s
            )
        return connection

    # --- trouble

    def _out_of_descriptors(self, listening: socket.socket) -> None:
        self._counters.add(LinkEvent.FD_EXHAUSTED)
        self._notices.say(_SUBJECT, "out of file descriptors, no connection is taken until some are free (ulimit -n)")
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                listening.accept()[0].close()  # one client learns at once instead of waiting in the backlog
            self._hold_spare()
        asyncio.get_running_loop().remove_reader(listening)
        self._later(self._limits.relisten_ms, self._accept_again)

    def _lost(self, problem: OSError) -> None:
        self._counters.add(LinkEvent.LISTEN_LOST)
        self._notices.say(_SUBJECT, f"the listening socket on {self.address} failed: {in_words(problem)}")
        self._stop_listening()
        self._later(self._limits.relisten_ms, self._relisten)

    def _hold_spare(self) -> None:
        if self._spare is None and not self._closed:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
