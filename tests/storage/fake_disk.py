"""A disk in memory that forgets what was not synced, and that can be told when to fail.

Every call that changes something is numbered. `crash_at` stops the program in that call (PowerLoss); `restart` then
gives the disk as the next start finds it: of the unsynced writes any subset, in any order, each torn anywhere; of
the unsynced directory changes any. `fail_at` lets a call fail with an OSError; a failed sync loses what it
should have made durable, though it can still be read until power is lost. `kill` ends the program alone.
"""

from __future__ import annotations

import errno
import posixpath
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from jepsen_like.sim.disk import Change
from jepsen_like.sim.disk import apply_change as carry_out


class PowerLoss(BaseException):
    """The machine stopped in the middle of a call."""


@dataclass
class Inode:
    """A file: what survives for sure, what a reader sees, and what lies between."""

    durable: bytearray = field(default_factory=bytearray)
    current: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[str, int, bytes]] = field(default_factory=list)

    def change(self, kind: str, offset: int, data: bytes) -> None:
        apply_change(self.current, kind, offset, data)
        self.unsynced.append((kind, offset, data))


def apply_change(content: bytearray, kind: str, offset: int, data: bytes) -> None:
    carry_out(content, Change(kind, offset, data, 0))


class FakeFile:
    def __init__(self, disk: FakeDisk, inode: Inode, *, read_only: bool) -> None:
        self._disk, self._inode, self._read_only = disk, inode, read_only

    def _change(self, kind: str, offset: int, data: bytes, end: int) -> None:
        if self._read_only:
            raise OSError(errno.EBADF, "not open for writing")
        self._disk.need(max(0, end - len(self._inode.current)))
        fails = self._disk.tick()
        self._inode.change(kind, offset, data)  # even when the machine stops here: part of it may reach the disk
        fails()

    def pwrite(self, data: bytes, offset: int) -> None:
        self._change("write", offset, bytes(data), offset + len(data))

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.current[offset : offset + size])

    def preallocate(self, size: int) -> None:
        self._change("grow", size, b"", size)

    def truncate(self, size: int) -> None:
        self._change("cut", size, b"", size)

    def datasync(self) -> None:
        try:
            self._disk.tick()()
        except OSError:
            self._inode.unsynced.clear()  # still readable, never to be written: as after a failed fsync
            raise
        for change in self._inode.unsynced:
            apply_change(self._inode.durable, *change)
        self._inode.unsynced.clear()

    def size(self) -> int:
        return len(self._inode.current)

    def close(self) -> None:
        pass


class FakeDisk:
    def __init__(self, *, capacity_bytes: int = 1 << 40) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.directories: set[str] = {"/"}
        self.unsynced_names: dict[str, list[tuple[str, str, Inode | None]]] = {}
        self.capacity_bytes = capacity_bytes
        self.calls = 0
        self.crash_at = self.fail_at = 0
        self.locked: set[str] = set()

    # --- faults --------------------------------------------------------------------------------------
    def tick(self) -> Callable[[], None]:
        """Count a call; the returned function raises if this is the one that must not succeed."""
        self.calls += 1
        number = self.calls

        def fails() -> None:
            if number == self.crash_at:
                raise PowerLoss
            if number == self.fail_at:
                raise OSError(errno.EIO, "input/output error")

        return fails

    def need(self, more_bytes: int) -> None:
        if more_bytes > self.free_bytes("/"):
            raise OSError(errno.ENOSPC, "no space left on device")

    def kill(self) -> FakeDisk:
        """The program ended, the machine did not: everything is still readable, nothing more is durable."""
        self.locked.clear()
        self.crash_at = self.fail_at = 0
        return self

    def restart(self, rng: random.Random, mode: str = "some") -> FakeDisk:
        """The disk after a power loss. `mode`: of what was not synced keep "some", "all" or "none"."""
        after = FakeDisk(capacity_bytes=self.capacity_bytes)
        after.directories = set(self.directories)
        names = dict(self.durable_names)
        for changes in self.unsynced_names.values():
            chance = {"all": 1.0, "none": 0.0}.get(mode, rng.choice((0.2, 0.5, 0.8)))
            for change in changes:
                if rng.random() < chance:
                    apply_name(names, *change)
        for path, inode in names.items():
            content = surviving(inode, rng, mode)
            after.names[path] = Inode(bytearray(content), bytearray(content))
        after.durable_names = dict(after.names)
        return after

    def flip(self, path: str, offset: int, mask: int) -> None:
        """Damage a durable byte."""
        inode = self.names[path]
        inode.current[offset] ^= mask
        inode.durable[offset] ^= mask

    def copy(self) -> FakeDisk:
        """The same disk with everything that can be read on it durable."""
        twin = FakeDisk(capacity_bytes=self.capacity_bytes)
        twin.directories = set(self.directories)
        for path, inode in self.names.items():
            twin.names[path] = Inode(bytearray(inode.current), bytearray(inode.current))
        twin.durable_names = dict(twin.names)
        return twin

    # --- ports.Disk ----------------------------------------------------------------------------------
    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> FakeFile:
        if path not in self.names:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._check_directory(path)
            self._rename("link", path, Inode())
        return FakeFile(self, self.names[path], read_only=read_only)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.directories

    def listdir(self, path: str) -> list[str]:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        inside = [name for name in [*self.names, *self.directories] if posixpath.dirname(name) == path and name != "/"]
        return sorted(posixpath.basename(name) for name in inside)

    def makedirs(self, path: str) -> None:
        while path not in self.directories:
            self.directories.add(path)
            path = posixpath.dirname(path)

    def rename(self, old: str, new: str) -> None:
        if old not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._rename("rename " + old, new, self.names[old])

    def unlink(self, path: str) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._rename("unlink", path, None)

    def sync_dir(self, path: str) -> None:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        self.tick()()
        for change in self.unsynced_names.pop(path, []):
            apply_name(self.durable_names, *change)

    def free_bytes(self, path: str) -> int:
        return self.capacity_bytes - sum(len(inode.current) for inode in self.names.values())

    def lock(self, path: str) -> Callable[[], None]:
        if path in self.locked:
            raise BlockingIOError(errno.EAGAIN, "held by process 1")
        self._check_directory(path)
        self.locked.add(path)
        return lambda: self.locked.discard(path)

    def _check_directory(self, path: str) -> None:
        if posixpath.dirname(path) not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", posixpath.dirname(path))

    def _rename(self, kind: str, path: str, inode: Inode | None) -> None:
        fails = self.tick()
        change = (kind, path, inode)
        apply_name(self.names, *change)
        self.unsynced_names.setdefault(posixpath.dirname(path), []).append(change)
        fails()


def apply_name(names: dict[str, Inode], kind: str, path: str, inode: Inode | None) -> None:
    """Carry out one change of a directory."""
    if inode is None:
        names.pop(path, None)
        return
    if kind.startswith("rename "):
        names.pop(kind.removeprefix("rename "), None)
    names[path] = inode


def surviving(inode: Inode, rng: random.Random, mode: str) -> bytearray:
    """The bytes of a file after a power loss."""
    if mode == "all":
        return inode.current
    content = bytearray(inode.durable)
    if mode == "none":
        return content
    changes = list(inode.unsynced)
    rng.shuffle(changes)
    for kind, offset, data in changes:
        fate = rng.random()
        if fate < 0.25:
            continue
        if kind != "write" or fate < 0.45:
            apply_change(content, kind, offset, data)
            continue
        step = rng.choice((1, 7, 64, 512))
        for start in torn_starts(len(data), step, rng):
            apply_change(content, "write", offset + start, data[start : start + step])
    return content


def torn_starts(size: int, step: int, rng: random.Random) -> list[int]:
    """Which pieces of a torn write survive: the first few, or any."""
    starts = list(range(0, size, step))
    if rng.random() < 0.5:
        return starts[: rng.randint(0, len(starts))]
    return [start for start in starts if rng.random() < 0.5]
