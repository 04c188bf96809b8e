"""Linearizable reads from any node: the leader confirms an index, this replica catches up to it.

Reads that arrive together share one request. A read has no effect, so giving up on it is always safe.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Waiter = Callable[[bool], None]  # True: read the replica now; False: no index could be confirmed

READS_WAITING_MAX = 16_384
COUNTER_BITS = 40  # of a number, beside bits of the incarnation: 64 in all
INCARNATION_MASK = (1 << (64 - COUNTER_BITS)) - 1


class ReadRequests:
    """Reads of this node's callers that wait for their index. The node's loop is its only user.

    Numbers begin where the process's incarnation says: an answer to an earlier process of this node fits no read of
    this one, however late it comes. Taken for one it could be too old, and the read stale.
    """

    def __init__(self, incarnation: int) -> None:
        self._fresh: list[Waiter] = []
        self._asked: dict[int, list[Waiter]] = {}
        self._number = (incarnation & INCARNATION_MASK) << COUNTER_BITS
        self._for_index: list[tuple[int, int, list[Waiter]]] = []
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._count >= READS_WAITING_MAX

    @property
    def waits_to_ask(self) -> bool:
        return bool(self._fresh)

    def add(self, waiter: Waiter) -> None:
        self._fresh.append(waiter)
        self._count += 1

    def ask(self) -> int:
        """Everything that waits becomes one request; its number."""
        self._number += 1
        self._asked[self._number] = self._fresh
        self._fresh = []
        return self._number

    def answered(self, number: int, index: int | None, applied: int) -> None:
        """The leader confirmed `index` for that request, or could not (None)."""
        waiters = self._asked.pop(number, [])
        if index is None:
            self._finish(waiters, False)
        elif index <= applied:
            self._finish(waiters, True)
        else:
            heapq.heappush(self._for_index, (index, number, waiters))

    def applied(self, index: int) -> None:
        """This replica has applied everything up to `index`."""
        while self._for_index and self._for_index[0][0] <= index:
            self._finish(heapq.heappop(self._for_index)[2], True)

    def leader_changed(self) -> None:
        """Whoever was asked may never answer."""
        asked, self._asked = self._asked, {}
        for waiters in asked.values():
            self._finish(waiters, False)

    def fail_fresh(self) -> None:
        """There is nobody to ask."""
        fresh, self._fresh = self._fresh, []
        self._finish(fresh, False)

    def fail_all(self) -> None:
        self.fail_fresh()
        self.leader_changed()
        for _, _, waiters in self._for_index:
            self._finish(waiters, False)
        self._for_index.clear()

    def _finish(self, waiters: list[Waiter], good: bool) -> None:
        self._count -= len(waiters)
        for waiter in waiters:
            waiter(good)
