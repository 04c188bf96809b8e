"""Replication: the leader's stream to its followers, their answers, and the commit index.

Raft paper, section 5.3 and figure 8, with what the stock library lacks: acknowledgements carry a term (H3) and
the point they verified (H2a); matching entries are kept, conflicts at or below the commit index stop the node
(H1, H2a); the leader counts itself only as far as its own disk is (journal.durable_index); followers that lost
their disk are fed but not counted until an entry that was appended after they came back is committed without
them. The argument for that last rule: the voters that committed that entry include one of any majority that could
elect a leader with the lost vote, and this one now holds an entry such a candidate lacks.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from raftstore.raft.election import Elections, Message
from raftstore.raft.journal import entry_bytes
from raftstore.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress, quorum_value
from raftstore.raft.seams import FOLLOWER, LEADER, NO_OP, InvariantViolation


class Replication(Elections):
    """The part of the node that sends, stores and commits entries."""

    def _prepare_replication(self, learner: int) -> None:
        self._progress: dict[str, Progress] = {}
        self._learner = learner  # this process's number while it is a wiped member, else 0
        self._heartbeat_due_ns = 0
        self._probe = 0  # number of the last heartbeat round
        self._verified = (0, 0)  # (term, index): up to there our log is that of the term's leader
        self._noop_index = 0  # first entry of this leader's term
        self._leading_since_ns = 0
        self._has_set_voters_free = False  # in this term, by asking one of them to take over
        self._stale_acks = 0

    # --- hooks of the other parts -----------------------------------------------------------------------
    @abstractmethod
    def _send_snapshot(self, peer: str, progress: Progress) -> None: ...

    @abstractmethod
    def _confirm_reads(self) -> None: ...

    # --- leading -------------------------------------------------------------------------------------------
    def _lead(self, now: int) -> None:
        """Become leader and commit an entry of the own term first (Raft paper, sections 5.4.2 and 8)."""
        self._set_role(LEADER, self.self_id)
        self._progress = {p: Progress(self.last_log_index, now) for p in self.peer_ids}
        self._leading_since_ns = now
        self._has_set_voters_free = False
        self._heartbeat_due_ns = now
        self._noop_index = self._append_own(NO_OP)

    def _append_own(self, command: bytes) -> int:
        index = self.last_log_index + 1
        self.journal.add(command, index, self.term)
        return index

    @property
    def is_leader_ready(self) -> bool:
        """Leader, and everything before its own term is applied: its state and its clock are current."""
        return self.role == LEADER and self.last_applied >= self._noop_index

    def _quorum_confirmed_ns(self, now: int) -> int:
        """Newest instant, by our clock, at which a majority had yet to answer and since has: leadership held then."""
        times = [now] + [p.confirmed_ns if p.votes else 0 for p in self._progress.values()]
        return quorum_value(times, self.quorum)

    def _tick_leader(self, now: int) -> None:
        if self.role != LEADER:
            return
        if now - self._quorum_confirmed_ns(now) > self.timing.election_timeout_min_ns:
            self._step_down()
            self._reset_election_deadline(now)
            return
        if now >= self._heartbeat_due_ns:
            self._broadcast_heartbeat(now)
            for progress in self._progress.values():
                progress.paused = False
                if progress.is_stuck(now, self.timing.election_timeout_min_ns):
                    progress.probe()

    def _broadcast_heartbeat(self, now: int) -> None:
        self._probe += 1
        self._heartbeat_due_ns = now + self.timing.heartbeat_interval_ns
        for peer in self.peer_ids:
            if self.is_connected(peer):
                self._send_heartbeat(peer, now)

    def _send_heartbeat(self, peer: str, now: int) -> None:
        progress = self._progress[peer]
        progress.sent_commit = min(self.commit_index, progress.match)
        progress.notice_due_ns = 0
        self._send(
            peer,
            {
                "type": "heartbeat",
                "term": self.term,
                "commit_index": progress.sent_commit,
                "probe": self._probe,
                "sent_ns": now,
                "promote": progress.learner if self._may_promote(progress) else 0,
            },
        )

    def _may_promote(self, progress: Progress) -> bool:
        since = progress.learner_since  # an entry of this term, however far the log has been cut since
        return progress.learner != 0 and progress.match >= since and self.commit_index >= since

    def _flush_appends(self, now: int) -> None:
        """Send every follower what it may be sent now; called once at the end of a step."""
        if self.role != LEADER:
            return
        for peer in self.peer_ids:
            if self.is_connected(peer):
                self._feed(peer, self._progress[peer], now)

    def _feed(self, peer: str, progress: Progress, now: int) -> None:
        if progress.state != SNAPSHOT and progress.next <= self.journal.base_index:
            progress.state = SNAPSHOT
            progress.snapshot_index = 0
        if progress.state == SNAPSHOT:
            self._send_snapshot(peer, progress)
            return
        while self._may_append(progress):
            self._send_append(peer, progress, now)
        if min(self.commit_index, progress.match) > progress.sent_commit:
            self._tell_commit(peer, progress, now)

    def _tell_commit(self, peer: str, progress: Progress, now: int) -> None:
        """A newer commit index: at once for a follower that waits for it, else with what comes next, or soon."""
        if progress.wanted_commit > progress.sent_commit or 0 < progress.notice_due_ns <= now:
            self._send_heartbeat(peer, now)
        elif progress.notice_due_ns == 0:
            progress.notice_due_ns = now + self.timing.commit_notice_ns

    def want_commit(self, peer: str, index: int) -> None:
        """Something at that follower waits until `index` is applied there."""
        progress = self._progress.get(peer)
        if progress is not None:
            progress.wanted_commit = max(progress.wanted_commit, index)

    def _notice_due_ns(self) -> int | None:
        """When the first follower has to hear of a newer commit index."""
        dues = [
            progress.notice_due_ns
            for peer, progress in self._progress.items()
            if progress.notice_due_ns and progress.state != SNAPSHOT and self.is_connected(peer)
        ]
        return min(dues, default=None)

    def _may_append(self, progress: Progress) -> bool:
        if progress.state == PROBE:
            return not progress.paused
        return (
            progress.state == REPLICATE
            and progress.next <= self.last_log_index
            and len(progress.inflight) < self.timing.inflight_appends_max
            and progress.inflight_bytes < self.timing.inflight_bytes_max
        )

    def _send_append(self, peer: str, progress: Progress, now: int) -> None:
        previous = progress.next - 1
        is_repeated_probe = progress.state == PROBE and progress.probed == progress.next
        if progress.next <= self.last_log_index and not is_repeated_probe:  # a slow link is not filled with copies
            entries = self.journal.entries_from(progress.next, self.timing.append_bytes_max)
        else:
            entries = []
        if not progress.inflight:
            progress.moved_ns = now
        progress.sent(entries[-1][1] if entries else previous, sum(entry_bytes(e) for e in entries))
        progress.sent_commit = max(progress.sent_commit, min(self.commit_index, previous + len(entries)))
        if progress.sent_commit >= min(self.commit_index, progress.match):
            progress.notice_due_ns = 0
        self._send(
            peer,
            {
                "type": "append_entries",
                "term": self.term,
                "commit_index": self.commit_index,
                "prevLogIdx": previous,
                "prevLogTerm": self.journal.term_at(previous),
                "entries": entries,
                "probe": self._probe,
                "sent_ns": now,
            },
        )

    # --- following -----------------------------------------------------------------------------------------
    def _follow(self, peer: str, term: int, now: int) -> bool:
        """A message that only a leader sends arrived. Returns whether it is the leader of this node's term."""
        if term < self.term:
            return False
        if term == self.term and self.role == LEADER:
            raise InvariantViolation(f"{peer} and {self.self_id} both lead term {term}")
        if term == self.term and self.leader_id not in (None, peer):
            raise InvariantViolation(f"{peer} and {self.leader_id} both lead term {term}")
        self._follow_higher_term(term)
        self._set_role(FOLLOWER, peer)
        self._leader_contact_ns = now
        self._reset_election_deadline(now)
        return True

    def _answer(self, peer: str, kind: str, message: Message, **fields: Any) -> None:
        """An answer to a leader's message: always with our term and an echo of what was asked."""
        self._send(
            peer,
            {
                "type": kind,
                "term": self.term,
                "probe": message.get("probe", 0),
                "sent_ns": message.get("sent_ns", 0),
                "learner": self._learner,
                **fields,
            },
        )

    def _on_heartbeat(self, peer: str, message: Message, now: int) -> None:
        if self._follow(peer, message["term"], now):
            self._set_commit(min(message["commit_index"], self._verified_index()))
            if self._learner and message["promote"] == self._learner:
                self._learner = 0
                self.journal.set_voter(True)
        self._answer(peer, "heartbeat_response", message)

    def _verified_index(self) -> int:
        """How far this log is known to equal the leader's. A message without entries commits no further (H1).

        What the leader believes of us is no proof: we may be another process, on another disk, than the one it heard.
        """
        term, index = self._verified
        return index if term == self.term else 0

    def _verify(self, index: int) -> None:
        self._verified = (self.term, max(index, self._verified_index()))

    def _on_append_entries(self, peer: str, message: Message, now: int) -> None:
        previous = message["prevLogIdx"]
        if not self._follow(peer, message["term"], now):
            self._answer(peer, "next_node_idx", message, success=False, rejected=previous, next_node_idx=1)
            return
        if self._is_installing():
            return  # the log is about to be replaced; the leader asks again
        hint = self._conflict_hint(previous, message["prevLogTerm"])
        if hint is not None:
            self._answer(peer, "next_node_idx", message, success=False, rejected=previous, next_node_idx=hint)
            return
        self._store_entries(message["entries"])
        verified = previous + len(message["entries"])
        self._verify(verified)
        self._set_commit(max(self.commit_index, min(message["commit_index"], verified)))
        self._answer(peer, "next_node_idx", message, success=True, rejected=0, next_node_idx=verified + 1)

    def _conflict_hint(self, previous: int, previous_term: int) -> int | None:
        """Where the leader should go on instead; None when our log matches at `previous`."""
        if previous > self.last_log_index:
            return self.last_log_index + 1
        if previous < self.journal.base_index:
            return None  # inside our snapshot, hence committed, hence equal (Raft paper, section 5.4.3)
        if self.journal.term_at(previous) == previous_term:
            return None
        if previous <= self.commit_index:
            raise InvariantViolation(f"leader disagrees with the committed entry {previous}")
        return max(self.journal.first_index_of_term_at(previous), self.commit_index + 1)

    def _store_entries(self, entries: list[tuple[bytes, int, int]]) -> None:
        """Keep what matches, cut only at a real conflict, append the rest (Raft paper, section 5.3)."""
        journal = self.journal
        for position, (_, index, term) in enumerate(entries):
            if index <= journal.base_index:
                continue
            held = journal.term_at(index)
            if held == term:
                continue
            if held is not None:
                if index <= self.commit_index:
                    raise InvariantViolation(f"leader disagrees with the committed entry {index}")
                journal.deleteEntriesFrom(index - journal.base_index)
            for entry in entries[position:]:
                journal.add(*entry)
            return

    # --- answers at the leader ----------------------------------------------------------------------------------
    def _hear(self, peer: str, message: Message, now: int) -> Progress | None:
        """The sender's progress if the answer belongs to our term and counts; None when it must be ignored (H3)."""
        if self._follow_higher_term(message["term"]):
            return None
        if self.role != LEADER or message["term"] != self.term:
            self._stale_acks += 1
            return None
        progress = self._progress[peer]
        progress.received_ns = now
        if message["learner"] != progress.learner:
            if self._is_of_earlier_process(progress, message["learner"]):
                self._stale_acks += 1
                return None
            self._change_membership_role(progress, message["learner"])
            if progress.learner:
                return None
        progress.confirmed_ns = max(progress.confirmed_ns, min(message["sent_ns"], now))
        progress.acked_probe = max(progress.acked_probe, min(message["probe"], self._probe))
        return progress

    def _is_of_earlier_process(self, progress: Progress, learner: int) -> bool:
        """Whether an answer is from before the disk was lost (a voter we never promoted) or before a promotion."""
        return learner == progress.promoted if learner else not self._may_promote(progress)

    def _change_membership_role(self, progress: Progress, learner: int) -> None:
        """The sender lost its disk since we last heard it, or it has caught up and votes again."""
        progress.promoted = 0 if learner else progress.learner
        progress.learner = learner
        if learner:
            progress.forget(self.last_log_index)
            progress.learner_since = self._append_own(NO_OP)

    def _on_heartbeat_response(self, peer: str, message: Message, now: int) -> None:
        self._hear(peer, message, now)

    def _on_next_node_idx(self, peer: str, message: Message, now: int) -> None:
        progress = self._hear(peer, message, now)
        if progress is None:
            return
        if not message["success"]:
            progress.reject(message["rejected"], message["next_node_idx"])
            return
        match = message["next_node_idx"] - 1
        if match > self.last_log_index:
            raise InvariantViolation(f"{peer} acknowledged {match}, beyond our log's end {self.last_log_index}")
        progress.accept(match, now)

    def can_commit(self) -> bool:
        """Whether a step would commit more than is committed."""
        return self.role == LEADER and self._held_by_majority() > self.commit_index

    def _held_by_majority(self) -> int:
        """Up to where a majority holds the log durably."""
        matches = [self.journal.durable_index]
        matches += [p.match if p.votes else 0 for p in self._progress.values()]
        return quorum_value(matches, self.quorum)

    def _advance_commit(self) -> None:
        """Raft paper, figure 2: a majority holds it durably and it is of our term."""
        if self.role != LEADER:
            return
        index = self._held_by_majority()
        if index > self.commit_index and self.journal.term_at(index) == self.term:
            self._set_commit(index)
        self._confirm_reads()
