"""The audit trail on bad disks: none missing and none twice, whatever the disk and the process do."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest
from audit_rig import NO_PAUSE, FaultyDisk, ForgetfulDisk, Rig, history

from raftstore.node.audit import AuditTrail
from raftstore.node.audit_files import OsDisk
from raftstore.node.audit_lines import list_files
from raftstore.node.audit_verify import verify_files


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
