"""Defects in storage: what was said to be durable and is not, and what is read back although it is damaged."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, patched, several
from raftstore.errors import CorruptionError
from raftstore.node.persistence import Persistence
from raftstore.ownership import Machine
from raftstore.storage import wal, wal_reading
from raftstore.storage.snapshot import SnapshotDirectory, SnapshotWriter
from raftstore.storage.store import Store
from raftstore.storage.values import SnapshotInfo
from raftstore.storage.wal_format import _RECORD, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, Record, RecordType


def _no_sync(self: Any) -> None:
    """The log is written and never synced."""
    if not self._pending:
        return
    file, _ = self._active()
    file.datasync, kept = (lambda: None), file.datasync
    try:
        _sync(self)
    finally:
        file.datasync = kept


_sync = wal.Wal.sync


def _torn_records(data: bytes, group: Any) -> Any:
    """Records are taken without a look at their checksums."""
    found, offset = [], group.offset + GROUP_HEADER_BYTES
    for _ in range(group.records):
        if offset + RECORD_HEADER_BYTES > len(data):
            return None
        length, _, kind, index, term = _RECORD.unpack_from(data, offset)
        start = offset + RECORD_HEADER_BYTES
        found.append(Record(RecordType(kind), index, term, data[start : start + length]))
        offset = start + length
    return found


def _deaf_sync(self: Any) -> None:
    """A sync that failed is taken for one that did not."""
    if not self._pending:
        return
    file, _ = self._active()
    datasync = file.datasync

    def deaf() -> None:
        with suppress(OSError):
            datasync()

    file.datasync = deaf
    try:
        _sync(self)
    finally:
        file.datasync = datasync


def _starts_anew(original: Any) -> Any:
    """Where there is a snapshot the log is cleared at a start, though it goes on behind it."""

    def reconcile(self: Any, snapshot: Any, entries: Any) -> Any:
        if snapshot is None:
            return original(self, snapshot, entries)
        self._wal.reset(snapshot.index, snapshot.term)
        return []

    return reconcile


def _unsynced(self: Any) -> None:
    """A snapshot gets its name before its bytes are on disk."""
    self._unsynced_bytes = 0


def _name_is_enough(original: Any) -> Any:
    """A damaged snapshot counts by its name."""

    def check(self: Any, index: int, term: int) -> SnapshotInfo:
        try:
            return original(self, index, term)  # type: ignore[no-any-return]
        except CorruptionError:
            return SnapshotInfo(index, term, self.path_of(index, term), 1, bytes(32))

    return check


def _empty_where_damaged(original: Any) -> Any:
    """What cannot be read is nothing."""

    def restore(self: Any, snapshot: Any) -> Machine:
        try:
            return original(self, snapshot)  # type: ignore[no-any-return]
        except CorruptionError:
            return Machine()

    return restore


STORAGE_MUTANTS: dict[str, Mutant] = {
    "log-never-synced": attribute(wal.Wal, "sync", lambda _: _no_sync),
    "failed-sync-ignored": attribute(wal.Wal, "sync", lambda _: _deaf_sync),
    "torn-tail-accepted": lambda: patched(wal_reading, "decode_records", _torn_records),
    "snapshot-clears-the-log": attribute(Store, "_reconcile", _starts_anew),
    "snapshot-never-synced": attribute(SnapshotWriter, "_sync", lambda _: _unsynced),
    "damaged-snapshot-is-empty": several(
        attribute(SnapshotDirectory, "check", _name_is_enough),
        attribute(Persistence, "_restore", _empty_where_damaged),
    ),
}
