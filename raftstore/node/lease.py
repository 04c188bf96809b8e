"""This node's lease as its holder sees it: joined once, renewed every third of it, fenced when it runs out.

The holder counts from before it sent and shortens by the drift bound; the machine counts from the commit and
lengthens by it. So whatever the two clocks do within their bound, this process has stopped acting before any other
node may take over (design: time and leases).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer
from raftstore.node.replica import Replica
from raftstore.ports import Clock
from raftstore.types import Reason

LEASE_LAPSED = "LEASE_LAPSED"


class SubmitInternal(Protocol):
    """Propose an op of the node itself, beside the callers' bound; `callback` is called once."""

    def __call__(self, kind: str, callback: Callable[[Answer], None]) -> None: ...


class LeaseKeeper:
    """Joins, renews, fences. Driven by the node's tick; the node's loop is its only user."""

    def __init__(
        self,
        *,
        clock: Clock,
        owned: Owned,
        replica: Replica,
        submit: SubmitInternal,
        on_fenced: Callable[[list[tuple[str, int]], str], None],
        on_superseded: Callable[[], None],
        loop_stall_max_ms: int,
    ) -> None:
        self._clock = clock
        self._owned = owned
        self._replica = replica
        self._submit = submit
        self._on_fenced = on_fenced
        self._on_superseded = on_superseded
        self._loop_stall_max_ns = loop_stall_max_ms * 1_000_000
        self._busy = False
        self._renew_due_ns = 0
        self._left = False

    @property
    def is_held(self) -> bool:
        return self._clock.now_ns() < self._owned.lease_until_ns

    def remaining_ms(self) -> int:
        return max(0, (self._owned.lease_until_ns - self._clock.now_ns()) // 1_000_000)

    def tick(self, *, has_quorum: bool, keeps_up: bool) -> None:
        """Fence or extend what `owns` may answer, and renew when it is time."""
        now = self._clock.now_ns()
        if len(self._owned) and now >= self._owned.lease_until_ns:
            self._on_fenced(self._owned.fence(), LEASE_LAPSED)
        if keeps_up:
            self._owned.keep_until(now + self._loop_stall_max_ns)
        if has_quorum and not self._busy and not self._left and now >= self._renew_due_ns:
            self._busy = True
            kind = "renew_lease" if self._replica.is_joined else "join"
            self._submit(kind, lambda answer: self._answered(kind, now, answer))

    def _answered(self, kind: str, sent_ns: int, answer: Answer) -> None:
        self._busy = False
        if not answer.decided or self._left:
            return  # asked again by the next tick
        if answer.reason is None:
            lease_ns = self._replica.holder_lease_ns()
            self._owned.extend_lease(sent_ns + lease_ns)
            self._owned.keep_until(self._clock.now_ns() + self._loop_stall_max_ns)
            self._renew_due_ns = sent_ns + lease_ns // 3
            if kind == "join":
                self._replica.joined()
        elif answer.reason is Reason.NODE_FENCED:
            self._on_superseded()

    def leave(self) -> list[tuple[str, int]]:
        """Before this process says goodbye: own nothing from here on, whatever becomes of the message."""
        self._left = True
        return self._owned.fence()
