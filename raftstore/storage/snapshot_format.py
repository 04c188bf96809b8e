"""Bytes of a snapshot file, and the full check that one must pass before it is used. Decides nothing else.

    header    magic, crc, version, index, term, cluster digest
    chunk     length, crc | bytes            (any number; length is never 0)
    trailer   0, magic, crc, chunk count, total bytes of the chunks, SHA-256 of all file bytes before the trailer

The SHA-256 by which peers know the file is that of all its bytes, trailer included.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from raftstore.ports import File
from raftstore.storage.wal_reading import corrupt

FORMAT_VERSION = 1
MAGIC = b"RSTSNAP\x01"
TRAILER_MAGIC = b"RSTSEND\x01"
SUFFIX = ".snap"
_HEADER = struct.Struct("<8sIIQQ16s")
_CHUNK = struct.Struct("<II")
_TRAILER = struct.Struct("<I8sIQQ32s")
HEADER_BYTES = _HEADER.size
TRAILER_BYTES = _TRAILER.size
CHUNK_HEADER_BYTES = _CHUNK.size
_CRC_END = 12  # magic and checksum come before what the header's checksum covers
_TRAILER_CRC_END = 16


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """The last entry that a snapshot covers, and the digest of its cluster's name."""

    index: int
    term: int
    cluster: bytes


def snapshot_name(index: int, term: int) -> str:
    """File name of a complete snapshot; names sort as the snapshots do."""
    return f"{index:020d}-{term:020d}{SUFFIX}"


def parse_name(name: str) -> tuple[int, int] | None:
    """(index, term) of a snapshot's file name; None for any other name."""
    stem, dot, _ = name.partition(SUFFIX)
    index, dash, term = stem.partition("-")
    if not dot or not dash or not index.isdigit() or not term.isdigit() or name != snapshot_name(int(index), int(term)):
        return None
    return int(index), int(term)


def encode_header(header: SnapshotHeader) -> bytes:
    """The first HEADER_BYTES of the file."""
    body = _HEADER.pack(MAGIC, 0, FORMAT_VERSION, header.index, header.term, header.cluster)[_CRC_END:]
    return MAGIC + struct.pack("<I", crc32(body)) + body


def encode_chunk(data: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return _CHUNK.pack(len(data), crc32(data)) + data


def encode_trailer(chunks: int, total_bytes: int, sha256: bytes) -> bytes:
    """The last TRAILER_BYTES of the file."""
    body = _TRAILER.pack(0, TRAILER_MAGIC, 0, chunks, total_bytes, sha256)[_TRAILER_CRC_END:]
    return struct.pack("<I", 0) + TRAILER_MAGIC + struct.pack("<I", crc32(body)) + body


def read_header(file: File, path: str) -> SnapshotHeader:
    """The header. Raises CorruptionError."""
    data = file.pread(HEADER_BYTES, 0)
    if len(data) == HEADER_BYTES:
        magic, crc, version, index, term, cluster = _HEADER.unpack(data)
        if magic == MAGIC and crc == crc32(data[_CRC_END:]) and version == FORMAT_VERSION:
            return SnapshotHeader(index, term, cluster)
    raise corrupt(path, 0, "the snapshot's header is damaged, or of another format version")


def read_chunks(file: File, path: str, chunk_bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each chunk, checked one by one. Raises CorruptionError; does not look at the trailer."""
    offset, size = HEADER_BYTES, file.size()
    while offset < size - TRAILER_BYTES:
        head = file.pread(CHUNK_HEADER_BYTES, offset)
        length, crc = _CHUNK.unpack(head) if len(head) == CHUNK_HEADER_BYTES else (0, 0)
        if not 0 < length <= min(chunk_bytes_max, size - TRAILER_BYTES - offset - CHUNK_HEADER_BYTES):
            raise corrupt(path, offset, f"a chunk cannot be {length} bytes long")
        data = file.pread(length, offset + CHUNK_HEADER_BYTES)
        if len(data) != length or crc32(data) != crc:
            raise corrupt(path, offset, "a chunk of the snapshot is damaged")
        yield offset, data
        offset += CHUNK_HEADER_BYTES + length


def check_file(file: File, path: str, chunk_bytes_max: int) -> tuple[SnapshotHeader, bytes]:
    """Check every byte of the file: its header and the SHA-256 of the whole. Raises CorruptionError."""
    header = read_header(file, path)
    running = hashlib.sha256(encode_header(header))
    chunks = total = 0
    for _, data in read_chunks(file, path, chunk_bytes_max):
        running.update(encode_chunk(data))
        chunks += 1
        total += len(data)
    expected = encode_trailer(chunks, total, running.digest())
    trailer_offset = file.size() - TRAILER_BYTES
    trailer = file.pread(TRAILER_BYTES, max(0, trailer_offset))
    if trailer != expected:
        raise corrupt(path, max(0, trailer_offset), "the snapshot's end does not match its content")
    running.update(trailer)
    return header, running.digest()
