"""The hardened Raft node: PySyncObj's SyncObj with its holes closed. Sans-I/O.

Messages come in through `receive`, time through `step`, durability through `on_durable`; messages leave through the
transport handed in, entries and votes through the journal, committed entries through `apply`. One step reads as a
sequence: election or heartbeat timers, commit, send what others can go on with, apply, send. The caller runs a step
after each group of inputs and when `next_deadline_ns` has come. Anything that a correct cluster cannot do raises
InvariantViolation: the caller must stop the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from pysyncobj.transport import Transport

from raftstore.ports import Clock
from raftstore.raft.election import Message
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.seams import FOLLOWER, LEADER, REGULAR, RaftTiming
from raftstore.raft.snapshots import Snapshots, SnapshotStore

Apply = Callable[[int, int, bytes], Any]  # (index, term, payload; empty for a no-op): total, never raises


class HardenedSyncObj(Snapshots):
    """One member of the cluster (Raft paper, figure 2; changes to the stock class in docs/divergence.md)."""

    def __init__(
        self,
        self_id: str,
        peer_ids: Iterable[str],
        *,
        clock: Clock,
        rng: Random,
        journal: HardenedJournal,
        transport: Transport,
        snapshots: SnapshotStore,
        apply: Apply,
        timing: RaftTiming | None = None,
        before_applying: Callable[[], None] = lambda: None,  # what waits to leave may leave now
        cluster_ms: Callable[[], int | None] = lambda: 0,  # None while this node does not know the time
        learner: int = 0,
    ) -> None:
        if not journal.voter and learner == 0:
            raise ValueError("a member that is no voter needs a number that tells this start from others")
        self._apply = apply
        self._before_applying = before_applying
        self._transfer_target: str | None = None
        self._transfer_until_ns = 0
        self._transfer_due_ns = 0  # when the target is asked (again)
        self._prepare_elections(cluster_ms)
        self._prepare_replication(learner if not journal.voter else 0)
        self._prepare_reads()
        self._prepare_snapshots(snapshots)
        super().__init__(
            self_id,
            peer_ids,
            clock=clock,
            rng=rng,
            journal=journal,
            transport=transport,
            timing=timing or RaftTiming(),
        )
        self._handlers: dict[str, Callable[[str, Message, int], None]] = {
            "pre_vote": self._on_pre_vote,
            "pre_vote_response": self._on_pre_vote_response,
            "request_vote": self._on_request_vote,
            "response_vote": self._on_response_vote,
            "append_entries": self._on_append_entries,
            "next_node_idx": self._on_next_node_idx,
            "heartbeat": self._on_heartbeat,
            "heartbeat_response": self._on_heartbeat_response,
            "install_snapshot": self._on_install_snapshot,
            "snapshot_response": self._on_snapshot_response,
            "timeout_now": self._on_timeout_now,
        }
        self._may_have_heard_leader(clock.now_ns())
        self._reset_election_deadline(clock.now_ns())

    # --- inputs ------------------------------------------------------------------------------------------
    def _SyncObj__onMessageReceived(self, node: Any, message: Message) -> None:
        """The transport's callback: one message of a member. Others never get here (H4, H9)."""
        peer = str(node.id)
        if peer in self.peers:
            handler = self._handlers.get(message["type"])
            if handler is not None:
                handler(peer, message, self.clock.now_ns())

    def receive(self, peer_id: str, message: Message) -> None:
        """One schema-checked message of a member. Call `step` after the last of a group."""
        self._SyncObj__onMessageReceived(self.peers[peer_id], message)

    def peer_connected(self, peer_id: str) -> None:
        """A new connection to a member stands; nothing of the old one will be delivered any more."""
        self._SyncObj__onNodeConnected(self.peers[peer_id])
        self._restart_probes(peer_id)

    def peer_disconnected(self, peer_id: str) -> None:
        self._SyncObj__onNodeDisconnected(self.peers[peer_id])
        if self.leader_id == peer_id:
            self._set_role(self.role, None)  # it cannot be asked any more: callers are refused at once

    def on_durable(self, job: int) -> None:
        """Storage has made everything up to this job durable."""
        self.journal.mark_durable(job)

    def become_voter(self) -> None:
        """Start of a new cluster: every member's directory is empty, so none has forgotten anything."""
        if self._learner:
            self._learner = 0
            self.journal.set_voter(True)

    # --- the step ------------------------------------------------------------------------------------------
    def _onTick(self, timeToWait: float = 0.0) -> None:
        self.step()

    def step(self) -> None:
        """Let time pass and let the inputs since the last step take effect."""
        now = self.clock.now_ns()
        self._tick_election(now)
        self._tick_leader(now)
        self._tick_transfer(now)
        self._advance_commit()
        if self.last_applied < self.commit_index and not self._is_installing():
            self._flush_appends(now)
            self._before_applying()
        self._SyncObj__applyLogEntries()
        self._renew_read_lease(now)
        self._flush_reads(now)
        self._flush_appends(now)

    def next_deadline_ns(self) -> int:
        """When `step` must run at the latest, in local monotonic nanoseconds; at once while entries wait."""
        if self.last_applied < self.commit_index and not self._is_installing():
            return self.clock.now_ns()
        if self.role != LEADER:
            return self._election_deadline_ns
        notice = self._notice_due_ns()
        return self._heartbeat_due_ns if notice is None else min(notice, self._heartbeat_due_ns)

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply what is committed, in order and each once: as much as one step may."""
        if self._is_installing():
            return False
        first = self.last_applied + 1
        last = min(self.commit_index, first + self.timing.apply_entries_max - 1)
        if last < first:
            return False
        left_bytes = self.timing.apply_bytes_max
        for command, index, term in self._SyncObj__getEntries(first, last - first + 1):
            if left_bytes <= 0:
                break
            left_bytes -= len(command)
            self._set_applied(index)
            self._apply(index, term, command[1:] if command[:1] == REGULAR else b"")
        return False

    # --- proposals ------------------------------------------------------------------------------------------
    def propose(self, payload: bytes) -> int | None:
        """Append one entry; its index, or None when this node is no ready leader or hands its office over.

        The entry is sent and synced in parallel; it is not durable, and may yet be lost, until applied. ValueError when
        `payload` is larger than `entry_bytes_max`: a caller's bug, since nobody could replicate it.
        """
        if len(payload) > self.timing.entry_bytes_max:
            raise ValueError(f"an entry of {len(payload)} bytes, at most {self.timing.entry_bytes_max} fit")
        if not self.is_leader_ready or self._transfer_target is not None:
            return None
        return self._append_own(REGULAR + payload)

    # --- leadership -------------------------------------------------------------------------------------------
    def _SyncObj__onBecomeLeader(self) -> None:
        self._lead(self.clock.now_ns())

    def _SyncObj__onLeaderChanged(self) -> None:
        """The stock library answers forwarded commands here, wrongly (H11); the node forwards by itself."""

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self.timing.election_timeout_max_ns / 1e9

    def _stop_leading(self) -> None:
        self._transfer_target = None
        self.read_lease_until_ns = 0
        self._fail_reads()
        self._progress = {}

    def transfer_leadership(self, target: str | None = None) -> str | None:
        """Hand leadership to a caught-up voter (dissertation, section 3.10). Returns its id, None if there is none.

        Proposals are refused until it took over or one election timeout has passed.
        """
        if self.role != LEADER:
            return None
        able = {p: self._progress[p].match for p in self.peer_ids if self._is_eligible(p)}
        if not able or (target is not None and target not in able):
            return None
        chosen = target if target is not None else max(sorted(able), key=lambda p: able[p])
        self._transfer_target = chosen
        self._transfer_due_ns = self.clock.now_ns()
        self._transfer_until_ns = self._transfer_due_ns + self.timing.election_timeout_max_ns
        return chosen

    def _is_eligible(self, peer: str) -> bool:
        return self.is_connected(peer) and self._progress[peer].votes

    def _tick_transfer(self, now: int) -> None:
        if self._transfer_target is None or self.role != LEADER:
            return
        if now >= self._transfer_until_ns:
            self._transfer_target = None  # it did not take over: go on leading
        elif self._progress[self._transfer_target].match == self.last_log_index and now >= self._transfer_due_ns:
            self._transfer_due_ns = now + self.timing.heartbeat_interval_ns
            self._has_set_voters_free = True
            self.read_lease_until_ns = 0
            self._send(self._transfer_target, {"type": "timeout_now", "term": self.term})

    def _on_timeout_now(self, peer: str, message: Message, now: int) -> None:
        asked_by_leader = message["term"] == self.term and self.leader_id == peer and self.role == FOLLOWER
        if asked_by_leader and self._may_campaign():
            self._campaign(now, transfer=True)

    # --- what the node shows ------------------------------------------------------------------------------------
    @property
    def is_learner(self) -> bool:
        """A member that lost its disk, or never had one: it neither votes nor counts yet."""
        return self._learner != 0

    @property
    def is_transferring(self) -> bool:
        return self._transfer_target is not None

    @property
    def has_quorum(self) -> bool:
        """Whether this node knows a leader that can reach a majority, as far as it can tell right now."""
        return self.leader_id is not None and self.connected_count + 1 >= self.quorum

    def peer_status(self) -> list[dict[str, Any]]:
        """One row per other member: what a leader knows, or for a follower whether it is connected."""
        now = self.clock.now_ns()
        rows = []
        for peer in self.peer_ids:
            progress = self._progress.get(peer)
            row: dict[str, Any] = {"node": peer, "connected": self.is_connected(peer)}
            if progress is not None:
                row["match_index"] = progress.match
                row["lag"] = self.last_log_index - progress.match
                row["last_contact_ms"] = (now - progress.received_ns) // 1_000_000
                row["voter"] = progress.votes
            rows.append(row)
        return rows
