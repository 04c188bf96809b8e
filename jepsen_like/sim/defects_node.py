"""Defects in the node: leases, cluster time, what callers are told, what is owned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jepsen_like.sim.defects import Mutant, attribute
from raftstore.node import courier, dispatch, lease, owned, persistence, replica, runtime
from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.core import Core
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
    def holder_lease_ns(self: Any) -> int:
        return int(self._lease_terms[0] * 1_000_000)

    return holder_lease_ns


def _votes_at_once(original: Any) -> Any:
    def open_store(self: Any) -> Any:
        store, recovered = original(self)
        if recovered.hard_state is None:
            store.set_hard_state(HardState(0, None, True))
            recovered = replace(recovered, hard_state=HardState(0, None, True))
        return store, recovered

    return open_store


def _forgets_votes(original: Any) -> Any:
    def set_hard_state(self: Any, term: int, voted_for: str | None, voter: bool) -> int:
        return int(original(self, term, None, voter))

    return set_hard_state


def _tells_nobody(original: Any) -> Any:
    return lambda self, machine: None


def _keeps_after_snapshot(original: Any) -> Any:
    return lambda self, machine, session_id, epoch: False


def _local_is_good_enough(original: Any) -> Any:
    async def confirm_read(self: Any, timeout_ms: int | None) -> None:
        return None

    return confirm_read


def _never_again(original: Any) -> Any:
    def follow_leader(self: Any, now: int) -> None:
        leader_now = (self._raft.leader_id, self._raft.term, self._generation)
        if leader_now != self._asked_of:
            self._asked_of = leader_now
            self._reads.leader_changed()

    return follow_leader


def _no_jump_bound(original: Any) -> Any:
    def resume_jump_ms(self: Any, last_wall_ms: int, clock_resume_max_ms: int) -> Any:
        return max(0, self._clock.wall_ms() - last_wall_ms), None

    return resume_jump_ms


NODE_MUTANTS: dict[str, Mutant] = {
    "lease-from-the-answer": attribute(lease.LeaseKeeper, "_answered", _from_the_answer),
    "lease-ignored": attribute(owned.Owned, "keep_until", _without_lease),
    "drift-ignored": attribute(replica.Replica, "holder_lease_ns", _without_drift),
    "cluster-clock-ahead": attribute(ClusterClock, "anchor", _ahead),
    "late-commit-owned": attribute(replica.Replica, "_take_effect", _owned_late),
    "given-up-still-owned": attribute(owned.Owned, "begin_giving_up", lambda _: lambda self, session_id: None),
    "fenced-callback-missing": attribute(dispatch.Dispatcher, "fenced", _never_told),
    "owned-across-snapshot": attribute(replica.Replica, "_changed_in", _keeps_after_snapshot),
    "snapshot-forgets-callers": attribute(replica.Replica, "_settle_from", _tells_nobody),
    "wiped-member-votes": attribute(persistence.Persistence, "_open_store", _votes_at_once),
    "vote-not-persisted": attribute(persistence.Persistence, "set_hard_state", _forgets_votes),
    "read-from-the-replica": attribute(runtime.Runtime, "confirm_read", _local_is_good_enough),
    "forward-lost": attribute(courier.Courier, "follow_leader", _never_again),
    "unknown-told-as-no": attribute(Core, "_lose_patience", lambda original: _lose_patience),
    "resume-without-checks": attribute(ClusterClock, "resume_jump_ms", _no_jump_bound),
}


def _lose_patience(self: Any, now: int) -> None:
    """Who runs out of patience is told that it never happened."""
    for pending, answer in self.proposals.out_of_patience(now, self.replica.machine.clock_ms):
        self.replica.finish(pending, answer._replace(decided=True, reason=Reason.REQUEST_EXPIRED))
