"""The data path's question: what makes `owns` true, and everything that makes it false."""

import gc

from node_parts import MS, FakeClock

from raftstore.node.owned import Owned

FAR_NS = 2**60


def granted(clock: FakeClock) -> Owned:
    owned = Owned(clock)
    owned.extend_lease(clock.ns + 3_000 * MS)
    owned.keep_until(clock.ns + 1_000 * MS)
    owned.grant("s", 1, FAR_NS)
    return owned


def test_a_granted_session_is_owned_under_its_epoch_alone() -> None:
    """Owned by id, and by id and its epoch; under no other epoch, and no other session is."""
    owned = granted(FakeClock())
    assert owned.owns("s") and owned.owns("s", 1)
    assert not owned.owns("s", 2) and not owned.owns("s", 0) and not owned.owns("t")
    assert owned.epoch("s") == 1 and owned.epoch("t") is None


def test_nothing_is_owned_before_the_first_lease() -> None:
    """A grant without a lease counts for nothing."""
    owned = Owned(FakeClock())
    owned.grant("s", 1, FAR_NS)
    assert not owned.owns("s") and owned.epoch("s") is None


def test_answers_stand_no_longer_than_the_loop_vouches_for_them() -> None:
    """At the very nanosecond at which the loop's word ends, nothing is owned, however long the lease is."""
    clock = FakeClock()
    owned = granted(clock)
    clock.ns += 1_000 * MS - 1
    assert owned.owns("s")
    clock.ns += 1
    assert not owned.owns("s")
    owned.keep_until(clock.ns + 1_000 * MS)
    assert owned.owns("s")


def test_the_loop_cannot_vouch_beyond_the_lease() -> None:
    """However far the loop pushes, the lease's end is the end."""
    clock = FakeClock()
    owned = granted(clock)
    owned.keep_until(clock.ns + 10_000 * MS)
    clock.pass_ms(3_000)
    assert not owned.owns("s")
    owned.keep_until(clock.ns + 10_000 * MS)
    assert not owned.owns("s")


def test_an_older_renewal_never_shortens_the_lease() -> None:
    """Answers may come out of order; the later end stands."""
    clock = FakeClock()
    owned = granted(clock)
    owned.extend_lease(clock.ns + 500 * MS)
    assert owned.lease_until_ns == clock.ns + 3_000 * MS


def test_ownership_ends_with_the_session_s_ttl() -> None:
    """The TTL counts by local time too; a renewal under the same epoch moves it, under another does nothing."""
    clock = FakeClock()
    owned = granted(clock)
    owned.grant("s", 1, clock.ns + 100 * MS)
    clock.pass_ms(99)
    assert owned.owns("s")
    owned.renew("s", 2, FAR_NS)
    clock.pass_ms(1)
    assert not owned.owns("s")
    owned.renew("s", 1, FAR_NS)
    assert owned.owns("s")


def test_a_renewal_alone_makes_nobody_an_owner() -> None:
    """What was struck off stays off: only a new binding brings it back."""
    owned = granted(FakeClock())
    assert owned.strike("s") and not owned.strike("s")
    owned.renew("s", 1, FAR_NS)
    assert not owned.owns("s") and "s" not in owned


def test_giving_up_ends_ownership_until_its_fate_is_known_and_a_new_binding_is_made() -> None:
    """No grant counts while one proposal or more that end ownership are under way."""
    owned = granted(FakeClock())
    owned.begin_giving_up("s")
    owned.begin_giving_up("s")
    assert not owned.owns("s")
    owned.grant("s", 1, FAR_NS)
    assert not owned.owns("s")
    owned.end_giving_up("s")
    owned.grant("s", 1, FAR_NS)
    assert not owned.owns("s")
    owned.end_giving_up("s")
    assert not owned.owns("s")
    owned.grant("s", 1, FAR_NS)
    assert owned.owns("s")


def test_an_end_without_a_beginning_opens_no_door() -> None:
    """A second end of the same proposal does not cancel another one's giving up."""
    owned = granted(FakeClock())
    owned.end_giving_up("s")
    owned.begin_giving_up("s")
    owned.grant("s", 1, FAR_NS)
    assert not owned.owns("s")


def test_a_fence_ends_everything_and_names_it() -> None:
    """The list is empty, the lease is gone, and a later word of the loop brings nothing back."""
    clock = FakeClock()
    owned = granted(clock)
    owned.grant("t", 7, FAR_NS)
    assert owned.fence() == [("s", 1), ("t", 7)]
    assert len(owned) == 0 and owned.fence() == []
    owned.keep_until(clock.ns + 1_000 * MS)
    owned.grant("s", 1, FAR_NS)
    assert not owned.owns("s") and owned.lease_until_ns == 0
    assert owned.epoch_held("s") == 1


def test_what_is_owned_is_nothing_that_the_garbage_collector_goes_through() -> None:
    """With very many sessions each of its full passes would otherwise hold the node up."""
    owned = granted(FakeClock())
    for number in range(1_000):
        owned.grant(f"s{number}", 2**53 - 1, FAR_NS + number)
    assert owned.epoch("s999") == 2**53 - 1
    assert not gc.is_tracked(owned._held)


def test_a_ttl_that_ended_before_the_clock_began_is_over() -> None:
    """A local time may lie before zero: the epoch beside it stays what it is."""
    owned = granted(FakeClock())
    owned.grant("s", 7, -5 * MS)
    assert owned.held() == [("s", 7)] and not owned.owns("s", 7)
