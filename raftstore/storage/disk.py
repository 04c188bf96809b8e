"""The real disk: ports.Disk over the operating system's own calls.

Leaves every decision (what to write, when to sync, what an error means) to its callers; it only makes each call
keep the contract that ports.py states. Never retries a failed sync: after one, nobody knows what reached the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

_datasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class OsFile:
    """One open file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pwrite(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # a short write is legal; what is left follows
            view = memoryview(data)[written:]
            step = os.pwrite(self._descriptor, view, offset + written)
            if step == 0:
                raise OSError("the disk takes no more bytes")
            written += step

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts, got = [data], len(data)
        while got < size and (more := os.pread(self._descriptor, size - got, offset + got)):
            parts.append(more)
            got += len(more)
        return b"".join(parts)

    def preallocate(self, size: int) -> None:
        if size <= self.size():
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, 0, size)
        else:
            os.ftruncate(self._descriptor, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def datasync(self) -> None:
        _datasync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class OsDisk:
    """The machine's file system."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> OsFile:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        return OsFile(os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def makedirs(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.makedirs(parent)
        try:
            os.mkdir(path, mode=0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
            # another node of this machine was quicker; it may not have synced the parent yet
        self.sync_dir(parent)

    def rename(self, old: str, new: str) -> None:
        os.replace(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: str) -> Callable[[], None]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise BlockingIOError(error.errno, f"held by process {holder or '(unknown)'}") from None
        except OSError:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

        def release() -> None:
            os.close(descriptor)

        return release
