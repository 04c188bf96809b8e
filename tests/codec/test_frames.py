"""Frames: any cut of a stream gives the same frames, and no stream makes the decoder keep or do more than its bound."""

from __future__ import annotations

import struct
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from raftstore.codec.frames import (
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    FrameFaultReason,
    FrameType,
    encode_frame,
    frame_header,
)

FRAMES = st.lists(st.tuples(st.sampled_from([int(t) for t in FrameType]), st.binary(max_size=60)), max_size=12)
CUTS = st.lists(st.integers(1, 40), max_size=80)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(stream[start : start + size])
        start += size
    return [*pieces, stream[start:]]


def drain(decoder: FrameDecoder, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@settings(max_examples=200, deadline=None)
@given(FRAMES, CUTS)
def test_any_split_gives_the_same_frames(frames: list[Frame], sizes: list[int]) -> None:
    """What was framed comes out, however the network cut it."""
    stream = b"".join(encode_frame(kind, payload) for kind, payload in frames)
    decoder = FrameDecoder(60)
    assert drain(decoder, cut(stream, sizes)) == frames
    assert decoder.fault is None
    assert decoder.kept_bytes == 0


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.binary(max_size=80), CUTS)
def test_garbage_is_the_same_fault_however_it_is_cut(frames: list[Frame], garbage: bytes, sizes: list[int]) -> None:
    """Frames before a fault are given, nothing after it, and neither depends on how the stream was cut."""
    stream = b"".join(encode_frame(kind, payload) for kind, payload in frames) + garbage
    whole, pieces = FrameDecoder(60), FrameDecoder(60)
    first = drain(whole, [stream])
    assert drain(pieces, cut(stream, sizes)) == first
    assert pieces.fault == whole.fault
    assert first[: len(frames)] == frames
    assert pieces.kept_bytes < 60 + HEADER_BYTES + 40 + len(stream) * (whole.fault is not None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), CUTS)
def test_the_hello_phase_gives_one_frame_then_the_rest(rest: bytes, sizes: list[int]) -> None:
    """Before `open` one small frame comes out; what came behind it is judged under the larger bound."""
    decoder = FrameDecoder(1000, hello_bytes_max=20)
    stream = encode_frame(FrameType.HELLO, b"hi") + encode_frame(FrameType.MESSAGE, rest)
    assert decoder.feed(stream) == [(FrameType.HELLO, b"hi")]
    assert decoder.open() == [(FrameType.MESSAGE, rest)]
    assert drain(decoder, cut(stream, sizes)) == [(FrameType.HELLO, b"hi"), (FrameType.MESSAGE, rest)]


def test_a_hello_beyond_its_bound_is_refused() -> None:
    """A stranger may not announce what a member may."""
    decoder = FrameDecoder(1000, hello_bytes_max=20)
    assert decoder.feed(encode_frame(FrameType.HELLO, bytes(21))) == []
    assert decoder.fault is not None
    assert decoder.fault.reason is FrameFaultReason.FRAME_TOO_BIG
    assert decoder.open() == []


def test_the_bound_itself_is_allowed_and_one_more_is_not() -> None:
    """The bound counts payload bytes."""
    assert FrameDecoder(100).feed(encode_frame(FrameType.MESSAGE, bytes(100))) == [(FrameType.MESSAGE, bytes(100))]
    decoder = FrameDecoder(100)
    assert decoder.feed(encode_frame(FrameType.MESSAGE, bytes(101))) == []
    assert decoder.fault is not None


def test_a_huge_length_is_refused_before_anything_is_kept() -> None:
    """Five bytes that announce 4 GiB cost nothing."""
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        assert decoder.feed(struct.pack(">IB", 0xFFFF_FFFF, FrameType.MESSAGE)) == []
        assert decoder.feed(bytes(1 << 20)) == []
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert decoder.fault is not None
    assert decoder.fault.reason is FrameFaultReason.FRAME_TOO_BIG
    assert decoder.kept_bytes == 0


def test_a_zero_length_and_an_unknown_type_are_faults() -> None:
    """A frame has a type, and one we know."""
    for header, reason in (
        (bytes(5), FrameFaultReason.FRAME_EMPTY),
        (frame_header(0, 0), FrameFaultReason.FRAME_TYPE_UNKNOWN),
        (frame_header(200, 3) + b"abc", FrameFaultReason.FRAME_TYPE_UNKNOWN),
    ):
        decoder = FrameDecoder()
        assert decoder.feed(encode_frame(FrameType.PING, b"12345678") + header) == [(FrameType.PING, b"12345678")]
        assert decoder.fault is not None
        assert decoder.fault.reason is reason


def test_a_large_frame_in_small_pieces_is_looked_at_once() -> None:
    """A frame that arrives a byte at a time is kept until it is whole, and comes out as bytes."""
    payload = bytes(range(256)) * 16
    decoder = FrameDecoder()
    frames = drain(decoder, [bytes([byte]) for byte in encode_frame(FrameType.MESSAGE, payload)])
    assert frames == [(FrameType.MESSAGE, payload)]
    assert type(frames[0][1]) is bytes
