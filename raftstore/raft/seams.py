"""The seam between PySyncObj and us: the only module that spells its private names.

PySyncObj keeps its Raft state in name-mangled attributes. We subclass it, so we read and write that state; this
module gives each piece a typed name and refuses to import when the installed library is not the one whose
source these names were read from. What the subclass replaces, and why, is listed in docs/divergence.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node as PeerNode
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from raftstore.ports import Clock
from raftstore.raft.journal import HardenedJournal

PINNED_VERSION = "0.3.17"
_MANGLE = "_SyncObj__"

# Stock methods that run unchanged under the subclass.
KEPT = (
    "setState",
    "getEntries",
    "getCurrentLogIndex",
    "getCurrentLogTerm",
    "setCurrentTerm",
    "deleteEntriesFrom",
    "deleteEntriesTo",
    "onNodeConnected",
    "onNodeDisconnected",
    "connectedToAnyone",
)
# Stock methods that the subclass replaces.
REPLACED = (
    "onMessageReceived",
    "onReadonlyNodeConnected",
    "onReadonlyNodeDisconnected",
    "sendAppendEntries",
    "sendNextNodeIdx",
    "onBecomeLeader",
    "onLeaderChanged",
    "applyLogEntries",
    "doApplyCommand",
    "tryLogCompaction",
    "loadDumpFile",
    "generateRaftTimeout",
    "changeCluster",
    "doChangeCluster",
    "updateClusterConfiguration",
)

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
ROLE_NAMES = ("follower", "candidate", "leader")
REGULAR, NO_OP = b"\x00", b"\x01"  # first byte of a log entry, as the stock library writes it


def verify_pysyncobj() -> None:
    """Refuse to run on a PySyncObj whose private names we have not read."""
    if VERSION != PINNED_VERSION:
        raise ImportError(f"raftstore needs pysyncobj=={PINNED_VERSION}, found {VERSION}: reinstall raftstore")
    missing = [n for n in KEPT + REPLACED if not hasattr(SyncObj, _MANGLE + n)]
    if missing:
        raise ImportError(f"pysyncobj {VERSION} lacks {', '.join(missing)}: reinstall raftstore")


verify_pysyncobj()


class InvariantViolation(Exception):  # noqa: N818 - names what happened
    """Something that a correct cluster cannot do was seen. The node must stop; it must not go on serving."""


@dataclass(frozen=True, slots=True)
class RaftTiming:
    """Timing in nanoseconds of local monotonic time, and the bounds of replication."""

    election_timeout_min_ns: int = 300_000_000
    election_timeout_max_ns: int = 600_000_000
    heartbeat_interval_ns: int = 50_000_000
    read_lease_ns: int = 294_000_000  # less than the minimum election timeout by the drift of both clocks
    commit_notice_ns: int = 5_000_000  # how long a follower that waits for nothing may not know the newest commit index
    append_bytes_max: int = 1 << 20  # one append_entries message, unless a single entry is larger; half a frame at most
    inflight_appends_max: int = 64  # unanswered append_entries per follower
    inflight_bytes_max: int = 8 << 20
    apply_entries_max: int = 256  # entries applied per step, so that catching up never stalls the loop,
    apply_bytes_max: int = 256 << 10  # and about so many bytes of them: some thousand ops
    snapshot_chunk_bytes: int = 256 << 10  # or append_bytes_max, where that is less
    snapshot_window_chunks: int = 4
    reads_max: int = 8192  # linearizable reads waiting for their confirmation

    @property
    def entry_bytes_max(self) -> int:
        """Payload of one entry: whoever proposes keeps well below, and what is above fits no frame (H13)."""
        return 2 * self.append_bytes_max


class Seams(SyncObj):  # type: ignore[misc]  # the library ships no type information
    """SyncObj with its private state under typed names, our clock, our randomness and our journal."""

    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int

    def __init__(
        self,
        self_id: str,
        peer_ids: Iterable[str],
        *,
        clock: Clock,
        rng: Random,
        journal: HardenedJournal,
        transport: Transport,
        timing: RaftTiming,
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.timing = timing
        self.journal = journal
        self.self_id = self_id
        self.peer_ids = tuple(sorted(p for p in peer_ids if p != self_id))
        self.peers = {p: PeerNode(p) for p in self.peer_ids}
        self.quorum = (len(self.peer_ids) + 1) // 2 + 1
        second = 1_000_000_000
        conf = SyncObjConf(
            autoTick=False,
            raftMinTimeout=timing.election_timeout_min_ns / second,
            raftMaxTimeout=timing.election_timeout_max_ns / second,
            appendEntriesPeriod=timing.election_timeout_min_ns / second / 4,  # unused, but validated
            leaderFallbackTimeout=timing.election_timeout_min_ns / second,
            connectionTimeout=max(3.5, 2 * timing.election_timeout_max_ns / second),
            tcp_keepalive=None,
        )
        super().__init__(PeerNode(self_id), list(self.peers.values()), conf, transport=transport)
        # The constructor built a MemoryJournal, which forgets (H21); ours takes its place before the first step.
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), self.last_log_term)
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        # What was committed is learnt from the leader again; only the snapshot is known to be (H23).
        self._SyncObj__raftCommitIndex = journal.base_index
        self._SyncObj__raftLastApplied = journal.base_index
        self._SyncObj__needLoadDumpFile = False

    # --- typed names for the stock state -------------------------------------------------------------
    @property
    def role(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return self._SyncObj__raftState

    @property
    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    @property
    def voted_for(self) -> str | None:
        voted: str | None = self._SyncObj__votedForNodeId
        return voted

    @property
    def leader_id(self) -> str | None:
        """The leader this node follows or is; None when it knows of none."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def commit_index(self) -> int:
        return self._SyncObj__raftCommitIndex

    @property
    def last_applied(self) -> int:
        return self._SyncObj__raftLastApplied

    @property
    def last_log_index(self) -> int:
        return self.journal.last_index

    @property
    def last_log_term(self) -> int:
        return self.journal.last_term

    def is_connected(self, peer_id: str) -> bool:
        return self.peers[peer_id] in self._SyncObj__connectedNodes

    @property
    def connected_count(self) -> int:
        return len(self._SyncObj__connectedNodes)

    def _set_role(self, role: int, leader_id: str | None) -> None:
        if leader_id is None:
            self._SyncObj__raftLeader = None
        else:
            self._SyncObj__raftLeader = self.peers.get(leader_id) or self.selfNode
        self._SyncObj__setState(role)

    def _set_term(self, term: int, voted_for: str | None) -> None:
        """Raft paper, figure 2: persistent state. Every message that follows waits until it is on disk."""
        if term < self.term:
            raise InvariantViolation(f"term would go back from {self.term} to {term}")
        self._SyncObj__setCurrentTerm(term, voted_for)

    def _set_commit(self, index: int) -> None:
        if index > self.last_log_index:
            raise InvariantViolation(f"commit index {index} beyond the log's end {self.last_log_index}")
        self._SyncObj__raftCommitIndex = max(index, self.commit_index)

    def _set_applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    def _send(self, peer_id: str, message: dict[str, Any]) -> None:
        self._SyncObj__transport.send(self.peers[peer_id], message)

    # --- stock code that must never run under this class ------------------------------------------------
    def _unreachable(self, *_args: Any, **_kwargs: Any) -> Any:
        raise InvariantViolation("a replaced method of the stock library was called")

    def _ignore(self, *_args: Any, **_kwargs: Any) -> None:
        """Read-only nodes do not exist here: their votes and acknowledgements must not count (H4)."""

    _SyncObj__onReadonlyNodeConnected = _ignore
    _SyncObj__onReadonlyNodeDisconnected = _ignore
    _SyncObj__sendAppendEntries = _unreachable
    _SyncObj__sendNextNodeIdx = _unreachable
    _SyncObj__doApplyCommand = _unreachable  # unpickles (H8, H9)
    _SyncObj__tryLogCompaction = _unreachable  # unsafe order of dump and journal (H6)
    _SyncObj__loadDumpFile = _unreachable  # swallows every error (H15), rolls back (H20)
    _SyncObj__changeCluster = _unreachable  # membership is configuration, not pickles in the log
    _SyncObj__doChangeCluster = _unreachable
    _SyncObj__updateClusterConfiguration = _unreachable
    _applyCommand = _unreachable  # queue, forwarding and request ids: replaced by the node's own (H10, H11, H16, H22)
    _checkCommandsToApply = _unreachable
    addNodeToCluster = _unreachable
    removeNodeFromCluster = _unreachable
    setCodeVersion = _unreachable
