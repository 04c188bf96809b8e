"""Defects in consensus: one for each hole that the hardened class closes, where it can be opened again."""

from __future__ import annotations

from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, several
from raftstore.raft import election, outbox, progress, reads, replication, seams, snapshots
from raftstore.raft.hardened import HardenedSyncObj


def _at_once(self: Any) -> None:
    """Messages leave before what they promise is on disk."""
    self._journal.submit()
    fresh, self._fresh = self._fresh, []
    for _, peer, data in fresh:
        self._send(peer, data)


def _counts_itself(self: Any) -> None:
    """The leader counts its own log, not what is durable of it."""
    if self.role != seams.LEADER:
        return
    matches = [self.last_log_index] + [p.match if p.votes else 0 for p in self._progress.values()]
    index = progress.quorum_value(matches, self.quorum)
    if index > self.commit_index and self.journal.term_at(index) == self.term:
        self._set_commit(index)
    self._confirm_reads()


def _any_term(self: Any) -> None:
    """The leader commits entries of former terms by counting."""
    if self.role != seams.LEADER:
        return
    matches = [self.journal.durable_index] + [p.match if p.votes else 0 for p in self._progress.values()]
    index = progress.quorum_value(matches, self.quorum)
    if index > self.commit_index:
        self._set_commit(index)
    self._confirm_reads()


def _minority(self: Any) -> None:
    """One member less is enough."""
    if self.role != seams.LEADER:
        return
    matches = [self.journal.durable_index] + [p.match if p.votes else 0 for p in self._progress.values()]
    index = progress.quorum_value(matches, max(1, self.quorum - 1))
    if index > self.commit_index and self.journal.term_at(index) == self.term:
        self._set_commit(index)
    self._confirm_reads()


def _read_at_once(self: Any, callback: Any) -> bool:
    """Nobody is asked whether this leader still leads."""
    if self.role != seams.LEADER:
        return False
    callback(self.commit_index)
    return True


def _heartbeat_commits(self: Any, peer: str, message: Any, now: int) -> None:
    """A message without entries commits whatever this log holds."""
    if self._follow(peer, message["term"], now):
        self._set_commit(min(message["commit_index"], self.last_log_index))
        if self._learner and message["promote"] == self._learner:
            self._learner = 0
            self.journal.set_voter(True)
    self._answer(peer, "heartbeat_response", message)


def _tells_everything(self: Any, peer: str, now: int) -> None:
    """Heartbeats carry the leader's commit index, whatever the follower has acknowledged."""
    held = self._progress[peer]
    held.sent_commit = self.commit_index
    held.notice_due_ns = 0
    message = {"type": "heartbeat", "term": self.term, "commit_index": self.commit_index, "probe": self._probe}
    promote = held.learner if self._may_promote(held) else 0
    self._send(peer, {**message, "sent_ns": now, "promote": promote})


def _cuts_always(original: Any) -> Any:
    """Whatever follows the point where a message fits is deleted, also where it matches, also if nothing comes."""

    def conflict_hint(self: Any, previous: int, previous_term: int) -> Any:
        hint = original(self, previous, previous_term)
        first = max(previous, self.commit_index, self.journal.base_index) + 1
        if hint is None and first <= self.journal.last_index:
            self.journal.deleteEntriesFrom(first - self.journal.base_index)
        return hint

    return conflict_hint


def _hears_all_terms(original: Any) -> Any:
    """An answer of a former term is taken for one of this."""

    def hear(self: Any, peer: str, message: Any, now: int) -> Any:
        if message["term"] < self.term and self.role == seams.LEADER:
            message = {**message, "term": self.term}
        return original(self, peer, message, now)

    return hear


def _rolls_back(original: Any) -> Any:
    """A snapshot is installed whatever is applied already."""

    def on_install(self: Any, peer: str, message: Any, now: int) -> None:
        commit, self._SyncObj__raftCommitIndex = self.commit_index, 0
        original(self, peer, message, now)
        self._SyncObj__raftCommitIndex = max(commit, self._SyncObj__raftCommitIndex)

    return on_install


def _again_from_the_past(original: Any) -> Any:
    """The leader sends its snapshot to whoever it has to look for, and a follower takes it."""

    def restart_probes(self: Any, peer: str) -> None:
        original(self, peer)
        held = self._progress.get(peer)
        if held is not None and self._snapshots.latest() is not None:
            held.state = progress.SNAPSHOT
            held.snapshot_index = 0

    return restart_probes


def _commits_at_start(original: Any) -> Any:
    """What stands in the log at a start is taken for committed."""

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._SyncObj__raftCommitIndex = self.journal.last_index

    return init


def _votes_twice(self: Any, peer: str, message: Any, now: int) -> None:
    """Whoever asks gets the vote."""
    if not self.journal.voter:
        return
    self._follow_higher_term(message["term"])
    granted = message["term"] == self.term and self.role == seams.FOLLOWER and self._is_up_to_date(message)
    known = self._cluster_ms()
    answer = {"type": "response_vote", "term": self.term, "granted": granted}
    self._send(peer, {**answer, "anchored": known is not None, "cluster_ms": known or 0})


def _no_quorum_check(original: Any) -> Any:
    def confirmed(self: Any, now: int) -> int:
        return now

    return confirmed


def _votes_of_former_campaigns(self: Any, peer: str, message: Any, now: int) -> None:
    """A vote is a vote, whatever term it was given in."""
    if self._follow_higher_term(message["term"]) or self.role != seams.CANDIDATE or not message["granted"]:
        return
    self._votes.add(peer)
    if message["anchored"]:
        self.quorum_was_anchored = True
        self.witness_ms = max(self.witness_ms, message["cluster_ms"])
    if len(self._votes) >= self.quorum:
        self._lead(now)


def _transfers_in_silence(original: Any) -> Any:
    """Voters are set free, and reads go on as if they were not."""

    def tick_transfer(self: Any, now: int) -> None:
        original(self, now)
        self._has_set_voters_free = False

    return tick_transfer


def _trusts_too_long(original: Any) -> Any:
    """As if a voter stayed true until it is a candidate itself at the latest."""

    def renew_read_lease(self: Any, now: int) -> None:
        original(self, now)
        if self.read_lease_until_ns:
            extra_ns = self.timing.election_timeout_max_ns - self.timing.election_timeout_min_ns
            self.read_lease_until_ns += extra_ns

    return renew_read_lease


RAFT_MUTANTS: dict[str, Mutant] = {
    "acknowledge-before-sync": attribute(outbox.Outbox, "release", lambda _: _at_once),
    "leader-counts-itself-before-sync": attribute(replication.Replication, "_advance_commit", lambda _: _counts_itself),
    "commit-by-a-minority": attribute(replication.Replication, "_advance_commit", lambda _: _minority),
    "former-terms-committed-by-count": attribute(replication.Replication, "_advance_commit", lambda _: _any_term),
    "vote-given-twice": attribute(election.Elections, "_on_request_vote", lambda _: _votes_twice),
    "vote-of-any-term-counts": attribute(election.Elections, "_on_response_vote", lambda _: _votes_of_former_campaigns),
    "read-without-quorum": attribute(reads.Reads, "read_index", lambda _: _read_at_once),
    "read-lease-over-transfer": attribute(HardenedSyncObj, "_tick_transfer", _transfers_in_silence),
    "read-lease-too-long": attribute(reads.Reads, "_renew_read_lease", _trusts_too_long),
    "commit-without-matching": several(
        attribute(replication.Replication, "_on_heartbeat", lambda _: _heartbeat_commits),
        attribute(replication.Replication, "_send_heartbeat", lambda _: _tells_everything),
    ),
    "append-cuts-what-matches": attribute(replication.Replication, "_conflict_hint", _cuts_always),
    "acknowledgement-of-any-term": attribute(replication.Replication, "_hear", _hears_all_terms),
    "snapshot-rolls-back": several(
        attribute(snapshots.Snapshots, "_on_install_snapshot", _rolls_back),
        attribute(snapshots.Snapshots, "_restart_probes", _again_from_the_past),
    ),
    "commit-index-kept-over-restart": attribute(HardenedSyncObj, "__init__", _commits_at_start),
    "leader-without-quorum-stays": attribute(replication.Replication, "_quorum_confirmed_ns", _no_quorum_check),
}
