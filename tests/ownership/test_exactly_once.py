"""Op ids and deadlines: what is applied once, what never, and how both stay decided."""

from __future__ import annotations

from raftstore.ownership import Machine, remembered
from raftstore.ownership import commands as c

B1 = ("t1", "udp", "198.51.100.7:51820")
B2 = ("t2", "udp", "198.51.100.8:51820")
FAR_MS = 2**50
REQUEST_EXPIRED = 14


def create(seq, name="s", deadline=FAR_MS):
    return c.create(seq, deadline, name, B1, 600_000)


def test_a_repeated_op_returns_its_first_result_without_effect_or_event(driver):
    """A retry is answered with the session as of the first time, even after the session went on."""
    first = driver.batch(("a", 101, 0, [create(50)])).groups[0][2]
    driver.do("a", c.reattach, "s", 1, B2)
    state = driver.machine.state_digest()
    again = driver.batch(("a", 101, 0, [create(50), create(50)]))
    assert again.groups[0][2] == first * 2
    assert (again.events, again.events_packed, again.changed) == ([], b"", [])
    assert driver.machine.state_digest() != state  # the index moved
    assert driver.machine.sessions["s"].state_version == 2


def test_a_repeated_refusal_is_the_first_refusal(driver):
    """A refused op stays refused, even if it would be granted now."""
    op = c.reattach(50, FAR_MS, "s", 1, B2)
    assert driver.batch(("a", 101, 0, [op])).groups[0][2] == [(50, (3, None))]
    driver.session("attached")
    assert driver.batch(("a", 101, 0, [op])).groups[0][2] == [(50, (3, None))]
    assert driver.machine.sessions["s"].state_version == 1


def test_op_numbers_of_nodes_do_not_mix(driver):
    """The same seq of two nodes names two ops."""
    applied = driver.batch(("a", 101, 0, [create(50, "x")]), ("b", 202, 0, [create(50, "y")]))
    assert [record.owner for record in applied.changed] == ["a", "b"]


def test_an_op_below_low_seq_is_refused_without_effect(driver):
    """What a node has closed can never be applied, whether it had been seen or not."""
    driver.batch(("a", 101, 60, [create(60, "x")]))
    applied = driver.batch(("a", 101, 0, [create(59, "y")]))
    assert applied.groups[0][2] == [(59, (REQUEST_EXPIRED, None))]
    assert "y" not in driver.machine.sessions


def test_low_seq_forgets_results_and_never_goes_back(driver):
    """Results below it are dropped; a lower value is an old message and reopens nothing."""
    driver.batch(("a", 101, 0, [create(50, "x"), create(51, "y")]))
    assert driver.machine.result_of("a", 101, 50)[0] == 0
    driver.batch(("a", 101, 51, []))
    assert driver.machine.result_of("a", 101, 50) is None
    assert driver.machine.result_of("a", 101, 51)[0] == 0
    driver.batch(("a", 101, 3, []))
    assert driver.machine.remembered["a"].low_seq == 51
    assert driver.batch(("a", 101, 3, [create(50, "x")])).groups[0][2][0][1][0] == REQUEST_EXPIRED


def test_a_huge_leap_of_low_seq_costs_no_more_than_what_is_kept(driver):
    """The leap is not walked number by number."""
    driver.batch(("a", 101, c.SEQ_MAX, []))
    assert driver.machine.remembered["a"].results == {}
    assert driver.machine.remembered["a"].low_seq == c.SEQ_MAX


def test_low_seq_of_an_older_incarnation_is_ignored(driver):
    """Only the current incarnation closes its own numbers."""
    driver.do("a", c.join, inc=111)
    low = driver.machine.remembered["a"].low_seq
    driver.batch(("a", 101, 5_000, []))
    assert driver.machine.remembered["a"].low_seq == low


def test_a_new_incarnation_counts_anew(driver):
    """Numbers of an older incarnation mean nothing to the newer."""
    driver.batch(("a", 101, 0, [create(50, "x")]))
    driver.batch(("a", 111, 0, [c.join(1, FAR_MS), create(50, "y")]))
    assert "y" in driver.machine.sessions
    assert driver.machine.result_of("a", 101, 50) is None


def test_an_op_first_seen_after_its_deadline_is_refused(driver):
    """At its deadline an op counts, a millisecond later it does not, and never will."""
    driver.now_ms = 2_000
    applied = driver.batch(("a", 101, 0, [create(50, "on-time", 2_000), create(51, "late", 1_999)]))
    assert [code for _, (code, _) in applied.groups[0][2]] == [0, REQUEST_EXPIRED]
    assert driver.batch(("a", 101, 0, [create(51, "late", FAR_MS)])).groups[0][2][0][1][0] == REQUEST_EXPIRED
    assert "late" not in driver.machine.sessions


def test_a_late_join_is_refused(new_driver):
    """A join that arrives after its deadline deposes nobody."""
    driver = new_driver("a")
    assert driver.do("a", c.join, inc=111, deadline=999)[0] == "REQUEST_EXPIRED"
    assert driver.machine.nodes["a"].incarnation == 101


def test_a_result_within_the_deadline_is_repeated_after_it(driver):
    """The deadline decides about the first time only."""
    driver.batch(("a", 101, 0, [create(50, "x", 1_500)]))
    driver.now_ms = 2_000
    assert driver.batch(("a", 101, 0, [create(50, "x", 1_500)])).groups[0][2][0][1][0] == 0


def test_a_retried_leave_is_answered_with_its_first_result(driver):
    """A process that left may ask again whether it did."""
    assert driver.batch(("a", 101, 0, [c.leave(50, FAR_MS)])).groups[0][2] == [(50, (0, None))]
    assert driver.batch(("a", 101, 0, [c.leave(50, FAR_MS)])).groups[0][2] == [(50, (0, None))]


def test_remembered_results_are_bounded_and_what_is_dropped_stays_closed(driver, monkeypatch):
    """Past the bound the lower half is closed: refused from then on, never applied again."""
    monkeypatch.setattr(remembered, "REMEMBERED_OPS_MAX", 8)
    for seq in range(50, 59):
        driver.batch(("a", 101, 0, [create(seq, f"s{seq}")]))
    driver.batch(("a", 101, 0, [create(59, "s59")]))
    kept = driver.machine.remembered["a"]
    assert len(kept.results) <= 8
    assert kept.low_seq > 50
    assert driver.batch(("a", 101, 0, [create(50, "again")])).groups[0][2][0][1][0] == REQUEST_EXPIRED
    assert "again" not in driver.machine.sessions


def test_the_index_must_grow():
    """An entry applied twice is a bug of the caller, and stops it."""
    machine = Machine()
    machine.apply(5, 1, b"")
    for index in (5, 4):
        try:
            machine.apply(index, 1, b"")
        except ValueError as problem:
            assert "after 5" in str(problem)
        else:
            raise AssertionError("accepted")
