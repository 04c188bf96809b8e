"""Linearizable reads without a log write (Raft paper, section 8; dissertation, sections 6.4 and 6.4.1).

A read notes the commit index, then waits until a majority has answered a heartbeat that was sent after the read
began, then until that index is applied. Why the answer cannot be stale: had another leader committed anything
before the read began, a majority would have left our term by then, and one of them would be among those whose
answer we waited for. The index is noted only once an entry of our own term is committed, so it covers everything
that earlier leaders acknowledged.

Within the read lease nobody is asked. A voter that heard of us helps no candidate for the minimum election timeout
(`Elections._hears_leader`), also when it restarts meanwhile, and any majority that could elect another leader
includes one of the majority that answered us last. So until that timeout has passed since we sent what they
answered, less the drift between two clocks, we are the only leader, and what we have applied holds everything that
anybody was told: whoever learns of a commit learns it from us, and where that is before we applied it, we give the
read lease up first and take it again once all is applied. A transfer of leadership sets the voters free at once; so a
leader that asked for one has no read lease for the rest of its term. Pauses are harmless: the read lease is looked at
after the read began, and the state after the read lease.
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
        self.read_lease_until_ns = 0  # by our clock; replaced as a whole: any thread may look

    def read_index(self, callback: ReadCallback) -> bool:
        """Ask for an index whose application makes a local read linearizable.

        `callback` is called once, on this thread, perhaps at once: with the index, or None when leadership was lost.
        Returns False, and calls nothing, when this node is no ready leader or `reads_max` reads are waiting.
        """
        if not self.is_leader_ready or len(self._reads) >= self.timing.reads_max:
            return False
        if self.holds_read_lease():
            callback(self.commit_index)
            return True
        self._reads.append((self._probe + 1, self.commit_index, callback))
        return True

    def holds_read_lease(self) -> bool:
        """Whether what is applied here is, at this instant, no older than anything that anybody was told. Any thread.

        Look at the state after this, never before.
        """
        return self.clock.now_ns() < self.read_lease_until_ns

    def _renew_read_lease(self, now: int) -> None:
        """In every step, once entries are applied: no commit is told while a read here would not show it."""
        shows_all = self.is_leader_ready and self.last_applied >= self.commit_index
        if shows_all and not self._has_set_voters_free:
            self.read_lease_until_ns = self._quorum_confirmed_ns(now) + self.timing.read_lease_ns
        else:
            self.read_lease_until_ns = 0

    def suspend_read_lease(self) -> None:
        """Others are about to hear of commits before they are applied here: until they are, nothing is read here."""
        self.read_lease_until_ns = 0

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
