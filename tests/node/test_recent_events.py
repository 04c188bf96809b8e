"""The newest audit events in memory: what a follower is told from there, and what it must look for in the files."""

from __future__ import annotations

import pytest

from raftstore.node import recent_events
from raftstore.node.recent_events import RecentEvents
from raftstore.ownership import Event, pack_events


def event(number: int) -> Event:
    return (number, 7, 1_000, 1_700_000_000_000, 2, "s", "vpn-1", 11, 2**64 - 1, 9, 1, 1, "vpn-1", 1, 3, None, "t1")


def filled(*counts: int, first: int = 1) -> RecentEvents:
    """Batches of so many events."""
    it = RecentEvents()
    for count in counts:
        it.add(first, count, pack_events([event(number) for number in range(first, first + count)]) if count else b"")
        first += count
    return it


def test_events_come_back_as_they_were() -> None:
    assert filled(2).after(0, 10) == [event(1), event(2)]


@pytest.mark.parametrize("after", range(8))
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_what_follows_a_number_over_batches_of_any_size(after: int, limit: int) -> None:
    """A batch may hold no event at all; a follower may stand in the middle of one."""
    found = filled(1, 0, 3, 2, 1).after(after, limit)
    assert found == [event(number) for number in range(after + 1, 8)][:limit]


def test_nothing_is_told_where_something_would_be_missing() -> None:
    """Then the files have to say it."""
    assert RecentEvents().after(0, 10) is None
    assert filled(2, first=5).after(3, 10) is None
    assert filled(2, first=5).after(4, 10) == [event(5), event(6)]


def test_the_oldest_batches_go_while_enough_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_events, "RECENT_EVENTS_MAX", 4)
    it = filled(3, 3, 1)
    assert len(it) == 4 and it.after(2, 10) is None and it.after(3, 10) == [event(n) for n in (4, 5, 6, 7)]
    it.add(8, 9, pack_events([event(number) for number in range(8, 17)]))
    assert len(it) == 9


def test_cleared_is_empty() -> None:
    it = filled(3)
    it.clear()
    assert len(it) == 0 and it.after(2, 10) is None
    it.add(9, 1, pack_events([event(9)]))
    assert it.after(8, 10) == [event(9)]
