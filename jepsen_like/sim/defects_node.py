"""Defects in the node: leases, cluster time, what callers are told, what is owned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, several
from raftstore.node import courier, dispatch, lease, owned, persistence, replica, runtime
from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.core import Core
from raftstore.raft.election import Elections
from raftstore.raft.journal import HardenedJournal
from raftstore.storage.values import HardState
from raftstore.types import Reason

AHEAD_MS = 3_000


def _from_the_answer(original: Any) -> Any:
    def answered(self: Any, kind: str, sent_ns: int, answer: Any) -> None:
        original(self, kind, self._clock.now_ns(), answer)

    return answered


def _ahead(original: Any) -> Any:
    def anchor(self: Any, cluster_ms: int) -> None:
        original(self, cluster_ms + AHEAD_MS)

    return anchor


def _owned_late(original: Any) -> Any:
    def take_effect(self: Any, pending: Any, answer: Any, waits: bool) -> None:
        original(self, pending, answer, True)

    return take_effect


def _never_told(original: Any) -> Any:
    return lambda self, lost, reason: None


def _without_lease(original: Any) -> Any:
    def keep_until(self: Any, until_ns: int) -> None:
        self._own_until_ns = until_ns

    return keep_until


def _without_drift(original: Any) -> Any:
    """The holder counts the whole lease, as if its clock were as good as the leader's."""

    def holder_lease_ns(self: Any) -> int:
        return 0 if original(self) == 0 else self._lease_terms[0] * 1_000_000 - replica.STAMP_GRAIN_NS

    return holder_lease_ns


def _by_own_terms(original: Any) -> Any:
    """A lease counts as the configuration says, whatever the machine granted it by."""

    def holder_lease_ns(self: Any) -> int:
        self._lease_terms, kept = self._configured_terms, self._lease_terms
        try:
            return int(original(self))
        finally:
            self._lease_terms = kept

    return holder_lease_ns


def _votes_at_once(original: Any) -> Any:
    def open_store(self: Any) -> Any:
        store, recovered = original(self)
        if recovered.hard_state is None:
            store.set_hard_state(HardState(0, None, True))
            recovered = replace(recovered, hard_state=HardState(0, None, True))
        return store, recovered

    return open_store


def _writes_no_vote(original: Any) -> Any:
    """Granting a vote writes nothing, neither the vote nor its term: that is written with the next entries."""

    def on_request_vote(self: Any, peer: str, message: Any, now: int) -> None:
        journal = self.journal
        journal._store_hard_state = lambda: setattr(journal, "owes", True)
        try:
            original(self, peer, message, now)
        finally:
            del journal._store_hard_state

    return on_request_vote


def _writes_what_it_owes(original: Any) -> Any:
    def add(self: Any, command: bytes, idx: int, term: int) -> None:
        if vars(self).pop("owes", False):
            self._store_hard_state()
        original(self, command, idx, term)

    return add


def _tells_nobody(original: Any) -> Any:
    return lambda self, machine: None


def _keeps_after_snapshot(original: Any) -> Any:
    return lambda self, machine, session_id, epoch: False


def _local_is_good_enough(original: Any) -> Any:
    def read(self: Any, session_id: str, linearizable: bool, timeout_ms: int | None, deliver: Any) -> None:
        original(self, session_id, False, timeout_ms, deliver)

    return read


def _never_again(original: Any) -> Any:
    """What was asked of a leader or over a link that is gone is asked of nobody again."""

    def follow_leader(self: Any, now: int) -> None:
        leader = (self._raft.leader_id, self._raft.term, self._generation)
        if leader != self._asked_of:
            self._asked_of = leader
            self._reads.leader_changed()
        if self.resend_at_ns is not None and now >= self.resend_at_ns:
            self.resend_at_ns = None
            self._proposals.send_again()

    return follow_leader


def _waits_for_ever(original: Any) -> Any:
    """Whoever runs out of patience is told nothing."""

    def lose_patience(self: Any, now: int) -> None:
        self.proposals.out_of_patience(now, self.replica.machine.clock_ms)

    return lose_patience


def answers_of_former_processes(original: Any) -> Any:
    """The results of every process that ran under this node's id are taken for this one's: the numbers are the same."""

    def apply(self: Any, index: int, term: int, payload: bytes) -> None:
        machine, node_id, own = self.machine, self.node_id, self.incarnation
        apply_entry = machine.apply

        def as_own(*entry: Any) -> Any:
            applied = apply_entry(*entry)
            groups = [(name, own if name == node_id else number, results) for name, number, results in applied.groups]
            return applied._replace(groups=groups)

        machine.apply = as_own
        try:
            original(self, index, term, payload)
        finally:
            del machine.apply

    return apply


NODE_MUTANTS: dict[str, Mutant] = {
    "lease-from-the-answer": attribute(lease.LeaseKeeper, "_answered", _from_the_answer),
    "lease-ignored": attribute(owned.Owned, "keep_until", _without_lease),
    "drift-ignored": attribute(replica.Replica, "holder_lease_ns", _without_drift),
    "lease-by-other-terms": attribute(replica.Replica, "holder_lease_ns", _by_own_terms),
    "cluster-clock-ahead": attribute(ClusterClock, "anchor", _ahead),
    "late-commit-owned": attribute(replica.Replica, "_take_effect", _owned_late),
    "given-up-still-owned": attribute(owned.Owned, "begin_giving_up", lambda _: lambda self, session_id: None),
    "fenced-callback-missing": attribute(dispatch.Dispatcher, "fenced", _never_told),
    "owned-across-snapshot": attribute(replica.Replica, "_changed_in", _keeps_after_snapshot),
    "snapshot-forgets-callers": attribute(replica.Replica, "_settle_from", _tells_nobody),
    "wiped-member-votes": attribute(persistence.Persistence, "_open_store", _votes_at_once),
    "vote-not-persisted": several(
        attribute(Elections, "_on_request_vote", _writes_no_vote),
        attribute(HardenedJournal, "add", _writes_what_it_owes),
    ),
    "read-from-the-replica": attribute(runtime.Runtime, "read", _local_is_good_enough),
    "forward-lost": several(
        attribute(courier.Courier, "follow_leader", _never_again),
        attribute(Core, "_lose_patience", _waits_for_ever),
    ),
    "answers-of-former-processes": attribute(replica.Replica, "apply", answers_of_former_processes),
    "unknown-told-as-no": attribute(Core, "_lose_patience", lambda original: _lose_patience),
}


def _lose_patience(self: Any, now: int) -> None:
    """Who runs out of patience is told that it never happened."""
    for pending, answer in self.proposals.out_of_patience(now, self.replica.machine.clock_ms):
        self.replica.finish(pending, answer._replace(decided=True, reason=Reason.REQUEST_EXPIRED), now)
