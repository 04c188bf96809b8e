"""The write-ahead log: what it takes, what it gives back, and what it refuses to guess."""

from __future__ import annotations

import random

import pytest
from fake_disk import FakeDisk, PowerLoss
from storage_scenes import DATA, append, entries, entry, open_store, ready_store

from raftstore.errors import CorruptionError, StorageError
from raftstore.storage.store import Store
from raftstore.storage.values import PARTIAL_WRITE, REMEDY, Entry, HardState, Limits
from raftstore.storage.wal_format import (
    GROUP_HEADER_BYTES,
    HEADER_BYTES,
    Record,
    content_end,
    decode_group,
    decode_records,
    encode_group,
    find_group,
)

WAL = f"{DATA}/wal"


def segments(disk: FakeDisk) -> list[str]:
    return [f"{WAL}/{name}" for name in disk.listdir(WAL)]


def used_bytes(disk: FakeDisk, path: str) -> int:
    """Where the content of a segment ends."""
    return len(bytes(disk.names[path].current).rstrip(b"\0"))


def recovered(disk: FakeDisk) -> list[Entry]:
    return open_store(disk)[1].entries


def test_what_was_synced_comes_back() -> None:
    """Entries of several groups come back in order, with their terms, empty payloads too."""
    disk = FakeDisk()
    store = ready_store(disk, term=3)
    groups = [entries(1, 2), [(b"", 3, 1)], entries(4, 5, term=3)]
    append(store, *groups)
    store.close()
    assert recovered(disk) == [item for group in groups for item in group]


def test_one_group_is_one_write_and_one_sync() -> None:
    """However many entries were added, making them durable costs one write and one sync."""
    disk = FakeDisk()
    store = ready_store(disk)
    before = disk.calls
    store.append(entries(1, 10))
    store.append(entries(11, 20))
    assert disk.calls == before
    store.sync()
    assert disk.calls == before + 2
    store.sync()
    assert disk.calls == before + 2, "nothing was added"


def test_a_conflict_voids_entries_without_touching_them() -> None:
    """After a truncation the entries before it and the new ones behind it are the log (Raft paper, section 5.3)."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 6))
    before = bytes(disk.names[segments(disk)[0]].durable[: used_bytes(disk, segments(disk)[0])])
    store.set_hard_state(HardState(2, None, True))
    store.truncate_from(4)
    append(store, entries(4, 5, term=2))
    store.close()
    assert recovered(disk) == entries(1, 3) + entries(4, 5, term=2)
    assert bytes(disk.names[segments(disk)[0]].durable).startswith(before)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entries(3, 3), "does not follow"),
        (entries(1, 1), "does not follow"),
        ([entry(2, 0)], "does not follow"),
        ([entry(2), entry(4)], "does not follow"),
        ([entry(2, 9)], "before that term was stored"),
        ([entry(2, size_bytes=2001)], "record_bytes_max"),
    ],
)
def test_what_cannot_come_next_is_refused_whole(bad: list[Entry], why: str) -> None:
    """Gaps, repeats, terms that go back or were never stored, and oversized entries are bugs: nothing is taken."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 1))
    with pytest.raises(ValueError, match=why):
        store.append(bad)
    append(store, entries(2, 2))
    store.close()
    assert recovered(disk) == entries(1, 2)


def test_a_log_grows_over_segments_and_shrinks_by_whole_ones() -> None:
    """Segments are begun as needed; those that a snapshot covers wholly are removed, and only those."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([entry(index, size_bytes=900)] for index in range(1, 41)))
    names = segments(disk)
    assert len(names) == 5
    with pytest.raises(ValueError, match="no durable snapshot"):
        store.drop_through(30)
    writer = store.begin_snapshot(30, 1)
    writer.write(b"state")
    writer.commit()
    assert store.drop_through(30) == 3
    assert segments(disk) == names[3:]
    append(store, entries(41, 42))
    store.close()
    assert recovered(disk) == [entry(index, size_bytes=900) for index in range(31, 41)] + entries(41, 42)


def test_a_recovered_log_knows_which_segments_are_still_needed() -> None:
    """After a restart, too, a segment that holds anything beyond the snapshot stays."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([item] for item in entries(1, 40, size_bytes=900)))
    store.begin_snapshot(12, 1).commit()
    store.close()
    store, _ = open_store(disk)
    assert store.drop_through(12) == 1
    store.close()
    assert recovered(disk) == entries(13, 40, size_bytes=900)


def test_damage_before_a_segment_that_was_only_begun_is_refused() -> None:
    """A segment is begun when all before it is durable, so its mere file is a witness; a torn mark is no damage."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2), entries(3, 3))
    store.abandon()
    (path,) = segments(disk)
    disk.open(f"{WAL}/{2:016d}-{4:016d}.wal.new", create=True).preallocate(12288)
    store, found = open_store(disk.copy())
    assert (found.entries, [event.kind for event in found.events]) == (entries(1, 3), [PARTIAL_WRITE])
    disk.flip(path, used_bytes(disk, path) - 5, 1)
    with pytest.raises(CorruptionError, match="the next segment was begun"):
        open_store(disk.copy())


def test_a_segment_that_is_shorter_than_it_was_made_is_refused() -> None:
    """A crash cannot shorten a segment, whose length was durable before its first group: something was taken away."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2), entries(3, 9))
    store.close()
    path = segments(disk)[-1]
    size = disk.open(path).size()
    for left in (0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 8, used_bytes(disk, path) - 1, size - 1):
        copy = disk.copy()
        copy.open(path).truncate(left)
        with pytest.raises(CorruptionError, match=r"cut short|header is damaged"):
            open_store(copy)


def test_a_segment_keeps_its_length_when_the_configured_one_changes() -> None:
    """The file itself says how long it is; the next segment has the new length."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2))
    store.close()
    first = segments(disk)[-1]
    size = disk.open(first).size()
    store, _ = open_store(disk, limits=Limits(segment_bytes=8 * size, record_bytes_max=1_024))
    for index in range(3, 200):
        append(store, [(b"x" * 500, index, 1)])
    store.close()
    assert disk.open(first).size() == size
    assert [disk.open(path).size() for path in segments(disk)[1:]] == [8 * size] * (len(segments(disk)) - 1)
    assert len(segments(disk)) > 1
    assert open_store(disk)[1].entries[-1][1] == 199


def test_a_log_cut_anywhere_in_its_last_group_loses_that_group_only() -> None:
    """Whatever length of an unacknowledged write survives, the entries before it stand and the cut is reported."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2))
    path = segments(disk)[0]
    start = used_bytes(disk, path)
    start = -(-start // 8) * 8
    append(store, entries(3, 5))
    end = used_bytes(disk, path)
    for cut in range(start, end):
        torn = disk.copy()
        torn.names[path].current[cut:end] = bytes(end - cut)
        again, found = open_store(torn)
        assert found.entries == entries(1, 2)
        assert [event.kind for event in found.events] == [PARTIAL_WRITE] * (cut > start)
        append(again, entries(3, 3))
        again.close()
        assert recovered(torn) == entries(1, 3)


def test_any_flipped_byte_of_a_closed_log_is_harmless_or_refused() -> None:
    """After an orderly stop a changed byte never changes or loses an entry: the start says file, offset and remedy."""
    disk = FakeDisk()
    store = ready_store(disk)
    groups = [entries(1, 2), entries(3, 3), [entry(4, size_bytes=33)]]
    append(store, *groups)
    store.close()
    (path,) = segments(disk)
    whole = recovered(disk.copy())
    refused = 0
    for offset in [*range(200), *range(HEADER_BYTES, used_bytes(disk, path) + 64)]:
        for mask in (0x01, 0x80, 0xFF):
            damaged = disk.copy()
            damaged.flip(path, offset, mask)
            try:
                assert recovered(damaged) == whole
            except CorruptionError as error:
                refused += 1
                assert path in str(error)
                assert "offset" in str(error)
                assert REMEDY in str(error)
    assert refused > 500


def test_a_flipped_byte_is_refused_as_soon_as_the_next_group_or_the_mark_is_written() -> None:
    """Damage to an acknowledged group is told from a torn write by what was written behind it."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 2))
    store.mark()
    disk.flip(segments(disk)[0], HEADER_BYTES + 40, 1)
    with pytest.raises(CorruptionError, match=f"offset {HEADER_BYTES}"):
        open_store(disk.copy())


def test_a_zeroed_group_in_the_middle_is_refused() -> None:
    """Zeros are the end of the log only where nothing follows."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([item] for item in entries(1, 3)))
    path = segments(disk)[0]
    group = decode_group(bytes(disk.names[path].current), HEADER_BYTES, segment_id(disk, path))
    assert group is not None
    disk.names[path].current[group.offset : group.end] = bytes(group.end - group.offset)
    with pytest.raises(CorruptionError, match=f"offset {HEADER_BYTES}"):
        open_store(disk.copy())


def segment_id(disk: FakeDisk, path: str) -> bytes:
    return bytes(disk.names[path].current[24:40])


def test_damage_in_any_segment_but_the_last_is_refused() -> None:
    """A later segment proves that the earlier ones were durable to their ends."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([entry(index, size_bytes=900)] for index in range(1, 25)))
    store.close()
    first, second, *_ = segments(disk)
    last_group = used_bytes(disk, first) - GROUP_HEADER_BYTES - 200
    damaged = disk.copy()
    damaged.flip(first, last_group, 1)
    with pytest.raises(CorruptionError, match=first):
        open_store(damaged)
    damaged = disk.copy()
    damaged.unlink(second)
    with pytest.raises(CorruptionError, match="missing"):
        open_store(damaged.copy())
    damaged = disk.copy()
    damaged.unlink(first)
    with pytest.raises(CorruptionError, match="no snapshot reaches"):
        open_store(damaged.copy())


def test_a_segment_of_another_log_is_not_taken_for_ours() -> None:
    """A segment of another life of this very node, same place and numbers, does not fit into the row."""
    first, second = FakeDisk(), FakeDisk()
    for disk, seed in ((first, 1), (second, 2)):
        store, _ = open_store(disk, seed=seed)
        store.set_hard_state(HardState(1, None, True))
        append(store, *([entry(index, size_bytes=900)] for index in range(1, 25)))
        store.close()
    path = segments(first)[1]
    first.names[path] = second.names[path]
    with pytest.raises(CorruptionError, match="missing or replaced"):
        open_store(first.copy())


def test_a_segment_of_another_node_is_refused() -> None:
    """A log that was copied in from another node is not this node's memory."""
    disk, other = FakeDisk(), FakeDisk()
    ready_store(disk).close()
    store, _ = open_store(other, node_id="n2")
    store.close()
    disk.names[segments(disk)[0]] = next(iter(inode for path, inode in other.names.items() if ".wal" in path))
    with pytest.raises(StorageError, match="another node"):
        open_store(disk.copy())


def test_a_payload_that_looks_like_a_group_is_only_a_payload() -> None:
    """Bytes of a real group carried as payload are no witness against a torn write around them."""
    disk = FakeDisk()
    store = ready_store(disk)
    path = segments(disk)[0]
    forged = encode_group([Record(1, 9, 9, b"x")], 9, HEADER_BYTES, segment_id(disk, path))
    payload = b"".join(bytes(shift) + forged for shift in range(8))
    append(store, entries(1, 1))
    end = used_bytes(disk, path)
    append(store, [(payload, 2, 1)])
    assert recovered(disk.copy()) == [entry(1), (payload, 2, 1)]
    torn = disk.copy()
    torn.flip(path, -(-end // 8) * 8 + 30, 1)
    assert recovered(torn) == [entry(1)]


def test_reordered_bytes_of_the_unsynced_group_never_refuse_a_start() -> None:
    """Any mixture of the bytes of the last, unsynced write is cut: a legal crash is never called corruption."""
    for seed in range(300):
        disk = FakeDisk()
        store = ready_store(disk)
        append(store, entries(1, 3))
        store.mark()
        disk.crash_at = disk.calls + 2  # the sync of the next group
        with pytest.raises(PowerLoss):
            append(store, [entry(index, size_bytes=300) for index in range(4, 9)])
        found = recovered(disk.restart(random.Random(seed)))
        assert found[:3] == entries(1, 3)
        assert len(found) in (3, 8)


def test_the_end_of_the_content_is_found_across_blocks() -> None:
    """The last byte that is not zero, wherever it lies."""
    for size in (0, 1, 65_535, 65_536, 65_537, 200_000):
        assert content_end(bytes(size)) == 0
        for last in {0, size // 2, size - 1} if size else ():
            data = bytearray(size)
            data[last] = 1
            assert content_end(bytes(data)) == last + 1


def test_groups_are_bound_to_their_place() -> None:
    """A group read at another offset or in another segment is not valid, and a search finds it only at home."""
    records = [Record(1, 1, 1, b"payload")]
    home = bytes(64) + encode_group(records, 1, 64, b"a" * 16)
    group = decode_group(home, 64, b"a" * 16)
    assert group is not None
    assert decode_records(home, group) == records
    assert decode_group(home, 64, b"b" * 16) is None
    assert decode_group(home[8:], 56, b"a" * 16) is None
    assert find_group(home, 1, b"a" * 16) == group
    assert find_group(home[8:], 1, b"a" * 16) is None


def test_bounds_that_do_not_fit_each_other_are_refused() -> None:
    """A record as large as its segment could never be written."""
    with pytest.raises(ValueError, match="record_bytes_max"):
        Limits(segment_bytes=10_000, record_bytes_max=9_000)


def test_a_closed_store_takes_nothing_more() -> None:
    """Using a store after its end is a bug, and is told so."""
    store: Store = ready_store(FakeDisk())
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.append(entries(1, 1))
