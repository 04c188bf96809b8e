"""Defects in consensus and storage: one for each hole that the hardened class closes, where it can be opened again."""

from __future__ import annotations

from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, patched, several
from jepsen_like.sim.network import Network
from raftstore.raft import election, outbox, progress, reads, replication, seams, snapshots
from raftstore.raft.hardened import HardenedSyncObj
from raftstore.storage import wal, wal_reading
from raftstore.storage.wal_format import _RECORD, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, Record, RecordType


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
    """Whatever follows the place where entries are put is deleted, also where it matches."""

    def store_entries(self: Any, entries: Any) -> None:
        log = self.journal
        if entries and self.commit_index < entries[0][1] > log.base_index:
            position = entries[0][1] - log.base_index
            if position < len(log):
                log.deleteEntriesFrom(position)
        original(self, entries)

    return store_entries


def _stale_reset(self: Any, rejected_prev: int, hint_next: int) -> None:
    """Every rejection counts, also one that was overtaken by an acknowledgement."""
    self.probe()
    self.match = min(self.match, hint_next - 1)
    self.next = hint_next
    self.paused = False


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


def _no_sync(self: Any) -> None:
    """The log is written and never synced."""
    if not self._pending:
        return
    file, _ = self._active()
    file.datasync, kept = (lambda: None), file.datasync
    try:
        _sync(self)
    finally:
        file.datasync = kept


_sync = wal.Wal.sync


def _torn_records(data: bytes, group: Any) -> Any:
    """Records are taken without a look at their checksums."""
    found, offset = [], group.offset + GROUP_HEADER_BYTES
    for _ in range(group.records):
        if offset + RECORD_HEADER_BYTES > len(data):
            return None
        length, _, kind, index, term = _RECORD.unpack_from(data, offset)
        start = offset + RECORD_HEADER_BYTES
        found.append(Record(RecordType(kind), index, term, data[start : start + length]))
        offset = start + length
    return found


def _no_quorum_check(original: Any) -> Any:
    def confirmed(self: Any, now: int) -> int:
        return now

    return confirmed


def _drops_too_much(original: Any) -> Any:
    """Log segments go before the snapshot that covers them is the one before the newest."""

    def drop_through(self: Any, index: int) -> int:
        latest = self._snapshots.latest
        return int(original(self, index if latest is None else latest.index + 5))

    return drop_through


RAFT_MUTANTS: dict[str, Mutant] = {
    "acknowledge-before-sync": attribute(outbox.Outbox, "release", lambda _: _at_once),
    "leader-counts-itself-before-sync": attribute(replication.Replication, "_advance_commit", lambda _: _counts_itself),
    "commit-by-a-minority": attribute(replication.Replication, "_advance_commit", lambda _: _minority),
    "former-terms-committed-by-count": attribute(replication.Replication, "_advance_commit", lambda _: _any_term),
    "vote-given-twice": attribute(election.Elections, "_on_request_vote", lambda _: _votes_twice),
    "read-without-quorum": attribute(reads.Reads, "read_index", lambda _: _read_at_once),
    "commit-without-matching": several(
        attribute(replication.Replication, "_on_heartbeat", lambda _: _heartbeat_commits),
        attribute(replication.Replication, "_send_heartbeat", lambda _: _tells_everything),
    ),
    "append-cuts-what-matches": attribute(replication.Replication, "_store_entries", _cuts_always),
    "stale-rejection-counts": attribute(progress.Progress, "reject", lambda _: _stale_reset),
    "acknowledgement-of-any-term": attribute(replication.Replication, "_hear", _hears_all_terms),
    "snapshot-rolls-back": several(
        attribute(snapshots.Snapshots, "_on_install_snapshot", _rolls_back),
        attribute(snapshots.Snapshots, "_restart_probes", _again_from_the_past),
    ),
    "commit-index-kept-over-restart": attribute(HardenedSyncObj, "__init__", _commits_at_start),
    "log-never-synced": attribute(wal.Wal, "sync", lambda _: _no_sync),
    "torn-tail-accepted": lambda: patched(wal_reading, "decode_records", _torn_records),
    "leader-without-quorum-stays": attribute(replication.Replication, "_quorum_confirmed_ns", _no_quorum_check),
    "superseded-connection-delivers": lambda: patched(Network, "superseded_deliver", True),
}
