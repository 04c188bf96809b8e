"""Elections: who may become leader, and when (Raft paper, section 5.2; dissertation, sections 4.2.3 and 9.6).

Beyond the stock rules: votes are a set (H4); a vote leaves only after it is durable (the outbox holds it); a node
asks whether it could win before it raises its term (pre-vote, H14); whoever heard of a leader within the minimum
election timeout answers no candidate (stickiness), unless that leader itself asked for a transfer, and whoever has
just started may have heard of one; a member that lost its disk neither votes nor campaigns until it caught up.

Why no two leaders share a term: a leader holds votes from a majority of distinct voters, each voter stores one
vote per term before its answer leaves, and a voter that forgot its vote is no voter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from raftstore.raft.seams import CANDIDATE, FOLLOWER, LEADER, Seams

Message = dict[str, Any]


class Elections(Seams, ABC):
    """The part of the node that campaigns and votes."""

    def _prepare_elections(self, cluster_ms: Callable[[], int | None]) -> None:
        """State of this part; called before the stock constructor runs."""
        self._cluster_ms = cluster_ms
        self._election_deadline_ns = 0
        self._leader_contact_ns = -(1 << 62)  # when this node last heard of its leader, at the latest
        self._pre_vote_round = 0
        self._pre_votes: set[str] = set()
        self._votes: set[str] = set()
        self.quorum_was_anchored = False  # whether a voter of our election knows the cluster time
        self.witness_ms = 0  # and the latest that such a voter told

    # --- hooks of the other parts ---------------------------------------------------------------------
    @abstractmethod
    def _lead(self, now: int) -> None: ...

    @abstractmethod
    def _stop_leading(self) -> None: ...

    @abstractmethod
    def _is_installing(self) -> bool: ...

    # --- timing -----------------------------------------------------------------------------------------
    def _reset_election_deadline(self, now: int) -> None:
        low, high = self.timing.election_timeout_min_ns, self.timing.election_timeout_max_ns
        self._election_deadline_ns = now + self.rng.randint(low, high)

    def _tick_election(self, now: int) -> None:
        if self.role == LEADER or now < self._election_deadline_ns:
            return
        self._reset_election_deadline(now)
        self._set_role(FOLLOWER, None)  # no leader was heard in time: callers are refused from here on
        if self._may_campaign():
            self._start_pre_vote(now)

    def _may_campaign(self) -> bool:
        """A wiped member, a node whose log is being replaced, and a node that sees no majority stay quiet."""
        return self.journal.voter and not self._is_installing() and self.connected_count + 1 >= self.quorum

    def _may_have_heard_leader(self, now: int) -> None:
        """At a start: the process before this one may have answered a leader just now, unless it never promised."""
        if self.term > 0:
            self._leader_contact_ns = now

    def _hears_leader(self, now: int) -> bool:
        """Whether a leader is known to be in contact: then no candidate is helped against it."""
        if self.role == LEADER:
            return True  # a leader without a quorum steps down by itself
        return now - self._leader_contact_ns < self.timing.election_timeout_min_ns

    # --- campaigning ---------------------------------------------------------------------------------------
    def _start_pre_vote(self, now: int) -> None:
        self._pre_vote_round += 1
        self._pre_votes = {self.self_id}
        if self.quorum == 1:
            self._campaign(now, transfer=False)
            return
        for peer in self.peer_ids:
            self._send(
                peer,
                {
                    "type": "pre_vote",
                    "term": self.term + 1,
                    "last_log_index": self.last_log_index,
                    "last_log_term": self.last_log_term,
                    "round": self._pre_vote_round,
                },
            )

    def _on_pre_vote(self, peer: str, message: Message, now: int) -> None:
        granted = (
            self.journal.voter
            and not self._hears_leader(now)
            and message["term"] > self.term
            and self._is_up_to_date(message)
        )
        answer = {
            "type": "pre_vote_response",
            "term": self.term,
            "granted": granted,
            "round": message["round"],
        }
        self._send(peer, answer)

    def _on_pre_vote_response(self, peer: str, message: Message, now: int) -> None:
        if self._follow_higher_term(message["term"]):
            return
        if message["round"] != self._pre_vote_round or self.role == LEADER or not message["granted"]:
            return
        if not self._may_campaign():
            return  # since it asked, it began to install a snapshot or lost its links
        self._pre_votes.add(peer)
        if len(self._pre_votes) >= self.quorum and not self._hears_leader(now):
            self._pre_vote_round += 1  # answers that are still on their way count no more
            self._campaign(now, transfer=False)

    def _campaign(self, now: int, *, transfer: bool) -> None:
        self._reset_election_deadline(now)
        self._set_role(CANDIDATE, None)
        self._set_term(self.term + 1, self.self_id)
        self._votes = {self.self_id}
        self.quorum_was_anchored = False
        self.witness_ms = 0
        if self.quorum == 1:
            self._lead(now)
            return
        for peer in self.peer_ids:
            self._send(
                peer,
                {
                    "type": "request_vote",
                    "term": self.term,
                    "last_log_index": self.last_log_index,
                    "last_log_term": self.last_log_term,
                    "transfer": transfer,
                },
            )

    # --- voting ------------------------------------------------------------------------------------------
    def _is_up_to_date(self, message: Message) -> bool:
        """Raft paper, section 5.4.1."""
        theirs = (message["last_log_term"], message["last_log_index"])
        return bool(theirs >= (self.last_log_term, self.last_log_index))

    def _on_request_vote(self, peer: str, message: Message, now: int) -> None:
        if not self.journal.voter or (self._hears_leader(now) and not message["transfer"]):
            return
        self._follow_higher_term(message["term"])
        granted = (
            message["term"] == self.term
            and self.role == FOLLOWER
            and self.voted_for in (None, peer)
            and self._is_up_to_date(message)
        )
        if granted:
            self._set_term(self.term, peer)
            self._reset_election_deadline(now)
        cluster_ms = self._cluster_ms()
        self._send(
            peer,
            {
                "type": "response_vote",
                "term": self.term,
                "granted": granted,
                "anchored": cluster_ms is not None,
                "cluster_ms": cluster_ms or 0,
            },
        )

    def _on_response_vote(self, peer: str, message: Message, now: int) -> None:
        if self._follow_higher_term(message["term"]):
            return
        if self.role != CANDIDATE or message["term"] != self.term or not message["granted"]:
            return
        self._votes.add(peer)
        if message["anchored"]:
            self.quorum_was_anchored = True
            self.witness_ms = max(self.witness_ms, message["cluster_ms"])
        if len(self._votes) >= self.quorum:
            self._lead(now)

    def _follow_higher_term(self, term: int) -> bool:
        """Raft paper, section 5.1: a higher term is adopted at once. Returns whether there was one."""
        if term <= self.term:
            return False
        self._step_down()
        self._set_term(term, None)
        return True

    def _step_down(self) -> None:
        """Become a follower of nobody. The role changes first: callbacks that fail now find no leader here."""
        was_leading = self.role == LEADER
        self._set_role(FOLLOWER, None)
        if was_leading:
            self._stop_leading()
