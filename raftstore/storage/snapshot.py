"""Snapshots of one node: writing, receiving, reading, and which of them counts.

A snapshot is written aside, synced, renamed, and only then exists; a file of a snapshot's name is therefore always
whole, or damaged since. The newest two are kept. What fails before the rename costs a temporary file and nothing
else (a full disk must not stop the node here); what fails from the rename on is final, like any failed sync.

Leaves to the store when the log may be cut, and what to do when the newest snapshot is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from raftstore.errors import CorruptionError, StorageError
from raftstore.ports import Disk, File
from raftstore.storage.snapshot_format import (
    HEADER_BYTES,
    SnapshotHeader,
    check_file,
    encode_chunk,
    encode_header,
    encode_trailer,
    parse_name,
    read_chunks,
    read_header,
    snapshot_name,
)
from raftstore.storage.values import Limits, SnapshotInfo

KEPT_SNAPSHOTS = 2
BAD_SUFFIX = ".bad"
TEMPORARY_SUFFIX = ".tmp"
Guard = Callable[[str], AbstractContextManager[None]]


class SnapshotDirectory:
    """The snapshot files of one node. `latest` may be read from any thread; the rest from one at a time."""

    def __init__(self, disk: Disk, directory: str, cluster: bytes, limits: Limits, guard: Guard) -> None:
        self.disk = disk
        self.directory = directory
        self.cluster = cluster
        self.limits = limits
        self._guard = guard
        self.latest: SnapshotInfo | None = None

    def tidy(self) -> None:
        """Remove what an earlier process left unfinished, and make the names found here durable."""
        self.disk.makedirs(self.directory)
        for name in self.disk.listdir(self.directory):
            if name.endswith(TEMPORARY_SUFFIX):
                self.disk.unlink(f"{self.directory}/{name}")
        self.disk.sync_dir(self.directory)

    def names(self) -> list[tuple[int, int]]:
        """(index, term) of every complete snapshot by its file name, newest first."""
        found = (parse_name(name) for name in self.disk.listdir(self.directory))
        return sorted((pair for pair in found if pair is not None), reverse=True)

    def check(self, index: int, term: int) -> SnapshotInfo:
        """Check every byte of that snapshot. Raises CorruptionError, and StorageError for another cluster's."""
        path = self.path_of(index, term)
        return self._check_path(path, path, index, term)

    def path_of(self, index: int, term: int) -> str:
        """Path of the complete snapshot that covers the entry at `index`."""
        return f"{self.directory}/{snapshot_name(index, term)}"

    def set_aside(self, index: int, term: int) -> None:
        """Take a damaged snapshot out of the row but keep its bytes for people, until the next snapshot is written."""
        path = self.path_of(index, term)
        self.disk.rename(path, path + BAD_SUFFIX)
        self.disk.sync_dir(self.directory)

    def prune(self) -> None:
        """Remove all but the newest KEPT_SNAPSHOTS, and damaged ones set aside."""
        for index, term in self.names()[KEPT_SNAPSHOTS:]:
            self.disk.unlink(self.path_of(index, term))
        for name in self.disk.listdir(self.directory):
            if name.endswith(BAD_SUFFIX):
                self.disk.unlink(f"{self.directory}/{name}")
        self.disk.sync_dir(self.directory)

    def publish(self, temporary: str, info: SnapshotInfo) -> SnapshotInfo:
        """Give a whole, synced temporary file its name. From here on an OSError is final."""
        with self._guard(f"publishing {info.path}"):
            self.disk.rename(temporary, info.path)
            self.disk.sync_dir(self.directory)
            if self.latest is None or info.index >= self.latest.index:
                self.latest = info
            self.prune()
        return info

    def check_temporary(self, temporary: str, index: int, term: int) -> SnapshotInfo:
        """Check a received file before it gets its name. Raises CorruptionError, StorageError."""
        return self._check_path(temporary, self.path_of(index, term), index, term)

    def _check_path(self, path: str, final_path: str, index: int, term: int) -> SnapshotInfo:
        file = self.disk.open(path, read_only=True)
        try:
            header, sha256 = check_file(file, path, self.limits.snapshot_chunk_bytes_max)
            size_bytes = file.size()
        finally:
            file.close()
        if (header.index, header.term) != (index, term):
            raise CorruptionError(f"{path}: offset 0: covers entry {header.index} of term {header.term} by its header")
        if header.cluster != self.cluster:
            raise StorageError(f"{path}: the snapshot belongs to another cluster; move it out of this directory")
        return SnapshotInfo(index, term, final_path, size_bytes, sha256)


class SnapshotWriter:
    """A snapshot being written. Any one thread. An OSError aborts it and comes out as StorageError."""

    def __init__(self, directory: SnapshotDirectory, index: int, term: int) -> None:
        self._directory = directory
        self._index, self._term = index, term
        self._path = f"{directory.path_of(index, term)}.own{TEMPORARY_SUFFIX}"
        self._offset = self._unsynced_bytes = self._chunks = self._total_bytes = 0
        self._sha256 = hashlib.sha256()
        self._file: File | None = None
        with self._aborting():
            self._file = directory.disk.open(self._path, create=True)
            self._file.truncate(0)
            self._put(encode_header(SnapshotHeader(index, term, directory.cluster)))

    def write(self, chunk: bytes) -> None:
        """Add bytes, 1 to `snapshot_chunk_bytes_max` of them. Now and then syncs, so that the end need not sync all."""
        if not 0 < len(chunk) <= self._directory.limits.snapshot_chunk_bytes_max:
            raise ValueError(f"a chunk cannot be {len(chunk)} bytes long")
        with self._aborting():
            self._put(encode_chunk(chunk))
            self._chunks += 1
            self._total_bytes += len(chunk)
            if self._unsynced_bytes >= self._directory.limits.snapshot_unsynced_bytes_max:
                self._sync()

    def commit(self) -> SnapshotInfo:
        """Finish: the snapshot exists and is durable on return, and older ones are removed."""
        with self._aborting():
            self._put(encode_trailer(self._chunks, self._total_bytes, self._sha256.digest()))
            self._sync()
            self._close()
        path = self._directory.path_of(self._index, self._term)
        info = SnapshotInfo(self._index, self._term, path, self._offset, self._sha256.digest())
        return self._directory.publish(self._path, info)

    def abort(self) -> None:
        """Give up and remove what was written; nothing has happened."""
        with contextlib.suppress(OSError):
            self._close()
            self._directory.disk.unlink(self._path)

    def _put(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError("the snapshot is finished")
        self._file.pwrite(data, self._offset)
        self._sha256.update(data)
        self._offset += len(data)
        self._unsynced_bytes += len(data)

    def _sync(self) -> None:
        assert self._file is not None
        self._file.datasync()
        self._unsynced_bytes = 0

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            raise StorageError(f"{self._path}: the snapshot was not written: {error}") from error


class SnapshotReceiver:
    """A snapshot that a peer sends piece by piece, in order. `announced` is what the peer says of it.

    `write` and `abort` on one thread, `sync` on any; `finish` on any once all is held, and then nothing else. What the
    disk refuses is discarded and shows in `problem`: the transfer begins anew.
    """

    def __init__(self, directory: SnapshotDirectory, announced: SnapshotInfo) -> None:
        if not HEADER_BYTES < announced.size_bytes <= directory.limits.snapshot_bytes_max:
            raise ValueError(f"a snapshot cannot be {announced.size_bytes} bytes long")
        self.announced = announced
        self.held_bytes = 0
        self.problem: OSError | None = None
        self._directory = directory
        self._path = f"{directory.path_of(announced.index, announced.term)}.peer{TEMPORARY_SUFFIX}"
        self._unsynced_bytes = 0
        self._finished = False
        self._sync_problem: OSError | None = None
        self._file: File | None = None

    def write(self, offset: int, data: bytes) -> int:
        """Take bytes at `offset`; how many are held now: 0 after a `problem`.

        Bytes that do not go on from what is held, or go beyond the announced size, are not taken.
        """
        if self._sync_problem is not None:
            self._discard(self._sync_problem)
        if self._finished or offset != self.held_bytes or offset + len(data) > self.announced.size_bytes:
            return self.held_bytes
        try:
            if self._file is None:
                self._file = self._directory.disk.open(self._path, create=True)
                self._file.truncate(0)
            self._file.pwrite(data, offset)
        except OSError as error:
            self._discard(error)
            return 0
        self.held_bytes += len(data)
        self._unsynced_bytes += len(data)
        return self.held_bytes

    @property
    def wants_sync(self) -> bool:
        """Whether so much waits for the disk that `sync` should be called, off the event loop."""
        return self._unsynced_bytes >= self._directory.limits.snapshot_unsynced_bytes_max

    def sync(self) -> None:
        """Make what is held durable, so that `finish` need not do all at once. A failure shows at the next `write`.

        Closes nothing, because `write` may be using the file on its thread.
        """
        file = self._file
        if file is not None:
            self._unsynced_bytes = 0
            try:
                file.datasync()
            except OSError as error:
                self._sync_problem = error

    def finish(self) -> SnapshotInfo | None:
        """Check everything against what was announced, make it durable and give it its name.

        None when the bytes are not the snapshot that was announced, or the disk refused them: they are removed, and
        the transfer begins anew with a new receiver. None, too, and nothing else, while not all is held.
        """
        if self._file is None or self.held_bytes != self.announced.size_bytes:
            return None
        self._finished = True
        try:
            if self._sync_problem is not None:
                raise self._sync_problem
            self._file.datasync()
            info = self._checked()
        except OSError as error:
            self._discard(error)
            return None
        if info is None:
            self.abort()
            return None
        self._close()
        return self._directory.publish(self._path, info)

    def _checked(self) -> SnapshotInfo | None:
        announced = self.announced
        try:
            info = self._directory.check_temporary(self._path, announced.index, announced.term)
        except StorageError:
            return None
        return info if (info.size_bytes, info.sha256) == (announced.size_bytes, announced.sha256) else None

    def abort(self) -> None:
        """Forget and remove what is held."""
        self.held_bytes = self._unsynced_bytes = 0
        self._sync_problem = None
        with contextlib.suppress(OSError):
            self._close()
            self._directory.disk.unlink(self._path)

    def _discard(self, error: OSError) -> None:
        self.problem = error
        self.abort()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class SnapshotReader:
    """Reads complete snapshots: raw bytes for a peer, checked chunks for the machine. One thread at a time."""

    def __init__(self, directory: SnapshotDirectory) -> None:
        self._directory = directory
        self._open: tuple[SnapshotInfo, File] | None = None

    def read(self, info: SnapshotInfo, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the file at `offset`; empty at its end, and when the snapshot is gone by now."""
        if self._open is None or self._open[0] != info:
            self.close()
            try:
                self._open = (info, self._directory.disk.open(info.path, read_only=True))
            except FileNotFoundError:
                return b""
        return self._open[1].pread(size, offset)

    def chunks(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The chunks as they were written, each checked again. Raises CorruptionError."""
        file = self._directory.disk.open(info.path, read_only=True)
        try:
            read_header(file, info.path)
            for _, data in read_chunks(file, info.path, self._directory.limits.snapshot_chunk_bytes_max):
                yield data
        finally:
            file.close()

    def close(self) -> None:
        """Close the file that `read` keeps open."""
        if self._open is not None:
            _, file = self._open
            self._open = None
            file.close()
