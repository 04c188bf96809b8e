"""Nodes: incarnations, leases, fences, and cluster time after a stop."""

from __future__ import annotations

from raftstore.ownership import commands as c
from raftstore.ownership import nodes

B1 = ("t1", "udp", "198.51.100.7:51820")
LEASE_MS = 3_030  # 3000 ms and one percent of drift


def test_nobody_acts_before_a_join(new_driver):
    """An op of a node that never joined is NODE_NOT_LIVE."""
    driver = new_driver("a")
    assert driver.do("b", c.create, "s", B1, 1_000)[0] == "NODE_NOT_LIVE"
    assert driver.do("b", c.renew_lease)[0] == "NODE_NOT_LIVE"
    assert list(driver.machine.nodes) == ["a"]


def test_a_lease_lapses_after_ttl_and_drift_to_the_millisecond(driver):
    """The machine waits for lease_ttl * (1 + max_clock_drift), and not a millisecond longer."""
    driver.session("attached")
    driver.now_ms += LEASE_MS - 1
    assert driver.do("b", c.renew_lease)[0] == "OK"
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OWNER_STILL_LIVE"
    driver.now_ms += 1
    assert driver.do("a", c.detach, "s", 1, "LATE")[0] == "NODE_NOT_LIVE"
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OK"


def test_a_lapsed_node_may_renew_and_finds_what_was_taken_gone(driver):
    """A renewal after the lapse gives a fresh lease; sessions that were failed over stay with the new owner."""
    driver.session("attached", "kept")
    driver.session("attached", "taken")
    driver.pass_ms(4_000, alive="b")
    assert driver.do("b", c.failover, "taken", 1, B1)[0] == "OK"
    assert driver.do("a", c.renew_lease)[0] == "OK"
    assert driver.do("a", c.reattach, "taken", 1, B1)[0] == "OWNERSHIP_CONFLICT"
    assert driver.do("a", c.reattach, "kept", 1, B1)[0] == "OK"


def test_a_newer_incarnation_fences_ops_of_the_older(driver):
    """After a join, the older process is refused, joins and renewals included."""
    driver.session("attached")
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    for build, *args in ((c.renew_lease,), (c.reattach, "s", 1, B1), (c.join,), (c.leave,)):
        assert driver.do("a", build, *args)[0] == "NODE_FENCED"
        assert driver.do("a", build, *args, deadline=1)[0] == "NODE_FENCED"
    assert driver.machine.nodes["a"].incarnation == 111


def test_a_restarted_owner_binds_nothing_before_the_older_lease_has_lapsed(driver):
    """A newer incarnation is no proof that the older process is dead: until its lease lapses, nobody binds."""
    driver.session("attached")
    driver.now_ms += 1_000
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    own_ops = (
        (c.reattach, "s", 1, B1),
        (c.detach, "s", 1, "X"),
        (c.renew, "s", 1, 5_000),
        (c.freeze, "s", 1, "DRAIN", "b"),
        (c.terminate, "s", 1, "X"),
    )
    driver.now_ms = 1_000 + LEASE_MS - 1
    assert driver.do("b", c.renew_lease)[0] == "OK"
    for op in own_ops:
        assert driver.do("a", *op, inc=111)[0] == "OWNER_STILL_LIVE"
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OWNER_STILL_LIVE"
    driver.now_ms += 1
    assert driver.do("a", *own_ops[0], inc=111)[1].owner_inc == 111


def test_a_restarted_owner_creates_and_serves_new_sessions_at_once(driver):
    """The fence concerns the older process's sessions only."""
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    assert driver.do("a", c.create, "new", B1, 60_000, inc=111)[0] == "OK"
    assert driver.do("a", c.reattach, "new", 1, B1, inc=111)[0] == "OK"


def test_failover_waits_for_older_incarnations_too(driver):
    """The lease of an older incarnation protects its sessions even after the newer one left."""
    driver.session("attached")
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    assert driver.do("a", c.leave, inc=111)[0] == "OK"
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OWNER_STILL_LIVE"
    driver.pass_ms(LEASE_MS, alive="b")
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OK"


def test_a_third_incarnation_inherits_the_fence_of_the_first(driver):
    """Whatever became of the second, the first may still act until its own lease has lapsed."""
    driver.session("attached")
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    assert driver.do("a", c.leave, inc=111)[0] == "OK"
    assert driver.do("a", c.join, inc=112)[0] == "OK"
    assert driver.machine.nodes["a"].fence_until_ms == 1_000 + LEASE_MS
    assert driver.do("a", c.reattach, "s", 1, B1, inc=112)[0] == "OWNER_STILL_LIVE"


def test_a_process_that_left_is_out_at_once_and_for_good(driver):
    """After leave its sessions can be taken over, and the incarnation can neither act nor join again."""
    driver.session("attached")
    assert driver.do("a", c.leave)[0] == "OK"
    for build, *args in ((c.reattach, "s", 1, B1), (c.renew_lease,), (c.join,)):
        assert driver.do("a", build, *args)[0] == "NODE_NOT_LIVE"
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OK"
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    assert driver.machine.nodes["a"].fence_until_ms <= driver.machine.clock_ms


def test_a_second_join_of_the_same_incarnation_changes_nothing_but_the_lease(driver):
    """Join is idempotent: no fence against itself, and draining stays."""
    driver.session("attached")
    assert driver.do("a", c.drain)[0] == "OK"
    driver.now_ms += 500
    assert driver.do("a", c.join)[0] == "OK"
    node = driver.machine.nodes["a"]
    assert (node.incarnation, node.former, node.fence_until_ms, node.draining) == (101, (), 0, True)
    assert node.lease_until_ms == driver.now_ms + LEASE_MS
    assert driver.do("a", c.reattach, "s", 1, B1)[0] == "OK"


def test_a_new_incarnation_no_longer_drains(driver):
    """The drain belongs to the process that asked for it."""
    assert driver.do("b", c.drain)[0] == "OK"
    assert driver.do("b", c.join, inc=222)[0] == "OK"
    assert driver.do("b", c.create, "s", B1, 1_000, inc=222)[0] == "OK"


def test_former_incarnations_are_bounded(driver):
    """Only a bounded number of older incarnations is remembered as such; the fence covers them all."""
    for inc in range(1_000, 1_000 + 2 * nodes.FORMER_INCARNATIONS_MAX):
        assert driver.do("a", c.join, inc=inc)[0] == "OK"
    node = driver.machine.nodes["a"]
    assert len(node.former) == nodes.FORMER_INCARNATIONS_MAX
    assert node.fence_until_ms == driver.now_ms + LEASE_MS


def test_nodes_are_bounded(new_driver):
    """A join beyond the bound is refused and leaves no trace in the state."""
    driver = new_driver("")
    for number in range(nodes.NODES_MAX):
        assert driver.do(f"n{number}", c.join, inc=1)[0] == "OK"
    assert driver.do("one-more", c.join, inc=1)[0] == "LIMIT_EXCEEDED"
    assert "one-more" not in driver.machine.nodes


def test_parameters_change_by_configure_only_where_named(driver):
    """A configure sets the named parameters, reports itself, and running leases keep their length."""
    before = driver.machine.nodes["a"].lease_until_ms
    assert driver.do("a", c.configure, {"lease_ttl_ms": 60_000, "max_clock_drift_ppm": 1})[0] == "OK"
    assert driver.applied.node_changed
    assert driver.machine.params["reattach_window_ms"] == 120_000
    assert driver.machine.nodes["a"].lease_until_ms == before
    assert driver.do("a", c.renew_lease)[0] == "OK"
    assert driver.machine.nodes["a"].lease_until_ms == driver.now_ms + 60_001  # rounded up


def test_unknown_or_impossible_parameters_are_malformed(driver):
    """Nothing of such a configure takes effect."""
    before = dict(driver.machine.params)
    for params in ({"nope": 1}, {"lease_ttl_ms": 0}, {"lease_ttl_ms": "3"}, {"partition_policy": "guess"}):
        assert driver.do("a", c.configure, {"sessions_max": 5, **params})[0] == "MALFORMED"
    assert driver.machine.params == before


def test_a_shorter_lease_never_cuts_one_that_runs(driver):
    """A renewal under a shorter parameter leaves the longer promise standing: its holder still counts on it."""
    before = driver.machine.nodes["a"].lease_until_ms
    assert driver.do("b", c.configure, {"lease_ttl_ms": 100})[0] == "OK"
    assert driver.do("a", c.renew_lease)[0] == "OK"
    assert driver.machine.nodes["a"].lease_until_ms == before


def test_cluster_time_never_goes_back(driver):
    """A stamp from a leader that is behind is overruled by what was seen."""
    driver.now_ms = 50
    assert driver.batch().now_ms == 1_000
    assert driver.machine.clock_ms == 1_000


def test_a_clock_resume_jumps_and_arms_every_running_lease_again(driver):
    """After a stop of the cluster TTLs count the stop, and no lease counts as lapsed by the jump itself."""
    driver.session("attached")
    driver.do("c", c.leave)
    driver.now_ms += 100
    applied = driver.batch(jump=50_000)
    assert applied.resumed
    assert applied.now_ms == driver.machine.clock_ms == 51_100
    until = {node_id: driver.machine.lease_until_ms(node_id) for node_id in "abc"}
    assert until == {"a": 51_100 + LEASE_MS, "b": 51_100 + LEASE_MS, "c": 1_000}
    driver.now_ms = 51_100
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "OWNER_STILL_LIVE"


def test_a_clock_resume_arms_fences_of_older_incarnations_too(driver):
    """A zombie's lease is as unknown after the stop as everybody's."""
    driver.session("attached")
    assert driver.do("a", c.join, inc=111)[0] == "OK"
    driver.batch(jump=50_000)
    assert driver.machine.nodes["a"].fence_until_ms == 51_000 + LEASE_MS


def test_a_resume_without_a_jump_arms_leases_as_well(driver):
    """A leader without an anchor does not know how much time passed: everybody gets a full lease."""
    driver.now_ms += LEASE_MS - 30
    applied = driver.batch(jump=0)
    assert driver.machine.lease_until_ms("a") == applied.now_ms + LEASE_MS


def test_what_had_lapsed_before_the_jump_stays_lapsed(driver):
    """A resume revives no lease."""
    driver.pass_ms(4_000, alive="b")
    driver.batch(jump=10)
    assert driver.machine.lease_until_ms("a") == 1_000 + LEASE_MS


def test_the_stamp_of_a_resume_lapses_no_lease(driver):
    """Leases are judged at the time before the entry: a leader without an anchor proves no passing of time."""
    driver.now_ms += 100_000
    driver.batch(jump=0)
    assert driver.machine.lease_until_ms("a") == driver.now_ms + LEASE_MS


def test_the_jump_is_bounded(driver):
    """Beyond clock_resume_max_ms the clock goes no further."""
    driver.do("a", c.configure, {"clock_resume_max_ms": 7})
    assert driver.batch(jump=50).now_ms == 1_007


def test_two_resumes_do_not_count_the_same_stop_twice(driver):
    """Where wall time is known, the clock jumps by no more than has passed since the last entry."""
    driver.batch(wall_ms=1_000_000)
    assert driver.batch(jump=60_000, wall_ms=1_060_000).now_ms == 61_000
    assert driver.batch(jump=60_500, wall_ms=1_060_500).now_ms == 61_500


def test_a_negative_jump_is_refused_whole(driver):
    """The clock cannot be sent back: the batch is malformed."""
    applied = driver.raw(b"\x95\x01\xcd\x03\xe8\x00\xff\x90")
    assert (applied.resumed, driver.machine.clock_ms) == (False, 1_000)
    assert len(applied.events) == 1
