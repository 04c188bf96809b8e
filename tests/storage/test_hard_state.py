"""Term and vote: two copies, and what each fault does to them."""

from __future__ import annotations

import random

import pytest
from fake_disk import FakeDisk, PowerLoss
from storage_scenes import DATA, append, entries, open_store, ready_store

from raftstore.errors import CorruptionError
from raftstore.storage.hard_state import SLOT_BYTES
from raftstore.storage.values import PARTIAL_WRITE, REMEDY, HardState

PATH = f"{DATA}/hard_state"
VOTE = HardState(7, "n2", True)


def voted(disk: FakeDisk) -> None:
    store, _ = open_store(disk)
    store.set_hard_state(HardState(6, None, True))
    store.set_hard_state(VOTE)
    store.close()


def test_what_was_stored_comes_back() -> None:
    """Term, vote and voter flag survive, with and without a vote."""
    disk = FakeDisk()
    voted(disk)
    store, found = open_store(disk)
    assert (found.hard_state, found.fresh) == (VOTE, False)
    store.set_hard_state(HardState(8, None, False))
    store.close()
    assert open_store(disk)[1].hard_state == HardState(8, None, False)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_no_flipped_byte_loses_a_vote(mask: int) -> None:
    """Whatever single byte of the file changes, the vote that was acknowledged is the vote that is found."""
    disk = FakeDisk()
    voted(disk)
    for offset in [*range(60), *range(SLOT_BYTES, SLOT_BYTES + 60)]:
        damaged = disk.copy()
        damaged.flip(PATH, offset, mask)
        store, found = open_store(damaged)
        assert found.hard_state == VOTE
        store.abandon()
        damaged.flip(PATH, SLOT_BYTES - offset % SLOT_BYTES, mask)  # it was repaired: the other copy may go now
        assert open_store(damaged.copy())[1].hard_state == VOTE


def test_a_torn_copy_is_reported_and_repaired() -> None:
    """One copy that is not whole is said to be so once, and then whole again."""
    disk = FakeDisk()
    voted(disk)
    disk.flip(PATH, SLOT_BYTES + 20, 1)
    store, found = open_store(disk)
    assert [(event.kind, event.file, event.offset) for event in found.events] == [(PARTIAL_WRITE, PATH, SLOT_BYTES)]
    store.abandon()
    assert open_store(disk)[1].events == []


def test_the_only_good_copy_is_not_touched_before_the_other_is_good() -> None:
    """The repair writes the copy that was bad first."""
    disk = FakeDisk()
    voted(disk)
    disk.flip(PATH, SLOT_BYTES + 20, 1)
    stop = 0
    while not disk.names[PATH].unsynced:
        disk, stop = disk.copy(), stop + 1
        disk.crash_at = stop
        with pytest.raises(PowerLoss):
            open_store(disk)
    assert [offset for _, offset, _ in disk.names[PATH].unsynced] == [SLOT_BYTES]


def test_two_bad_copies_refuse_the_start() -> None:
    """With no copy left the vote is unknown, and a node that does not know its vote must not vote."""
    disk = FakeDisk()
    voted(disk)
    disk.flip(PATH, 20, 1)
    disk.flip(PATH, SLOT_BYTES + 20, 1)
    with pytest.raises(CorruptionError, match=f"{PATH}: offset 0: both copies") as refusal:
        open_store(disk)
    assert REMEDY in str(refusal.value)


def test_a_lost_write_refuses_the_start() -> None:
    """Copy 0 is written first; finding it older than copy 1 means that the disk lost what it said was durable."""
    disk = FakeDisk()
    store, _ = open_store(disk)
    store.set_hard_state(HardState(6, None, True))
    old = bytes(disk.names[PATH].current[:SLOT_BYTES])
    store.set_hard_state(VOTE)
    store.close()
    disk.names[PATH].current[:SLOT_BYTES] = old
    with pytest.raises(CorruptionError, match="a write was lost"):
        open_store(disk.copy())


def test_a_missing_file_refuses_the_start_once_there_is_a_log() -> None:
    """A log without a hard state is a node that has forgotten its vote."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 1))
    store.close()
    disk.unlink(PATH)
    with pytest.raises(CorruptionError, match="missing, but there is a log"):
        open_store(disk.copy())


def test_a_hard_state_older_than_the_log_refuses_the_start() -> None:
    """The term is stored before any entry of that term, so it cannot be behind."""
    disk = FakeDisk()
    store = ready_store(disk, term=2)
    old = bytes(disk.names[PATH].current)
    store.set_hard_state(HardState(5, None, True))
    append(store, entries(1, 1, term=5))
    store.close()
    disk.names[PATH].current[:] = old
    with pytest.raises(CorruptionError, match="term 2 is before the log's 5"):
        open_store(disk.copy())


def test_power_loss_shows_the_old_vote_or_the_new_one_whole() -> None:
    """In any call of a change, with any torn bytes: the vote before or after, never another, never a refusal."""
    for call in range(1, 5):
        for seed in range(60):
            disk = FakeDisk()
            store = ready_store(disk, term=6)
            disk.crash_at = disk.calls + call
            with pytest.raises(PowerLoss):
                store.set_hard_state(VOTE)
            found = open_store(disk.restart(random.Random(seed)))[1].hard_state
            assert found in (HardState(6, None, True), VOTE)


def test_impossible_states_are_refused() -> None:
    """A term that goes back and a vote for a name beyond its bound are bugs."""
    store = ready_store(FakeDisk(), term=3)
    with pytest.raises(ValueError, match="term 2 is before 3"):
        store.set_hard_state(HardState(2, None, True))
    with pytest.raises(ValueError, match="voted_for"):
        store.set_hard_state(HardState(3, "n" * 1025, True))
