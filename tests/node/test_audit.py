"""The audit trail: what is written, how it is read, and how gaps are named."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest
from audit_rig import Rig, history, lines_of

from raftstore.errors import StorageError
from raftstore.node.audit_lines import batch_lines, event_line, list_files
from raftstore.node.audit_verify import verify_files
from raftstore.ownership.events import EVENT_NAMES, GENESIS_HEAD


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
    texts = [None, "", "vpn-1", 'a"b\\c},{', "\x7f~", "],[", '["', "caf\u00e9 \u2028 \U0001f600", "x" * 300]
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
    rig = Rig(tmp_path / "audit", file_bytes_max=2000)
    trail = rig.trail()
    for batch in log:
        trail.append(*batch)
    trail.close(1.0)
    rig.assert_holds(log)
    assert len(list_files(rig.directory)) > 10


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
