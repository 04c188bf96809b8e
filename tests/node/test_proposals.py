"""Ops on their way: numbered once, sent again, answered once, and never promised more than is known."""

from typing import Any

import pytest
from node_parts import MS, FakeClock

from raftstore.node import proposals as module
from raftstore.node.proposals import Answer, Pending, Proposals, Request
from raftstore.types import Reason

COMMITTED = Answer(True, None, None, 7)


class Rig:
    """Proposals with ops of ten bytes; deadline and patience lie 100 ms ahead."""

    def __init__(self, *, pending_ops_max: int = 10, groups_in_flight_max: int = 2) -> None:
        self.clock = FakeClock()
        self.it = Proposals(pending_ops_max=pending_ops_max, groups_in_flight_max=groups_in_flight_max)

    def submit(self, deadline_ms: int = 1_100, **options: Any) -> Pending:
        return self.it.submit(
            Request("reattach", "s", lambda seq, deadline: b"%010d" % seq, **options),
            None,
            deadline_ms=deadline_ms,
            patience_ns=self.clock.ns + 100 * MS,
            begun_ns=self.clock.ns,
        )

    def taken(self, ops_max: int = 100, bytes_max: int = 10_000) -> list[int]:
        return [int(op) for op in self.it.take(ops_max, bytes_max)]

    def lose_patience(self, clock_ms: int) -> list[Answer]:
        self.clock.pass_ms(100)
        return [answer for _, answer in self.it.out_of_patience(self.clock.ns, clock_ms)]


def test_ops_leave_in_order_in_groups_within_both_bounds() -> None:
    """A group holds no more ops and no more bytes than allowed, but one op at least."""
    rig = Rig()
    for _ in range(6):
        rig.submit()
    assert rig.taken(ops_max=2) == [1, 2]
    assert rig.taken(bytes_max=25) == [3, 4]
    rig.it.settle(1, COMMITTED)
    assert rig.taken() == []
    rig.it.settle(2, COMMITTED)
    assert rig.taken(bytes_max=1) == [5]


def test_a_place_in_the_pipeline_is_free_when_all_of_a_group_is_answered() -> None:
    """Given up counts as answered; what was never sent takes no place."""
    rig = Rig(groups_in_flight_max=1)
    rig.submit(), rig.submit()
    assert rig.taken() == [1, 2]
    rig.submit()
    rig.it.give_up(1)
    assert rig.taken() == []
    rig.it.settle(2, COMMITTED)
    assert rig.taken() == [3]


def test_what_is_unanswered_goes_out_again_in_order() -> None:
    """A new leader gets everything that is open, and nothing that is answered or given up."""
    rig = Rig(groups_in_flight_max=1)
    for _ in range(4):
        rig.submit()
    assert rig.taken(ops_max=3) == [1, 2, 3]
    rig.it.settle(2, COMMITTED)
    rig.it.give_up(3)
    rig.it.send_again()
    assert rig.taken() == [1, 4]
    assert rig.it.unsent_count == 0


def test_a_first_answer_is_final() -> None:
    """An op that was sent twice is settled once; a copy that is applied later finds nobody."""
    rig = Rig()
    first = rig.submit()
    rig.taken()
    rig.it.send_again()
    assert rig.it.settle(1, COMMITTED) == (first, True)
    assert rig.it.settle(1, COMMITTED) == (None, False)
    assert rig.taken() == []


def test_low_seq_never_passes_an_op_that_somebody_waits_for() -> None:
    """What lies below may be forgotten by everybody, so an open op must not lie below."""
    rig = Rig()
    assert rig.it.low_seq == 1
    rig.submit(), rig.submit(), rig.submit()
    rig.it.settle(2, COMMITTED)
    assert rig.it.low_seq == 1
    rig.it.settle(1, COMMITTED)
    assert rig.it.low_seq == 3
    rig.it.give_up(3)
    assert rig.it.low_seq == 4


def test_an_op_that_never_left_is_certainly_without_effect() -> None:
    """Its caller hears NO_QUORUM, decided, and it is never sent."""
    rig = Rig()
    rig.submit()
    (answer,) = rig.lose_patience(clock_ms=1_000)
    assert answer.decided and answer.reason is Reason.NO_QUORUM
    assert rig.taken() == []


def test_past_its_deadline_by_the_replica_s_clock_an_op_never_happens() -> None:
    """Only when the clock is beyond the deadline: at the deadline itself it may still be applied."""
    rig = Rig()
    rig.submit(1_100), rig.submit(1_101)
    rig.taken()
    past, at = rig.lose_patience(clock_ms=1_101)
    assert past == Answer(True, Reason.REQUEST_EXPIRED)
    assert at == Answer(False, Reason.DEADLINE_PASSED)


def test_an_unknown_op_is_decided_by_its_entry_or_by_the_clock() -> None:
    """Settled late, or never: either way whoever asks later learns it, and nobody is answered twice."""
    rig = Rig()
    first, second = rig.submit(), rig.submit()
    rig.taken()
    assert [a.decided for a in rig.lose_patience(1_000)] == [False, False]
    assert rig.it.outcome(1) == Answer(False, None)
    assert rig.it.settle(1, COMMITTED) == (first, False)
    assert rig.it.decide_unknown(1_100) == []
    assert rig.it.decide_unknown(1_101) == [second]
    assert rig.it.outcome(1) == COMMITTED
    assert rig.it.outcome(2) == Answer(True, Reason.REQUEST_EXPIRED)
    assert rig.it.outcome(3) is None
    assert rig.it.decide_unknown(9_999) == []


def test_a_caller_that_left_is_as_one_that_was_told_unknown() -> None:
    """Its op is not answered, not sent again, and settles as late."""
    rig = Rig()
    pending = rig.submit()
    rig.taken()
    rig.it.give_up(1)
    rig.it.give_up(1)
    assert pending.callback is None
    assert rig.lose_patience(1_000) == []
    assert rig.it.settle(1, COMMITTED) == (pending, False)


def test_the_bounds_on_open_and_on_undecided_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many of either no new op is taken, and nothing undecided is forgotten to make room."""
    monkeypatch.setattr(module, "UNKNOWN_OPS_MAX", 3)
    rig = Rig(pending_ops_max=4)
    for _ in range(4):
        assert not rig.it.is_full
        rig.submit()
    assert rig.it.is_full
    rig.taken()
    rig.it.give_up(1)
    assert not rig.it.is_full
    rig.lose_patience(1_000)
    assert len(rig.it) == 0 and rig.it.is_full
    assert rig.it.undecided() == [1, 2, 3, 4]
    rig.it.decide_unknown(2_000)
    assert not rig.it.is_full


def test_what_was_decided_late_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr(module, "DECIDED_OPS_MAX", 2)
    rig = Rig()
    for _ in range(3):
        rig.submit()
    rig.taken()
    rig.lose_patience(1_000)
    rig.it.decide_unknown(2_000)
    assert [rig.it.outcome(seq) is None for seq in (1, 2, 3)] == [True, False, False]


def test_a_snapshot_ends_what_it_may_have_covered_and_nothing_else() -> None:
    """Numbers that the machine has closed can never be known; the others may still be applied."""
    rig = Rig()
    rig.submit(), rig.submit(), rig.submit()
    rig.taken()
    rig.it.give_up(1), rig.it.give_up(2)
    assert [p.seq for p in rig.it.give_up_below(2)] == [1]
    outcome = rig.it.outcome(1)
    assert outcome is not None and not outcome.decided and outcome.detail == "covered by a snapshot"
    assert rig.it.undecided() == [2, 3]


def test_the_next_look_at_patience_skips_what_is_answered() -> None:
    """The timer is set for an op that is open, and not at all when none is."""
    rig = Rig()
    rig.submit()
    rig.clock.pass_ms(10)
    rig.submit()
    later = rig.clock.ns + 100 * MS
    rig.it.settle(1, COMMITTED)
    assert rig.it.next_patience_ns() == later
    rig.it.settle(2, COMMITTED)
    assert rig.it.next_patience_ns() is None


def test_abandoned_ops_are_handed_back_once() -> None:
    """When the node stops, everything open is returned to be answered; nothing is left to send."""
    rig = Rig()
    rig.submit(), rig.submit()
    rig.taken(ops_max=1)
    assert [p.proposed for p in rig.it.abandon()] == [True, False]
    assert rig.it.abandon() == [] and rig.taken() == [] and len(rig.it) == 0
