"""One node's storage in the virtual cluster: a log, a hard state and a snapshot that survive crashes if durable.

Stands for the storage room and for the node's own code around snapshots (`SnapshotStore`). Jobs become durable in
order, `sync_ms` after the last one did; what was not durable when the node crashes is forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgpack

from raftstore.node.core import Core
from raftstore.ownership import Machine, restore
from raftstore.raft.journal import Entry, HardenedJournal
from raftstore.raft.snapshots import SnapshotFile

if TYPE_CHECKING:
    from virtual_cluster import VirtualNode

MS = 1_000_000
Done = Callable[[bool], None]


class VirtualDisk:
    """LogStorage and SnapshotStore of one node."""

    def __init__(self) -> None:
        self.durable_log: list[Entry] = []
        self.durable_state: tuple[int, str | None, bool] = (0, None, False)
        self.snapshot: SnapshotFile | None = None
        self._files: dict[bytes, bytes] = {}  # the newest snapshot's bytes, by checksum
        self._jobs: list[Callable[[], None]] = []
        self._submitted = 0
        self._node: VirtualNode | None = None
        self._syncing = False
        self._incoming: SnapshotFile | None = None
        self._received = b""
        self.writing = False

    # --- life
    def open(self, node: VirtualNode) -> HardenedJournal:
        self._node = node
        self._submitted = 0
        base = self.snapshot
        term, voted_for, voter = self.durable_state
        return HardenedJournal(
            self,
            base_index=base.index if base else 0,
            base_term=base.term if base else 0,
            entries=list(self.durable_log),
            term=term,
            voted_for=voted_for,
            voter=voter,
        )

    def machine(self) -> Machine:
        """The state as of the snapshot."""
        return Machine() if self.snapshot is None else restore(msgpack.unpackb(self._files[self.snapshot.sha256]))

    def crash(self) -> None:
        self._jobs.clear()
        self._node = None
        self._syncing = False
        self._incoming, self._received, self.writing = None, b"", False

    def wipe(self) -> None:
        """The directory is lost: nothing is remembered, so no vote until caught up."""
        self.durable_log.clear()
        self.durable_state = (0, None, False)
        self.snapshot = None
        self._files.clear()

    # --- LogStorage
    def append(self, entries: Sequence[Entry]) -> int:
        return self._put(lambda: self.durable_log.extend(entries))

    def truncate_from(self, index: int) -> int:
        def cut() -> None:
            self.durable_log = [entry for entry in self.durable_log if entry[1] < index]

        return self._put(cut)

    def set_hard_state(self, term: int, voted_for: str | None, voter: bool) -> int:
        def store() -> None:
            self.durable_state = (term, voted_for, voter)

        return self._put(store)

    def _put(self, job: Callable[[], None]) -> int:
        self._jobs.append(job)
        self._submitted += 1
        if not self._syncing:
            self._sync()
        return self._submitted

    def _sync(self) -> None:
        node = self._node
        assert node is not None
        self._syncing = True
        group, number = list(self._jobs), self._submitted
        self._later(self._synced, node, node.core, group, number)

    def _later(self, callback: Callable[..., None], *args: object) -> None:
        node = self._node
        assert node is not None
        delay = int(node.sync_ms * node.world.rng.uniform(0.5, 2) * MS)
        node.world.at(node.world.now + delay, node, callback, *args)

    def _synced(self, node: VirtualNode, core: Core | None, group: list[Callable[[], None]], number: int) -> None:
        if self._node is not node or not self._syncing or (core is not None and node.core is not core):
            return  # it crashed meanwhile
        for job in group:
            job()
        del self._jobs[: len(group)]
        self._syncing = False
        if self._jobs:
            self._sync()
        if node.core is not None:
            node.core.on_durable(number)

    # --- snapshots of our own
    def write_snapshot(self, keep_entries: int) -> None:
        """Write down the applied state; once that is durable the log is cut but for `keep_entries`."""
        assert self._node is not None
        core = self._node.cor
        if self.writing or core.raft._is_installing() or core.raft.last_applied <= core.journal.base_index:
            return
        self.writing = True
        index = core.raft.last_applied
        term = core.journal.term_at(index)
        assert term is not None
        data = msgpack.packb(list(core.replica.machine.freeze_state().chunks()))
        snapshot = SnapshotFile(index, term, len(data), hashlib.sha256(data).digest())
        self._later(self._written, snapshot, data, keep_entries)

    def _written(self, snapshot: SnapshotFile, data: bytes, keep_entries: int) -> None:
        self.writing = False
        assert self._node is not None
        core = self._node.cor
        if self.snapshot is not None and snapshot.index <= self.snapshot.index:
            return  # one that came from the leader was quicker
        self._put(lambda: self._adopt(snapshot, data))
        self._files[snapshot.sha256] = data
        self._pending_compact(core, snapshot, keep_entries)

    def _pending_compact(self, core: Core, snapshot: SnapshotFile, keep_entries: int) -> None:
        def compact() -> None:
            if core.stopped is None and self.snapshot == snapshot:
                keep_from = min(snapshot.index, core.raft.last_applied) - keep_entries
                if keep_from > core.journal.base_index:
                    core.raft.compact(keep_from)

        self._put(compact)

    def _adopt(self, snapshot: SnapshotFile, data: bytes) -> None:
        """The snapshot is durable: the log goes on behind it, if it is the same log."""
        if self.snapshot is not None and self.snapshot.index >= snapshot.index:
            return
        same = any(index == snapshot.index and term == snapshot.term for _, index, term in self.durable_log)
        self.durable_log = [entry for entry in self.durable_log if entry[1] > snapshot.index] if same else []
        self.snapshot = snapshot
        self._files = {snapshot.sha256: data}

    # --- SnapshotStore
    def latest(self) -> SnapshotFile | None:
        return self.snapshot

    def read(self, snapshot: SnapshotFile, offset: int, size: int) -> bytes:
        return self._files.get(snapshot.sha256, b"")[offset : offset + size]

    def receive(self, snapshot: SnapshotFile, offset: int, data: bytes) -> int:
        if self._incoming != snapshot:
            self._incoming, self._received = snapshot, b""
        if offset == len(self._received):
            self._received += data
        return len(self._received)

    def install(self, snapshot: SnapshotFile, done: Done) -> None:
        data, self._incoming, self._received = self._received, None, b""
        self._later(self._install, snapshot, data, done)

    def _install(self, snapshot: SnapshotFile, data: bytes, done: Done) -> None:
        assert self._node is not None
        if hashlib.sha256(data).digest() != snapshot.sha256:
            done(False)
            return
        core = self._node.cor
        if core.stopped is not None:
            return
        machine = restore(msgpack.unpackb(data))
        self._put(lambda: self._adopt(snapshot, data))
        core.replica.install(machine)
        self._node.world.snapshots_installed += 1
        done(True)
        core.ask_step()
