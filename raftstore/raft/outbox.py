"""Durable before visible, said in one place.

Every message of the Raft node passes here. A message that promises something about the log, the term or a vote is
held until storage has made durable every job that was submitted before it; a leader's own stream waits for the term
and vote alone, since the leader counts itself only when its own write is done. Messages to one peer keep their
order within each of the two classes, which is all that Raft needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pysyncobj.transport import Transport

from raftstore.raft.journal import HardenedJournal
from raftstore.raft.peer_messages import PROMISES_NO_LOG, encode

SendBytes = Callable[[str, bytes], bool]
HELD_MESSAGES_MAX = 65_536  # beyond it the oldest are dropped: Raft repeats whatever matters


class Outbox(Transport):  # type: ignore[misc]  # the library ships no type information
    """The stock library's Transport port, with a barrier in front of the links."""

    def __init__(self, journal: HardenedJournal, send: SendBytes) -> None:
        super().__init__(None, None, None)
        self._journal = journal
        self._send = send
        self._fresh: list[tuple[bool, str, bytes]] = []  # of this step: (promises the log, peer, bytes)
        self._held: deque[tuple[int, str, bytes]] = deque()  # (job to wait for, peer, bytes), jobs growing
        self._durable_job = 0
        self.dropped = 0

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """Called by the Raft node within a step."""
        self._fresh.append((message["type"] not in PROMISES_NO_LOG, str(node.id), encode(message)))
        return True

    @property
    def has_work(self) -> bool:
        """Whether something of this step waits to be written or to leave."""
        return bool(self._fresh) or self._journal.has_unsubmitted

    def release(self) -> None:
        """Submit what the step wrote, then let go what promises nothing that is not yet on disk."""
        job = self._journal.submit()
        fresh, self._fresh = self._fresh, []
        for promises, peer, data in fresh:
            barrier = job if promises else self._journal.hard_state_job
            if barrier <= self._durable_job:
                self._send(peer, data)
            else:
                self._hold(barrier, peer, data)

    def _hold(self, barrier: int, peer: str, data: bytes) -> None:
        if len(self._held) >= HELD_MESSAGES_MAX:
            self._held.popleft()
            self.dropped += 1
        if self._held and barrier < self._held[-1][0]:
            barrier = self._held[-1][0]  # keep the queue sorted: waiting longer than needed is always safe
        self._held.append((barrier, peer, data))

    def on_durable(self, job: int) -> None:
        """Storage has made everything up to this job durable."""
        self._durable_job = max(self._durable_job, job)
        held = self._held
        while held and held[0][0] <= self._durable_job:
            _, peer, data = held.popleft()
            self._send(peer, data)

    def drop_peer(self, peer: str) -> None:
        """The link to `peer` is gone: what was meant for it belongs to the old connection."""
        self._held = deque(h for h in self._held if h[1] != peer)
        self._fresh = [f for f in self._fresh if f[1] != peer]
