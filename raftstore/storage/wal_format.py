"""Bytes of the write-ahead log: segment header, group, record. Pure: no file, no decision.

    segment   header block (4096 bytes), then groups one behind the other, then zeros to the end
    group     magic, crc, body length, record count, group number | records | zeros to a multiple of 8
    record    length of payload, crc, type, index, term | payload

All integers are little-endian. A group is what one sync makes durable. A group without records is the *mark*: it
says "all before me is durable" and the next group overwrites it.

Every checksum is seeded so that bytes mean something in one place only. The seed of a group's checksum is the
segment's random id and the group's own offset; the seed of a record's checksum is the group's checksum. Bytes of an
older life of the disk, of another segment or of another place in this one are therefore never valid here, and a
payload that happens to contain a group header is not mistaken for one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

FORMAT_VERSION = 2
HEADER_BYTES = 4096
SEGMENT_MAGIC = b"RSTRWAL\x01"
GROUP_MAGIC = b"\xa7WG1"
ALIGNMENT = 8

_SEGMENT = struct.Struct("<8sIIQ16s16s16s16sQQQQ")
_SEGMENT_BODY_OFFSET = 12  # magic and checksum come before what the checksum covers
_GROUP = struct.Struct("<4sIIIQ")
_GROUP_BODY = struct.Struct("<IIQ")
_RECORD = struct.Struct("<IIBQQ")
_RECORD_BODY = struct.Struct("<IBQQ")
_ZEROS = bytes(1 << 16)
GROUP_HEADER_BYTES = _GROUP.size
RECORD_HEADER_BYTES = _RECORD.size


class RecordType(IntEnum):
    """What a record says. The numbers are part of the format: never reuse one."""

    ENTRY = 1  # the entry at `index`
    TRUNCATE = 2  # every entry from `index` on is void (Raft paper, section 5.3)
    RESET = 3  # every entry is void; the log goes on after the snapshot at (`index`, `term`)


class Record(NamedTuple):
    """One record. `type` is a RecordType number, `at` the index it speaks of."""

    type: int
    at: int
    term: int
    payload: bytes


class SegmentHeader(NamedTuple):
    """Ties a segment to its cluster, its node and the segment before it.

    `last_index`, `last_term` and `group_seq` are those of the log when the segment was begun: the last entry (0 and 0
    in a new log) and the number of the last group. `previous_id` is the id of the segment before. The file is
    `size_bytes` long from its first moment on: a shorter one has lost something.
    """

    seq: int
    segment_id: bytes
    previous_id: bytes
    cluster: bytes
    node: bytes
    last_index: int
    last_term: int
    group_seq: int
    size_bytes: int


class Group(NamedTuple):
    """A group whose header is valid; its records may not be."""

    offset: int
    crc: int
    body_bytes: int
    records: int
    seq: int

    @property
    def end(self) -> int:
        """Offset of the next group."""
        return aligned(self.offset + GROUP_HEADER_BYTES + self.body_bytes)


def digest16(name: str) -> bytes:
    """16 bytes that stand for a name."""
    return sha256(name.encode("utf-8")).digest()[:16]


def aligned(offset: int) -> int:
    """The first multiple of ALIGNMENT at or after `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header block, HEADER_BYTES long."""
    packed = _SEGMENT.pack(
        SEGMENT_MAGIC,
        0,
        FORMAT_VERSION,
        header.seq,
        header.segment_id,
        header.previous_id,
        header.cluster,
        header.node,
        header.last_index,
        header.last_term,
        header.group_seq,
        header.size_bytes,
    )
    body = packed[_SEGMENT_BODY_OFFSET:]
    return (SEGMENT_MAGIC + struct.pack("<I", crc32(body)) + body).ljust(HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """The header in the first bytes of a segment; None when they are not one, or of another format version."""
    if len(data) < HEADER_BYTES:
        return None
    magic, crc, version, *fields = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC or crc != crc32(data[_SEGMENT_BODY_OFFSET : _SEGMENT.size]) or version != FORMAT_VERSION:
        return None
    return SegmentHeader(*fields)


def group_bytes(records: Sequence[Record]) -> int:
    """How many bytes a group of these records takes."""
    return aligned(GROUP_HEADER_BYTES + sum(RECORD_HEADER_BYTES + len(record.payload) for record in records))


def encode_group(records: Sequence[Record], seq: int, offset: int, segment_id: bytes) -> bytes:
    """The group numbered `seq`, to be written at `offset` of the segment and nowhere else."""
    body_bytes = sum(RECORD_HEADER_BYTES + len(record.payload) for record in records)
    crc = _group_crc(body_bytes, len(records), seq, offset, segment_id)
    parts = [_GROUP.pack(GROUP_MAGIC, crc, body_bytes, len(records), seq)]
    for type_, index, term, payload in records:
        length = len(payload)
        record_crc = crc32(payload, crc32(_RECORD_BODY.pack(length, type_, index, term), crc))
        parts.append(_RECORD.pack(length, record_crc, type_, index, term))
        parts.append(payload)
    parts.append(bytes(-(GROUP_HEADER_BYTES + body_bytes) % ALIGNMENT))
    return b"".join(parts)


def decode_group(data: bytes, offset: int, segment_id: bytes) -> Group | None:
    """The group header at `offset` of the segment whose bytes are `data`; None when there is none."""
    if offset + GROUP_HEADER_BYTES > len(data):
        return None
    magic, crc, body_bytes, records, seq = _GROUP.unpack_from(data, offset)
    if magic != GROUP_MAGIC or crc != _group_crc(body_bytes, records, seq, offset, segment_id):
        return None
    return Group(offset, crc, body_bytes, records, seq)


def decode_records(data: bytes, group: Group) -> list[Record] | None:
    """The records of the group; None unless every one of them is whole and there are as many as the header says."""
    position = group.offset + GROUP_HEADER_BYTES
    end = position + group.body_bytes
    if end > len(data):
        return None
    records: list[Record] = []
    while position < end:
        body = position + RECORD_HEADER_BYTES
        if body > end:
            return None
        length, crc, type_, index, term = _RECORD.unpack_from(data, position)
        position = body + length
        if position > end:
            return None
        payload = data[body:position]
        if crc != crc32(payload, crc32(_RECORD_BODY.pack(length, type_, index, term), group.crc)):
            return None
        records.append(Record(type_, index, term, payload))
    return records if len(records) == group.records else None


def find_group(data: bytes, start: int, segment_id: bytes) -> Group | None:
    """The first valid group header at or after `start`, wherever it is."""
    position = data.find(GROUP_MAGIC, start)
    while position >= 0:
        if position % ALIGNMENT == 0 and (group := decode_group(data, position, segment_id)) is not None:
            return group
        position = data.find(GROUP_MAGIC, position + 1)
    return None


def content_end(data: bytes) -> int:
    """Offset behind the last byte that is not zero."""
    end = len(data)
    while end > 0:  # whole blocks at a time: a segment ends in many megabytes of zeros
        start = max(0, end - len(_ZEROS))
        block = data[start:end]
        if block != _ZEROS[: end - start]:
            return start + len(block.rstrip(b"\0"))
        end = start
    return 0


def _group_crc(body_bytes: int, records: int, seq: int, offset: int, segment_id: bytes) -> int:
    seed = crc32(offset.to_bytes(8, "little"), crc32(segment_id))
    return crc32(_GROUP_BODY.pack(body_bytes, records, seq), seed)
