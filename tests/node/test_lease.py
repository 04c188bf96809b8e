"""The holder's side of the lease: counted from before the sending, shortened by drift, ended on time."""

from collections.abc import Callable
from typing import Any

from node_parts import MS, FakeClock

from raftstore.node.lease import LEASE_LAPSED, LeaseKeeper
from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer
from raftstore.types import Reason

LEASE_NS = 2_970 * MS
OK = Answer(True, None)
FAR_NS = 2**60


class FakeReplica:
    """As much of a replica as the keeper uses."""

    def __init__(self) -> None:
        self.is_joined = False

    def holder_lease_ns(self) -> int:
        return LEASE_NS

    def joined(self) -> None:
        self.is_joined = True


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.owned = Owned(self.clock)
        self.replica: Any = FakeReplica()
        self.sent: list[tuple[str, Callable[[Answer], None]]] = []
        self.fenced: list[tuple[list[tuple[str, int]], str]] = []
        self.superseded = 0
        self.keeper = LeaseKeeper(
            clock=self.clock,
            owned=self.owned,
            replica=self.replica,
            submit=lambda kind, callback: self.sent.append((kind, callback)),
            on_fenced=lambda lost, reason: self.fenced.append((lost, reason)),
            on_superseded=self._superseded,
            loop_stall_max_ms=1_000,
        )

    def _superseded(self) -> None:
        self.superseded += 1

    def tick(self, *, has_quorum: bool = True, keeps_up: bool = True) -> None:
        self.keeper.tick(has_quorum=has_quorum, keeps_up=keeps_up)

    def answer(self, answer: Answer = OK) -> None:
        self.sent[-1][1](answer)

    def hold(self) -> None:
        """Joined, with a lease, and a session on the list."""
        self.tick()
        self.answer()
        self.owned.grant("s", 1, FAR_NS)


def test_the_lease_counts_from_before_it_was_sent() -> None:
    """However long the answer takes, that time is the holder's loss."""
    rig = Rig()
    sent_ns = rig.clock.ns
    rig.tick()
    rig.clock.pass_ms(700)
    rig.answer()
    assert rig.owned.lease_until_ns == sent_ns + LEASE_NS
    assert rig.keeper.is_held and rig.keeper.remaining_ms() == 2_270


def test_an_answer_that_came_too_late_gives_no_lease() -> None:
    """The lease had lapsed, counted from the sending, before the answer came."""
    rig = Rig()
    rig.tick()
    rig.clock.ns += LEASE_NS
    rig.answer()
    assert not rig.keeper.is_held and rig.keeper.remaining_ms() == 0


def test_a_process_joins_once_and_then_renews_every_third_of_the_lease() -> None:
    """One request at a time, and the next no sooner than a third later."""
    rig = Rig()
    rig.tick()
    rig.tick()
    assert [kind for kind, _ in rig.sent] == ["join"]
    rig.answer()
    rig.clock.ns += LEASE_NS // 3 - 1
    rig.tick()
    assert len(rig.sent) == 1
    rig.clock.ns += 1
    rig.tick()
    rig.tick()
    assert [kind for kind, _ in rig.sent] == ["join", "renew_lease"]


def test_without_a_quorum_nothing_is_sent_and_what_was_unknown_is_asked_again() -> None:
    """An undecided renewal lengthens nothing; the next tick asks anew."""
    rig = Rig()
    rig.tick(has_quorum=False)
    assert rig.sent == []
    rig.tick()
    rig.answer(Answer(False, Reason.DEADLINE_PASSED))
    assert not rig.keeper.is_held
    rig.tick()
    assert [kind for kind, _ in rig.sent] == ["join", "join"]


def test_a_refused_renewal_lengthens_nothing() -> None:
    """REQUEST_EXPIRED is asked again; NODE_FENCED means that a newer process has taken this one's place."""
    rig = Rig()
    rig.tick()
    rig.answer(Answer(True, Reason.REQUEST_EXPIRED))
    assert not rig.keeper.is_held and rig.superseded == 0
    rig.tick()
    rig.answer(Answer(True, Reason.NODE_FENCED))
    assert not rig.keeper.is_held and rig.superseded == 1


def test_at_the_end_of_the_lease_everything_is_fenced_once() -> None:
    """`owns` is false by itself; the tick tells the embedder what was lost."""
    rig = Rig()
    rig.hold()
    for _ in range(40):
        rig.clock.pass_ms(74)
        rig.tick(has_quorum=False)
    assert rig.fenced == [] and rig.owned.owns("s")
    rig.clock.ns = rig.owned.lease_until_ns
    assert not rig.owned.owns("s")
    rig.tick(has_quorum=False)
    rig.tick(has_quorum=False)
    assert rig.fenced == [([("s", 1)], LEASE_LAPSED)]


def test_a_new_lease_brings_nothing_back_that_was_fenced() -> None:
    """After a lapse only a new binding is owned."""
    rig = Rig()
    rig.hold()
    rig.clock.ns += LEASE_NS
    rig.tick()
    rig.answer()
    assert rig.keeper.is_held and not rig.owned.owns("s")


def test_a_loop_that_stands_still_or_a_replica_that_lags_ends_the_answers() -> None:
    """`owns` is false when nothing has vouched for it for the longest stall, though the lease still runs."""
    rig = Rig()
    rig.hold()
    rig.clock.pass_ms(999)
    rig.tick(keeps_up=False)
    assert rig.owned.owns("s")
    rig.clock.pass_ms(1)
    rig.tick(keeps_up=False)
    assert rig.keeper.is_held and not rig.owned.owns("s")
    rig.tick(keeps_up=True)
    assert rig.owned.owns("s")


def test_who_leaves_holds_nothing_from_then_on() -> None:
    """Neither an answer on its way nor a tick gives a leaving process its lease back."""
    rig = Rig()
    rig.hold()
    rig.clock.ns += LEASE_NS // 3
    rig.tick()
    assert rig.keeper.leave() == [("s", 1)]
    rig.answer()
    rig.tick()
    rig.owned.grant("s", 1, FAR_NS)
    rig.tick()
    assert not rig.keeper.is_held and not rig.owned.owns("s")
    assert len(rig.sent) == 2
