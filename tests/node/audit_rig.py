"""An audit trail whose writer the test turns by hand, a history to write, and disks that fail or forget."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raftstore.node.audit import AuditTrail, Pace
from raftstore.node.audit_files import OsDisk
from raftstore.node.audit_lines import list_files, parse_line
from raftstore.node.audit_verify import verify_files
from raftstore.ownership.events import GENESIS_HEAD, REATTACHED, chain_next, pack_events

NO_PAUSE = Pace(group_s=0.0, slice_s=0.0, retry_first_s=0.0, retry_last_s=0.0)
Batch = tuple[int, int, list[tuple[Any, ...]], bytes]


def history(batches: int, per_batch: int = 3) -> list[Batch]:
    """A log: batch k has log index 2k (the entries between have no events), and 1 to `per_batch` events."""
    log: list[Batch] = []
    number, head = 1, GENESIS_HEAD
    for k in range(1, batches + 1):
        events = []
        for _ in range(1 + k % per_batch):
            session = f'a"b\\{number}'  # printable ASCII that JSON must escape
            first = number + len(events)
            events.append(
                (
                    first,
                    2 * k,
                    1000 * k,
                    1_700_000_000_000 + k,
                    REATTACHED,
                    session,
                    "vpn-1",
                    2,
                    2**63,
                    first,
                    1,
                    1,
                    "vpn-1",
                )
                + (1, first, None, None)
            )
        head = chain_next(head, 2 * k, pack_events(events))
        log.append((2 * k, number, events, head))
        number += len(events)
    return log


class FaultyDisk(OsDisk):
    """A disk on which one named call fails, while `fault` is set; a failing write leaves half of its data."""

    def __init__(self) -> None:
        self.fault = ""
        self.syncs = 0

    def write(self, fd: int, data: bytes) -> None:
        if self.fault == "write":
            super().write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        if self.fault == "fdatasync":
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        super().fdatasync(fd)

    def sync_dir(self, path: Path) -> None:
        if self.fault == "sync_dir":
            raise OSError(errno.EIO, "Input/output error")
        super().sync_dir(path)


class ForgetfulDisk(FaultyDisk):
    """A disk that loses, when the power goes, what was not synced: bytes, cuts and names."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[int, Path] = {}
        self.synced: dict[Path, bytes] = {}
        self.uncut: dict[Path, bytes] = {}
        self.named: set[Path] = set()

    def create(self, path: Path) -> int:
        return self._opened(super().create(path), path)

    def reopen(self, path: Path) -> int:
        return self._opened(super().reopen(path), path)

    def _opened(self, fd: int, path: Path) -> int:
        self.paths[fd] = path
        return fd

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.synced[self.paths[fd]] = self.paths[fd].read_bytes()
        self.uncut.pop(self.paths[fd], None)

    def truncate(self, fd: int, size: int) -> None:
        self.uncut.setdefault(self.paths[fd], self.paths[fd].read_bytes())
        super().truncate(fd, size)

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.named = set(list_files(path))

    def lose_power(self, directory: Path, rng: random.Random) -> None:
        """Each file falls back to what was synced, or to that and some of the rest."""
        for path in list_files(directory):
            if path not in self.named:
                path.unlink()
                continue
            kept, now = self.synced.get(path, b""), path.read_bytes()
            if path in self.uncut and rng.random() < 0.5:  # its bytes were there already, the cut was not
                now = self.uncut[path]
            if now.startswith(kept):
                kept = now[: rng.randint(len(kept), len(now))]
            path.write_bytes(kept)


@dataclass
class Rig:
    """A trail whose writer the test turns by hand."""

    directory: Path
    file_bytes_max: int = 1 << 20
    files_max: int = 1000
    backlog_events_max: int = 1000
    disk: OsDisk = field(default_factory=OsDisk)
    troubles: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def trail(self, *, start_writer: bool = False, node_id: str = "vpn-1") -> AuditTrail:
        trail = AuditTrail(
            self.directory,
            cluster="office",
            node_id=node_id,
            file_bytes_max=self.file_bytes_max,
            files_max=self.files_max,
            backlog_events_max=self.backlog_events_max,
            on_trouble=self.note,
            disk=self.disk,
            pace=NO_PAUSE,
        )
        trail.open(start_writer=start_writer)
        return trail

    def note(self, kind: str, detail: str) -> None:
        self.troubles.append(kind)
        self.details.append(detail)

    def write(self, log: list[Batch]) -> AuditTrail:
        """Append `log` batch by batch, each made durable, and stop."""
        trail = self.trail()
        for batch in log:
            trail.append(*batch)
            trail.turn()
        trail.close(1.0)
        return trail

    def numbers(self) -> list[int]:
        return [line["number"] for path in list_files(self.directory) for line in lines_of(path) if "number" in line]

    def assert_holds(self, log: list[Batch]) -> None:
        """Every event once, in order, and a chain that verifies."""
        assert self.numbers() == [event[0] for batch in log for event in batch[2]]
        report = verify_files(list_files(self.directory))
        assert (report.problems, report.gaps, report.unfinished) == ([], [], "")
        assert (report.last, report.head) == (self.numbers()[-1], log[-1][3])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [parse_line(line) or {} for line in path.read_bytes().splitlines(keepends=True)]
