"""The write-ahead log: a row of segment files to which groups of records are appended.

Knows how to make records durable in an order that `wal_reading.py` can judge after a crash: one group at a time,
each written and synced before the next. Never changes or cuts what it has made durable; a conflict in the Raft log is
a TRUNCATE record, an installed snapshot a RESET record. Leaves to its callers when to sync, which thread that is, and
what an OSError means (they must not go on after one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raftstore.ports import Disk, File
from raftstore.storage.terms import TermRuns
from raftstore.storage.values import PARTIAL_WRITE, Entry, Limits, SecurityEvent
from raftstore.storage.wal_format import (
    GROUP_HEADER_BYTES,
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Record,
    RecordType,
    SegmentHeader,
    encode_group,
    encode_segment_header,
    group_bytes,
)
from raftstore.storage.wal_reading import (
    SEGMENT_SUFFIX,
    UNBORN_SUFFIX,
    LogContents,
    Owner,
    Segment,
    Tail,
    corrupt,
    read_log,
    segment_name,
)

SEGMENT_ID_BYTES = 16


class Wal:
    """The log of one node. One thread at a time. Every method but the properties may raise OSError."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        owner: Owner,
        *,
        limits: Limits,
        entropy: Callable[[int], bytes],
        contents: LogContents,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._owner = owner
        self._limits = limits
        self._entropy = entropy
        self._runs = contents.runs
        self._segments = contents.segments
        self._tail: Tail = contents.tail
        self._file: File | None = None
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._written = (contents.runs.last_index, contents.runs.last_term)  # what the groups on disk say

    @classmethod
    def create(
        cls, disk: Disk, directory: str, owner: Owner, *, limits: Limits, entropy: Callable[[int], bytes]
    ) -> Wal:
        """Begin a log in an empty directory; durable on return."""
        wal = cls(disk, directory, owner, limits=limits, entropy=entropy, contents=read_log(disk, directory, owner))
        wal._begin_segment()
        return wal

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        owner: Owner,
        *,
        limits: Limits,
        entropy: Callable[[int], bytes],
        keep_after: int = 0,
    ) -> tuple[Wal, list[Entry], list[SecurityEvent]]:
        """Recover the log: the entries after `keep_after`, all durable on return, and what had to be cut.

        Raises CorruptionError when an acknowledged record may be lost or changed, StorageError for a foreign log.
        """
        contents = read_log(disk, directory, owner, keep_after=keep_after)
        if not contents.segments:
            raise corrupt(directory, 0, "the log has no segment")
        wal = cls(disk, directory, owner, limits=limits, entropy=entropy, contents=contents)
        return wal, contents.entries, wal._repair(contents)

    # --- recovery ------------------------------------------------------------------------------------
    def _repair(self, contents: LogContents) -> list[SecurityEvent]:
        """Cut what was never acknowledged and make durable what was read.

        What this process read may stand in the page cache only (the process before was killed, or its sync failed):
        the last group, the only one that can be so, is written again before it counts. Behind it zeros are written
        and synced, so that cut bytes cannot be read as valid later, however often the machine stops meanwhile.
        """
        events: list[SecurityEvent] = []
        for path in contents.stillborn:
            detail = "a segment that was being created; nothing had been written to it"
            events.append(SecurityEvent(PARTIAL_WRITE, path, 0, detail))
            self._disk.unlink(path)
        self._disk.sync_dir(self._directory)
        segment, tail = self._segments[-1], self._tail
        mark_end = tail.offset + (GROUP_HEADER_BYTES if tail.marked else 0)
        if tail.dirty_end > mark_end:
            detail = f"{tail.dirty_end - mark_end} bytes of a group whose write was never acknowledged were cut"
            events.append(SecurityEvent(PARTIAL_WRITE, segment.path, tail.offset, detail))
        self._file = file = self._disk.open(segment.path)
        start = tail.last_group if tail.last_group is not None else 0
        file.pwrite(file.pread(tail.offset - start, start), start)
        file.pwrite(encode_segment_header(segment.header), 0)
        if tail.dirty_end > tail.offset:
            file.pwrite(bytes(tail.dirty_end - tail.offset), tail.offset)
        file.datasync()
        self._write_mark()
        file.datasync()
        return events

    # --- state ---------------------------------------------------------------------------------------
    @property
    def first_index(self) -> int:
        """The oldest index this log can hold: the one behind its base."""
        return self._runs.base_index + 1

    @property
    def last_index(self) -> int:
        return self._runs.last_index

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 where it is not known."""
        return self._runs.last_term

    @property
    def segment_paths(self) -> list[str]:
        """The segment files, oldest first; the last one is being written."""
        return [segment.path for segment in self._segments]

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None when the log does not hold it."""
        return self._runs.at(index)

    @property
    def is_dirty(self) -> bool:
        """Whether records wait for `sync`."""
        return bool(self._pending)

    # --- writing -------------------------------------------------------------------------------------
    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; durable after `sync`. ValueError, before any of them is taken, when they do not fit."""
        index, term = self._runs.last_index, self._runs.last_term
        for payload, entry_index, entry_term in entries:
            if entry_index != index + 1 or entry_term < term:
                raise ValueError(f"entry {entry_index} of term {entry_term} does not follow {index} of term {term}")
            if len(payload) > self._limits.record_bytes_max:
                raise ValueError(f"entry {entry_index}: {len(payload)} bytes exceed record_bytes_max")
            index, term = entry_index, entry_term
        for payload, entry_index, entry_term in entries:
            self._add(Record(RecordType.ENTRY, entry_index, entry_term, payload))
            self._runs.append(entry_index, entry_term)

    def truncate_from(self, index: int) -> None:
        """Void every entry from `index` on; durable after `sync`."""
        if not self._runs.base_index < index <= self._runs.last_index:
            raise ValueError(f"cannot truncate from {index}: the log is {self.first_index} to {self.last_index}")
        self._add(Record(RecordType.TRUNCATE, index, 0, b""))
        self._runs.truncate_from(index)

    def sync(self) -> None:
        """Make all that was added durable: one write and one sync per group."""
        if not self._pending:
            return
        tail = self._tail
        size_bytes = self._segments[-1].header.size_bytes  # not that of the configuration, which may have changed
        if tail.offset + group_bytes(self._pending) > size_bytes - GROUP_HEADER_BYTES:
            self._begin_segment()
            tail = self._tail
        file, segment = self._active()
        data = encode_group(self._pending, tail.next_seq, tail.offset, segment.header.segment_id)
        file.pwrite(data, tail.offset)
        file.datasync()
        tail.offset += len(data)
        tail.next_seq += 1
        tail.marked = False
        for record in self._pending:
            if record.type == RecordType.ENTRY and record.at > segment.index_max:
                segment.index_max = record.at
        self._pending = []
        self._pending_bytes = 0
        self._written = (self._runs.last_index, self._runs.last_term)

    def mark(self) -> None:
        """Write the mark behind the last group, which is durable. Not synced: it is a witness, not a promise."""
        if not self._tail.marked:
            self._write_mark()

    def reset(self, index: int, term: int) -> None:
        """Go on after the snapshot at (`index`, `term`), which is durable: every entry is void. Durable on return."""
        self._pending = []
        self._pending_bytes = 0
        self._begin_segment()
        self._runs = TermRuns(index, term)
        self._add(Record(RecordType.RESET, index, term, b""))
        self.sync()
        while len(self._segments) > 1:
            self._drop_oldest()

    def drop_through(self, index: int) -> int:
        """Remove whole segments that hold nothing beyond `index`, which a durable snapshot covers; how many."""
        dropped = 0
        while len(self._segments) > 1 and self._segments[0].index_max <= index:
            self._drop_oldest()
            dropped += 1
        return dropped

    def close(self) -> None:
        """Sync the rest, leave a durable mark, close the file."""
        if self._file is not None:
            self.sync()
            self.mark()
            self._file.datasync()
        self.abandon()

    def abandon(self) -> None:
        """Close the file and write nothing: what a failed disk gets."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    # --- inside --------------------------------------------------------------------------------------
    def _add(self, record: Record) -> None:
        size = RECORD_HEADER_BYTES + len(record.payload)
        room = min(self._limits.group_bytes_max, self._limits.segment_bytes - HEADER_BYTES - 8 * GROUP_HEADER_BYTES)
        if self._pending and self._pending_bytes + size > room:
            self.sync()
        self._pending.append(record)
        self._pending_bytes += size

    def _active(self) -> tuple[File, Segment]:
        if self._file is None:
            raise ValueError("the log is closed")
        return self._file, self._segments[-1]

    def _write_mark(self) -> None:
        file, segment = self._active()
        tail = self._tail
        file.pwrite(encode_group((), tail.next_seq, tail.offset, segment.header.segment_id), tail.offset)
        tail.marked = True

    def _begin_segment(self) -> None:
        """Create the next segment: durable, name included, before any group goes into it."""
        before = self._segments[-1].header if self._segments else None
        last_index, last_term = self._written
        header = SegmentHeader(
            seq=before.seq + 1 if before else 1,
            segment_id=self._entropy(SEGMENT_ID_BYTES),
            previous_id=before.segment_id if before else bytes(SEGMENT_ID_BYTES),
            cluster=self._owner.cluster,
            node=self._owner.node,
            last_index=last_index,
            last_term=last_term,
            group_seq=self._tail.next_seq - 1,
            size_bytes=self._limits.segment_bytes,
        )
        path = f"{self._directory}/{segment_name(header.seq, last_index + 1)}"
        unborn = path.removesuffix(SEGMENT_SUFFIX) + UNBORN_SUFFIX
        file = self._disk.open(unborn, create=True)
        file.preallocate(header.size_bytes)
        file.pwrite(encode_segment_header(header), 0)
        file.datasync()
        self._disk.rename(unborn, path)
        self._disk.sync_dir(self._directory)
        self.abandon()
        self._file = file
        self._segments.append(Segment(path, header))
        self._tail = Tail(next_seq=self._tail.next_seq)

    def _drop_oldest(self) -> None:
        """Each removal is durable before the next, so that a crash never leaves a gap in the row."""
        self._disk.unlink(self._segments.pop(0).path)
        self._disk.sync_dir(self._directory)
        self._runs.forget_through(self._segments[0].header.last_index)
