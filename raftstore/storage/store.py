"""One node's data directory: opens it, recovers it, and is the only way to change it.

    DATA/lock  DATA/identity  DATA/hard_state  DATA/wal/*.wal  DATA/snapshots/*.snap

Knows the order in which things become durable; leaves the bytes to `wal`, `hard_state` and `snapshot`, the thread to
`worker`, and the meaning of the entries to its callers. The first OSError is the last: the store is poisoned, every
later call raises the same StorageError, and nothing is retried (a sync that failed once may say yes the next time
without the data being there). Design, durability; ownership model, section 7.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from raftstore.errors import CorruptionError, StorageError
from raftstore.ports import Disk
from raftstore.storage import identity as identities
from raftstore.storage.hard_state import HardStateFile
from raftstore.storage.snapshot import SnapshotDirectory, SnapshotReader, SnapshotReceiver, SnapshotWriter
from raftstore.storage.values import (
    REMEDY,
    SNAPSHOT_CORRUPT,
    Entry,
    HardState,
    Limits,
    Recovered,
    SecurityEvent,
    SnapshotInfo,
)
from raftstore.storage.wal import Wal
from raftstore.storage.wal_format import HEADER_BYTES, content_end, digest16
from raftstore.storage.wal_reading import Owner, corrupt, list_segments, list_unborn, read_file

DEFAULT_LIMITS = Limits()


class Store:
    """The durable state of one node. Made by `open`; used by one thread, except where a method says otherwise."""

    def __init__(
        self, disk: Disk, directory: str, owner: Owner, limits: Limits, entropy: Callable[[int], bytes]
    ) -> None:
        self.directory = directory
        self._disk = disk
        self._owner = owner
        self._limits = limits
        self._entropy = entropy
        self._failure: StorageError | None = None
        self._wal_directory = f"{directory}/wal"
        self._wal: Wal | None = None
        self._hard_state = HardStateFile(disk, directory)
        self._snapshots = SnapshotDirectory(disk, f"{directory}/snapshots", owner.cluster, limits, self._guard)
        self._unlock: Callable[[], None] | None = None

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        *,
        cluster: str,
        node_id: str,
        strategy: str = identities.DEFAULT_STRATEGY,
        limits: Limits = DEFAULT_LIMITS,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_ms: int = 0,
    ) -> tuple[Store, Recovered]:
        """Lock, set up or recover the data directory; everything returned is durable.

        `entropy` names segments (any bytes that do not repeat), `wall_ms` dates a new directory, for people.
        Raises StorageError (foreign, of another strategy, in use, or the disk failed) and CorruptionError (never
        guess: refuse).
        """
        store = cls(disk, directory, Owner(digest16(cluster), digest16(node_id)), limits, entropy)
        with ExitStack() as undo:
            undo.callback(store.abandon)
            with store._guard("opening"):
                recovered = store._open(identities.Identity(cluster, node_id, wall_ms, strategy))
            undo.pop_all()
        return store, recovered

    # --- opening -------------------------------------------------------------------------------------
    def _open(self, wanted: identities.Identity) -> Recovered:
        disk, directory = self._disk, self.directory
        disk.makedirs(directory)
        try:
            self._unlock = disk.lock(f"{directory}/lock")
        except BlockingIOError as error:
            raise StorageError(f"{directory}: in use ({error.strerror}); stop that process first") from None
        found = identities.read_identity(disk, directory)
        if found is None:
            self._set_up(wanted)
        else:
            identities.check_identity(directory, found, wanted)
        disk.sync_dir(directory)
        for needed in (self._wal_directory, self._snapshots.directory):
            if not disk.exists(needed):
                raise corrupt(needed, 0, "the directory is missing")
        self._snapshots.tidy()
        events = self._hard_state.open()
        return self._recover(events)

    def _set_up(self, identity: identities.Identity) -> None:
        """Make a new data directory, identity last; clear first what an interrupted setup left."""
        disk = self._disk
        disk.makedirs(self._wal_directory)
        disk.makedirs(self._snapshots.directory)
        disk.sync_dir(self.directory)
        self._refuse_unless_untouched()
        for path in (*list_segments(disk, self._wal_directory), *list_unborn(disk, self._wal_directory)):
            disk.unlink(path)
            disk.sync_dir(self._wal_directory)
        wal = Wal.create(disk, self._wal_directory, self._owner, limits=self._limits, entropy=self._entropy)
        wal.abandon()
        identities.write_identity(disk, self.directory, identity)

    def _refuse_unless_untouched(self) -> None:
        """Without an identity nothing was ever promised from here, unless the identity itself was lost."""
        paths = list_segments(self._disk, self._wal_directory)
        used = len(paths) > 1 or any(content_end(read_file(self._disk, path)) > HEADER_BYTES for path in paths)
        if used or self._snapshots.names() or self._disk.exists(f"{self.directory}/hard_state"):
            raise corrupt(f"{self.directory}/{identities.FILE_NAME}", 0, "missing from a directory that was in use")

    def _recover(self, events: list[SecurityEvent]) -> Recovered:
        snapshot, damage = self._choose_snapshot()
        self._wal, entries, cut = Wal.open(
            self._disk,
            self._wal_directory,
            self._owner,
            limits=self._limits,
            entropy=self._entropy,
            keep_after=snapshot.index if snapshot else 0,
        )
        events += cut
        if damage is not None:
            events.append(self._stand_in(snapshot, damage))
        self._snapshots.latest = snapshot
        state = self._check_hard_state(snapshot)
        entries = self._reconcile(snapshot, entries)
        fresh = state is None and snapshot is None and not entries
        return Recovered(state, fresh, snapshot, entries, events)

    def _choose_snapshot(self) -> tuple[SnapshotInfo | None, CorruptionError | None]:
        """The newest snapshot; or the one before, with what is wrong with the newest."""
        names = self._snapshots.names()
        if not names:
            return None, None
        try:
            return self._snapshots.check(*names[0]), None
        except CorruptionError as damage:
            if len(names) == 1:
                raise
            return self._snapshots.check(*names[1]), damage

    def _stand_in(self, older: SnapshotInfo | None, damage: CorruptionError) -> SecurityEvent:
        """Let the older snapshot and the log replace the newest, which is damaged, if they provably can.

        They can if the log reaches from the older one to the very entry that the newest covers, with its term: then
        the entries up to there are the committed ones (Raft paper, section 5.3, log matching), and applying them to
        the older snapshot gives what the newest held. If not, the damage stands.
        """
        assert self._wal is not None and older is not None
        index, term = self._snapshots.names()[0]
        if self._wal.first_index > older.index + 1 or self._wal.term_at(index) != term:
            raise damage
        if self._wal.term_at(older.index) not in (older.term, None):
            raise damage
        self._snapshots.set_aside(index, term)
        detail = f"set aside; the snapshot of entry {older.index} and the log stand in for it: {damage}"
        return SecurityEvent(SNAPSHOT_CORRUPT, self._snapshots.path_of(index, term), 0, detail)

    def _reconcile(self, snapshot: SnapshotInfo | None, entries: list[Entry]) -> list[Entry]:
        """Make log and snapshot agree: what a crash between publishing a snapshot and telling the log left open."""
        wal = self._wal
        assert wal is not None
        index, term = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        if wal.first_index > index + 1:
            missing = f"begins with entry {wal.first_index}, but no snapshot reaches beyond entry {index}"
            raise corrupt(wal.segment_paths[0], 0, missing)
        if index == 0 or self._holds(wal, index, term):
            return entries
        wal.reset(index, term)
        return []

    @staticmethod
    def _holds(wal: Wal, index: int, term: int) -> bool:
        """Whether the entry is part of the log. The log's own base, where its term is not known, is."""
        return wal.term_at(index) == term or (index == wal.first_index - 1 and wal.term_at(index) is None)

    def _check_hard_state(self, snapshot: SnapshotInfo | None) -> HardState | None:
        """The hard state, which must know the log's last term: it was stored before the entry was.

        A snapshot becomes durable on its own thread and may be a step ahead of the term it came with. Then that term
        is taken over without a vote: in a term that was not stored, no vote was given.
        """
        path, state, log_term = f"{self.directory}/hard_state", self._hard_state.current, self._log.last_term
        if state is None:
            if snapshot is not None or self._log.last_index > 0:
                raise corrupt(path, 0, "missing, but there is a log or a snapshot")
            return None
        if state.term < log_term:
            raise corrupt(path, 0, f"term {state.term} is before the log's {log_term}")
        if snapshot is not None and state.term < snapshot.term:
            state = HardState(snapshot.term, None, state.voter)
            self._hard_state.store(state)
        return state

    # --- the log and the hard state: the worker's thread ---------------------------------------------
    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries to the log; durable after `sync`. ValueError when they do not follow or exceed a bound."""
        with self._guard("appending to the log"):
            state = self._hard_state.current
            if entries and (state is None or entries[-1][2] > state.term):
                raise ValueError(f"entry of term {entries[-1][2]} before that term was stored")
            self._log.append(entries)

    def truncate_from(self, index: int) -> None:
        """Void the entries from `index` on; durable after `sync` (Raft paper, section 5.3)."""
        with self._guard("truncating the log"):
            self._log.truncate_from(index)

    def set_hard_state(self, state: HardState) -> None:
        """Store term, vote and voter flag; durable on return (Raft paper, figure 2)."""
        with self._guard("storing the hard state"):
            self._hard_state.store(state)

    def sync(self) -> None:
        """Make the log durable: one write and one sync, or nothing when nothing was added."""
        with self._guard("syncing the log"):
            self._log.sync()

    def mark(self) -> None:
        """Leave the witness that the last group is durable. Cheap, not synced; call when there is nothing to do."""
        with self._guard("marking the log"):
            self._log.mark()

    def drop_through(self, index: int) -> int:
        """Remove log segments that hold nothing beyond `index`; how many. A durable snapshot must cover it.

        To be able to survive a damaged newest snapshot, pass the index of the one before (`kept_snapshots`).
        """
        latest = self._snapshots.latest
        if latest is None or latest.index < index:
            raise ValueError(f"no durable snapshot covers entry {index}")
        with self._guard("dropping log segments"):
            return self._log.drop_through(index)

    def install_snapshot(self, info: SnapshotInfo) -> None:
        """Let the log go on after a received snapshot; durable on return (Raft paper, section 7).

        The log is kept if it holds the snapshot's last entry, with its term; otherwise all of it is void.
        """
        latest = self._snapshots.latest
        if latest is None or latest.index < info.index:
            raise ValueError(f"the snapshot of entry {info.index} is not durable")
        with self._guard("installing a snapshot"):
            self._log.sync()
            if not self._holds(self._log, info.index, info.term):
                self._log.reset(info.index, info.term)

    # --- snapshots: any one thread --------------------------------------------------------------------
    @property
    def latest_snapshot(self) -> SnapshotInfo | None:
        """The newest durable snapshot. Any thread."""
        return self._snapshots.latest

    def kept_snapshots(self) -> list[tuple[int, int]]:
        """(index, term) of the snapshots on disk, newest first."""
        with self._guard("listing snapshots"):
            return self._snapshots.names()

    def begin_snapshot(self, index: int, term: int) -> SnapshotWriter:
        """Begin to write the snapshot that covers the log through `index`. The hard state must have been stored."""
        self._check_ready()
        return SnapshotWriter(self._snapshots, index, term)

    def begin_receiving(self, index: int, term: int, size_bytes: int, sha256: bytes) -> SnapshotReceiver:
        """Begin to receive a peer's snapshot. ValueError when its size is out of bounds.

        The hard state must have been stored: a fresh node stores it, and waits for that, before it listens.
        """
        self._check_ready()
        announced = SnapshotInfo(index, term, self._snapshots.path_of(index, term), size_bytes, sha256)
        return SnapshotReceiver(self._snapshots, announced)

    def snapshot_reader(self) -> SnapshotReader:
        """A reader of snapshots for one thread."""
        return SnapshotReader(self._snapshots)

    # --- the rest --------------------------------------------------------------------------------------
    def free_bytes(self) -> int:
        """Bytes free where the data directory is."""
        with self._guard("asking for free space"):
            return self._disk.free_bytes(self.directory)

    @property
    def failure(self) -> StorageError | None:
        """What poisoned the store; None while it is sound. Any thread."""
        return self._failure

    def close(self) -> None:
        """Make everything durable and release the directory; a poisoned store is only released."""
        try:
            if self._failure is None and self._wal is not None:
                with self._guard("closing"):
                    self._close_wal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release the directory without writing anything."""
        with ExitStack() as closing:
            if self._unlock is not None:
                unlock, self._unlock = self._unlock, None
                closing.callback(unlock)
            closing.callback(self._hard_state.close)
            if self._wal is not None:
                wal, self._wal = self._wal, None
                closing.callback(wal.abandon)

    def _close_wal(self) -> None:
        wal, self._wal = self._log, None
        wal.close()

    @property
    def _log(self) -> Wal:
        if self._wal is None:
            raise ValueError("the store is closed")
        return self._wal

    def _check_ready(self) -> None:
        self._check_failure()
        if self._hard_state.current is None:
            raise ValueError("a snapshot before any hard state was stored")

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """Refuse when poisoned; poison on OSError."""
        self._check_failure()
        try:
            yield
        except OSError as error:
            remedy = "make room or replace the disk and start the node again; if it then refuses to start, " + REMEDY
            self._failure = StorageError(f"{self.directory}: {doing}: {error}; {remedy}")
            raise self._failure from error
