"""A node's disk as the node uses it: recover, write the log, take and install snapshots, watch the space.

Brings together the storage room, which knows files, and the Raft room, which knows what must be in them. Everything
here runs on the node's loop; what blocks is done by the storage worker's threads, which come back by posting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from raftstore.config import ClusterConfig
from raftstore.errors import StorageError
from raftstore.node.audit import AuditTrail
from raftstore.node.histogram import Histogram
from raftstore.node.snapshot_keeper import Report, SnapshotKeeper
from raftstore.node.surroundings import PRODUCTION, Surroundings
from raftstore.ownership import DueIndex, FrozenState, Machine, restore
from raftstore.raft.journal import HardenedJournal
from raftstore.storage.store import Store
from raftstore.storage.values import Entry, HardState, Limits, Recovered, SnapshotInfo
from raftstore.storage.worker import Worker

if TYPE_CHECKING:
    from raftstore.node.core import Core

KEEP_BYTES = 32 << 20  # kept in memory behind a snapshot beside `Surroundings.keep_entries`, whichever is less
HEALTH_STALL_NS = 5_000_000_000  # a group commit that takes longer counts as a disk that does not answer
AUDIT_WAIT_S = 10.0  # for the audit files, before a snapshot is put off
PUT_OFF_FACTOR = 8  # beyond so many times the usual interval the log is cut all the same: memory is bounded


class Persistence:
    """Storage of one running node."""

    def __init__(
        self,
        config: ClusterConfig,
        node_id: str,
        loop: asyncio.AbstractEventLoop,
        *,
        wall_ms: Callable[[], int],
        report: Report,
        failed: Report,
        surroundings: Surroundings = PRODUCTION,
    ) -> None:
        self._around = surroundings
        self._wall_ms = wall_ms
        self._config = config
        self._node_id = node_id
        self._loop = loop
        self._report = report
        self._failed = failed
        self._directory = str(config.node(node_id).data_dir)
        self._core: Core | None = None
        self._audit: AuditTrail | None = None
        self._store: Store | None = None
        self._writing_snapshot = False
        self._durable_seen = (0, 0)  # (last durable job, when it was first seen behind)
        self._free_bytes: int | None = None
        self._is_short = False
        self._appended: deque[tuple[int, int]] = deque()  # (job, when) not durable yet; the worker's backlog bounds it
        self.sync_latency = Histogram()  # from an append to its being durable
        self.snapshots_written = 0
        self.bytes_since_snapshot = 0

    async def open(self) -> Machine:
        """Recover the data directory; the machine as of its snapshot. StorageError, CorruptionError."""
        store, recovered = await self._loop.run_in_executor(None, self._open_store)
        self._store = store
        for event in recovered.events:
            self._report(event.kind, f"{event.file} at offset {event.offset}: {event.detail}")
        try:
            machine = await self._loop.run_in_executor(None, lambda: self._restore(recovered.snapshot))
        except BaseException:
            self._store = None
            await self._loop.run_in_executor(None, store.close)  # the directory is free for whoever tries next
            raise
        self._worker: Worker = self._around.storage_worker(
            store,
            post=self._post,
            on_durable=self._on_durable,
            on_failure=self._on_failure,
            on_space=self._on_space,
        )
        self._worker.start()
        self.keeper = SnapshotKeeper(store, self._worker, self._installed, self._report, self._failed)
        self.journal = self._make_journal(recovered)
        return machine

    def _open_store(self) -> tuple[Store, Recovered]:
        limits = Limits(
            segment_bytes=self._config.storage.wal_segment_bytes,
            record_bytes_max=min(2 * self._config.limits.entry_bytes_max, self._config.storage.wal_segment_bytes // 2),
        )
        store, recovered = Store.open(
            self._around.disk(),
            self._directory,
            cluster=self._config.cluster,
            node_id=self._node_id,
            strategy=self._config.strategy,
            limits=limits,
            entropy=self._around.entropy,
            wall_ms=self._wall_ms(),
        )
        if recovered.hard_state is None:
            store.set_hard_state(HardState(0, None, False))  # nothing is remembered here: no vote until caught up
        return store, recovered

    def _restore(self, snapshot: SnapshotInfo | None) -> Machine:
        if snapshot is None or self._store is None:
            return Machine()
        reader = self._store.snapshot_reader()
        try:
            return restore(reader.chunks(snapshot))
        except ValueError as problem:
            raise StorageError(f"{snapshot.path}: cannot be restored: {problem}") from None
        finally:
            reader.close()

    def _make_journal(self, recovered: Recovered) -> HardenedJournal:
        state = recovered.hard_state or HardState(0, None, False)
        base = recovered.snapshot
        return HardenedJournal(
            self,
            base_index=base.index if base else 0,
            base_term=base.term if base else 0,
            entries=recovered.entries,
            term=state.term,
            voted_for=state.voted_for,
            voter=state.voter,
        )

    def attach(self, core: Core, audit: AuditTrail) -> None:
        """From here on there is a node that uses it."""
        self._core = core
        self._audit = audit
        self._last_snapshot_index = self.journal.base_index
        core.why_storage_refuses = self.why_refused

    async def close(self) -> None:
        """Write what is queued and release the directory.

        A disk that fails now is reported, and stops nobody from stopping: what was acknowledged is durable already.
        """
        store, self._store = self._store, None
        if store is None:
            return
        self.keeper.close()
        await self._loop.run_in_executor(None, self._worker.close)
        try:
            await self._loop.run_in_executor(None, store.close)
        except StorageError as problem:
            self._report("STORAGE_FAILED", str(problem))

    def _post(self, task: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task)

    # --- the journal's storage (LogStorage) ----------------------------------------------------------------------
    def append(self, entries: Sequence[Entry]) -> int:
        self.bytes_since_snapshot += sum(len(entry[0]) for entry in entries)
        job = self._worker.append(entries)
        if self._core is not None:
            self._appended.append((job, self._core.clock.now_ns()))
        return job

    def truncate_from(self, index: int) -> int:
        return self._worker.truncate_from(index)

    def set_hard_state(self, term: int, voted_for: str | None, voter: bool) -> int:
        return self._worker.set_hard_state(term, voted_for, voter)

    # --- news from the worker ----------------------------------------------------------------------------------
    def _on_durable(self, job: int) -> None:
        if self._core is None:
            return
        now = self._core.clock.now_ns()
        while self._appended and self._appended[0][0] <= job:
            self.sync_latency.observe_ns(now - self._appended.popleft()[1])
        self._core.on_durable(job)

    def _on_failure(self, error: Exception) -> None:
        self._failed("STORAGE_FAILED", str(error))

    def _on_space(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        core = self._core
        if core is None:
            return
        was_short, limit = self._is_short, self._config.storage.disk_free_min_bytes
        self._is_short = free_bytes < limit
        if self._is_short:
            if not was_short:
                detail = f"{self._directory}: {free_bytes} bytes free, storage.disk_free_min_bytes is {limit}"
                self._report("DISK_SHORT", f"{detail}: new ops are refused here until there is room")
            if core.raft.transfer_leadership() is not None:
                core.ask_step()
        elif was_short:
            self._report("DISK_SHORT_OVER", f"{self._directory}: {free_bytes} bytes free, ops are taken again")

    def why_refused(self) -> str | None:
        """Why no new op should be taken: the disk cannot follow, or is about to be full."""
        if self._is_short:
            return f"disk space is short ({self._free_bytes} bytes free in {self._directory})"
        if self._worker.is_full:
            return f"{self._worker.backlog_bytes} bytes wait for the disk"
        return None

    # --- house-keeping -------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """A few times per second: space, and whether it is time for a snapshot."""
        core = self._core
        if core is None or core.stopped is not None:
            return
        self._watch_progress()
        try:
            self._worker.check_space()
        except StorageError as problem:
            self._failed("STORAGE_FAILED", str(problem))
            return
        if self._is_snapshot_due(core):
            self._write_snapshot(core)

    def _watch_progress(self) -> None:
        worker = self._worker
        if worker.durable != self._durable_seen[0] or worker.durable == worker.submitted:
            assert self._core is not None
            self._durable_seen = (worker.durable, self._core.clock.now_ns())

    def health(self) -> tuple[bool, str]:
        """Whether the disk answers."""
        worker = self._worker
        if worker.failure is not None:
            return False, f"failed: {worker.failure}"
        core = self._core
        waits = worker.submitted - worker.durable
        if core is not None and waits and core.clock.now_ns() - self._durable_seen[1] > HEALTH_STALL_NS:
            return False, f"{waits} jobs wait for more than {HEALTH_STALL_NS // 1_000_000_000} s"
        return True, "ok"

    def counters(self) -> dict[str, int]:
        return {
            "storage_backlog_bytes": self._worker.backlog_bytes,
            "storage_jobs": self._worker.submitted,
            "snapshots_written": self.snapshots_written,
            "disk_free_bytes": -1 if self._free_bytes is None else self._free_bytes,
        }

    # --- snapshots -------------------------------------------------------------------------------------------------
    def _is_snapshot_due(self, core: Core) -> bool:
        if self._writing_snapshot or self.keeper.is_installing or self._audit is None:
            return False
        storage = self._config.storage
        entries = core.raft.last_applied - self._last_snapshot_index
        if entries < storage.snapshot_every_entries and self.bytes_since_snapshot < storage.snapshot_every_bytes:
            return False
        return entries > 0

    def _write_snapshot(self, core: Core) -> None:
        index = core.raft.last_applied
        term = self.journal.term_at(index)
        assert term is not None
        self._writing_snapshot = True
        self.bytes_since_snapshot = 0
        frozen = core.replica.machine.freeze_state()

        def written(info: SnapshotInfo | Exception) -> None:
            frozen.release()
            self._snapshot_written(info)

        self._worker.write_snapshot(index, term, self._behind_audit(frozen), written)

    def _behind_audit(self, frozen: FrozenState) -> Iterator[bytes]:
        """The state's chunks, once the audit files hold all that led to it: after a restart nothing else could.

        Runs on the snapshot thread.
        """
        assert self._audit is not None
        entries = frozen.index - self._last_snapshot_index
        must = entries >= PUT_OFF_FACTOR * self._config.storage.snapshot_every_entries
        if not must and not self._audit.wait_durable(frozen.event_seq, AUDIT_WAIT_S):
            raise StorageError("put off: the audit files are behind, and the log is what they are written from")
        yield from frozen.chunks()

    def _snapshot_written(self, info: SnapshotInfo | Exception) -> None:
        self._writing_snapshot = False
        core = self._core
        if core is None or core.stopped is not None:
            return
        if isinstance(info, Exception):
            self._report("SNAPSHOT_FAILED", str(info))
            return
        self.snapshots_written += 1
        self._cut_log(core, info)

    def _cut_log(self, core: Core, info: SnapshotInfo) -> None:
        """Forget what the snapshot covers: in memory but for some entries, on disk behind the snapshot before it."""
        previous, self._last_snapshot_index = self._last_snapshot_index, info.index
        base = self.journal.base_that_keeps(
            min(info.index, core.raft.last_applied), self._around.keep_entries, KEEP_BYTES
        )
        if base > self.journal.base_index:
            core.raft.compact(base)
        self._worker.drop_through(previous)

    def _installed(self, info: SnapshotInfo, machine: Machine, due: DueIndex) -> None:
        assert self._core is not None and self._audit is not None
        self._last_snapshot_index = info.index
        self.bytes_since_snapshot = 0
        self._core.replica.install(machine, due)
        self._audit.skip_to(machine.event_seq, machine.index, machine.head)
        self._report("SNAPSHOT_INSTALLED", f"entry {info.index} of term {info.term}, {info.size_bytes} bytes")
        self._core.ask_step()
