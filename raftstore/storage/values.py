"""The nouns of storage: what is kept, what recovery found, and which bounds hold.

Knows no file and no format. Shared by the log, the hard state, the snapshots and the facade over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Entry = tuple[bytes, int, int]
"""(payload, index, term): one entry of the log, in the order in which the Raft room holds it."""

PARTIAL_WRITE = "PARTIAL_WRITE"  # a write that was never acknowledged was found half done, and undone
SNAPSHOT_CORRUPT = "SNAPSHOT_CORRUPT"  # the newest snapshot is bad; the one before and the log stand in for it

REMEDY = (
    "move the data directory aside and start the node (strategy shared: it rejoins from its peers as a non-voter until "
    "caught up; strategy sticky: its sessions are lost with that directory, see docs/operations.md)"
)


class HardState(NamedTuple):
    """Raft paper, figure 2: `term` and `voted_for` survive a crash. `voter` False: may not vote until caught up."""

    term: int
    voted_for: str | None
    voter: bool


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A complete snapshot file: the last entry it covers, where it is, its size and the SHA-256 of all its bytes."""

    index: int
    term: int
    path: str
    size_bytes: int
    sha256: bytes


class SecurityEvent(NamedTuple):
    """Something an operator must be able to see (ownership model, section 7). `kind` is stable."""

    kind: str
    file: str
    offset: int
    detail: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the data directory held. `entries` are contiguous and begin right after the snapshot (or at 1)."""

    hard_state: HardState | None
    fresh: bool
    snapshot: SnapshotInfo | None
    entries: list[Entry]
    events: list[SecurityEvent]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the storage room, in bytes.

    A record beyond `record_bytes_max` is refused. A group closes at `group_bytes_max`. An incoming snapshot beyond
    `snapshot_bytes_max` is refused. At most `snapshot_unsynced_bytes_max` of one being written wait for the disk.
    """

    segment_bytes: int = 64 * 1024 * 1024
    record_bytes_max: int = 4 * 1024 * 1024
    group_bytes_max: int = 8 * 1024 * 1024
    snapshot_chunk_bytes_max: int = 4 * 1024 * 1024
    snapshot_bytes_max: int = 64 * 1024 * 1024 * 1024
    snapshot_unsynced_bytes_max: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        room = 8192  # the segment's header, the group's and the record's, and the mark behind the last group
        if not 0 < self.record_bytes_max <= self.segment_bytes - room:
            raise ValueError(f"record_bytes_max {self.record_bytes_max} does not fit a segment of {self.segment_bytes}")
        if self.group_bytes_max <= 0:
            raise ValueError("group_bytes_max must be positive")
