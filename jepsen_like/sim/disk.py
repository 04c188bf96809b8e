"""A disk that forgets what was not synced, that takes its time, and that can be told to fail.

Calls return at once, but each sync takes virtual time: `cursor` is the instant that the calling thread has come to.
A change carries the instant at which it was made, a sync the instant at which it is through. A crash keeps what was
through; of what was only written by then any subset, each part torn anywhere; and nothing of what comes after. A
failed sync loses what it should have made durable, though it can still be read.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable
from random import Random
from typing import NamedTuple

TORN_STEPS = (1, 7, 64, 512)


class Change(NamedTuple):
    """One change of a file's bytes: a write, a growth or a cut."""

    kind: str
    offset: int
    data: bytes
    at: int


class NameChange(NamedTuple):
    """One change of a directory; `inode` is None for a removal, `old` the name that a rename took away."""

    path: str
    inode: Inode | None
    old: str | None
    at: int


class Inode:
    """A file: what survives for sure, what a reader sees, and what lies between."""

    __slots__ = ("current", "durable", "syncing", "unsynced")

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.durable = bytearray(content)
        self.current = bytearray(content)
        self.unsynced: list[Change] = []
        self.syncing: list[tuple[int, list[Change]]] = []  # (when the sync is through, what it covers)

    def settle(self, now: int) -> None:
        """What is through by `now` is durable."""
        while self.syncing and self.syncing[0][0] <= now:
            for change in self.syncing.pop(0)[1]:
                apply_change(self.durable, change)

    def pending(self) -> list[Change]:
        """Everything that a reader sees and that is not durable, in the order in which it was made."""
        return [change for _, covered in self.syncing for change in covered] + self.unsynced


def apply_change(content: bytearray, change: Change) -> None:
    """Carry out one change of a file's bytes."""
    kind, offset, data, _ = change
    if kind == "write":
        if len(content) < offset + len(data):
            content.extend(bytes(offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data
    elif kind == "grow":
        content.extend(bytes(max(0, offset - len(content))))
    else:
        del content[offset:]
        content.extend(bytes(offset - len(content)))


class SimFile:
    """One open file (ports.File)."""

    def __init__(self, disk: SimDisk, inode: Inode, *, read_only: bool) -> None:
        self._disk, self._inode, self._read_only = disk, inode, read_only

    def _change(self, kind: str, offset: int, data: bytes, end: int) -> None:
        if self._read_only:
            raise OSError(errno.EBADF, "not open for writing")
        inode, disk = self._inode, self._disk
        disk.need(end - len(inode.current))
        change = Change(kind, offset, data, disk.cursor)
        apply_change(inode.current, change)
        inode.unsynced.append(change)
        disk.may_fail("write")

    def pwrite(self, data: bytes, offset: int) -> None:
        self._change("write", offset, bytes(data), offset + len(data))

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.current[offset : offset + size])

    def preallocate(self, size: int) -> None:
        self._change("grow", size, b"", size)

    def truncate(self, size: int) -> None:
        self._change("cut", size, b"", size)

    def datasync(self) -> None:
        inode, disk = self._inode, self._disk
        covered, inode.unsynced = inode.unsynced, []
        inode.settle(disk.began)
        through = disk.sync_time()
        disk.may_fail("sync")
        inode.syncing.append((through, covered))

    def size(self) -> int:
        return len(self._inode.current)

    def close(self) -> None:
        """Nothing is held."""


class SimDisk:
    """The disk of one node (ports.Disk); it survives the node's processes."""

    def __init__(self, rng: Random, *, capacity_bytes: int = 1 << 40) -> None:
        self.rng = rng
        self.cursor = 0  # the instant that the calling thread has come to
        self.began = 0  # when its present piece of work began: what is through by then stays, whatever happens
        self.usual_ns = (100_000, 2_000_000)  # how long a sync takes while nothing is wrong
        self.sync_min_ns, self.sync_max_ns = self.usual_ns
        self.capacity_bytes = capacity_bytes
        self.fail_in: dict[str, int] = {}  # calls of a kind until one fails
        self.failures = 0
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._directories: dict[str, None] = {"/": None}
        self._unsynced_names: dict[str, list[NameChange]] = {}
        self._syncing_names: list[tuple[int, list[NameChange]]] = []
        self._locked: dict[str, None] = {}

    # --- time and trouble ------------------------------------------------------------------------------------
    def begin(self, now: int) -> None:
        """A thread's piece of work begins."""
        self.began = self.cursor = now

    def sync_time(self) -> int:
        """A sync begins: when it will be through."""
        self.cursor += self.rng.randint(self.sync_min_ns, self.sync_max_ns)
        return self.cursor

    def need(self, more_bytes: int) -> None:
        if more_bytes > 0 and more_bytes > self.free_bytes("/"):
            self.failures += 1
            raise OSError(errno.ENOSPC, "no space left on device")

    def may_fail(self, kind: str) -> None:
        """Raise if this is the call that was chosen to fail."""
        left = self.fail_in.get(kind)
        if left is None:
            return
        if left > 0:
            self.fail_in[kind] = left - 1
            return
        del self.fail_in[kind]
        self.failures += 1
        raise OSError(errno.EIO, "input/output error")

    def at_usual_speed(self) -> None:
        self.sync_min_ns, self.sync_max_ns = self.usual_ns

    def heal(self) -> None:
        """No trouble any more, and room enough."""
        self.fail_in.clear()
        self.capacity_bytes = 1 << 40
        self.at_usual_speed()

    # --- the end of a process ----------------------------------------------------------------------------------
    def kill(self, now: int) -> None:
        """The process ended, the machine did not: what it had written by `now` can be read, and no more is durable."""
        self._settle(now)
        self._locked.clear()
        names = dict(self._durable_names)
        pending = [change for _, covered in self._syncing_names for change in covered]
        pending += [change for changes in self._unsynced_names.values() for change in changes]
        kept = sorted((change for change in pending if change.at <= now), key=lambda change: change.at)
        self._syncing_names.clear()
        self._unsynced_names.clear()
        for change in kept:
            apply_name(names, change)
            self._unsynced_names.setdefault(posixpath.dirname(change.path), []).append(change)
        for inode in names.values():
            inode.unsynced = [change for change in inode.pending() if change.at <= now]
            inode.syncing.clear()
            inode.current = bytearray(inode.durable)
            for written in inode.unsynced:
                apply_change(inode.current, written)
        self.names = names

    def lose_power(self, now: int, keep: float) -> None:
        """The machine stopped: of what was not through, each part survives with probability `keep`, torn or whole."""
        self.kill(now)
        names = dict(self._durable_names)
        for changes in self._unsynced_names.values():
            for change in changes:
                if self.rng.random() < keep:
                    apply_name(names, change)
        self._unsynced_names.clear()
        done: dict[int, None] = {}
        for inode in names.values():
            if id(inode) not in done:
                done[id(inode)] = None
                self._survive(inode, keep)
        self.names = names
        self._durable_names = dict(names)

    def _survive(self, inode: Inode, keep: float) -> None:
        changes, inode.unsynced = inode.unsynced, []
        if changes:
            self.rng.shuffle(changes)
            for change in changes:
                if self.rng.random() < keep:
                    self._survive_torn(inode.durable, change)
        inode.current = bytearray(inode.durable)

    def _survive_torn(self, content: bytearray, change: Change) -> None:
        rng = self.rng
        if change.kind != "write" or rng.random() < 0.4:
            apply_change(content, change)
            return
        step = rng.choice(TORN_STEPS)
        starts = list(range(0, len(change.data), step))
        if rng.random() < 0.5:
            starts = starts[: rng.randint(0, len(starts))]
        else:
            starts = [start for start in starts if rng.random() < 0.5]
        for start in starts:
            piece = change.data[start : start + step]
            apply_change(content, Change("write", change.offset + start, piece, change.at))

    def wipe(self) -> None:
        """The disk was replaced by an empty one."""
        self.names.clear()
        self._durable_names.clear()
        self._unsynced_names.clear()
        self._syncing_names.clear()
        self._directories = {"/": None}
        self._locked.clear()

    def flip(self) -> str | None:
        """Damage one bit of a durable byte that is not zero; where. None when there is none."""
        paths = sorted(path for path, inode in self.names.items() if inode.current.strip(b"\0"))
        if not paths:
            return None
        path = self.rng.choice(paths)
        inode = self.names[path]
        used = len(inode.current.rstrip(b"\0"))
        offset, bit = self.rng.randrange(used), 1 << self.rng.randrange(8)
        inode.current[offset] ^= bit
        if offset < len(inode.durable):
            inode.durable[offset] ^= bit
        return f"{path}:{offset}"

    def used_bytes(self) -> int:
        return sum(len(inode.current) for inode in self.names.values())

    # --- ports.Disk ------------------------------------------------------------------------------------------
    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> SimFile:
        inode = self.names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._check_directory(path)
            inode = Inode()
            self._rename(NameChange(path, inode, None, self.cursor))
        return SimFile(self, inode, read_only=read_only)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self._directories

    def listdir(self, path: str) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        inside = [name for name in [*self.names, *self._directories] if posixpath.dirname(name) == path and name != "/"]
        return sorted(posixpath.basename(name) for name in inside)

    def makedirs(self, path: str) -> None:
        while path not in self._directories:
            self._directories[path] = None
            path = posixpath.dirname(path)

    def rename(self, old: str, new: str) -> None:
        if old not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._rename(NameChange(new, self.names[old], old, self.cursor))

    def unlink(self, path: str) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._rename(NameChange(path, None, None, self.cursor))

    def sync_dir(self, path: str) -> None:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        through = self.sync_time()
        self.may_fail("sync")
        self._syncing_names.append((through, self._unsynced_names.pop(path, [])))

    def free_bytes(self, path: str) -> int:
        if self.capacity_bytes == 1 << 40:
            return self.capacity_bytes
        return self.capacity_bytes - self.used_bytes()

    def lock(self, path: str) -> Callable[[], None]:
        if path in self._locked:
            raise BlockingIOError(errno.EAGAIN, "held by process 1")
        self._check_directory(path)
        self._locked[path] = None
        return lambda: self._locked.pop(path, None)

    # --- inside ------------------------------------------------------------------------------------------------
    def _check_directory(self, path: str) -> None:
        if posixpath.dirname(path) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", posixpath.dirname(path))

    def _rename(self, change: NameChange) -> None:
        self.may_fail("write")
        apply_name(self.names, change)
        self._unsynced_names.setdefault(posixpath.dirname(change.path), []).append(change)

    def _settle(self, now: int) -> None:
        through = sorted((sync for sync in self._syncing_names if sync[0] <= now), key=lambda sync: sync[0])
        self._syncing_names = [sync for sync in self._syncing_names if sync[0] > now]
        for _, changes in through:
            for change in changes:
                apply_name(self._durable_names, change)
        for inode in [*self.names.values(), *self._durable_names.values()]:
            inode.settle(now)


def apply_name(names: dict[str, Inode], change: NameChange) -> None:
    """Carry out one change of a directory."""
    if change.old is not None:
        names.pop(change.old, None)
    if change.inode is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.inode
