"""Reading a write-ahead log back: what was surely durable, what was never acknowledged, what cannot be trusted.

Reads only; `wal.py` makes the repairs. The verdict rests on one rule of the writer:

    A group is written only after every group before it, in this and in earlier segments, is durable. A segment is
    begun only after every group of the segments before it is durable, under another name; it gets its own, by which it
    counts, only when its header and its whole length are durable.

So at any moment at most one group is not durable yet: the last one, never acknowledged. A crash may leave any mixture
of its bytes, in any order, and of the mark that it overwrites. From this follows, for bytes at offset X that are not
the valid group expected there:

    (1) A valid group header behind X, or a segment with a valid header behind this one, was written after X was
        durable. What stands at X has changed since: corruption, the node refuses to start. The same for a segment
        without a valid header, or shorter than its header says.
    (2) No such witness: a group was being written at X when the machine stopped, and its sync had not returned, or
        only just, for else either a mark or the next group would follow. What an unfinished write left was never
        acknowledged: it is cut.

A header is a witness even when its own group is torn, and checksums seeded with segment and offset keep stale or
copied bytes from being one. A crash alone never leads to (1): the bytes of one unsynced group hold one header, its
own, at X itself. What is acknowledged and then damaged is refused by (1), with one gap: damage to the last group when
the crash also took, or came before, the mark that is written behind it. The mark is written once nothing has come for
MARK_AFTER_S after a sync (`worker`), and synced with the next one and at every orderly stop.

This rests on two promises of the disk: what a sync said is durable stays so, and a write harms no byte outside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from raftstore.errors import CorruptionError, StorageError
from raftstore.ports import Disk
from raftstore.storage.terms import TermRuns
from raftstore.storage.values import REMEDY, Entry
from raftstore.storage.wal_format import (
    GROUP_HEADER_BYTES,
    HEADER_BYTES,
    Group,
    Record,
    RecordType,
    SegmentHeader,
    content_end,
    decode_group,
    decode_records,
    decode_segment_header,
    find_group,
)

SEGMENT_SUFFIX = ".wal"
UNBORN_SUFFIX = ".wal.new"  # of a segment that is being created


class Owner(NamedTuple):
    """Digests of the cluster name and the node id that every segment must carry."""

    cluster: bytes
    node: bytes


@dataclass(slots=True)
class Segment:
    """One segment file: its path, its header and the highest entry index in any of its records."""

    path: str
    header: SegmentHeader
    index_max: int = 0


@dataclass(slots=True)
class Tail:
    """Where the last segment ends: the next group goes to `offset`; up to `dirty_end` there are bytes to cut.

    `last_group` is where the last whole group begins (None when the segment has none), `marked` whether a mark
    stands at `offset`.
    """

    offset: int = HEADER_BYTES
    next_seq: int = 1
    last_group: int | None = None
    marked: bool = False
    dirty_end: int = HEADER_BYTES


@dataclass(slots=True)
class LogContents:
    """Everything a log directory says. `stillborn` are segments whose creation was cut short."""

    runs: TermRuns
    segments: list[Segment] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    tail: Tail = field(default_factory=Tail)
    stillborn: list[str] = field(default_factory=list)


def segment_name(seq: int, first_index: int) -> str:
    """File name of a segment; names sort as the segments do."""
    return f"{seq:016d}-{first_index:016d}{SEGMENT_SUFFIX}"


def list_segments(disk: Disk, directory: str) -> list[str]:
    """Paths of the segment files, oldest first."""
    return [f"{directory}/{name}" for name in disk.listdir(directory) if name.endswith(SEGMENT_SUFFIX)]


def list_unborn(disk: Disk, directory: str) -> list[str]:
    """Paths of segments whose creation was cut short: nothing was ever written to them."""
    return [f"{directory}/{name}" for name in disk.listdir(directory) if name.endswith(UNBORN_SUFFIX)]


def corrupt(path: str, offset: int, problem: str) -> CorruptionError:
    """The refusal: file, offset, what is wrong and what to do."""
    return CorruptionError(f"{path}: offset {offset}: {problem}; {REMEDY}")


def read_log(disk: Disk, directory: str, owner: Owner | None, *, keep_after: int = 0) -> LogContents:
    """Read every segment of `directory`, oldest first. Changes nothing on disk.

    Entries at or below index `keep_after` are checked and not returned. With `owner` None any owner will do.

    Raises CorruptionError (rule 1 above), and StorageError for a segment of another node or cluster.
    """
    contents = LogContents(TermRuns(0, 0))
    for path in list_segments(disk, directory):
        data = read_file(disk, path)
        header = decode_segment_header(data)
        if header is None:
            raise corrupt(path, 0, "the segment header is damaged, or of another format version")
        if owner is not None and owner != (header.cluster, header.node):
            raise StorageError(f"{path}: the segment belongs to another node or cluster; move it out of this directory")
        if len(data) < header.size_bytes:
            raise corrupt(path, len(data), f"cut short: the segment is {header.size_bytes} bytes long")
        _link(contents, path, header)
        _read_segment(contents, data, keep_after)
    contents.stillborn = list_unborn(disk, directory)
    if contents.stillborn and contents.segments:
        _check_before_stillborn(contents)
    return contents


def read_file(disk: Disk, path: str) -> bytes:
    """The whole file."""
    file = disk.open(path, read_only=True)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def _link(contents: LogContents, path: str, header: SegmentHeader) -> None:
    """Check that the segment goes on where the one before ends."""
    if not contents.segments:
        contents.runs = TermRuns(header.last_index, header.last_term or (None if header.last_index else 0))
        contents.tail.next_seq = header.group_seq + 1
    else:
        before = contents.segments[-1]
        if (header.seq, header.previous_id) != (before.header.seq + 1, before.header.segment_id):
            raise corrupt(path, 0, f"the segment does not follow {before.path}: one is missing or replaced")
        if header.group_seq + 1 != contents.tail.next_seq:
            lost = f"group {contents.tail.next_seq} is missing, group {header.group_seq} was the last"
            raise corrupt(before.path, contents.tail.offset, lost)
        if header.last_index != contents.runs.last_index:
            raise corrupt(path, 0, f"begins after entry {header.last_index}, not {contents.runs.last_index}")
    contents.segments.append(Segment(path, header))
    contents.tail = Tail(next_seq=contents.tail.next_seq)


def _check_before_stillborn(contents: LogContents) -> None:
    """A segment was about to follow, so all groups before it are durable: at most a mark may be half written."""
    segment, tail = contents.segments[-1], contents.tail
    if tail.dirty_end > tail.offset + GROUP_HEADER_BYTES:
        raise corrupt(segment.path, tail.offset, "damaged, although the next segment was begun")


def _read_segment(contents: LogContents, data: bytes, keep_after: int) -> None:
    """Walk the groups of the newest segment in `contents` until one is not whole, then judge the rest."""
    segment, tail = contents.segments[-1], contents.tail
    segment_id = segment.header.segment_id
    while True:
        group = decode_group(data, tail.offset, segment_id)
        if group is None:
            break
        if group.seq != tail.next_seq:
            raise corrupt(segment.path, tail.offset, f"group {group.seq} where group {tail.next_seq} belongs")
        if group.records == 0:
            tail.marked = True
            break
        records = decode_records(data, group)
        if records is None:
            break
        for record in records:
            _take(contents, segment, group, record, keep_after)
        tail.last_group, tail.offset, tail.next_seq = group.offset, group.end, group.seq + 1
    behind = tail.offset + (GROUP_HEADER_BYTES if tail.marked else 1)
    witness = find_group(data, behind, segment_id)
    if witness is not None:
        raise corrupt(segment.path, tail.offset, f"damaged; group {witness.seq} at offset {witness.offset} follows it")
    tail.dirty_end = max(tail.offset, content_end(data))


def _take(contents: LogContents, segment: Segment, group: Group, record: Record, keep_after: int) -> None:
    """Let one record take effect on the log read so far."""
    runs, entries = contents.runs, contents.entries
    index = record.at
    if record.type == RecordType.ENTRY:
        problem = runs.problem_with(index, record.term)
        if problem is not None:
            raise corrupt(segment.path, group.offset, problem)
        runs.append(index, record.term)
        segment.index_max = max(segment.index_max, index)
        if index > keep_after:
            entries.append((record.payload, index, record.term))
    elif record.type == RecordType.TRUNCATE and 0 < index <= runs.last_index + 1:
        runs.truncate_from(index)
        while entries and entries[-1][1] >= index:
            entries.pop()
    elif record.type == RecordType.RESET:
        contents.runs = TermRuns(index, record.term)
        entries.clear()
    else:
        raise corrupt(segment.path, group.offset, f"record of unknown type {record.type} or impossible index {index}")
