"""The newest audit events in memory, for those who follow them: kept as the packed batches that the hash chain covers.

A tuple of every event would be so much memory, touched once and never again, that it would drive everything else that
applying an entry needs out of the processor's caches.
"""

from __future__ import annotations

from collections import deque

from raftstore.ownership import Event, unpack_events

RECENT_EVENTS_MAX = 4_096  # older ones come from the files


class RecentEvents:
    """Events with dense numbers, newest last. The node's loop is its only user."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int, bytes]] = deque()  # first number, count, packed events
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, first_number: int, count: int, packed: bytes) -> None:
        """The events of one entry, none or more. Drops whole batches from the front while the rest is enough."""
        if count == 0:
            return
        batches = self._batches
        batches.append((first_number, count, packed))
        self._count += count
        while self._count - batches[0][1] >= RECENT_EVENTS_MAX:
            self._count -= batches.popleft()[1]

    def clear(self) -> None:
        """What comes next has other numbers."""
        self._batches.clear()
        self._count = 0

    def after(self, number: int, limit: int) -> list[Event] | None:
        """Up to `limit` events with numbers above `number`; None when some of those are not in memory (any more)."""
        if not self._batches or self._batches[0][0] > number + 1:
            return None
        found: list[Event] = []
        for first, count, packed in self._batches:
            if first + count - 1 > number:
                found.extend(unpack_events(packed)[max(0, number + 1 - first) :])
                if len(found) >= limit:
                    break
        return found[:limit]
