"""Snapshots as the Raft room needs them: the newest of our own to send, and one that is being received.

Implements the Raft room's SnapshotStore port over the storage room's files. Runs on the node's loop; checking,
syncing and loading are done on other threads, which come back by posting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from raftstore.ownership import DueIndex, Machine, restore
from raftstore.raft.snapshots import SnapshotFile
from raftstore.storage.snapshot import SnapshotReceiver
from raftstore.storage.store import Store
from raftstore.storage.values import SnapshotInfo
from raftstore.storage.worker import Worker

Report = Callable[[str, str], None]


class SnapshotKeeper:
    """Snapshots for the Raft room (its SnapshotStore port): the newest of our own, and one that is being received."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        on_installed: Callable[[SnapshotInfo, Machine, DueIndex], None],
        report: Report,
        failed: Report,
    ) -> None:
        self._store = store
        self._worker = worker
        self._reader = store.snapshot_reader()
        self._loader = store.snapshot_reader()  # for the thread that restores
        self._on_installed = on_installed
        self._report = report
        self._failed = failed
        self._receiver: SnapshotReceiver | None = None
        self._known: deque[SnapshotInfo] = deque(maxlen=2)  # as many as stay on disk
        self._reported: object = None  # the last problem that was told
        self.is_installing = False

    def latest(self) -> SnapshotFile | None:
        info = self._store.latest_snapshot
        if info is None:
            return None
        if not self._known or self._known[-1] != info:
            self._known.append(info)
        return _as_file(info)

    def read(self, snapshot: SnapshotFile, offset: int, size: int) -> bytes:
        """Of the newest snapshot or the one before: a transfer that has begun may end."""
        self.latest()
        for info in self._known:
            if _as_file(info) == snapshot:
                return self._reader.read(info, offset, size)
        return b""

    def receive(self, snapshot: SnapshotFile, offset: int, data: bytes) -> int:
        receiver = self._receiver
        if receiver is None or _as_file(receiver.announced) != snapshot:
            if receiver is not None:
                receiver.abort()
            try:
                receiver = self._store.begin_receiving(snapshot.index, snapshot.term, snapshot.size, snapshot.sha256)
            except ValueError as problem:
                self._report("SNAPSHOT_REFUSED", str(problem))
                return 0
            self._receiver = receiver
        held = receiver.write(offset, data)
        self._report_problem(receiver)
        if receiver.wants_sync and held < snapshot.size:
            self._worker.sync_receiving(receiver)
        return held

    def install(self, snapshot: SnapshotFile, done: Callable[[bool], None]) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None  # receive() said that all is held
        self.is_installing = True

        def finished(info: SnapshotInfo | Exception | None) -> None:
            if isinstance(info, SnapshotInfo):
                loop = asyncio.get_running_loop()
                loading = loop.run_in_executor(None, self._load, info)
                loading.add_done_callback(lambda result: loaded(info, result))
            else:
                self._report_problem(receiver)
                self.is_installing = False
                done(False)

        def loaded(info: SnapshotInfo, result: asyncio.Future[tuple[Machine, DueIndex]]) -> None:
            problem = result.exception()
            if problem is not None:  # it passed its checksums and cannot be restored: a bug, so stop
                self._failed("SNAPSHOT_UNREADABLE", f"{info.path}: {problem}")
                return
            self._worker.install_snapshot(info)
            self.is_installing = False
            self._on_installed(info, *result.result())
            done(True)

        self._worker.finish_receiving(receiver, finished)

    def _load(self, info: SnapshotInfo) -> tuple[Machine, DueIndex]:
        """On another thread: with many sessions it takes seconds."""
        machine = restore(self._loader.chunks(info))
        return machine, DueIndex(machine)

    def _report_problem(self, receiver: SnapshotReceiver) -> None:
        problem = receiver.problem
        if problem is not None and problem is not self._reported:
            self._reported = problem
            self._report("SNAPSHOT_NOT_RECEIVED", str(problem))

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.abort()
        self._reader.close()
        self._loader.close()


def _as_file(info: SnapshotInfo) -> SnapshotFile:
    return SnapshotFile(info.index, info.term, info.size_bytes, info.sha256)
