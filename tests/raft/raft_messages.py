"""Raft messages as a test writes them, and a lone member to feed them to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raft_cluster import TIMING, Cluster, Member

from raftstore.raft.journal import Entry
from raftstore.raft.peer_messages import decode, encode
from raftstore.raft.seams import LEADER, RaftTiming


def entry(index: int, term: int, payload: bytes = b"") -> Entry:
    return (b"\x00" + (payload or b"%d.%d" % (term, index)), index, term)


def append(
    term: int, prev: tuple[int, int] = (0, 0), entries: Sequence[Entry] = (), commit: int = 0, sent_ns: int = 0
) -> dict[str, Any]:
    """append_entries; `prev` is (index, term)."""
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "prevLogIdx": prev[0],
        "prevLogTerm": prev[1],
        "entries": list(entries),
        "probe": 1,
        "sent_ns": sent_ns,
    }


def heartbeat(term: int, commit: int = 0, promote: int = 0, probe: int = 1) -> dict[str, Any]:
    return {
        "type": "heartbeat",
        "term": term,
        "commit_index": commit,
        "probe": probe,
        "sent_ns": 0,
        "promote": promote,
    }


def request_vote(term: int, last: tuple[int, int] = (0, 0), transfer: bool = False) -> dict[str, Any]:
    """request_vote; `last` is (index, term)."""
    return {
        "type": "request_vote",
        "term": term,
        "last_log_index": last[0],
        "last_log_term": last[1],
        "transfer": transfer,
    }


def pre_vote(term: int, last: tuple[int, int] = (0, 0), number: int = 1) -> dict[str, Any]:
    return {"type": "pre_vote", "term": term, "last_log_index": last[0], "last_log_term": last[1], "round": number}


def vote(term: int, granted: bool = True) -> dict[str, Any]:
    return {"type": "response_vote", "term": term, "granted": granted, "anchored": True, "cluster_ms": 7}


def ack(
    term: int, match: int, *, learner: int = 0, probe: int = 0, sent_ns: int = 0, success: bool = True
) -> dict[str, Any]:
    return {
        "type": "next_node_idx",
        "term": term,
        "probe": probe,
        "sent_ns": sent_ns,
        "learner": learner,
        "success": success,
        "rejected": 0,
        "next_node_idx": match + 1,
    }


class Alone:
    """One member of a cluster whose peers are played by the test."""

    def __init__(
        self, ids: Sequence[str] = ("a", "b", "c"), who: str = "a", seed: int = 1, timing: RaftTiming = TIMING
    ) -> None:
        self.cluster = Cluster(ids, seed=seed, auto_sync=False, timing=timing)
        self.member: Member = self.cluster[who]
        self.raft = self.member.raft
        self.cluster.sent = []
        for other in self.cluster.ids:
            if other != who:
                self.cluster[other].paused_until = 1 << 62  # linked, but silent

    def hear(self, peer: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """One message comes in; what goes out because of it, now or once the disk is done."""
        self.take()
        self.hear_only(peer, message)
        self.member.sync()
        return [m for _, _, m in self.take()]

    def hear_only(self, peer: str, message: dict[str, Any]) -> None:
        """One message comes in, and the disk stands still."""
        self.member.clock.ns = self.cluster.now
        self.raft.receive(peer, decode(encode(message)))
        self.member.step()

    def take(self) -> list[tuple[str, str, dict[str, Any]]]:
        sent, self.cluster.sent = self.cluster.sent or [], []
        return [m for m in sent if m[0] == self.member.id]

    def restart(self, **kwargs: Any) -> None:
        self.cluster.restart(self.member.id, **kwargs)
        self.raft = self.member.raft

    def lead(self, term: int = 1) -> None:
        """Let it win the election of `term`."""
        others = [i for i in self.cluster.ids if i != self.member.id]
        while self.raft.term < term:
            self.cluster.now += 700_000_000
            self.member.step()
            answer = {"type": "pre_vote_response", "term": 0, "granted": True, "round": self.raft._pre_vote_round}
            for peer in others[: self.raft.quorum - 1]:
                self.hear(peer, answer)
        for peer in others:
            self.hear(peer, vote(term))
        assert self.raft.role == LEADER, self.cluster.describe()

    def terms(self) -> list[int]:
        """Terms of the entries above the base."""
        return [e[2] for e in self.member.journal[1:]]
