"""The data path's question: does this node own the session now? Answered from memory, per packet.

A session is in the list only if this process bound it, was told so in time, and has seen nothing since that could
mean otherwise; the list counts only until `own_until_ns`, which the node's loop pushes on while its lease runs and
it keeps up. Why no other node can believe the same: another owner needs an epoch that a transfer or a failover
made. A transfer takes a freeze, which this node proposes itself, and it strikes the session off before it does; a
failover takes the lapse of the lease by cluster time, which comes after `own_until_ns` whatever the clocks do
within their bound. (Ownership model, sections 1 and 8.)
"""

from __future__ import annotations

from typing import Any

from raftstore.ports import Clock

EPOCH_BITS = 64  # more than any epoch has
EPOCH_MASK = (1 << EPOCH_BITS) - 1


class Owned:
    """Sessions this process may act for, by id, with their epochs. `owns` may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        # Local time at which the session's TTL ends, and its epoch, as one number: unlike a pair it is nothing that the
        # garbage collector would go through, again and again, where there are very many sessions.
        self._held: dict[str, int] = {}
        self._giving_up: dict[str, int] = {}  # proposals under way, per session
        self._lease_until_ns = 0
        self._own_until_ns = 0

    def owns(self, session_id: Any, epoch: Any = None) -> bool:
        """Whether this node may act for the session at this instant, under that epoch if one is given."""
        held = self._held.get(session_id)
        if held is None or (epoch is not None and epoch != held & EPOCH_MASK):
            return False
        now = self._now_ns()
        return now < self._own_until_ns and now < held >> EPOCH_BITS

    def epoch(self, session_id: str) -> int | None:
        """The epoch under which the session is owned right now; None when it is not."""
        epoch = self.epoch_held(session_id)
        return epoch if epoch is not None and self.owns(session_id, epoch) else None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._held

    @property
    def lease_until_ns(self) -> int:
        """Local monotonic time at which this node's own lease ends."""
        return self._lease_until_ns

    def grant(self, session_id: str, epoch: int, expires_ns: int) -> bool:
        """A binding of this process was committed and its caller is being told. False while one gives it up."""
        if session_id in self._giving_up:
            return False
        self._held[session_id] = expires_ns << EPOCH_BITS | epoch
        return True

    def renew(self, session_id: str, epoch: int, expires_ns: int) -> None:
        """The session's TTL was renewed; it stays owned if it is."""
        if self.epoch_held(session_id) == epoch:
            self._held[session_id] = expires_ns << EPOCH_BITS | epoch

    def begin_giving_up(self, session_id: str) -> None:
        """A proposal that ends this node's ownership is about to be made: false from now on, whatever comes of it."""
        self._held.pop(session_id, None)
        self._giving_up[session_id] = self._giving_up.get(session_id, 0) + 1

    def end_giving_up(self, session_id: str) -> None:
        """The fate of that proposal is known here. Only a new binding makes `owns` true again."""
        left = self._giving_up.get(session_id, 0) - 1
        if left > 0:
            self._giving_up[session_id] = left
        else:
            self._giving_up.pop(session_id, None)

    def epoch_held(self, session_id: str) -> int | None:
        """The epoch on the list, whether or not the lease still runs."""
        held = self._held.get(session_id)
        return None if held is None else held & EPOCH_MASK

    def held(self) -> list[tuple[str, int]]:
        """Everything on the list, (session id, epoch), whether or not the lease still runs."""
        return [(session_id, held & EPOCH_MASK) for session_id, held in self._held.copy().items()]

    def strike(self, session_id: str) -> bool:
        """The session changed in a way that ends this node's right. Returns whether it had been owned."""
        return self._held.pop(session_id, None) is not None

    def extend_lease(self, until_ns: int) -> None:
        """A lease renewal was committed; `until_ns` is counted from before it was sent."""
        self._lease_until_ns = max(self._lease_until_ns, until_ns)

    def keep_until(self, until_ns: int) -> None:
        """The loop turns and the replica keeps up: answers stand until then, within the lease."""
        self._own_until_ns = min(until_ns, self._lease_until_ns)

    def fence(self) -> list[tuple[str, int]]:
        """Own nothing any more: the lease ran out, the loop hung, or the node stops.

        Returns what was owned, with epochs. The one mutation that another thread (the watchdog) may make: a loop
        that wakes up afterwards finds no lease and an empty list.
        """
        self._own_until_ns = 0
        self._lease_until_ns = 0
        lost = self.held()
        self._held.clear()
        return lost
