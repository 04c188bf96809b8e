"""Looking into a data directory without changing or locking it: behind `raftstore wal verify` and `wal dump`.

Reads with the same code as recovery and reports plain values; how they are shown is left to the command line. A
directory in use may be inspected: what is being written at that moment shows as an unfinished tail.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

from raftstore.errors import StorageError
from raftstore.ports import Disk
from raftstore.storage import hard_state as hard_states
from raftstore.storage.identity import read_identity
from raftstore.storage.snapshot_format import check_file, parse_name
from raftstore.storage.values import HardState, Limits
from raftstore.storage.wal_format import (
    GROUP_HEADER_BYTES,
    HEADER_BYTES,
    Group,
    Record,
    RecordType,
    decode_group,
    decode_records,
    decode_segment_header,
    find_group,
)
from raftstore.storage.wal_reading import LogContents, corrupt, list_segments, read_file, read_log

OK = "ok"
NOTE = "note"  # the next start repairs it; nothing acknowledged is concerned
BAD = "bad"  # the node refuses to start


class Finding(NamedTuple):
    """One line of a verification. `level` is OK, NOTE or BAD; `offset` is in bytes."""

    level: str
    file: str
    offset: int
    detail: str


class RecordView(NamedTuple):
    """One record of the log. `kind` is ENTRY, TRUNCATE or RESET; `offset` is that of its group."""

    file: str
    offset: int
    group: int
    kind: str
    at: int
    term: int
    payload: bytes


def verify(disk: Disk, directory: str, *, limits: Limits | None = None) -> Iterator[Finding]:
    """Check identity, hard state, snapshots and log, and that they fit each other. One finding per file at least."""
    yield from _verify_identity(disk, directory)
    state = yield from _verify_hard_state(disk, directory)
    snapshot_index = yield from _verify_snapshots(disk, directory, limits or Limits())
    yield from _verify_log(disk, directory, state, snapshot_index)


def dump(disk: Disk, directory: str, *, first: int = 0, last: int | None = None) -> Iterator[RecordView]:
    """The records of the log in the order written, voided ones too, of indexes `first` to `last`.

    Goes on behind damage where it can, so that people can see what is left. Raises OSError only.
    """
    for path in list_segments(disk, f"{directory}/wal"):
        data = read_file(disk, path)
        header = decode_segment_header(data)
        if header is None:
            continue
        for group, records in _groups(data, header.segment_id):
            for record in records:
                if record.at >= first and (last is None or record.at <= last):
                    yield _view(path, group, record)


def _groups(data: bytes, segment_id: bytes) -> Iterator[tuple[Group, list[Record]]]:
    offset = HEADER_BYTES
    while True:
        group = decode_group(data, offset, segment_id) or find_group(data, offset + 1, segment_id)
        if group is None:
            return
        records = decode_records(data, group)
        if records is None:
            offset = group.offset + GROUP_HEADER_BYTES
            continue
        yield group, records
        offset = group.end


def _view(path: str, group: Group, record: Record) -> RecordView:
    known = {int(kind): kind.name for kind in RecordType}
    kind = known.get(record.type, f"UNKNOWN({record.type})")
    return RecordView(path, group.offset, group.seq, kind, record.at, record.term, record.payload)


def _verify_identity(disk: Disk, directory: str) -> Iterator[Finding]:
    path = f"{directory}/identity"
    try:
        identity = read_identity(disk, directory)
    except StorageError as error:
        yield Finding(BAD, path, 0, str(error))
        return
    if identity is None:
        yield Finding(BAD, path, 0, "missing: not a data directory, or its setup was interrupted")
    else:
        yield Finding(OK, path, 0, f"node {identity.node_id!r} of cluster {identity.cluster!r}, {identity.strategy}")


def _verify_hard_state(disk: Disk, directory: str) -> Generator[Finding, None, HardState | None]:
    """Yields findings; its value is the hard state."""
    path = f"{directory}/{hard_states.FILE_NAME}"
    if not disk.exists(path):
        yield Finding(NOTE, path, 0, "not there: nothing was ever promised from this directory, or the file was lost")
        return None
    try:
        _, state, events = hard_states.read_copies(disk, directory)
    except StorageError as error:
        yield Finding(BAD, path, 0, str(error))
        return None
    for event in events:
        yield Finding(NOTE, path, event.offset, event.detail)
    yield Finding(OK, path, 0, f"term {state.term}, voted for {state.voted_for}, voter {state.voter}")
    return state


def _verify_snapshots(disk: Disk, directory: str, limits: Limits) -> Generator[Finding, None, int]:
    """Yields findings; its value is the index of the newest whole snapshot, 0 when there is none."""
    newest = 0
    folder = f"{directory}/snapshots"
    for name in disk.listdir(folder) if disk.exists(folder) else []:
        path, covers = f"{folder}/{name}", parse_name(name)
        if covers is None:
            yield Finding(NOTE, path, 0, "not a complete snapshot: left over, or being written")
            continue
        file = disk.open(path, read_only=True)
        try:
            header, sha256 = check_file(file, path, limits.snapshot_chunk_bytes_max)
            if (header.index, header.term) != covers:
                raise corrupt(path, 0, f"the header says entry {header.index} of term {header.term}")
        except StorageError as error:
            yield Finding(BAD, path, 0, str(error))
        else:
            newest = max(newest, header.index)
            detail = f"covers entry {header.index} of term {header.term}, {file.size()} bytes, sha256 {sha256.hex()}"
            yield Finding(OK, path, 0, detail)
        finally:
            file.close()
    return newest


def _verify_log(disk: Disk, directory: str, state: HardState | None, snapshot_index: int) -> Iterator[Finding]:
    folder = f"{directory}/wal"
    try:
        contents = read_log(disk, folder, None)
        if not contents.segments:
            raise corrupt(folder, 0, "the log has no segment")
    except (StorageError, FileNotFoundError) as error:
        yield Finding(BAD, folder, 0, str(error))
        return
    for segment in contents.segments:
        header = segment.header
        detail = f"segment {header.seq}, after entry {header.last_index} of term {header.last_term}"
        yield Finding(OK, segment.path, 0, detail)
    yield from _verify_tail(contents)
    runs = contents.runs
    if runs.base_index > snapshot_index:
        detail = f"begins after entry {runs.base_index}, but no whole snapshot reaches beyond {snapshot_index}"
        yield Finding(BAD, folder, 0, detail)
    if runs.last_index > 0 and (state is None or state.term < runs.last_term):
        yield Finding(BAD, folder, 0, f"the log knows term {runs.last_term}, the hard state does not")
    yield Finding(OK, folder, 0, f"entries {runs.base_index + 1} to {runs.last_index}, last term {runs.last_term}")


def _verify_tail(contents: LogContents) -> Iterator[Finding]:
    segment, tail = contents.segments[-1], contents.tail
    for path in contents.stillborn:
        yield Finding(NOTE, path, 0, "a segment that was being created; nothing was written to it")
    excess = tail.dirty_end - tail.offset - (GROUP_HEADER_BYTES if tail.marked else 0)
    if excess > 0:
        yield Finding(NOTE, segment.path, tail.offset, f"{excess} bytes of a write not acknowledged, or under way")
