"""Audit files on disk: append whole batches, know exactly how much is durable, mend after a failure.

A file is `audit-<first number>.jsonl`: a header and whole batches. Only the newest file is ever written, and
it is durable before a newer one is begun, so after a crash only the newest can end in a torn line or an
unfinished batch; that end was never reported durable and is cut on open. After a failed write the file is
cut back to its durable length; after a failed sync it is cut and never written again: its pages are not to be
trusted, so the same lines go into a new file. Nothing is ever durable twice, so no line is ever there twice.

Leaves queueing, retries and reports to the trail. One thread at a time. Errors are OSError unless said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

from raftstore.errors import StorageError
from raftstore.node.audit_lines import (
    FORMAT,
    LINE_BYTES_MAX,
    Line,
    Position,
    Stretch,
    file_name,
    header_line,
    is_sealed,
    list_files,
    parse_line,
    position_of,
)
from raftstore.ownership.events import GENESIS_HEAD

TAIL_BLOCK_BYTES = 1 << 16
AUDIT_FILE_MODE = 0o600
AUDIT_DIRECTORY_MODE = 0o700

Trouble = tuple[str, str]


class AuditDisk(Protocol):
    """The few calls that can fail, tear or hang. Blocking; used by one thread. Each may raise OSError."""

    def create(self, path: Path) -> int:
        """A new empty file for appending; FileExistsError when there is one."""

    def reopen(self, path: Path) -> int: ...

    def write(self, fd: int, data: bytes) -> None:
        """Append all of `data`. An error may leave any part of it behind."""

    def truncate(self, fd: int, size: int) -> None: ...

    def fdatasync(self, fd: int) -> None:
        """Returns when data and size are durable. After an error nothing since the last success is."""

    def close(self, fd: int) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def sync_dir(self, path: Path) -> None: ...


class OsDisk:
    """The operating system's file calls."""

    _flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

    def create(self, path: Path) -> int:
        return os.open(path, self._flags | os.O_CREAT | os.O_EXCL, AUDIT_FILE_MODE)

    def reopen(self, path: Path) -> int:
        return os.open(path, self._flags)

    def write(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _Mend(Enum):
    """What the newest file needs before it, or its successor, may be written."""

    NOTHING = 0
    CUT = 1  # a write failed: back to the durable length, then go on in it
    CUT_AND_LEAVE = 2  # a sync failed: back to the durable length, then a new file


class AuditFiles:
    """The files of one node. `store` is durable when it returns; when it raises, nothing of it counts."""

    def __init__(
        self, directory: Path, *, cluster: str, node_id: str, file_bytes_max: int, files_max: int, disk: AuditDisk
    ) -> None:
        if file_bytes_max < 1 or files_max < 1:
            raise ValueError("file_bytes_max and files_max must be at least 1")
        self.directory = directory
        self._cluster = cluster
        self._node_id = node_id
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._disk = disk
        self._path: Path | None = None  # the newest file, None: the next batch begins one
        self._fd: int | None = None
        self._durable_bytes = 0
        self._mend = _Mend.NOTHING

    def open(self) -> tuple[Position, list[Trouble]]:
        """Find where to go on; cut what a crash left unfinished.

        StorageError when the directory cannot be used or belongs to another cluster or node.
        """
        try:
            self.directory.mkdir(mode=AUDIT_DIRECTORY_MODE, parents=True, exist_ok=True)
            for path in list_files(self.directory):
                self._refuse_foreign(path)
            return self._find_end()
        except OSError as error:
            raise StorageError(f"{self.directory}: the audit directory cannot be used: {error}") from error

    def store(self, stretches: Sequence[Stretch], prev_head: bytes) -> int:
        """Make as many of `stretches` durable as fit one file, at least one; returns how many.

        `prev_head` is the chain head before the first of them. After an OSError call again with the same.
        """
        self._put_right()
        if self._path is not None and self._durable_bytes + len(stretches[0].data) > self._file_bytes_max:
            self.close()
        if self._fd is None:
            header = header_line(self._cluster, self._node_id, stretches[0].first, prev_head)
            count = self._fitting(stretches, len(header))
            self._begin(stretches[0].first)
            self._append(header + b"".join(stretch.data for stretch in stretches[:count]), is_new=True)
            self._remove_oldest()
        else:
            count = self._fitting(stretches, self._durable_bytes)
            self._append(b"".join(stretch.data for stretch in stretches[:count]), is_new=False)
        return count

    def close(self) -> None:
        """Let go of the newest file; never raises. What `store` returned for is durable already."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._disk.close(self._fd)
        self._fd = self._path = None
        self._durable_bytes = 0

    # -- writing

    def _fitting(self, stretches: Sequence[Stretch], used_bytes: int) -> int:
        count = 0
        for stretch in stretches:
            used_bytes += len(stretch.data)
            if count and used_bytes > self._file_bytes_max:
                break
            count += 1
        return count

    def _begin(self, first: int) -> None:
        path = self.directory / file_name(first)
        self._fd = self._disk.create(path)
        self._path = path
        self._durable_bytes = 0

    def _append(self, data: bytes, *, is_new: bool) -> None:
        assert self._fd is not None
        self._mend = _Mend.CUT
        self._disk.write(self._fd, data)
        self._mend = _Mend.CUT_AND_LEAVE
        self._disk.fdatasync(self._fd)
        if is_new:
            self._disk.sync_dir(self.directory)
        self._mend = _Mend.NOTHING
        self._durable_bytes += len(data)

    def _put_right(self) -> None:
        """Undo what a failed `store` left: afterwards the files hold what is durable, and nothing else."""
        if self._mend is _Mend.NOTHING or self._path is None:
            return
        if self._durable_bytes == 0:  # a file that never became durable: begin it anew, under the same name
            self._disk.unlink(self._path)
            self.close()
        else:
            if self._fd is not None:
                stale, self._fd = self._fd, None
                with contextlib.suppress(OSError):
                    self._disk.close(stale)
            self._fd = self._disk.reopen(self._path)
            self._disk.truncate(self._fd, self._durable_bytes)
            self._disk.fdatasync(self._fd)  # else a crash could bring back the lines that are written again
            if self._mend is _Mend.CUT_AND_LEAVE:
                self.close()
        self._mend = _Mend.NOTHING

    def _remove_oldest(self) -> None:
        with contextlib.suppress(OSError):  # the next new file tries again
            for path in list_files(self.directory)[: -self._files_max]:
                self._disk.unlink(path)

    # -- opening

    def _refuse_foreign(self, path: Path) -> None:
        with path.open("rb") as file:
            fields = _sealed_header(file.readline(LINE_BYTES_MAX))
        if fields is not None and (fields.get("cluster"), fields.get("node")) != (self._cluster, self._node_id):
            raise StorageError(
                f"{path}: audit of node {fields.get('node')!r} in cluster {fields.get('cluster')!r}, not of "
                f"{self._node_id!r} in {self._cluster!r}; give this node a directory of its own"
            )

    def _find_end(self) -> tuple[Position, list[Trouble]]:
        troubles: list[Trouble] = []
        for path in reversed(list_files(self.directory)):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = file.readline(LINE_BYTES_MAX)
                end, position = 0, None
                if header.endswith(b"\n") and b"\0" not in header:
                    if _sealed_header(header) is None:
                        troubles.append(self._put_aside(path))
                        continue
                    end, position = _last_batch(file, size, len(header))
            if end < size:
                troubles.append(("AUDIT_TORN_LINE", f"{path}: {size - end} bytes after offset {end} were cut"))
            if position is not None:
                self._resume(path, end)
                return position, troubles
            self._disk.unlink(path)
        self._disk.sync_dir(self.directory)
        return Position(0, 0, GENESIS_HEAD), troubles

    def _put_aside(self, path: Path) -> Trouble:
        aside = path.with_name(path.name + ".damaged")
        path.rename(aside)
        return ("AUDIT_DAMAGED", f"{path}: the header line is damaged; kept as {aside.name}")

    def _resume(self, path: Path, size: int) -> None:
        """Go on in `path`. Synced, because what a dead process wrote need not have reached the disk."""
        self._path, self._fd, self._durable_bytes = path, self._disk.reopen(path), size
        self._disk.truncate(self._fd, size)
        self._disk.fdatasync(self._fd)
        self._disk.sync_dir(self.directory)


def _sealed_header(line: bytes) -> Line | None:
    fields = parse_line(line)
    return fields if fields is not None and fields.get("audit") == FORMAT and is_sealed(line, fields) else None


def _last_batch(file: BinaryIO, size: int, header_bytes: int) -> tuple[int, Position | None]:
    """The offset after the last whole batch and where it leaves the trail; None when there is no batch.

    Blocks that never reached the disk read as zeros, and no line holds a zero byte: the search ends at the first.
    """
    limit = _first_zero(file, size)
    start = end = limit
    tail = b""
    while True:
        cut = tail.rfind(b"\n", 0, max(0, end - start - 1)) + 1  # where the last line before `end` begins
        if cut == 0 and start > header_bytes:
            step = min(max(TAIL_BLOCK_BYTES, len(tail)), start - header_bytes)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail[: end - start - step]
            continue
        if end <= header_bytes:
            return header_bytes, None
        fields = parse_line(tail[cut : end - start])
        position = None if fields is None else position_of(fields)
        if position is not None:
            return end, position
        end = start + cut


def _first_zero(file: BinaryIO, size: int) -> int:
    file.seek(0)
    offset = 0
    while block := file.read(LINE_BYTES_MAX):
        at = block.find(b"\0")
        if at >= 0:
            return offset + at
        offset += len(block)
    return min(offset, size)
