"""The data directory as a whole: whose it is, who uses it, and what a failing disk does to it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_disk import FakeDisk
from storage_scenes import DATA, append, entries, open_store, ready_store

from raftstore.errors import CorruptionError, StorageError
from raftstore.storage.disk import OsDisk
from raftstore.storage.store import Store
from raftstore.storage.values import REMEDY, HardState, Recovered


def test_a_new_directory_is_fresh_until_something_is_promised() -> None:
    """Setting up promises nothing: only the first hard state ends the freshness, however often it is opened."""
    disk = FakeDisk()
    for _ in range(3):
        store, found = open_store(disk)
        assert found == Recovered(None, True, None, [], [])
        store.close()
    store, _ = open_store(disk)
    store.set_hard_state(HardState(0, None, False))
    store.close()
    assert open_store(disk)[1] == Recovered(HardState(0, None, False), False, None, [], [])


def test_the_real_disk_keeps_it_all(tmp_path: Path) -> None:
    """The whole round on a real file system: log, hard state, snapshot, and back."""
    directory = str(tmp_path / "new" / "data")
    store = ready_store(OsDisk(), directory)
    append(store, *([item] for item in entries(1, 30, size_bytes=900)))
    writer = store.begin_snapshot(20, 1)
    writer.write(b"state")
    info = writer.commit()
    assert store.drop_through(20) > 0
    assert store.free_bytes() > 0
    store.close()
    store, found = open_store(OsDisk(), directory)
    assert (found.snapshot, found.entries, found.events) == (info, entries(21, 30, size_bytes=900), [])
    store.close()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second process on the same directory is told who has it."""
    for disk, directory in ((FakeDisk(), DATA), (OsDisk(), str(tmp_path / "d"))):
        store, _ = open_store(disk, directory)
        with pytest.raises(StorageError, match=f"{directory}: in use \\(held by process"):
            open_store(disk, directory)
        store.close()
        open_store(disk, directory)[0].close()


@pytest.mark.parametrize(("cluster", "node_id"), [("c", "n2"), ("d", "n1")])
def test_a_foreign_directory_is_refused(cluster: str, node_id: str) -> None:
    """The data of another node, or of another cluster, is refused by name, and left as it was."""
    disk = FakeDisk()
    ready_store(disk).close()
    with pytest.raises(StorageError, match="node 'n1' of cluster 'c', not to node") as refusal:
        open_store(disk, cluster=cluster, node_id=node_id)
    assert DATA in str(refusal.value)
    assert not open_store(disk)[1].fresh


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("identity", "identity: offset 0: missing"),
        ("hard_state", "hard_state: offset 0: missing"),
        ("wal/", "no segment"),
    ],
)
def test_a_directory_that_lost_a_part_is_refused(lost: str, why: str) -> None:
    """What was in use and lacks a part must not start as if it were new."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2))
    store.close()
    for path in [path for path in disk.names if path.startswith(f"{DATA}/{lost}")]:
        disk.unlink(path)
    with pytest.raises(CorruptionError, match=why) as refusal:
        open_store(disk.copy())
    assert REMEDY in str(refusal.value)


def test_a_log_that_begins_behind_the_snapshot_is_refused() -> None:
    """Entries that neither the snapshot nor the log holds are lost: never go on over a gap."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([item] for item in entries(1, 30, size_bytes=900)))
    writer = store.begin_snapshot(25, 1)
    info = writer.commit()
    assert store.drop_through(25)
    store.close()
    disk.unlink(info.path)
    with pytest.raises(CorruptionError, match="no snapshot reaches beyond entry 0"):
        open_store(disk.copy())


def test_a_damaged_identity_is_refused() -> None:
    """No flipped byte of the identity makes the directory another's, or new."""
    disk = FakeDisk()
    ready_store(disk).close()
    path = f"{DATA}/identity"
    for offset in range(len(disk.names[path].current)):
        damaged = disk.copy()
        damaged.flip(path, offset, 0x04)
        with pytest.raises(StorageError, match=path):
            open_store(damaged)


def calls_of(disk: FakeDisk) -> int:
    store = ready_store(disk)
    before = disk.calls
    work(store)
    return disk.calls - before


def work(store: Store) -> None:
    append(store, *([item] for item in entries(1, 12, size_bytes=900)))
    store.mark()
    store.set_hard_state(HardState(2, None, True))
    store.truncate_from(12)
    store.sync()


def attempts(store: Store) -> list[Callable[[], object]]:
    """Everything that a store can be asked to do."""
    return [
        lambda: store.append(entries(1, 1)),
        store.sync,
        store.mark,
        store.free_bytes,
        lambda: store.truncate_from(1),
        lambda: store.set_hard_state(HardState(9, None, True)),
        lambda: store.begin_snapshot(1, 1),
        lambda: store.begin_receiving(1, 1, 1000, b""),
    ]


def test_a_failed_call_poisons_the_store() -> None:
    """After any failed write or sync every later call fails too, nothing is retried, and closing still works."""
    for call in range(1, calls_of(FakeDisk()) + 1):
        disk = FakeDisk()
        store = ready_store(disk)
        disk.fail_at = disk.calls + call
        with pytest.raises(StorageError, match="input/output error") as failure:
            work(store)
        calls = disk.calls
        for attempt in attempts(store):
            with pytest.raises(StorageError) as again:
                attempt()
            assert again.value is failure.value is store.failure
        store.close()
        assert disk.calls == calls, "a poisoned store touches nothing"
        open_store(disk.kill())


def test_a_failed_publication_of_a_snapshot_is_final() -> None:
    """From the rename on a failure leaves the directory unknown, so the store stops."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 3))
    writer = store.begin_snapshot(3, 1)
    disk.fail_at = disk.calls + 4  # trailer, sync, rename, then the directory's sync
    with pytest.raises(StorageError, match="publishing"):
        writer.commit()
    assert store.failure is not None
    assert store.latest_snapshot is None


def test_a_full_disk_at_a_new_segment_stops_the_node_and_loses_nothing() -> None:
    """Room for the log is reserved a segment at a time; without it the store stops with what it has acknowledged."""
    disk = FakeDisk()
    store = ready_store(disk)
    disk.capacity_bytes = disk.capacity_bytes - disk.free_bytes("/") + 5000
    done = 0
    with pytest.raises(StorageError, match="no space left"):
        for item in entries(1, 20, size_bytes=900):
            append(store, [item])
            done += 1
    store.close()
    disk.capacity_bytes = 1 << 30
    assert open_store(disk.kill())[1].entries == entries(1, done, size_bytes=900)


def test_a_disk_that_fails_while_opening_is_a_storage_error() -> None:
    """Errors of the operating system come out with the directory's name, and the lock is released."""
    disk = FakeDisk()
    disk.fail_at = 3
    with pytest.raises(StorageError, match=f"{DATA}: opening: .*{errno.EIO}"):
        open_store(disk)
    assert not disk.locked
