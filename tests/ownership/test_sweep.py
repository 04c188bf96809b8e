"""The sweep: each of its rules, and the index that finds what is due."""

from __future__ import annotations

import gc
from importlib import import_module

import pytest

from raftstore.ownership import DueIndex
from raftstore.ownership import commands as c

sweeping = import_module("raftstore.ownership.sweep")  # the package has an op of that name

B1 = ("t1", "udp", "198.51.100.7:51820")
RECOVERING, TERMINATED = 2, 4


def swept(driver, actor="b", session_id="s"):
    """Sweep one session; returns its record and the names of events."""
    assert driver.do(actor, c.sweep, [(session_id, driver.version(session_id))])[0] == "OK"
    return driver.machine.sessions[session_id]


def test_a_session_whose_ttl_passed_is_terminated(driver):
    """At the very millisecond, and not before."""
    driver.do("a", c.create, "s", B1, 3_000)
    driver.now_ms += 2_999
    assert swept(driver, "a").state_version == 1
    assert driver.applied.events == []
    driver.now_ms += 1
    driver.do("b", c.renew_lease)
    record = swept(driver)
    assert (record.state, record.reason, record.state_version, record.binding) == (TERMINATED, "TTL_EXPIRED", 2, None)


def test_a_session_whose_reattach_window_passed_is_terminated(driver):
    """RECOVERING is not for ever."""
    driver.session("recovering")
    driver.pass_ms(119_999, alive="ab")
    assert swept(driver).state == RECOVERING
    driver.now_ms += 1
    assert (swept(driver).state, swept(driver).reason) == (TERMINATED, "REATTACH_WINDOW")


def test_a_stalled_freeze_thaws_at_the_old_owner(driver):
    """Nobody transferred it in time: the owner keeps it, without a binding."""
    driver.session("frozen")
    driver.pass_ms(9_999, alive="ab")
    assert swept(driver).state_version == 2
    driver.now_ms += 1
    record = swept(driver)
    assert (record.state, record.owner, record.epoch, record.reason) == (RECOVERING, "a", 1, "FREEZE_TIMEOUT")
    assert record.reattach_by_ms == driver.now_ms + 120_000


def test_a_transfer_that_is_not_resumed_recovers_at_the_new_owner(driver):
    """The transfer stands; the new owner finds the session RECOVERING."""
    driver.session("transferred")
    driver.pass_ms(10_000, alive="ab")
    record = swept(driver)
    assert (record.state, record.owner, record.epoch, record.reason) == (RECOVERING, "b", 2, "RESUME_TIMEOUT")
    assert driver.do("b", c.reattach, "s", 4, B1)[0] == "OK"


def test_bindings_of_a_restarted_owner_are_released_once_the_older_process_is_dead(driver):
    """A binding dies with its process; until that is certain the session stays as it is."""
    driver.session("attached")
    driver.do("a", c.join, inc=111)
    assert swept(driver).state_version == 1
    driver.pass_ms(3_030, alive="b")
    driver.do("a", c.renew_lease, inc=111)
    record = swept(driver)
    assert (record.state, record.owner, record.reason) == (RECOVERING, "a", "OWNER_RESTARTED")
    assert driver.do("a", c.reattach, "s", 2, B1, inc=111)[0] == "OK"
    assert swept(driver).state_version == 3


def test_a_renewal_by_a_restarted_owner_does_not_hide_the_dead_binding(driver):
    """Extending the TTL says nothing about the transport, which is still the dead process's."""
    driver.session("attached")
    driver.do("a", c.join, inc=111)
    driver.pass_ms(3_030, alive="b")
    driver.do("a", c.renew_lease, inc=111)
    assert driver.do("a", c.renew, "s", 1, 60_000, inc=111)[0] == "OK"
    assert swept(driver).reason == "OWNER_RESTARTED"


@pytest.mark.parametrize("state", ["attached", "recovering", "frozen", "transferred"])
@pytest.mark.parametrize("policy", ["deny", "terminate"])
def test_sessions_of_a_lost_owner_wait_or_end_by_their_policy(driver, policy, state):
    """Deny leaves them for reattach or failover; terminate ends them, wherever they stand."""
    driver.do("a", c.configure, {"partition_policy": policy, "freeze_timeout_ms": 60_000})
    driver.session(state)
    version = driver.version()
    owner, other = ("b", "a") if state == "transferred" else ("a", "b")
    assert swept(driver, other).state_version == version
    driver.pass_ms(4_000, alive=other)
    record = swept(driver, other)
    if policy == "deny":
        assert record.state_version == version
    else:
        assert (record.state, record.reason, record.owner) == (TERMINATED, "OWNER_LOST", owner)


def test_the_policy_of_a_session_is_fixed_at_its_creation(driver):
    """A policy given at creation counts more than the cluster's default."""
    driver.do("a", c.create, "ends", B1, 600_000, "terminate")
    driver.do("a", c.create, "waits", B1, 600_000, "deny")
    driver.do("a", c.configure, {"partition_policy": "terminate"})
    driver.pass_ms(4_000, alive="b")
    assert swept(driver, session_id="ends").state == TERMINATED
    assert swept(driver, session_id="waits").state_version == 1


def test_an_older_incarnations_lease_keeps_a_lost_owners_sessions(driver):
    """Terminate waits until no process of the owner can act."""
    driver.do("a", c.create, "s", B1, 600_000, "terminate")
    driver.do("a", c.join, inc=111)
    driver.do("a", c.leave, inc=111)
    assert swept(driver).state_version == 1
    driver.pass_ms(3_030, alive="b")
    assert swept(driver).reason == "OWNER_LOST"


def test_a_stale_candidate_is_passed_over_in_silence(driver):
    """A sweep made from an old view changes nothing and says nothing."""
    driver.do("a", c.create, "s", B1, 3_000)
    driver.do("a", c.renew, "s", 1, 3_000)
    driver.pass_ms(3_000, alive="b")
    assert driver.do("b", c.sweep, [("s", 1), ("absent", 1)])[0] == "OK"
    assert (driver.applied.events, driver.applied.changed) == ([], [])


def test_a_sweep_of_several_has_one_event_each(driver):
    """Every change is explained on its own."""
    for name in ("x", "y", "z"):
        driver.do("a", c.create, name, B1, 3_000)
    driver.pass_ms(3_000, alive="b")
    driver.do("b", c.sweep, [("x", 1), ("y", 1), ("x", 1), ("z", 1)])
    assert [event[5] for event in driver.applied.events] == ["x", "y", "z"]


def test_a_sweep_is_bounded(driver):
    """One candidate too many is malformed."""
    assert driver.do("a", c.sweep, [("s", 1)] * c.SWEEP_MAX)[0] == "OK"
    assert driver.do("a", c.sweep, [("s", 1)] * (c.SWEEP_MAX + 1))[0] == "MALFORMED"


# -- the index --------------------------------------------------------------------------------------------------------


def find(index, now_ms, limit=1_000):
    return sorted(index.due(now_ms, limit))


def test_the_index_finds_each_due_session_and_no_other(driver):
    """TTL, window and freeze: found within one slot of becoming due, with the current version."""
    index = DueIndex(driver.machine)
    driver.do("a", c.create, "short", B1, 3_000)
    index.note(driver.applied.due_earlier)
    for name, state in (("window", "recovering"), ("stalled", "frozen"), ("long", "attached")):
        driver.session(state, name)
        index.note([driver.machine.sessions[name]])
    assert find(index, driver.now_ms) == []
    driver.pass_ms(3_500, alive="ab")
    assert find(index, driver.now_ms) == [("short", 1)]
    driver.pass_ms(8_000, alive="ab")
    assert find(index, driver.now_ms) == [("short", 1), ("stalled", 2)]
    driver.pass_ms(120_000, alive="ab")
    assert find(index, driver.now_ms) == [("short", 1), ("stalled", 2), ("window", 1)]


def test_a_candidate_is_offered_again_until_the_machine_changed_it(driver):
    """A sweep that got lost with its leader is made again, but not at once."""
    index = DueIndex(driver.machine)
    driver.do("a", c.create, "s", B1, 3_000)
    index.note(driver.applied.due_earlier)
    driver.pass_ms(4_000, alive="ab")
    assert find(index, driver.now_ms) == [("s", 1)]
    assert find(index, driver.now_ms) == []
    driver.pass_ms(1_500, alive="ab")
    assert find(index, driver.now_ms) == [("s", 1)]
    swept(driver)
    index.note(driver.applied.due_earlier)
    driver.pass_ms(5_000, alive="ab")
    assert find(index, driver.now_ms) == []
    assert len(index) == 0


def test_a_session_that_was_prolonged_is_found_at_its_new_time(driver):
    """A later due time is noticed when the earlier slot comes up; an earlier one at once."""
    index = DueIndex(driver.machine)
    driver.do("a", c.create, "s", B1, 3_000)
    index.note(driver.applied.due_earlier)
    driver.do("a", c.renew, "s", 1, 9_000)
    index.note(driver.applied.due_earlier)
    driver.pass_ms(5_000, alive="ab")
    assert find(index, driver.now_ms) == []
    driver.do("a", c.renew, "s", 2, 1_000)
    index.note(driver.applied.due_earlier)
    driver.pass_ms(1_500, alive="ab")
    assert find(index, driver.now_ms) == [("s", 3)]


def test_the_index_finds_sessions_of_restarted_and_lost_owners(driver):
    """A change of nodes makes it go through all sessions once, a bounded slice at a time."""
    index = DueIndex(driver.machine)
    driver.do("a", c.create, "bound", B1, 600_000)
    driver.do("c", c.create, "ends", B1, 600_000, "terminate")
    index.note(driver.machine.sessions.values())
    assert find(index, driver.now_ms) == []
    driver.do("a", c.join, inc=111)
    driver.do("c", c.leave)
    assert find(index, driver.now_ms) == [("ends", 1)]
    driver.pass_ms(3_030, alive="b")
    assert ("bound", 1) in find(index, driver.now_ms)


def test_the_index_looks_at_a_bounded_number_per_call(driver, monkeypatch):
    """However much is due, a call stays short and the rest comes with the next ones."""
    monkeypatch.setattr(sweeping, "VISITS_MAX", 4)
    for number in range(10):
        driver.do("a", c.create, f"s{number}", B1, 2_000)
    driver.pass_ms(2_500, alive="b")
    index = DueIndex(driver.machine)  # as after a restart
    found: list[tuple[str, int]] = []
    for _ in range(12):
        some = index.due(driver.now_ms, 3)
        assert len(some) <= 3
        found += some
    assert sorted(set(found)) == [(f"s{number}", 1) for number in range(10)]


def test_the_index_hears_of_whatever_may_be_due_earlier_or_has_ended_and_of_no_more(driver):
    """A million sessions change most of the time without a look at the index."""
    steps = (
        (c.create, (B1, 9_000), True),
        (c.reattach, (1, B1), False),
        (c.renew, (2, 9_000), False),
        (c.renew, (3, 8_000), True),
        (c.detach, (4, "X"), True),
        (c.reattach, (5, B1), False),
        (c.freeze, (6, "MIGRATION", "b"), True),
        (c.thaw, (7,), True),
        (c.terminate, (8, "X"), True),
    )
    for op, arguments, told in steps:
        assert driver.do("a", op, "s", *arguments)[0] == "OK"
        assert driver.applied.due_earlier == (driver.applied.changed if told else []), op


def test_sessions_that_were_there_before_the_index_are_filed_some_at_a_time(driver, monkeypatch):
    """A restored machine's sessions are all found in the end, without being gone through all at once."""
    monkeypatch.setattr(sweeping, "FILED_AT_ONCE", 2)
    for name in "vwxyz":
        driver.do("a", c.create, name, B1, 1_000)
    index = DueIndex(driver.machine)
    filed = []
    for _ in range(3):
        assert index.due(driver.now_ms, 100) == []
        filed.append(len(index))
    assert filed == [2, 4, 5]
    driver.pass_ms(1_500, alive="abc")
    assert sorted(name for name, _ in find(index, driver.now_ms)) == list("vwxyz")


def test_ids_that_wait_to_be_looked_at_are_forgotten_by_the_garbage_collector(driver, monkeypatch):
    """A follower of a restarted cluster keeps all of them: each full pass would go through them again."""
    monkeypatch.setattr(sweeping, "FILED_AT_ONCE", 1)
    for name in "xyz":
        driver.do("a", c.create, name, B1, 1_000)
    index = DueIndex(driver.machine)
    index.due(driver.now_ms, 100)
    gc.collect()
    assert len(index) == 1 and not gc.is_tracked(index._unfiled._ids) and not gc.is_tracked(index._scan._ids)
