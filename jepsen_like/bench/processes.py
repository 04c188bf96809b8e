"""What processes have used, read from /proc and from `ss`; None wherever this machine does not tell.

CPU seconds, resident memory, threads, descriptors; bytes written to files (pages that became dirty, as the kernel
accounts them: a write that goes over the same page twice between two write-backs counts once); bytes sent on TCP
connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
_SENT = re.compile(r"\bbytes_sent:(\d+)")
SS_TIMEOUT_S = 5.0


def cpu_seconds(pid: int) -> float | None:
    """User and system time of all threads of a process; None when it has gone or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int | None:
    return _field(Path(f"/proc/{pid}/status"), "VmRSS", 1024)


def written_bytes(pid: int) -> int | None:
    return _field(Path(f"/proc/{pid}/io"), "write_bytes", 1)


def threads(pid: int) -> int | None:
    return _field(Path(f"/proc/{pid}/status"), "Threads", 1)


def wakes(pid: int) -> int | None:
    """How often its threads have gone to sleep, and so been woken, all together."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return None
    counts = [_field(task / "status", "voluntary_ctxt_switches", 1) for task in tasks]
    return sum(count for count in counts if count is not None)


def descriptors(pid: int) -> int | None:
    """Open files and sockets."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def _field(path: Path, name: str, unit: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * unit
    return None


def sent_bytes(ports: Collection[int]) -> int | None:
    """By both sides of every open connection that ends at one of these ports of this machine."""
    if shutil.which("ss") is None or not ports:
        return None
    wanted = " or ".join(f"sport = :{port} or dport = :{port}" for port in sorted(ports))
    try:
        told = subprocess.run(
            ["ss", "-tinOH", f"( {wanted} )"], capture_output=True, text=True, timeout=SS_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(int(found) for found in _SENT.findall(told))
