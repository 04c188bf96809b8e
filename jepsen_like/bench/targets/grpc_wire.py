"""As much of gRPC as a benchmark needs: unary calls over one HTTP/2 connection without TLS, many under way at once.

Requests are frames built from prepared headers, gathered and written once per turn of the event loop. Answers are taken
from frames without decoding their headers, so no state of header compression is needed: the header table is declared
empty and nothing is indexed. A call costs a fraction of the CPU of a general client's, so what is measured is the
server. RFC 9113 (frames, flow control), RFC 7541 (literal fields), the gRPC protocol over HTTP/2.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES = 1 << 30
FIRST_WINDOW_BYTES = 65_535  # what a peer takes before it says more
FRAME_BYTES_MAX = 16_384
_PREFIX = struct.Struct(">BI")  # of a gRPC message: not compressed, length


class CallFailed(Exception):  # noqa: N818 - says what happened
    """No answer, or none with a message."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request_headers(path: str, authority: str) -> bytes:
    """POST, http, content-type and te; no field is indexed."""
    fields = b"\x83\x86" + b"\x04" + _text(path) + b"\x01" + _text(authority)
    return fields + b"\x0f\x10" + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")


def _text(value: str) -> bytes:
    encoded = value.encode("ascii")
    assert len(encoded) < 127
    return bytes([len(encoded)]) + encoded


class Connection(asyncio.Protocol):
    """`await call(headers, message)`. When the connection ends, so does every call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._input = bytearray()
        self._output: list[bytes] = []
        self._waiting: deque[tuple[int, bytes]] = deque()  # for room in the peer's window
        self._window = FIRST_WINDOW_BYTES
        self._received = 0  # since the last update of our window
        self._next_stream = 1
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._bodies: dict[int, bytes] = {}

    def call(self, headers: bytes, message: bytes) -> asyncio.Future[bytes]:
        stream = self._next_stream
        self._next_stream += 2
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(CallFailed("not connected"))
            return future
        self._calls[stream] = future
        body = _PREFIX.pack(0, len(message)) + message
        assert len(body) <= FRAME_BYTES_MAX
        self._write(frame(HEADERS, END_HEADERS, stream, headers))
        self._waiting.append((stream, body))
        self._send_bodies()
        return future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send_bodies(self) -> None:
        while self._waiting and len(self._waiting[0][1]) <= self._window:
            stream, body = self._waiting.popleft()
            self._window -= len(body)
            self._write(frame(DATA, END_STREAM, stream, body))

    def _write(self, data: bytes) -> None:
        if not self._output:
            self._loop.call_soon(self._flush)
        self._output.append(data)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._output))
        self._output.clear()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's has no such base
        # header table 0, no push, first window of each stream
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, WINDOW_BYTES)
        more = struct.pack(">I", WINDOW_BYTES)
        self._write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, problem: Exception | None) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(CallFailed(f"connection lost: {problem}"))
        self._calls.clear()

    def data_received(self, data: bytes) -> None:
        self._input += data
        buffer, at, end = self._input, 0, len(self._input)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at - 9 < size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            self._on_frame(kind, flags, stream, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del buffer[:at]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            assert not flags & PADDED
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
            self._count_received(len(payload))
            if flags & END_STREAM:
                self._finish(stream)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._finish(stream)
        elif kind == RST_STREAM:
            self._bodies.pop(stream, None)
            self._finish(stream)
        elif kind == SETTINGS and not flags & ACK:
            self._write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_bodies()
        elif kind == GOAWAY:
            self.close()

    def _count_received(self, size: int) -> None:
        self._received += size
        if self._received >= WINDOW_BYTES // 2:
            self._write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _finish(self, stream: int) -> None:
        """An answer without a whole message is a failure: its status is in headers that are not read."""
        future, body = self._calls.pop(stream, None), self._bodies.pop(stream, b"")
        if future is None or future.done():
            return
        if len(body) < _PREFIX.size or _PREFIX.unpack_from(body) != (0, len(body) - _PREFIX.size):
            future.set_exception(CallFailed("refused by the server"))
        else:
            future.set_result(body[_PREFIX.size :])
