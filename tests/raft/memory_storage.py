"""A clock and a disk for the Raft cluster in memory: durable is what the test says; a crash forgets the rest."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from raftstore.raft.journal import Entry
from raftstore.raft.snapshots import SnapshotFile

MS = 1_000_000


class VirtualClock:
    """Local time of one node: what the test says, plus the node's own offset."""

    def __init__(self, offset_ns: int = 0) -> None:
        self.ns = 1_000_000_000
        self.offset_ns = offset_ns

    def now_ns(self) -> int:
        return self.ns + self.offset_ns

    def wall_ms(self) -> int:
        return self.ns // MS


class MemoryStorage:
    """LogStorage and SnapshotStore whose jobs become durable only when `sync` says so."""

    def __init__(self, *, voter: bool = True) -> None:
        self.term, self.voted_for, self.voter = 0, None, voter
        self.log: list[Entry] = []
        self.snapshot: SnapshotFile | None = None
        self.snapshot_bytes = b""
        self.kept: dict[bytes, bytes] = {}  # snapshots that can still be read
        self.fail_installs = 0
        self._reset_volatile()

    def _reset_volatile(self) -> None:
        self.jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self.callbacks: list[Callable[[], None]] = []
        self.last_job = 0
        self.incoming: SnapshotFile | None = None
        self.received = b""

    def _submit(self, work: Callable[[], None]) -> int:
        self.last_job += 1
        self.jobs.append((self.last_job, work))
        return self.last_job

    # --- LogStorage
    def append(self, entries: Sequence[Entry]) -> int:
        return self._submit(lambda: self._append(list(entries)))

    def _append(self, entries: list[Entry]) -> None:
        base = self.snapshot.index if self.snapshot else 0
        for entry in entries:
            if entry[1] <= base:
                continue
            last = self.log[-1][1] if self.log else base
            assert entry[1] == last + 1, f"the log on disk ends at {last}, entry {entry[1]} came"
            self.log.append(entry)

    def truncate_from(self, index: int) -> int:
        def work() -> None:
            self.log = [e for e in self.log if e[1] < index]

        return self._submit(work)

    def set_hard_state(self, term: int, voted_for: str | None, voter: bool) -> int:
        def work() -> None:
            self.term, self.voted_for, self.voter = term, voted_for, voter

        return self._submit(work)

    # --- SnapshotStore
    def latest(self) -> SnapshotFile | None:
        return self.snapshot

    def read(self, snapshot: SnapshotFile, offset: int, size: int) -> bytes:
        return self.kept.get(snapshot.sha256, b"")[offset : offset + size]

    def receive(self, snapshot: SnapshotFile, offset: int, data: bytes) -> int:
        if self.incoming != snapshot:
            self.incoming, self.received = snapshot, b""
        if offset <= len(self.received):
            self.received = self.received[:offset] + data + self.received[offset + len(data) :]
        return len(self.received)

    def install(self, snapshot: SnapshotFile, done: Callable[[bool], None]) -> None:
        data = self.received
        self.incoming, self.received = None, b""
        good = hashlib.sha256(data).digest() == snapshot.sha256 and not self.fail_installs
        self.fail_installs = max(0, self.fail_installs - 1)

        def work() -> None:
            if good:
                self._set_snapshot(snapshot, data)
            self.callbacks.append(lambda: done(good))

        self._submit(work)

    def save(self, index: int, term: int, state: list[Any], done: Callable[[], None]) -> None:
        """Write a snapshot of our own."""
        data = msgpack.packb(state)
        snapshot = SnapshotFile(index, term, len(data), hashlib.sha256(data).digest())

        def work() -> None:
            if self.snapshot is None or self.snapshot.index < index:
                self._set_snapshot(snapshot, data)
                self.callbacks.append(done)

        self._submit(work)

    def _set_snapshot(self, snapshot: SnapshotFile, data: bytes) -> None:
        held = {e[1]: e[2] for e in self.log}
        old = self.snapshot
        last = self.log[-1][1] if self.log else 0
        if held.get(snapshot.index) == snapshot.term:
            self.log = [e for e in self.log if e[1] > snapshot.index]
        elif last <= snapshot.index or snapshot.index in held:
            self.log = []
        self.snapshot, self.snapshot_bytes = snapshot, data
        self.kept = {snapshot.sha256: data} | ({old.sha256: self.kept.get(old.sha256, b"")} if old else {})

    # --- the disk
    def sync(self, count: int | None = None) -> int:
        """Make the next `count` jobs durable (all by default); the number of the last one."""
        job = 0
        while self.jobs and (count is None or count > 0):
            job, work = self.jobs.popleft()
            work()
            count = None if count is None else count - 1
        return job

    def crash(self) -> None:
        """Power off: what was not durable is forgotten."""
        self._reset_volatile()

    def state(self) -> list[Any]:
        return list(msgpack.unpackb(self.snapshot_bytes)) if self.snapshot else []
