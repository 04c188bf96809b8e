"""Snapshot transfer: chunks with an offset, the whole under a checksum, resumable, never rolling back.

The leader sends the newest durable snapshot file as it is; the follower stores it aside, verifies all of it, makes
it durable, loads it and only then answers that it holds it. A snapshot at or below what the follower knows to be
committed is answered with "I have that", never installed (H20); nothing here ever touches the commit index of a
message that verified no entry (H1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from raftstore.raft.election import Message
from raftstore.raft.progress import PROBE, Progress
from raftstore.raft.reads import Reads
from raftstore.raft.seams import InvariantViolation


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A complete, durable snapshot: the last entry it covers, its size in bytes and the checksum of its bytes."""

    index: int
    term: int
    size: int
    sha256: bytes


class SnapshotStore(Protocol):
    """Where snapshots are kept. Called on the node's thread; slow work is done elsewhere and called back."""

    def latest(self) -> SnapshotFile | None:
        """The newest durable snapshot."""

    def read(self, snapshot: SnapshotFile, offset: int, size: int) -> bytes:
        """Bytes of that snapshot; empty when it is gone by now."""

    def receive(self, snapshot: SnapshotFile, offset: int, data: bytes) -> int:
        """Store bytes of an incoming snapshot; returns how many bytes from its start are held now."""

    def install(self, snapshot: SnapshotFile, done: Callable[[bool], None]) -> None:
        """Verify, make durable and load the received snapshot, then `done(True)`; `done(False)` if it was bad."""


class Snapshots(Reads):
    """The part of the node that sends and installs snapshots."""

    def _prepare_snapshots(self, snapshots: SnapshotStore) -> None:
        self._snapshots = snapshots
        self._installing: SnapshotFile | None = None
        self._sending: dict[str, SnapshotFile] = {}  # what each follower was last sent of
        self.snapshots_installed = 0

    def _is_installing(self) -> bool:
        return self._installing is not None

    # --- leader ------------------------------------------------------------------------------------------
    def _send_snapshot(self, peer: str, progress: Progress) -> None:
        if not progress.snapshot_index:
            self._begin_snapshot(peer, progress)
        snapshot = self._sending[peer]
        now = self.clock.now_ns()
        if progress.snapshot_sent == progress.snapshot_acked:
            progress.moved_ns = now
        elif now - progress.moved_ns > self.timing.election_timeout_max_ns:
            progress.snapshot_sent = progress.snapshot_acked  # lost, or not taken: go on from what was answered
            progress.moved_ns = now
        chunk_bytes = min(self.timing.snapshot_chunk_bytes, self.timing.append_bytes_max)
        window_bytes = self.timing.snapshot_window_chunks * chunk_bytes
        while progress.snapshot_sent < min(snapshot.size, progress.snapshot_acked + window_bytes):
            data = self._snapshots.read(snapshot, progress.snapshot_sent, chunk_bytes)
            if not data:
                progress.snapshot_index = 0  # gone by now: the next step begins with the newest
                return
            self._send(
                peer,
                {
                    "type": "install_snapshot",
                    "term": self.term,
                    "index": snapshot.index,
                    "snapshot_term": snapshot.term,
                    "size": snapshot.size,
                    "sha256": snapshot.sha256,
                    "offset": progress.snapshot_sent,
                    "data": data,
                    "probe": self._probe,
                    "sent_ns": now,
                },
            )
            progress.snapshot_sent += len(data)

    def _begin_snapshot(self, peer: str, progress: Progress) -> None:
        """Choose what to send: the one that was begun, while our log goes on from it, else the newest.

        Switching to every newer one would never end where a transfer takes longer than the time between two.
        """
        chosen = self._sending.get(peer)
        if chosen is None or chosen.index < self.journal.base_index or not self._snapshots.read(chosen, 0, 1):
            chosen = self._snapshots.latest()
        if chosen is None:
            raise InvariantViolation("the log was cut without a snapshot")
        self._sending[peer] = chosen
        progress.snapshot_index = chosen.index
        progress.snapshot_sent = progress.snapshot_acked = 0

    def _on_snapshot_response(self, peer: str, message: Message, now: int) -> None:
        progress = self._hear(peer, message, now)
        if progress is None:
            return
        if message["match"]:
            progress.accept(min(message["match"], self.last_log_index), now)
            return
        if message["index"] != progress.snapshot_index:
            return
        if message["offset"] > progress.snapshot_acked:
            progress.moved_ns = now
        # Less than before: it had to begin anew. What it does not take is sent again only after a while, so that a
        # follower that cannot take anything is not flooded.
        progress.snapshot_acked = message["offset"]
        progress.snapshot_sent = max(progress.snapshot_sent, message["offset"])

    # --- follower ----------------------------------------------------------------------------------------
    def _on_install_snapshot(self, peer: str, message: Message, now: int) -> None:
        if not self._follow(peer, message["term"], now):
            self._answer_snapshot(peer, message, match=0, offset=0)
            return
        if self._installing is not None:
            return
        if message["index"] <= self.commit_index:
            # We hold everything committed up to here, and so does every leader (Raft paper, section 5.4.3).
            self._answer_snapshot(peer, message, match=self.commit_index, offset=0)
            return
        snapshot = SnapshotFile(message["index"], message["snapshot_term"], message["size"], message["sha256"])
        held = self._snapshots.receive(snapshot, message["offset"], message["data"])
        if held < snapshot.size:
            self._answer_snapshot(peer, message, match=0, offset=held)
            return
        self._installing = snapshot
        self.journal.submit()  # so that storage cuts the same log as we will
        self._snapshots.install(snapshot, lambda good: self._on_installed(peer, message, good))

    def _on_installed(self, peer: str, message: Message, good: bool) -> None:
        snapshot, self._installing = self._installing, None
        if snapshot is None or not good:
            return  # the received bytes were discarded: the leader starts again from offset 0
        if self.journal.term_at(snapshot.index) == snapshot.term:
            self.journal.deleteEntriesTo(snapshot.index - self.journal.base_index)
        else:
            self.journal.reset(snapshot.index, snapshot.term)
        self._set_commit(snapshot.index)
        self._set_applied(snapshot.index)
        self.snapshots_installed += 1
        self._reset_election_deadline(self.clock.now_ns())
        if message["term"] == self.term and self.leader_id == peer:
            self._answer_snapshot(peer, message, match=snapshot.index, offset=snapshot.size)

    def _answer_snapshot(self, peer: str, message: Message, *, match: int, offset: int) -> None:
        self._answer(peer, "snapshot_response", message, index=message["index"], match=match, offset=offset)

    # --- own snapshots --------------------------------------------------------------------------------------
    def compact(self, index: int) -> None:
        """Forget entries up to `index` in memory: a durable snapshot at or beyond it exists."""
        latest = self._snapshots.latest()
        if latest is None or latest.index < index or index > self.last_applied:
            raise InvariantViolation(f"no durable snapshot covers entry {index}")
        self.journal.deleteEntriesTo(index - self.journal.base_index)

    def _restart_probes(self, peer: str) -> None:
        """The link to `peer` is new: whatever was in flight is gone."""
        progress = self._progress.get(peer)
        if progress is not None:
            progress.state = PROBE
            progress.snapshot_index = 0
            progress.relink()
