"""Redis over its own protocol on one connection per process: ops of one turn of the event loop go out together.

A transition is a script that compares and sets; one WAIT after all of a turn's transitions covers them, and none is
answered before it. WAIT says that a replica has taken them in, not that it has synced them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.targets.base import Refused, state_of

VERSION_DIGITS = 16
REPLICAS = 1
WAIT_MS = 2_000
SCRIPT = (
    b"local v = redis.call('GET', KEYS[1]); if (v and string.sub(v, 1, 16) or '') ~= ARGV[1] then return 0 end; "
    b"redis.call('SET', KEYS[1], ARGV[2]); return 1"
)

Reply = int | bytes | None


class RedisFailed(Exception):  # noqa: N818 - says what happened
    """An error reply, too few replicas, or no connection."""


def command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def take_reply(data: bytes | bytearray, at: int) -> tuple[Reply | RedisFailed, int] | None:
    """One simple reply and where it ends; None when it is not all there."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, text = data[at : at + 1], bytes(data[at + 1 : end])
    if kind == b":":
        return int(text), end + 2
    if kind == b"+":
        return text, end + 2
    if kind == b"-":
        return RedisFailed(text.decode("ascii", "replace")), end + 2
    size = int(text)
    if size < 0:
        return None, end + 2
    if len(data) < end + 2 + size + 2:
        return None
    return bytes(data[end + 2 : end + 2 + size]), end + 2 + size + 2


class Connection(asyncio.Protocol):
    """Replies come in the order of requests. Those of `guarded` requests are held until the WAIT after them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._input = bytearray()
        self._output: list[bytes] = []
        self._needs_wait = False
        self._expected: deque[tuple[asyncio.Future[Reply] | None, bool]] = deque()  # no future: a WAIT
        self._held: list[tuple[asyncio.Future[Reply], Reply | RedisFailed]] = []

    def ask(self, request: bytes, *, guarded: bool = False) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(RedisFailed("not connected"))
            return future
        if not self._output:
            self._loop.call_soon(self._flush)
        self._output.append(request)
        self._expected.append((future, guarded))
        self._needs_wait = self._needs_wait or guarded
        return future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._needs_wait:
            self._output.append(command(b"WAIT", b"%d" % REPLICAS, b"%d" % WAIT_MS))
            self._expected.append((None, False))
            self._needs_wait = False
        self._transport.write(b"".join(self._output))
        self._output.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, problem: Exception | None) -> None:
        lost = RedisFailed(f"connection lost: {problem}")
        for future, _ in self._expected:
            if future is not None:
                _answer(future, lost)
        for future, _ in self._held:
            _answer(future, lost)

    def data_received(self, data: bytes) -> None:
        self._input += data
        at = 0
        while (found := take_reply(self._input, at)) is not None:
            reply, at = found
            self._on_reply(reply)
        del self._input[:at]

    def _on_reply(self, reply: Reply | RedisFailed) -> None:
        future, guarded = self._expected.popleft()
        if future is None:
            enough = isinstance(reply, int) and reply >= REPLICAS
            for held, answer in self._held:
                _answer(held, answer if enough else RedisFailed("too few replicas"))
            self._held.clear()
        elif guarded:
            self._held.append((future, reply))
        else:
            _answer(future, reply)


def _answer(future: asyncio.Future[Reply], reply: Reply | RedisFailed) -> None:
    if future.done():
        return
    if isinstance(reply, RedisFailed):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class Redis:
    """Changes and reads at the master; local reads at the server beside these callers."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._master_port, self._own_port, self._leader = given["master_port"], given["port"], given["leader"]

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._master = await loop.create_connection(Connection, "127.0.0.1", self._master_port)
        _, self._own = await loop.create_connection(Connection, "127.0.0.1", self._own_port)
        digest = await self._master.ask(command(b"SCRIPT", b"LOAD", SCRIPT))
        assert isinstance(digest, bytes)
        self._digest = digest

    async def close(self) -> None:
        self._master.close()
        self._own.close()

    async def create(self, session_id: str) -> int:
        return await self._set(session_id, b"", 1)

    async def change(self, session_id: str, version: int) -> int:
        return await self._set(session_id, b"%016d" % version, version + 1)

    async def _set(self, session_id: str, expected: bytes, version: int) -> int:
        value = b"%016d" % version + state_of(version)[VERSION_DIGITS:]
        request = command(b"EVALSHA", self._digest, b"1", session_id.encode(), expected, value)
        if await self._master.ask(request, guarded=True) != 1:
            raise Refused(session_id)
        return version

    async def read(self, session_id: str) -> int:
        return _version(await self._master.ask(command(b"GET", session_id.encode())))

    async def read_local(self, session_id: str) -> int:
        return _version(await self._own.ask(command(b"GET", session_id.encode())))

    async def leader(self) -> str | None:
        return str(self._leader)

    def counters(self) -> Mapping[str, int]:
        return {}


def _version(value: Reply) -> int:
    return int(value[:VERSION_DIGITS]) if isinstance(value, bytes) else 0


def target(given: Mapping[str, Any]) -> Redis:
    return Redis(given)
