"""The edges of the program: time, disk and links, as the rest of the code sees them.

Production hands in the real ones, the simulator its own. Nothing below `node` reads a clock, opens a file or
a socket in any other way; randomness comes in as a `random.Random`. Each protocol states its threading and
durability contract, because the code on both sides relies on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Local time. Called from the node's own thread only; never blocks."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds that go on while the machine sleeps (CLOCK_BOOTTIME)."""

    def wall_ms(self) -> int:
        """Wall-clock milliseconds since 1970. For people; decides nothing but the resume after a full stop."""


class SystemClock:
    """The machine's own clocks."""

    _clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ns(self) -> int:
        return time.clock_gettime_ns(self._clock_id)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class File(Protocol):
    """One open file. One user at a time, but `datasync` may run beside `pwrite`. Any method may raise OSError."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Not durable before `datasync` returns; may tear in a crash."""

    def pread(self, size: int, offset: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file."""

    def preallocate(self, size: int) -> None:
        """Reserve blocks so that the file is at least `size` bytes long; the new part reads as zeros."""

    def truncate(self, size: int) -> None:
        """Cut or extend the file to `size`. Durable after `datasync`."""

    def datasync(self) -> None:
        """Returns when all that was written, and the size, is durable. An OSError is final: never retried."""

    def size(self) -> int: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A file system seen from one node: full paths as strings, blocking calls, called off the event loop."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        """Open for reading and writing, or for reading alone. FileNotFoundError when absent and not `create`."""

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, sorted."""

    def makedirs(self, path: str) -> None:
        """Make the directory and those above it; nothing when it is there. Durable on return."""

    def rename(self, old: str, new: str) -> None:
        """Atomic in a crash; durable after `sync_dir` of the directory."""

    def unlink(self, path: str) -> None:
        """Durable after `sync_dir` of the directory."""

    def sync_dir(self, path: str) -> None:
        """Returns when names created, renamed and removed in the directory are durable; until then any may be lost."""

    def free_bytes(self, path: str) -> int: ...

    def lock(self, path: str) -> Callable[[], None]:
        """Take an exclusive lock on a file until the returned function is called or the process ends.

        BlockingIOError when it is held already; its text says by whom, where that is known.
        """
