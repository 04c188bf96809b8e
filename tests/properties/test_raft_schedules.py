"""Random schedules against the whole Raft room: safe throughout, and live once the faults stop.

A failure names mode and seed: `raft_schedules.run(seed, mode)` replays it.
"""

import pytest
from raft_schedules import MODES, Checker, SafetyViolation, run

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.outbox import Outbox

SEEDS = range(20)
# Runs that once found something.
KNOWN = [("wipe-5", 336), ("wipe-5", 653), ("fifo-5", 3224), ("reorder", 3575), ("wipe-5", 7102)]


@pytest.mark.parametrize("mode", MODES)
def test_random_schedules_are_safe_and_end_well(mode):
    """One leader per term, matching logs, nothing committed ever lost or changed; then everybody agrees."""
    committed = leaders = reads = wiped = 0
    for seed in SEEDS:
        checker: Checker = run(seed, mode).checker
        committed += len(checker.committed)
        leaders += len(checker.leader_of)
        reads += checker.reads
        wiped += checker.wiped
    assert committed > 500, "the schedules must get something done"
    assert leaders > 2 * len(SEEDS), "and change leaders"
    assert reads > 50
    assert wiped > 5 or not MODES[mode].wipe


@pytest.mark.parametrize(("mode", "seed"), KNOWN)
def test_schedules_that_once_failed(mode, seed):
    """Regressions, by seed."""
    run(seed, mode)


def test_the_same_seed_is_the_same_run():
    """Whatever is found can be found again."""
    one, two = run(11, "wipe-late-5"), run(11, "wipe-late-5")
    assert one.checker.committed == two.checker.committed
    assert one.cluster.now == two.cluster.now


def fails_within(seeds: int, *modes: str, **kwargs: object) -> bool:
    for seed in range(seeds):
        for mode in modes:
            try:
                run(seed, mode, **kwargs)
            except SafetyViolation:
                return True
    return False


def test_the_checker_sees_votes_that_are_not_durable(monkeypatch):
    """Without the barrier in front of the links some schedule loses something: the harness can tell."""

    def release_at_once(self):
        self._journal.submit()
        fresh, self._fresh = self._fresh, []
        for _, peer, data in fresh:
            self._send(peer, data)

    monkeypatch.setattr(Outbox, "release", release_at_once)
    assert fails_within(40, "fifo", "fifo-5")


def test_the_checker_sees_a_leader_that_counts_itself_too_early(monkeypatch):
    """A leader that counts its unwritten entries commits what one crash takes away."""
    early = property(lambda self: self.last_index, lambda self, value: None)
    monkeypatch.setattr(HardenedJournal, "durable_index", early, raising=False)
    assert fails_within(60, "fifo", "fifo-5")


def test_the_checker_sees_truncation_of_matching_entries():
    """A follower that cuts after every append loses acknowledged entries (H2a)."""

    class Truncates(HardenedSyncObj):
        def _store_entries(self, entries):
            if entries and entries[0][1] > self.journal.base_index:
                self.journal.deleteEntriesFrom(entries[0][1] - self.journal.base_index)
            super()._store_entries(entries)

    assert fails_within(40, "reorder", "late", node_class=Truncates)


def test_the_checker_sees_wiped_members_that_count():
    """A wiped member that votes and counts at once loses what it once acknowledged."""

    class Forgetful(HardenedSyncObj):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.become_voter()

    assert fails_within(40, "wipe", "wipe-5", node_class=Forgetful)
