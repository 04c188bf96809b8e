"""The shim between a node and its machine: clocks that lie within bounds, a disk that fails. See shim.c.

Knows how to compile it, the layout of the page that steers it, and how to steer. One page per node: it outlives the
processes of the node, so a fault stays over a restart. Leaves to the nemeses what to ask for.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

FIELDS = (
    "wall_offset_ns",
    "rate_ppb",
    "write_errno",
    "sync_errno",
    "sync_delay_us",
    "clock_reads",
    "disk_faults",
)
PAGE_BYTES = 4096
SOURCE = Path(__file__).with_name("shim.c")
_VALUE = struct.Struct("<q")
RATE_PPB_MAX = 500_000_000
ERRORS = {"": 0, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class ShimError(Exception):
    """The shim cannot be made here; the message says why."""


def compile_shim(directory: Path) -> Path:
    """The shared object, compiled into `directory`. ShimError without a compiler, or with its first complaint."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ShimError("no C compiler (install gcc)")
    target = directory / "shim.so"
    command = [compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", str(target), str(SOURCE), "-ldl", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ShimError(f"the shim does not compile: {(done.stderr.strip().splitlines() or ['?'])[0]}")
    return target


class Shim:
    """What one node is told. Changes reach the running process at its next call."""

    def __init__(self, library: Path, page: Path, disk: Path) -> None:
        self._library = library
        self._path = page
        self._disk = disk
        page.write_bytes(bytes(PAGE_BYTES))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), PAGE_BYTES)

    def environment(self) -> dict[str, str]:
        """What the node's process needs in its environment."""
        return {
            "LD_PRELOAD": str(self._library),
            "JEPSEN_LIKE_SHIM": str(self._path),
            "JEPSEN_LIKE_DISK": os.path.realpath(self._disk),
        }

    def _set(self, field: str, value: int) -> None:
        _VALUE.pack_into(self._page, FIELDS.index(field) * _VALUE.size, value)

    def get(self, field: str) -> int:
        value: int = _VALUE.unpack_from(self._page, FIELDS.index(field) * _VALUE.size)[0]
        return value

    def jump_wall(self, offset_ms: int) -> None:
        """The wall clock stands so many milliseconds beside the truth."""
        self._set("wall_offset_ns", offset_ms * 1_000_000)

    def run_at(self, ppm: int) -> None:
        """The monotonic clocks run faster by so many parts per million from now on (slower when negative)."""
        ppb = ppm * 1_000
        if abs(ppb) > RATE_PPB_MAX:
            raise ValueError(f"a rate of {ppm} ppm")
        self._set("rate_ppb", ppb)

    def fail_writes(self, error: str) -> None:
        """ "EIO", "ENOSPC", or "" to stop."""
        self._set("write_errno", ERRORS[error])

    def fail_syncs(self, error: str) -> None:
        self._set("sync_errno", ERRORS[error])

    def slow_syncs(self, delay_ms: int) -> None:
        self._set("sync_delay_us", delay_ms * 1_000)

    def heal_disk(self) -> None:
        self.fail_writes("")
        self.fail_syncs("")
        self.slow_syncs(0)

    def heal_clock(self) -> None:
        """True rates and wall time; what the monotonic clocks gained in this life of the process, they keep."""
        self.jump_wall(0)
        self.run_at(0)

    def close(self) -> None:
        self._page.close()
