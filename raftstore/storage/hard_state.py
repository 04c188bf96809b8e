"""Term, vote and voter flag on disk: two copies in one file, so that no single fault loses or changes a vote.

The file has two slots, each in a block of its own. A new state goes to slot 0, is synced, then to slot 1, is synced,
and only then is it acknowledged. So at rest both slots hold the same, and slot 0 is never older than slot 1:

    slot 0     slot 1     what happened                                          answer
    n          n          at rest                                                n
    n + 1      n          the machine stopped between the two writes             n + 1 (n would do: n + 1 was not
                                                                                 acknowledged)
    bad        n          slot 0 was being written (n + 1, not acknowledged),    n
                          or is damaged, and n is its copy
    n          bad        slot 1 was being written, or is damaged                n
    bad        bad        two faults                                             refuse to start
    n          other      slot 1 newer, or two behind: a write was lost          refuse to start

A slot that is bad can thus never hide an acknowledged vote, and a flipped bit cannot roll one back. Recovery writes
the answer to both slots again, which also covers a process that was killed before its sync.
"""

from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import msgpack

from raftstore.ports import Disk, File
from raftstore.storage.values import PARTIAL_WRITE, HardState, SecurityEvent
from raftstore.storage.wal_reading import corrupt

FILE_NAME = "hard_state"
SLOT_BYTES = 4096
VOTED_FOR_BYTES_MAX = 1024
MAGIC = b"RSTHARD\x01"
_HEAD = struct.Struct("<8sIQI")
_COVERED = struct.Struct("<QI")


class HardStateFile:
    """The hard state of one node. One thread at a time; methods may raise OSError."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._path = f"{directory}/{FILE_NAME}"
        self._file: File | None = None
        self._seq = 0
        self.current: HardState | None = None

    def open(self) -> list[SecurityEvent]:
        """Recover `current`; None when the file was never created. Raises CorruptionError."""
        temporary = f"{self._path}.tmp"
        if self._disk.exists(temporary):
            self._disk.unlink(temporary)
        if not self._disk.exists(self._path):
            return []
        self._seq, state, events = read_copies(self._disk, self._directory)
        bad = events[0].offset // SLOT_BYTES if events else 0
        self._file = self._disk.open(self._path)
        self._write(self._file, _encode(self._seq, state), first=bad)  # never the only good copy before the other
        self.current = state
        return events

    def store(self, state: HardState) -> None:
        """Replace the state; durable in both slots on return. ValueError when the term goes back."""
        if self.current is not None and state.term < self.current.term:
            raise ValueError(f"term {state.term} is before {self.current.term}")
        if state.voted_for is not None and len(state.voted_for.encode("utf-8")) > VOTED_FOR_BYTES_MAX:
            raise ValueError(f"voted_for exceeds {VOTED_FOR_BYTES_MAX} bytes")
        self._seq += 1
        data = _encode(self._seq, state)
        if self._file is None:
            self._create(data)
        else:
            self._write(self._file, data, first=0)
        self.current = state

    def close(self) -> None:
        """Close the file; everything in it is durable already."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _create(self, data: bytes) -> None:
        """Written aside and renamed: a file of this name always had two good slots."""
        temporary = f"{self._path}.tmp"
        file = self._disk.open(temporary, create=True)
        self._file = file
        file.preallocate(2 * SLOT_BYTES)
        file.pwrite(data + data, 0)
        file.datasync()
        self._disk.rename(temporary, self._path)
        self._disk.sync_dir(self._directory)

    @staticmethod
    def _write(file: File, data: bytes, *, first: int) -> None:
        for slot in (first, 1 - first):
            file.pwrite(data, slot * SLOT_BYTES)
            file.datasync()


def read_copies(disk: Disk, directory: str) -> tuple[int, HardState, list[SecurityEvent]]:
    """(number, state, events) by the table above. Changes nothing on disk. Raises CorruptionError."""
    path = f"{directory}/{FILE_NAME}"
    file = disk.open(path, read_only=True)
    try:
        first, second = (_decode(file.pread(SLOT_BYTES, slot * SLOT_BYTES)) for slot in (0, 1))
    finally:
        file.close()
    found = first or second
    if found is None:
        raise corrupt(path, 0, "both copies of the hard state are damaged")
    if first is not None and second is not None:
        ahead = first[0] - second[0]
        if ahead not in (0, 1) or (ahead == 0 and first != second):
            problem = f"the copies are numbered {first[0]} and {second[0]} and differ: a write was lost"
            raise corrupt(path, SLOT_BYTES, problem)
        return *found, []
    bad = 0 if first is None else 1
    detail = f"copy {bad} of the hard state was not whole; copy {1 - bad} (term {found[1].term}) stands"
    return *found, [SecurityEvent(PARTIAL_WRITE, path, bad * SLOT_BYTES, detail)]


def _encode(seq: int, state: HardState) -> bytes:
    """One slot. The empty map is room for fields to come."""
    body: bytes = msgpack.packb([*state, {}], use_bin_type=True)
    crc = crc32(body, crc32(_COVERED.pack(seq, len(body))))
    return (_HEAD.pack(MAGIC, crc, seq, len(body)) + body).ljust(SLOT_BYTES, b"\0")


def _decode(data: bytes) -> tuple[int, HardState] | None:
    """(number, state) of a slot; None when it is not whole."""
    if len(data) < SLOT_BYTES:
        return None
    magic, crc, seq, length = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if magic != MAGIC or len(body) != length or crc != crc32(body, crc32(_COVERED.pack(seq, length))):
        return None
    fields: Any = msgpack.unpackb(body, raw=False)
    match fields:
        case [int(term), str() | None as voted_for, bool(voter), dict()]:
            return seq, HardState(term, voted_for, voter)
        case _:
            return None
