"""What a leader notes of a follower's answers, answer by answer (H2b)."""

from __future__ import annotations

from raftstore.raft.progress import PROBE, REPLICATE, Progress


def caught_up(match: int) -> Progress:
    """A follower that has acknowledged everything up to `match`."""
    progress = Progress(match, 0)
    progress.accept(match, 0)
    return progress


def test_a_rejection_that_an_acknowledgement_overtook_changes_nothing() -> None:
    """A rejection of a point that was acknowledged since lowers neither `match` nor `next`."""
    progress = caught_up(10)
    progress.reject(rejected_prev=7, hint_next=3)
    assert (progress.match, progress.next, progress.state) == (10, 11, REPLICATE)


def test_a_rejection_never_takes_back_what_was_acknowledged() -> None:
    """Whatever a follower hints, it is looked for from behind what it has acknowledged."""
    progress = caught_up(10)
    progress.sent(14, 100)
    progress.reject(rejected_prev=14, hint_next=2)
    assert (progress.match, progress.next, progress.state) == (10, 11, PROBE)
    progress.next = 13
    progress.reject(rejected_prev=12, hint_next=2)
    assert (progress.match, progress.next) == (10, 11)
