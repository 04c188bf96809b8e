"""What a node does while it leads: gather everybody's ops into batches, stamp them, keep the machine's house.

One batch is one log entry. While a few entries are on their way, ops gather; so batches grow with the load and a
single caller never waits for company. Cluster time is stamped here and nowhere else. A leader whose clock has no
anchor of its own lifetime proposes a resume batch first, and nothing before that is applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.lease import SubmitInternal
from raftstore.node.proposals import Answer
from raftstore.node.replica import Replica
from raftstore.ownership import SWEEP_MAX, is_well_formed_group, join_batch
from raftstore.ports import Clock
from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.seams import LEADER

ENTRIES_IN_FLIGHT_MAX = 4  # beyond it ops gather for the next entry
FORWARDED_GROUPS_MAX = 64  # waiting here; beyond it their senders are told to try again
SWEEP_CANDIDATE_BYTES = 96  # of one session in a sweep op, at most: a sweep must fit an entry
GROUP_HEADER_BYTES = 128  # of a packed group beside its ops, and of a batch beside its groups

TakeGroup = Callable[[int, int], tuple[bytes, int]]  # (ops_max, bytes_max) -> packed group and its op count


class LeaderDuties:
    """Batches, resume, configuration, sweeps. The node's loop is its only user."""

    def __init__(
        self,
        *,
        clock: Clock,
        cluster_clock: ClusterClock,
        raft: HardenedSyncObj,
        replica: Replica,
        take_own_group: TakeGroup,
        submit: SubmitInternal,
        report: Callable[[str, str], None],
        wanted_params: dict[str, int | str],
        batch_ops_max: int,
        entry_bytes_max: int,
    ) -> None:
        self._clock = clock
        self._cluster_clock = cluster_clock
        self._raft = raft
        self._replica = replica
        self._take_own_group = take_own_group
        self._submit = submit
        self._report = report
        self._wanted_params = wanted_params
        self._batch_ops_max = batch_ops_max
        self._entry_bytes_max = entry_bytes_max
        self._sweep_max = min(SWEEP_MAX, entry_bytes_max // SWEEP_CANDIDATE_BYTES)
        self._forwarded: deque[tuple[bytes, int, str]] = deque()  # group, its op count, its sender
        self._resume_term = 0
        self._sweeping = False
        self._configuring = False
        self.batches = 0
        self.batched_ops = 0
        self.sweep: list[tuple[str, int]] = []  # candidates of the sweep op that is being submitted

    # --- ops of other nodes --------------------------------------------------------------------------------
    def accept_forwarded(self, group: bytes, node_id: str, incarnation: int) -> bool:
        """A group that `node_id` sent. False: not taken, the sender must try again.

        Only its shape and its sender are checked here; the machine answers for its content.
        """
        if not self._raft.is_leader_ready or len(self._forwarded) >= FORWARDED_GROUPS_MAX:
            return False
        ops = is_well_formed_group(group, node_id, incarnation, self._batch_ops_max)
        if ops is None or len(group) > self._entry_bytes_max:
            return False
        self._forwarded.append((group, ops, node_id))
        return True

    # --- batches ---------------------------------------------------------------------------------------------
    def propose(self) -> bool:
        """Propose what waits, as far as the pipeline allows. Returns whether anything was proposed."""
        raft = self._raft
        if raft.role != LEADER:
            self._forwarded.clear()  # their senders learn of the new leader and send again
            return False
        if not raft.is_leader_ready or raft.is_transferring:
            return False
        if not self._cluster_clock.is_anchored:
            return self._resume()
        proposed = False
        while raft.last_log_index - raft.last_applied < ENTRIES_IN_FLIGHT_MAX:
            groups, ops, senders = self._gather()
            if not groups:
                break
            index = raft.propose(join_batch(self._stamp_ms(), self._clock.wall_ms(), None, groups))
            if index is None:
                break
            for sender in senders:
                raft.want_commit(sender, index)  # its callers wait for what its replica makes of it
            self.batches += 1
            self.batched_ops += ops
            proposed = True
        return proposed

    def _stamp_ms(self) -> int:
        return max(self._replica.machine.clock_ms, self._cluster_clock.now_ms())

    def _gather(self) -> tuple[list[bytes], int, list[str]]:
        """Groups for one batch, how many ops they hold, and which other nodes sent them."""
        room = self._entry_bytes_max - GROUP_HEADER_BYTES
        own, total = self._take_own_group(self._batch_ops_max, room)
        groups = [own] if own else []
        senders: list[str] = []
        room -= len(own)
        while self._forwarded and total < self._batch_ops_max:
            group, ops, sender = self._forwarded[0]
            if groups and (len(group) > room or total + ops > self._batch_ops_max):
                break
            self._forwarded.popleft()
            groups.append(group)
            senders.append(sender)
            room -= len(group)
            total += ops
        return groups, total, senders

    def _resume(self) -> bool:
        """First entry of a leader without an anchor: cluster time goes on from here, and leases start anew.

        A voter that has lived through it all knows how much time passed without a leader; wall time is not asked then.
        """
        raft = self._raft
        if self._resume_term == raft.term:
            return False
        jump_ms = 0
        if not raft.quorum_was_anchored:
            machine = self._replica.machine
            limit = int(machine.params["clock_resume_max_ms"])
            jump_ms, notice = self._cluster_clock.resume_jump_ms(machine.last_wall_ms, limit)
            if notice is not None:
                self._report("CLOCK_NOT_RESUMED", notice)
        stamp_ms = max(self._stamp_ms(), raft.witness_ms)
        batch = join_batch(stamp_ms, self._clock.wall_ms(), jump_ms, [])
        if raft.propose(batch) is None:
            return False
        self._resume_term = raft.term
        return True

    # --- house-keeping -----------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Sweep what is due and keep the machine's parameters as configured."""
        raft, replica = self._raft, self._replica
        if not raft.is_leader_ready or not replica.is_joined or not self._cluster_clock.is_anchored:
            return
        if not self._configuring and self.differs(replica.machine.params):
            self._configuring = True
            self._submit("configure", self._configured)
        if not self._sweeping:
            self.sweep = replica.due.due(self._stamp_ms(), self._sweep_max)
            if self.sweep:
                self._sweeping = True
                self._submit("sweep", self._swept)

    def differs(self, params: dict[str, int | str]) -> bool:
        """Whether the machine's parameters are not those of our configuration."""
        return any(params.get(key) != value for key, value in self._wanted_params.items())

    def _configured(self, _answer: Answer) -> None:
        self._configuring = False

    def _swept(self, _answer: Answer) -> None:
        self._sweeping = False
