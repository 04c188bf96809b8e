"""Snapshots: written aside, checked before use, received piece by piece, and never trusted when damaged."""

from __future__ import annotations

import hashlib

import pytest
from fake_disk import FakeDisk
from storage_scenes import DATA, append, entries, open_store, ready_store

from raftstore.errors import CorruptionError, StorageError
from raftstore.storage.snapshot_format import parse_name, snapshot_name
from raftstore.storage.store import Store
from raftstore.storage.values import REMEDY, SNAPSHOT_CORRUPT, HardState, SnapshotInfo

FOLDER = f"{DATA}/snapshots"
CHUNKS = [b"first" * 100, b"second" * 100, b"x"]


def write(store: Store, index: int, term: int = 1) -> SnapshotInfo:
    writer = store.begin_snapshot(index, term)
    for chunk in CHUNKS:
        writer.write(chunk)
    return writer.commit()


def bytes_of(store: Store, info: SnapshotInfo) -> bytes:
    return store.snapshot_reader().read(info, 0, info.size_bytes)


def sender(index: int = 9, term: int = 1, cluster: str = "c") -> tuple[SnapshotInfo, bytes]:
    """A snapshot of another node and its bytes."""
    store, _ = open_store(FakeDisk(), node_id="n2", cluster=cluster)
    store.set_hard_state(HardState(term, None, True))
    info = write(store, index, term)
    return info, bytes_of(store, info)


def test_a_snapshot_comes_back_as_it_was_written() -> None:
    """Chunks, size and checksum of a committed snapshot are found again at the next start."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 5))
    info = write(store, 3)
    data = bytes_of(store, info)
    assert (len(data), hashlib.sha256(data).digest()) == (info.size_bytes, info.sha256)
    store.close()
    again, found = open_store(disk)
    assert found.snapshot == info == again.latest_snapshot
    assert found.entries == entries(4, 5)
    assert list(again.snapshot_reader().chunks(info)) == CHUNKS


def test_the_newest_two_are_kept_and_leftovers_removed() -> None:
    """Older snapshots go when a newer one is durable; what was never finished goes at the next start."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 9))
    for index in (2, 4, 6):
        write(store, index)
    store.begin_snapshot(8, 1).write(b"unfinished")
    assert store.kept_snapshots() == [(6, 1), (4, 1)]
    assert any(name.endswith(".tmp") for name in disk.listdir(FOLDER))
    store.close()
    open_store(disk)
    assert disk.listdir(FOLDER) == [snapshot_name(4, 1), snapshot_name(6, 1)]


def test_every_flipped_byte_of_the_only_snapshot_refuses_the_start() -> None:
    """A damaged snapshot is never used: the refusal names it, the offset and the remedy."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 5))
    info = write(store, 5)
    store.close()
    for offset in range(info.size_bytes):
        damaged = disk.copy()
        damaged.flip(info.path, offset, 0x10)
        with pytest.raises(CorruptionError) as refusal:
            open_store(damaged)
        assert info.path in str(refusal.value)
        assert REMEDY in str(refusal.value)


def test_a_shortened_or_lengthened_snapshot_refuses_the_start() -> None:
    """Missing bytes and additional bytes are damage too."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 5))
    info = write(store, 5)
    store.close()
    for size in [*range(0, info.size_bytes, 7), info.size_bytes + 1, info.size_bytes + 100]:
        damaged = disk.copy()
        damaged.open(info.path).truncate(size)
        with pytest.raises(CorruptionError):
            open_store(damaged)


def test_the_one_before_stands_in_where_the_log_reaches_back_to_it() -> None:
    """With the older snapshot and every entry since, nothing is lost: a security event, and the start goes on."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 9))
    older, newest = write(store, 3), write(store, 6)
    store.close()
    disk.flip(newest.path, 80, 1)
    again, found = open_store(disk)
    assert found.snapshot == older
    assert found.entries == entries(4, 9)
    assert [(event.kind, event.file) for event in found.events] == [(SNAPSHOT_CORRUPT, newest.path)]
    again.close()
    again, found = open_store(disk)
    assert (found.snapshot, found.events) == (older, []), "the damaged one is out of the row"
    write(again, 8)
    assert disk.listdir(FOLDER) == [snapshot_name(3, 1), snapshot_name(8, 1)]


def test_the_one_before_does_not_stand_in_across_a_gap() -> None:
    """Where the log was cut behind the older snapshot, or never held the newest's last entry, the start is refused."""
    for keep_log in (True, False):
        disk = FakeDisk()
        store = ready_store(disk)
        if keep_log:
            append(store, *([item] for item in entries(1, 30, size_bytes=900)))
            write(store, 3)
            newest = write(store, 28)
            assert store.drop_through(28)
        else:
            append(store, entries(1, 4))
            write(store, 3)
            newest, data = sender()
            newest = receive(store, newest, data)
            store.install_snapshot(newest)
        store.close()
        disk.flip(newest.path, 80, 1)
        with pytest.raises(CorruptionError, match=newest.path):
            open_store(disk.copy())


def receive(store: Store, info: SnapshotInfo, data: bytes) -> SnapshotInfo:
    receiver = store.begin_receiving(info.index, info.term, info.size_bytes, info.sha256)
    assert receiver.write(0, data) == len(data)
    found = receiver.finish()
    assert found is not None
    return found


def test_a_snapshot_is_received_in_pieces_and_resumed() -> None:
    """Pieces out of place are not taken; the receiver says how far it is, and the sender goes on from there."""
    announced, data = sender()
    disk = FakeDisk()
    store = ready_store(disk)
    receiver = store.begin_receiving(9, 1, announced.size_bytes, announced.sha256)
    assert receiver.write(0, data[:500]) == 500
    assert receiver.write(700, data[700:]) == 500
    assert receiver.write(0, data[:500]) == 500
    assert receiver.finish() is None, "not all is there"
    assert receiver.write(500, data[500:] + b"more") == 500
    assert receiver.write(500, data[500:]) == announced.size_bytes
    info = receiver.finish()
    assert info is not None
    assert (info.index, info.term, info.sha256) == (9, 1, announced.sha256)
    store.install_snapshot(info)
    append(store, entries(10, 11))
    store.close()
    _, found = open_store(disk)
    assert (found.snapshot, found.entries) == (info, entries(10, 11))


@pytest.mark.parametrize("fault", ["flipped", "other sha", "other index", "other cluster", "not a snapshot"])
def test_received_bytes_that_are_not_what_was_announced_are_discarded(fault: str) -> None:
    """Whatever is wrong, nothing gets a snapshot's name, and the transfer can begin anew."""
    announced, data = sender(cluster="other" if fault == "other cluster" else "c")
    index, sha256 = announced.index, announced.sha256
    if fault == "flipped":
        data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    elif fault == "other sha":
        sha256 = bytes(32)
    elif fault == "other index":
        index += 1
    elif fault == "not a snapshot":
        data = bytes(len(data))
        sha256 = hashlib.sha256(data).digest()
    disk = FakeDisk()
    store = ready_store(disk)
    receiver = store.begin_receiving(index, 1, announced.size_bytes, sha256)
    receiver.write(0, data)
    assert receiver.finish() is None
    assert receiver.held_bytes == 0
    assert receiver.write(0, data) == 0, "a new receiver is needed"
    assert disk.listdir(FOLDER) == []
    assert store.latest_snapshot is None


def test_sizes_out_of_bounds_are_refused_before_anything_is_stored() -> None:
    """A size beyond its bound, and chunks of none or too many bytes, are refused by name."""
    disk = FakeDisk()
    store = ready_store(disk)
    for size in (-1, 0, 1 << 60):
        with pytest.raises(ValueError, match="bytes long"):
            store.begin_receiving(9, 1, size, bytes(32))
    for chunk in (b"", bytes(1001)):
        with pytest.raises(ValueError, match="bytes long"):
            store.begin_snapshot(9, 1).write(chunk)


def test_an_installed_snapshot_keeps_the_log_it_is_part_of() -> None:
    """Entries behind the snapshot stay if the log holds its last entry; else all are void (Raft paper, section 7)."""
    for term, expected in ((1, entries(10, 12)), (2, [])):
        disk = FakeDisk()
        store = ready_store(disk, term=2)
        append(store, entries(1, 12))
        store.install_snapshot(receive(store, *sender(9, term)))
        store.close()
        _, found = open_store(disk)
        assert found.snapshot is not None
        assert (found.snapshot.index, found.snapshot.term, found.entries) == (9, term, expected)


def test_a_snapshot_ahead_of_the_stored_term_takes_the_term_without_a_vote() -> None:
    """A snapshot may become durable just before the term it came with; the vote of an older term is not carried on."""
    disk = FakeDisk()
    store, _ = open_store(disk)
    store.set_hard_state(HardState(2, "n3", True))
    receive(store, *sender(9, 5))
    store.abandon()
    assert open_store(disk.kill())[1].hard_state == HardState(5, None, True)


def test_a_full_disk_costs_the_snapshot_and_nothing_else() -> None:
    """A snapshot that finds no room is given up: its file is removed, the store goes on."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 3))
    disk.capacity_bytes = disk.capacity_bytes - disk.free_bytes("/") + 700
    writer = store.begin_snapshot(3, 1)
    writer.write(b"a" * 500)
    with pytest.raises(StorageError, match="no space left"):
        writer.write(b"b" * 500)
    assert disk.listdir(FOLDER) == []
    assert store.failure is None
    append(store, entries(4, 4))


def test_a_received_snapshot_that_the_disk_refuses_begins_anew() -> None:
    """A failed write or sync discards what was received and says why; the same transfer then starts from 0."""
    announced, data = sender()
    problems = 0
    for call in range(1, 10):  # each call up to the sync before the rename
        disk = FakeDisk()
        store = ready_store(disk)
        receiver = store.begin_receiving(9, 1, announced.size_bytes, announced.sha256)
        disk.fail_at = disk.calls + call
        held, info, rounds = 0, None, 0
        while info is None:
            rounds += 1
            held = receiver.write(held, data[held : held + 500])
            receiver.sync()
            if held == announced.size_bytes:
                info = receiver.finish()
                problems += receiver.problem is not None
                if info is None:
                    held, receiver = 0, store.begin_receiving(9, 1, announced.size_bytes, announced.sha256)
            assert rounds < 20
        assert (info.sha256, store.failure) == (announced.sha256, None)
    assert problems == 9


def test_reading_a_snapshot_that_is_gone_gives_nothing() -> None:
    """A transfer of a snapshot that was replaced meanwhile ends with empty bytes, not with an error."""
    store = ready_store(FakeDisk())
    append(store, entries(1, 9))
    first = write(store, 1)
    write(store, 2)
    write(store, 3)
    reader = store.snapshot_reader()
    assert reader.read(first, 0, 100) == b""
    latest = store.latest_snapshot
    assert latest is not None
    assert reader.read(latest, latest.size_bytes, 100) == b""
    reader.close()


def test_only_exact_names_are_snapshots() -> None:
    """Names that are merely like a snapshot's are left alone."""
    assert parse_name(snapshot_name(12, 3)) == (12, 3)
    for name in ("12-3.snap", snapshot_name(1, 1) + ".bad", snapshot_name(1, 1) + ".own.tmp", "x-y.snap", "", ".snap"):
        assert parse_name(name) is None
