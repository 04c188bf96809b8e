"""The audit trail: none missing and none twice, whatever the disk and the process do."""

from __future__ import annotations

import errno
import json
import random
import shutil
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raftstore.errors import StorageError
from raftstore.node.audit import AuditTrail, Pace
from raftstore.node.audit_files import OsDisk
from raftstore.node.audit_lines import batch_lines, event_line, list_files
from raftstore.node.audit_verify import verify_files
from raftstore.ownership.events import EVENT_NAMES, GENESIS_HEAD, REATTACHED, chain_next, pack_events

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
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_event_is_one_line_and_the_chain_verifies(tmp_path: Path) -> None:
    """What was appended is there in order, with a head per batch, times for people, and closed to others."""
    log = history(10)
    rig = Rig(tmp_path / "audit")
    trail = rig.write(log)
    rig.assert_holds(log)
    (path,) = list_files(rig.directory)
    assert path.name == "audit-0000000000000001.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header, first, *_ = lines_of(path)
    assert (header["cluster"], header["node"], header["first"]) == ("office", "vpn-1", 1)
    assert (first["time"], first["event"]) == ("2023-11-14T22:13:20.001Z", "Reattached")
    assert (trail.durable_number, trail.durable_index, trail.backlog) == (trail.last_number, 20, 0)
    assert rig.troubles == []


def test_the_quick_spelling_of_a_batch_is_the_plain_one() -> None:
    """The writer's fast way gives the very bytes that an auditor gets from the events' JSON form."""
    rng = random.Random(7)
    texts = [None, "", "vpn-1", 'a"b\\c},{', "\x7f~", "caf\u00e9 \u2028 \U0001f600", "x" * 300]
    numbers = [0, 1, 2**53 - 1, 2**64 - 1, 1_700_000_000_999]
    for _ in range(500):
        n, t = (lambda: rng.choice(numbers)), (lambda: rng.choice(texts))
        events = [
            (n(), n(), n(), n(), rng.randrange(1, len(EVENT_NAMES)), t(), t(), rng.randrange(30), n(), n())
            + (rng.randrange(5), rng.randrange(5), t(), n(), n(), t(), t())
            for _ in range(3)
        ]
        plain = b"".join(event_line(event, None) for event in events[:-1]) + event_line(events[-1], GENESIS_HEAD)
        assert batch_lines(events, GENESIS_HEAD) == plain


@pytest.mark.parametrize("file_bytes_max", [1 << 20, 1500])
def test_a_crash_at_every_byte_of_the_end_loses_and_doubles_nothing(tmp_path: Path, file_bytes_max: int) -> None:
    """Wherever the newest file was torn, also in its header, a replay of the log makes the trail whole."""
    log = history(9)
    Rig(tmp_path / "whole", file_bytes_max=file_bytes_max).write(log)
    newest = list_files(tmp_path / "whole")[-1]
    size = newest.stat().st_size
    for length in range(max(0, size - 800), size):
        rig = Rig(tmp_path / f"torn{length}", file_bytes_max=file_bytes_max)
        shutil.copytree(tmp_path / "whole", rig.directory)
        with (rig.directory / newest.name).open("r+b") as file:
            file.truncate(length)
        before = rig.trail()
        assert before.last_number < log[-1][1] + len(log[-1][2])
        before.close(1.0)
        rig.write(log)
        rig.assert_holds(log)


def test_blocks_that_never_reached_the_disk_are_cut_with_all_that_follows(tmp_path: Path) -> None:
    """A hole of zeros before whole lines ends the file there, for the lines behind it were never durable."""
    log = history(9)
    rig = Rig(tmp_path / "audit")
    rig.write(log)
    (path,) = list_files(rig.directory)
    content = bytearray(path.read_bytes())
    content[900:1400] = bytes(500)
    path.write_bytes(content)
    rig.write(log)
    rig.assert_holds(log)
    assert rig.troubles == ["AUDIT_TORN_LINE"]


def test_a_replay_from_an_older_snapshot_writes_nothing_twice(tmp_path: Path) -> None:
    """A log that begins anywhere before the end of the trail adds only what is new."""
    log = history(12)
    for start in range(8):
        rig = Rig(tmp_path / str(start))
        rig.write(log[:8])
        trail = rig.trail()
        trail.skip_to(log[start][1] - 1, log[start][0] - 1, log[start - 1][3] if start else GENESIS_HEAD)
        trail.close(1.0)
        rig.write(log[start:])
        rig.assert_holds(log)
        assert rig.troubles == []


def test_a_snapshot_beyond_the_trail_is_written_down_as_a_gap(tmp_path: Path) -> None:
    """Events that came only inside a snapshot are named as missing, and the chain goes on behind them."""
    log = history(10)
    rig = Rig(tmp_path / "audit")
    trail = rig.write(log[:3])
    first, last = trail.last_number + 1, log[6][1] - 1
    trail = rig.trail()
    trail.skip_to(last, 13, log[5][3])
    for batch in log[6:]:
        trail.append(*batch)
    trail.close(1.0)
    report = verify_files(list_files(rig.directory))
    assert (report.problems, report.gaps, report.head) == ([], [(first, last)], log[-1][3])
    assert rig.troubles == ["AUDIT_GAP"]
    read = list(rig.trail().read(first - 2))
    assert [(line["event"], line["number"]) for line in read[:3]] == [
        ("Reattached", first - 1),
        ("AuditGap", last),
        ("Reattached", last + 1),
    ]


def test_a_batch_that_does_not_follow_is_a_gap_and_not_an_error(tmp_path: Path) -> None:
    """When numbers jump without a word about a snapshot, the trail says so and goes on."""
    log = history(6)
    rig = Rig(tmp_path / "audit")
    rig.write(log[:2] + log[4:])
    report = verify_files(list_files(rig.directory))
    assert (report.problems, rig.troubles, report.head) == ([], ["AUDIT_GAP"], log[-1][3])
    assert report.gaps == [(log[2][1], log[5][1] - 1)]


def test_files_rotate_and_the_oldest_are_removed(tmp_path: Path) -> None:
    """No file outgrows its bound, at most `files_max` stay, and what stays verifies by itself."""
    log = history(60)
    rig = Rig(tmp_path / "audit", file_bytes_max=3000, files_max=4)
    trail = rig.write(log)
    files = list_files(rig.directory)
    assert len(files) == 4
    assert all(path.stat().st_size <= 3000 for path in files)
    for start in range(4):
        report = verify_files(files[start:])
        assert (report.problems, report.head) == ([], log[-1][3])
    oldest = int(files[0].name[6:22])
    read = list(trail.read(0))
    assert (read[0]["event"], read[0]["from"], read[0]["number"]) == ("AuditGap", 1, oldest - 1)
    assert [line["number"] for line in read[1:]] == list(range(oldest, trail.last_number + 1))


def test_one_group_spreads_over_files(tmp_path: Path) -> None:
    """A backlog larger than a file is written file by file in order."""
    log = history(60)
    rig = Rig(tmp_path / "audit", file_bytes_max=3000)
    trail = rig.trail()
    for batch in log:
        trail.append(*batch)
    trail.close(1.0)
    rig.assert_holds(log)
    assert len(list_files(rig.directory)) > 10


@pytest.mark.parametrize("file_bytes_max", [1 << 20, 1200])
@pytest.mark.parametrize("fault", ["write", "fdatasync", "sync_dir"])
def test_a_failing_disk_is_reported_once_and_loses_nothing(tmp_path: Path, fault: str, file_bytes_max: int) -> None:
    """While the disk fails nothing counts as durable; afterwards every event is there once; one report per change."""
    log = history(12)
    disk = FaultyDisk()
    rig = Rig(tmp_path / "audit", disk=disk, file_bytes_max=file_bytes_max)
    trail = rig.trail()
    for at, batch in enumerate(log):
        disk.fault = fault if at % 4 else ""
        before = trail.durable_number
        trail.append(*batch)
        for _ in range(3):
            trail.turn()
        if disk.fault and fault != "sync_dir":
            assert trail.durable_number == before < trail.last_number
    disk.fault = ""
    trail.turn()
    trail.close(1.0)
    rig.assert_holds(log)
    if fault != "sync_dir":
        assert rig.troubles == ["AUDIT_DISK", "AUDIT_DISK_RECOVERED"] * 3
        assert "durable up to event" in rig.details[0]


def test_after_a_failed_sync_the_lines_go_to_a_new_file(tmp_path: Path) -> None:
    """A file whose sync failed is cut to what was durable and left alone."""
    log = history(4)
    disk = FaultyDisk()
    rig = Rig(tmp_path / "audit", disk=disk)
    trail = rig.trail()
    trail.append(*log[0])
    trail.turn()
    durable = list_files(rig.directory)[0].read_bytes()
    disk.fault = "fdatasync"
    trail.append(*log[1])
    trail.turn()
    assert list_files(rig.directory)[0].read_bytes() != durable
    disk.fault = ""
    trail.turn()
    trail.close(1.0)
    assert [path.read_bytes() == durable for path in list_files(rig.directory)] == [True, False]
    rig.assert_holds(log[:2])


def test_a_crash_while_the_disk_fails_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Faults and crashes in any order, always followed by a replay: the trail comes out whole."""
    for seed in range(60):
        rng = random.Random(seed)
        log = history(12)
        disk = FaultyDisk()
        rig = Rig(tmp_path / str(seed), disk=disk, file_bytes_max=rng.choice([900, 2500, 1 << 20]))
        for _ in range(4):
            disk.fault = ""
            trail = rig.trail()
            for batch in log[: rng.randint(1, 12)]:
                disk.fault = rng.choice(["", "", "write", "fdatasync", "sync_dir"])
                trail.append(*batch)
                trail.turn()
        disk.fault = ""
        rig.write(log)
        rig.assert_holds(log)


def test_what_was_called_durable_survives_a_power_loss(tmp_path: Path) -> None:
    """Whatever fails, dies or loses power before: a durable event is there afterwards, and a replay adds the rest."""
    for seed in range(80):
        rng = random.Random(seed)
        log = history(12)
        disk = ForgetfulDisk()
        rig = Rig(tmp_path / str(seed), disk=disk, file_bytes_max=rng.choice([900, 2500, 1 << 20]))
        for _ in range(5):
            disk.fault = ""
            trail = rig.trail()
            for batch in log[: rng.randint(0, 12)]:
                disk.fault = rng.choice(["", "", "write", "fdatasync", "sync_dir"])
                trail.append(*batch)
                trail.turn()
            if rng.random() < 0.6:
                disk.lose_power(rig.directory, rng)
            disk.fault = ""
            again = rig.trail()
            assert again.last_number >= trail.durable_number, seed
        rig.write(log)
        rig.assert_holds(log)


def test_a_full_backlog_becomes_a_gap_and_memory_stays_bounded(tmp_path: Path) -> None:
    """What the queue cannot hold is left out, reported once, and named in the trail when the disk is back."""
    log = history(100)
    disk = FaultyDisk()
    rig = Rig(tmp_path / "audit", disk=disk, backlog_events_max=20)
    trail = rig.trail()
    disk.fault = "write"
    for batch in log[:90]:
        trail.append(*batch)
        trail.turn()
        assert trail.backlog <= 20
    assert rig.troubles == ["AUDIT_DISK", "AUDIT_BACKLOG"]
    disk.fault = ""
    while trail.backlog:
        trail.turn()
    for batch in log[90:]:
        trail.append(*batch)
        trail.turn()
    trail.close(1.0)
    report = verify_files(list_files(rig.directory))
    assert (report.problems, report.head) == ([], log[-1][3])
    assert [last for _, last in report.gaps] == [log[90][1] - 1]
    assert rig.troubles[2:] == ["AUDIT_DISK_RECOVERED", "AUDIT_BACKLOG_RECOVERED"]


def test_batches_without_events_move_the_durable_index(tmp_path: Path) -> None:
    """An entry that has no events is audited as soon as all before it is."""
    log = history(2)
    trail = Rig(tmp_path / "audit").trail()
    trail.append(1, 1, [], GENESIS_HEAD)
    assert trail.durable_index == 1
    trail.append(*log[0])
    trail.append(3, log[1][1], [], log[0][3])
    assert trail.durable_index == 1
    trail.turn()
    assert trail.durable_index == 3
    trail.close(1.0)


def test_the_durable_index_never_runs_ahead_of_the_disk(tmp_path: Path) -> None:
    """While batches still wait, the durable index is that of the last one on disk, and readers see no further."""
    log = history(3)
    disk = FaultyDisk()
    trail = Rig(tmp_path / "audit", file_bytes_max=900, disk=disk).trail()
    for batch in log:
        trail.append(*batch)
    trail.turn()
    assert trail.durable_index == log[0][0]
    disk.fault = "fdatasync"
    trail.turn()
    assert len(list_files(tmp_path / "audit")) == 2
    assert [line["number"] for line in trail.read(0)] == [event[0] for event in log[0][2]]
    trail.close(1.0)


def test_a_trail_of_another_history_is_reported(tmp_path: Path) -> None:
    """When a replay reaches the end of the files with another chain head, the node hears of it."""
    log = history(4)
    rig = Rig(tmp_path / "audit")
    rig.write(log)
    trail = rig.trail()
    index, first, events, _ = log[-1]
    trail.append(index, first, events, bytes(32))
    trail.close(1.0)
    assert rig.troubles == ["AUDIT_MISMATCH"]


def test_the_files_of_another_node_are_refused(tmp_path: Path) -> None:
    """A directory of another node or cluster is never written."""
    rig = Rig(tmp_path / "audit")
    rig.write(history(2))
    with pytest.raises(StorageError, match="a directory of its own"):
        rig.trail(node_id="vpn-2")


def test_a_damaged_header_is_put_aside_and_the_hole_is_named(tmp_path: Path) -> None:
    """A whole but wrong header is no torn end: the file is kept for people, and the trail goes on before it."""
    log = history(30)
    rig = Rig(tmp_path / "audit", file_bytes_max=3000)
    rig.write(log)
    newest = list_files(rig.directory)[-1]
    newest.write_bytes(newest.read_bytes().replace(b"vpn-1", b"vpn-9", 1))
    rig.write(log)
    rig.assert_holds(log)
    assert rig.troubles == ["AUDIT_DAMAGED"]
    assert newest.with_name(newest.name + ".damaged").exists()


def test_an_event_that_cannot_be_spelled_costs_only_its_batch(tmp_path: Path) -> None:
    """A bug in one event is reported and shows as a gap; the trail goes on."""
    log = history(3)
    rig = Rig(tmp_path / "audit")
    index, first, events, head = log[1]
    rig.write([log[0], (index, first, [event[:5] for event in events], head), log[2]])
    report = verify_files(list_files(rig.directory))
    assert (report.problems, report.gaps) == ([], [(first, first + len(events) - 1)])
    assert rig.troubles == ["AUDIT_UNREADABLE_EVENT"]


def test_reading_finds_its_place_in_a_large_file(tmp_path: Path) -> None:
    """Whatever number a reader names, it gets exactly what follows, and nothing that is not durable."""
    log = history(300)
    rig = Rig(tmp_path / "audit", file_bytes_max=100_000)
    trail = rig.write(log[:299])
    for after in [0, 1, 7, 250, 251, 333, trail.last_number - 1, trail.last_number, 10**9]:
        assert [line["number"] for line in trail.read(after)] == list(range(after + 1, trail.last_number + 1))
    trail = rig.trail()
    trail.append(*log[299])
    assert list(trail.read(trail.durable_number)) == []
    trail.close(1.0)


def test_a_hanging_disk_blocks_neither_append_nor_close(tmp_path: Path) -> None:
    """While a sync hangs, the node goes on; when it returns, the writer thread writes what waited."""

    class HangingDisk(OsDisk):
        def __init__(self) -> None:
            self.entered, self.go = threading.Event(), threading.Event()

        def fdatasync(self, fd: int) -> None:
            self.entered.set()
            assert self.go.wait(30)
            super().fdatasync(fd)

    log = history(50)
    disk = HangingDisk()
    rig = Rig(tmp_path / "audit", disk=disk)
    trail = rig.trail(start_writer=True)
    trail.append(*log[0])
    assert disk.entered.wait(30)
    for batch in log[1:]:
        trail.append(*batch)
    assert trail.durable_number == 0
    assert not trail.wait_durable(1, 0.0)
    disk.go.set()
    assert trail.wait_durable(trail.last_number, 30)
    trail.close(30)
    rig.assert_holds(log)


def test_a_failed_try_is_repeated_with_growing_pauses(tmp_path: Path) -> None:
    """The writer waits longer after each failure, up to a bound."""
    disk = FaultyDisk()
    trail = AuditTrail(
        tmp_path, cluster="office", node_id="vpn-1", file_bytes_max=1000, files_max=2, backlog_events_max=10,
        on_trouble=lambda kind, detail: None, disk=disk,
    )  # fmt: skip
    trail.open(start_writer=False)
    disk.fault = "write"
    trail.append(*history(1)[0])
    assert [trail.turn() for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    trail.close(1.0)


def test_a_slow_disk_is_reported_once(tmp_path: Path) -> None:
    """A group that takes longer than a second is told, and told again only after a quick one."""
    times = iter([0.0, 2.0, 10.0, 13.0, 20.0, 20.1, 30.0, 32.0])
    kinds: list[str] = []
    trail = AuditTrail(
        tmp_path, cluster="office", node_id="vpn-1", file_bytes_max=1 << 20, files_max=2, backlog_events_max=10,
        on_trouble=lambda kind, detail: kinds.append(kind), pace=NO_PAUSE, monotonic=lambda: next(times),
    )  # fmt: skip
    trail.open(start_writer=False)
    for batch in history(4):
        trail.append(*batch)
        trail.turn()
    trail.close(1.0)
    assert kinds == ["AUDIT_SLOW", "AUDIT_SLOW"]
