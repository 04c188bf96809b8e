"""Frames on a peer link: a stream of bytes in, whole frames out. Sans-I/O.

    frame = u32 length (big endian) | u8 type | payload        length counts type and payload

A length of zero (no type) is a fault, and so is a length beyond the bound: found when the header is there, before
anything is kept for the payload. Nothing is compressed, so what arrives is what is allocated. Until `open` a decoder
is in its hello phase: a much smaller bound holds and one frame comes out, for the other side is nobody yet.
A fault is final, and a value: the frames before it are still given, the same however the stream was cut.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from typing import NamedTuple

FRAME_BYTES_MAX = 4 << 20  # default bound of one payload
HELLO_BYTES_MAX = 4096  # the same before authentication
HEADER_BYTES = 5
_LENGTH_BYTES = 4

_header = struct.Struct(">IB")
_pack_header = _header.pack
_unpack_header = _header.unpack_from


class FrameType(IntEnum):
    """What a frame is. Numbers are never reused."""

    HELLO = 1  # who I am; the first frame of either side
    REFUSE = 2  # why I close this connection
    PING = 3  # eight bytes, given back by the PONG
    PONG = 4
    MESSAGE = 5


class FrameFaultReason(StrEnum):
    """Why a stream is not one of frames."""

    FRAME_TOO_BIG = "FRAME_TOO_BIG"
    FRAME_EMPTY = "FRAME_EMPTY"
    FRAME_TYPE_UNKNOWN = "FRAME_TYPE_UNKNOWN"


class FrameFault(NamedTuple):
    """The end of a stream: nothing after it can be read."""

    reason: FrameFaultReason
    detail: str


Frame = tuple[int, bytes]  # type, payload

_TYPE_MIN, _TYPE_MAX = min(FrameType), max(FrameType)


def frame_header(frame_type: int, payload_bytes: int) -> bytes:
    """The five bytes before a payload, for a writer that joins many frames into one write."""
    return _pack_header(payload_bytes + 1, frame_type)


def encode_frame(frame_type: int, payload: bytes) -> bytes:
    """One frame. struct.error when the payload is 4 GiB or more: the bound of the link is the sender's to keep."""
    return _pack_header(len(payload) + 1, frame_type) + payload


class FrameDecoder:
    """One direction of one connection. `fault` is None until the stream breaks the rules."""

    __slots__ = ("_bound", "_frame_bytes_max", "_hello_phase", "_kept", "_need", "fault")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, *, hello_bytes_max: int | None = None) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._hello_phase = hello_bytes_max is not None
        self._bound = frame_bytes_max if hello_bytes_max is None else min(hello_bytes_max, frame_bytes_max)
        self._kept = bytearray()  # the beginning of a frame: never more than one frame and one read
        self._need = HEADER_BYTES  # do not look again before this many bytes are kept
        self.fault: FrameFault | None = None

    @property
    def kept_bytes(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._kept)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Empty after a fault.

        In the hello phase at most one, and then only `open` may follow.
        """
        if self.fault is not None:
            return []
        kept = self._kept
        if not kept:
            return self._parse(data)
        kept += data
        if len(kept) < self._need:
            return []
        self._kept = bytearray()
        return self._parse(kept)

    def open(self) -> list[Frame]:
        """End the hello phase; returns the frames that came behind the hello in the same read."""
        self._hello_phase = False
        self._bound = self._frame_bytes_max
        waited, self._kept = self._kept, bytearray()
        return self._parse(waited) if self.fault is None else []

    def _parse(self, data: bytes | bytearray) -> list[Frame]:
        frames: list[Frame] = []
        start, end, bound = 0, len(data), self._bound
        view = data if type(data) is bytes else memoryview(data)  # one copy per payload either way
        self._need = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            length, frame_type = _unpack_header(data, start)
            if length - 1 > bound or not length or not _TYPE_MIN <= frame_type <= _TYPE_MAX:
                self._fail(length, frame_type)
                return frames
            stop = start + _LENGTH_BYTES + length
            if stop > end:
                self._need = stop - start
                break
            frames.append((frame_type, bytes(view[start + HEADER_BYTES : stop])))
            start = stop
            if self._hello_phase:
                break
        if start < end:
            self._kept += view[start:]
        return frames

    def _fail(self, length: int, frame_type: int) -> None:
        if not length:
            self.fault = FrameFault(FrameFaultReason.FRAME_EMPTY, "a frame of length 0")
        elif length - 1 > self._bound:
            detail = f"a frame of {length - 1} bytes announced, {self._bound} allowed"
            self.fault = FrameFault(FrameFaultReason.FRAME_TOO_BIG, detail)
        else:
            self.fault = FrameFault(FrameFaultReason.FRAME_TYPE_UNKNOWN, f"frame type {frame_type}")
