"""The log in memory and its durable mark (journal.py)."""

import pytest
from raft_cluster import MemoryStorage
from raft_messages import entry

from raftstore.errors import StorageError
from raftstore.raft.journal import ENTRY_OVERHEAD_BYTES, HardenedJournal


def journal(count=0, base=0):
    """A journal over a disk that stands still, with `count` durable entries of term 1."""
    disk = MemoryStorage()
    return HardenedJournal(disk, base_index=base, base_term=1, entries=[entry(base + i + 1, 1) for i in range(count)])


def add(log, *entries):
    for e in entries:
        log.add(*e)


def test_a_new_log_starts_at_a_base_of_zero():
    """Index 0, term 0, nothing to apply."""
    log = HardenedJournal(MemoryStorage())
    assert (log.base_index, log.base_term, log.last_index, log.durable_index, len(log)) == (0, 0, 0, 0, 1)


def test_entries_must_follow():
    """A gap is a bug, not a log."""
    log = journal(2)
    with pytest.raises(IndexError):
        log.add(b"x", 5, 1)


def test_the_durable_mark_follows_the_jobs():
    """Entries count as durable when the job that carried them, or a later one, is done."""
    log = journal()
    add(log, entry(1, 1))
    first = log.submit()
    add(log, entry(2, 1), entry(3, 1))
    second = log.submit()
    assert (second, log.durable_index) == (first + 1, 0)
    log.mark_durable(first)
    assert log.durable_index == 1
    log.mark_durable(second)
    assert log.durable_index == 3


def test_a_cut_lowers_the_durable_mark():
    """What was cut is durable no more, even when its write ends after the cut; what replaces it waits for its own."""
    log = journal()
    add(log, *[entry(i, 1) for i in range(1, 6)])
    first = log.submit()
    log.deleteEntriesFrom(3)
    add(log, entry(3, 2), entry(4, 2))
    second = log.submit()
    log.mark_durable(first)
    assert log.durable_index == 2
    log.mark_durable(second)
    assert log.durable_index == 4


def test_a_cut_is_submitted_after_what_it_cuts():
    """Storage sees append, cut, append in the order in which they happened."""
    log = journal()
    add(log, entry(1, 1), entry(2, 1))
    log.deleteEntriesFrom(2)
    add(log, entry(2, 2))
    log.submit()
    log._storage.sync()
    assert [(i, t) for _, i, t in log._storage.log] == [(1, 1), (2, 2)]


def test_the_base_is_never_cut():
    """Position 0 stands for a snapshot."""
    log = journal(3, base=10)
    log.deleteEntriesFrom(0)
    log.deleteEntriesFrom(9)
    assert log.last_index == 13


def test_term_and_vote_are_stored_together_and_once():
    """A repeated value costs no write; a new one names the job to wait for."""
    log = journal()
    log.setCurrentTerm(4, "b")
    job = log.hard_state_job
    log.setCurrentTerm(4, "b")
    assert (log.hard_state_job, log.submitted) == (job, job)
    log._storage.sync()
    assert (log._storage.term, log._storage.voted_for) == (4, "b")


def test_compaction_moves_the_base():
    """Entries up to the new base are gone, those behind it untouched."""
    log = journal(9)
    log.deleteEntriesTo(4)
    assert (log.base_index, log.base_term, log.last_index) == (4, 1, 9)
    assert (log.term_at(3), log.term_at(4), log.term_at(9), log.term_at(10)) == (None, 1, 1, None)


def test_reset_starts_again_at_the_snapshot():
    """Neither entries nor pending writes of before count."""
    log = journal()
    add(log, entry(1, 1))
    job = log.submit()
    log.reset(50, 7)
    log.mark_durable(job)
    assert (log.base_index, log.last_index, log.last_term, log.durable_index) == (50, 50, 7, 50)


def test_slices_are_bounded_and_never_empty():
    """At least one entry, however large, then as many as fit, overhead included."""
    log = journal()
    add(log, *[entry(i, 1, b"x" * 99) for i in range(1, 9)])
    one = 100 + ENTRY_OVERHEAD_BYTES
    assert [len(log.entries_from(1, n)) for n in (1, one, 2 * one - 1, 2 * one, 99 * one)] == [1, 1, 1, 2, 8]
    with pytest.raises(IndexError):
        log.entries_from(0, 1)


def test_finds_the_first_entry_of_a_term():
    """The point to which a conflict hint goes back."""
    log = journal(4)
    add(log, entry(5, 2), entry(6, 2))
    assert [log.first_index_of_term_at(i) for i in (6, 5, 4)] == [5, 5, 1]


def test_the_commit_index_is_not_kept():
    """After a restart it is learnt again; only the snapshot is known to be committed (H23)."""
    log = journal(5, base=3)
    log.setRaftCommitIndex(7)
    assert log.getRaftCommitIndex() == 3


def test_clearing_is_refused():
    """The stock way to throw a log away does not exist here (H6b)."""
    with pytest.raises(StorageError, match="never thrown away"):
        journal(3).clear()


@pytest.mark.parametrize(
    ("last", "entries_max", "bytes_max", "base"),
    [(10, 3, 1000, 7), (10, 100, 1000, 0), (10, 100, 50, 5), (10, 100, 9, 10), (4, 2, 1000, 2), (10, 0, 1000, 10)],
)
def test_the_newest_entries_stay_within_both_bounds(last, entries_max, bytes_max, base):
    """A cut leaves what a slow follower may still need, by number and by size; an entry too big for it goes."""
    journal = HardenedJournal(MemoryStorage())
    for index in range(1, 11):
        journal.add(bytes(10), index, 1)
    assert journal.base_that_keeps(last, entries_max, bytes_max) == base


@pytest.mark.parametrize("last", [1, 7, 20])
def test_a_cut_that_lies_before_the_base_keeps_it(last):
    """A snapshot was installed while an older one of our own was being written: there is nothing left to cut."""
    log = journal(3, base=20)
    assert log.base_that_keeps(last, 2, 1000) == 20
