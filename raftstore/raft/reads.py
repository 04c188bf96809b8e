"""Linearizable reads without a log write (Raft paper, section 8; dissertation, section 6.4).

A read notes the commit index, then waits until a majority has answered a heartbeat that was sent after the read
began, then until that index is applied. Why the answer cannot be stale: had another leader committed anything
before the read began, a majority would have left our term by then, and one of them would be among those whose
answer we waited for. The index is noted only once an entry of our own term is committed, so it covers everything
that earlier leaders acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raftstore.raft.progress import quorum_value
from raftstore.raft.replication import Replication
from raftstore.raft.seams import LEADER

ReadCallback = Callable[[int | None], None]  # the index to wait for, or None: not answered here


class Reads(Replication):
    """The part of the node that confirms reads."""

    def _prepare_reads(self) -> None:
        self._reads: deque[tuple[int, int, ReadCallback]] = deque()  # (heartbeat round, index, callback)

    def read_index(self, callback: ReadCallback) -> bool:
        """Ask for an index whose application makes a local read linearizable.

        `callback` is called once, on this thread: with the index, or None when leadership was lost. Returns False,
        and calls nothing, when this node is no ready leader or `reads_max` reads are waiting.
        """
        if not self.is_leader_ready or len(self._reads) >= self.timing.reads_max:
            return False
        self._reads.append((self._probe + 1, self.commit_index, callback))
        return True

    def _flush_reads(self, now: int) -> None:
        """One heartbeat round confirms every read that began before it was sent."""
        if self._reads and self._reads[-1][0] > self._probe and self.role == LEADER:
            self._broadcast_heartbeat(now)
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        if not self._reads:
            return
        probes = [self._probe] + [p.acked_probe if p.votes else 0 for p in self._progress.values()]
        confirmed = quorum_value(probes, self.quorum)
        while self._reads and self._reads[0][0] <= confirmed:
            _, index, callback = self._reads.popleft()
            callback(index)

    def _fail_reads(self) -> None:
        reads, self._reads = self._reads, deque()
        for _, _, callback in reads:
            callback(None)
