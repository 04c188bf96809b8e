"""Keeps one peer dialed: resolve, connect, shake hands, wait for the end, wait a little longer each time, again.

One dialer has one connection at a time. The host name is resolved for every dial, so a peer may move.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable

from raftstore.transport.connection import Connection
from raftstore.transport.counters import LinkCounters, LinkEvent, Notices
from raftstore.transport.ports import Endpoint, LinkLimits
from raftstore.transport.sockets import (
    OUT_OF_DESCRIPTORS,
    Resolved,
    Resolver,
    connect,
    handshake_failure,
    hang_up,
    in_words,
)
from raftstore.transport.tls import TlsContexts


class Backoff:
    """How long to wait before the next dial. Pure but for the given randomness."""

    def __init__(self, limits: LinkLimits, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._next_ms = limits.backoff_min_ms

    def delay_ms(self, lasted_ms: int | None) -> float:
        """`lasted_ms`: how long the last link was open, None when there was none.

        A link that broke at once does not start the backoff anew, or two nodes that fight over a name would spin.
        """
        if lasted_ms is not None and lasted_ms >= self._limits.backoff_max_ms:
            self._next_ms = self._limits.backoff_min_ms
        delay_ms = self._next_ms
        self._next_ms = min(delay_ms * 2, self._limits.backoff_max_ms)
        return delay_ms * (0.5 + self._rng.random() / 2)


class Dialer:
    """Dials one peer from `start` to `close`. `make` gives the connection for the next dial, None while cut off."""

    def __init__(
        self,
        peer_id: str,
        address: Endpoint,
        make: Callable[[str], Connection | None],
        *,
        now_ns: Callable[[], int],
        resolver: Resolver,
        contexts: TlsContexts | None,
        limits: LinkLimits,
        counters: LinkCounters,
        notices: Notices,
        rng: random.Random,
    ) -> None:
        self._peer_id = peer_id
        self._address = address
        self._make = make
        self._now_ns = now_ns
        self._resolver = resolver
        self._contexts = contexts
        self._timeout_s = limits.handshake_timeout_ms / 1000
        self._counters = counters
        self._notices = notices
        self._backoff = Backoff(limits, rng)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def move(self, address: Endpoint) -> None:
        """The peer is elsewhere: the next dial goes there, at once if one is waited for."""
        self._address = address
        self._woken.set()

    def wake(self) -> None:
        """Something changed: do not wait for the next dial."""
        self._woken.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])  # not the task itself: who is cancelled here must hear of it

    async def _run(self) -> None:
        while True:
            lasted_ms = await self._dial()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.delay_ms(lasted_ms) / 1000):  # wait_for would forget a `close`
                    await self._woken.wait()
            self._woken.clear()

    async def _dial(self) -> int | None:
        """One dial, to the end of its connection. Milliseconds that the link was open, None if it never was."""
        addresses: list[Resolved] = []
        problem = OSError("no address")
        try:
            addresses = await self._resolver.resolve(self._address)
        except OSError as failure:  # TimeoutError is one
            problem = failure
        for resolved in addresses:
            connection = self._make(self._peer_id)
            if connection is None:
                return None
            try:
                await self._connect(connection, resolved)
            except OSError as failure:
                problem = failure
                continue
            await asyncio.wait([connection.ended])  # a cancelled dialer must not cancel the end itself
            if connection.peer is not None:
                return (self._now_ns() - connection.opened_ns) // 1_000_000
            return None
        self._failed(problem)
        return None

    async def _connect(self, connection: Connection, resolved: Resolved) -> None:
        loop = asyncio.get_running_loop()
        sock = await connect(resolved, self._timeout_s)
        try:
            if self._contexts is None:
                await loop.create_connection(lambda: connection, sock=sock)
            else:
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._contexts.client(),
                    server_hostname="",  # the node id in the certificate is checked, not a host name
                    ssl_handshake_timeout=self._timeout_s,
                )
        except BaseException:
            hang_up(sock)
            raise

    def _failed(self, problem: OSError) -> None:
        self._counters.add(LinkEvent.DIAL_FAILED)
        if isinstance(problem, ssl.SSLError):
            self._counters.add(handshake_failure(problem))
        if problem.errno in OUT_OF_DESCRIPTORS:
            self._counters.add(LinkEvent.FD_EXHAUSTED)
        self._notices.say(f"link to {self._peer_id}", f"cannot reach {self._address}: {in_words(problem)}")
