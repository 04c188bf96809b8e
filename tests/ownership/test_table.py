"""The ownership table, row by row, against expectations written down here on their own."""

from __future__ import annotations

import pytest

from raftstore.ownership import commands as c

B1 = ("t1", "udp", "198.51.100.7:51820")
B2 = ("t2", "tcp", "203.0.113.9:4500")
ATTACHED, RECOVERING, FROZEN, TERMINATED = 1, 2, 3, 4
STATES = ("attached", "recovering", "frozen", "transferred", "terminated", "expired", "absent")

OPS = {
    "create": lambda v: (c.create, "s", B1, 600_000),
    "reattach": lambda v: (c.reattach, "s", v, B2),
    "detach": lambda v: (c.detach, "s", v, "NO_DELIVERY"),
    "renew": lambda v: (c.renew, "s", v, 600_000),
    "freeze": lambda v: (c.freeze, "s", v, "DRAIN", "c"),
    "transfer": lambda v: (c.transfer, "s", v),
    "resume": lambda v: (c.resume, "s", v, B2),
    "thaw": lambda v: (c.thaw, "s", v),
    "failover": lambda v: (c.failover, "s", v, B2),
    "terminate": lambda v: (c.terminate, "s", v, "POLICY"),
}

INVALID = "INVALID_TRANSITION"
# What the owner is told at the right version: attached, recovering, frozen, frozen and transferred.
BY_OWNER = {
    "create": ("SESSION_EXISTS", "SESSION_EXISTS", "SESSION_EXISTS", "SESSION_EXISTS"),
    "reattach": ("OK", "OK", "SESSION_FROZEN", "SESSION_FROZEN"),
    "detach": ("OK", INVALID, "SESSION_FROZEN", "SESSION_FROZEN"),
    "renew": ("OK", "OK", "SESSION_FROZEN", "SESSION_FROZEN"),
    "freeze": ("OK", "OK", INVALID, INVALID),
    "transfer": (INVALID, INVALID, "OK", INVALID),
    "resume": (INVALID, INVALID, INVALID, "OK"),
    "thaw": (INVALID, INVALID, "OK", INVALID),
    "failover": (INVALID, INVALID, INVALID, INVALID),
    "terminate": ("OK", "OK", "OK", "OK"),
}


def expected(op: str, state: str, version: str, actor: str, owner_lives: bool) -> str:
    """The answer by the specification, worked out without the machine."""
    if state == "absent":
        return "OK" if op == "create" else "SESSION_NOT_FOUND"
    if state == "terminated":
        return "SESSION_TERMINATED"
    if state == "expired":
        return "SESSION_EXPIRED"
    if op == "create":
        return "SESSION_EXISTS"
    if actor == "owner":
        if op == "failover":
            return INVALID
        return "VERSION_MISMATCH" if version != "right" else BY_OWNER[op][STATES.index(state)]
    if op != "failover":
        return "OWNERSHIP_CONFLICT"
    if version != "right":
        return "OWNERSHIP_CONFLICT" if owner_lives else "VERSION_MISMATCH"
    return "OWNER_STILL_LIVE" if owner_lives else "OK"


def prepare(driver, state):
    """The session in that state; returns (owner, a node that is not, version)."""
    driver.session(state if state not in ("expired", "absent") else "attached", "s" if state != "absent" else "other")
    if state == "expired":
        driver.pass_ms(600_000, alive="abc")
    owner, other = ("b", "a") if state == "transferred" else ("a", "b")
    return owner, other, driver.version() if state != "absent" else 1


@pytest.mark.parametrize("version", ["right", "stale", "future"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("op", OPS)
def test_every_op_from_every_state_is_answered_by_the_table(op, state, version, new_driver):
    """Each op, from each state, by owner and others, at each kind of version: the specified answer, and no other."""
    for actor in ("owner", "other"):
        driver = new_driver()
        owner, other, stored = prepare(driver, state)
        named = stored + {"right": 0, "stale": -1, "future": 1}[version]
        before = driver.machine.sessions.get("s")
        answer, record = driver.do(owner if actor == "owner" else other, *OPS[op](named))
        assert answer == expected(op, state, version, actor, owner_lives=True), actor
        assert len(driver.applied.events) == 1
        if answer != "OK":
            assert record == before == driver.machine.sessions.get("s")
            assert driver.applied.changed == []
        else:
            assert record == driver.machine.sessions["s"]
            assert record.state_version == (1 if before is None else before.state_version + 1)


@pytest.mark.parametrize("version", ["right", "stale", "future"])
@pytest.mark.parametrize("state", ["attached", "recovering", "frozen", "transferred"])
def test_a_session_of_a_lost_owner_can_be_failed_over_and_nothing_else(state, version, new_driver):
    """Once the owner's lease has lapsed, failover at the right version is all that another node is granted."""
    for op in OPS:
        driver = new_driver()
        owner, other, stored = prepare(driver, state)
        driver.pass_ms(4_000, alive="abc".replace(owner, ""))
        named = stored + {"right": 0, "stale": -1, "future": 1}[version]
        answer, record = driver.do(other, *OPS[op](named))
        assert answer == expected(op, state, version, "other", owner_lives=False), op
        if answer == "OK":
            assert (record.owner, record.epoch) == (other, 3 if state == "transferred" else 2)
        assert driver.do(owner, *OPS["reattach"](named))[0] == "NODE_NOT_LIVE"


def test_create_with_a_binding_is_attached_at_version_and_epoch_one(driver):
    """A new session belongs to its creator and begins at version 1, epoch 1."""
    _, s = driver.do("a", c.create, "s", B1, 5_000)
    assert (s.state, s.owner, s.epoch, s.state_version) == (ATTACHED, "a", 1, 1)
    assert (s.created_at_ms, s.expires_at_ms, s.reattach_by_ms) == (1_000, 6_000, None)
    assert driver.machine.get("s").binding == B1


def test_create_without_a_binding_is_recovering_within_the_window(driver):
    """A session that begins without a transport has the reattach window to get one."""
    _, s = driver.do("a", c.create, "s", None, 600_000)
    assert (s.state, s.reattach_by_ms) == (RECOVERING, 121_000)
    assert driver.machine.get("s").binding is None


def test_reattach_replaces_the_binding(driver):
    """After a reattach the new transport is bound and the old one is not."""
    driver.session("attached")
    _, s = driver.do("a", c.reattach, "s", 1, B2)
    assert (s.state, s.epoch, s.state_version) == (ATTACHED, 1, 2)
    assert driver.machine.get("s").binding == B2


def test_a_nonce_must_grow_when_one_is_given(driver):
    """A replayed reattach is refused; one without a nonce keeps the highest seen."""
    driver.session("attached")
    assert driver.do("a", c.reattach, "s", 1, B2, 5)[1].nonce == 5
    assert driver.do("a", c.reattach, "s", 2, B2, 5)[0] == "REPLAY_DETECTED"
    assert driver.do("a", c.reattach, "s", 2, B2, 4)[0] == "REPLAY_DETECTED"
    assert driver.do("a", c.reattach, "s", 2, B2, None)[1].nonce == 5
    assert driver.do("a", c.detach, "s", 3, "NO_DELIVERY")[1].nonce == 5
    assert driver.do("a", c.reattach, "s", 4, B2, 5)[0] == "REPLAY_DETECTED"
    assert driver.do("a", c.reattach, "s", 4, B2, 6)[0] == "OK"


def test_detach_opens_the_reattach_window(driver):
    """A detached session has no binding and a time by which it must be back."""
    driver.session("attached")
    _, s = driver.do("a", c.detach, "s", 1, "NO_DELIVERY")
    assert (s.state, s.binding, s.reattach_by_ms, s.reason) == (RECOVERING, None, 121_000, "NO_DELIVERY")


@pytest.mark.parametrize("state", ["attached", "recovering"])
def test_renew_changes_the_time_to_live_and_nothing_else(driver, state):
    """A renewal keeps state, binding and window; only expiry and version move."""
    driver.session(state)
    before = driver.machine.sessions["s"]
    driver.pass_ms(2_000, alive="a")
    _, s = driver.do("a", c.renew, "s", 1, 9_000)
    assert s == before._replace(state_version=2, expires_at_ms=driver.now_ms + 9_000)


def test_a_migration_takes_four_steps_and_one_epoch(driver):
    """Freeze releases the binding, transfer changes the owner, resume binds at the new owner: versions 2, 3, 4."""
    driver.session("attached")
    _, s = driver.do("a", c.freeze, "s", 1, "MIGRATION", "b")
    assert (s.state, s.owner, s.epoch, s.state_version, s.binding) == (FROZEN, "a", 1, 2, None)
    assert (s.target, s.reason, s.freeze_by_ms) == ("b", "MIGRATION", 11_000)
    _, s = driver.do("a", c.transfer, "s", 2)
    assert (s.state, s.owner, s.epoch, s.state_version, s.transferred) == (FROZEN, "b", 2, 3, True)
    assert driver.do("a", c.reattach, "s", 3, B2)[0] == "OWNERSHIP_CONFLICT"
    assert driver.do("a", c.resume, "s", 3, B2)[0] == "OWNERSHIP_CONFLICT"
    _, s = driver.do("b", c.resume, "s", 3, B2)
    assert (s.state, s.owner, s.epoch, s.state_version) == (ATTACHED, "b", 2, 4)
    assert (s.target, s.freeze_by_ms, s.transferred, s.owner_inc) == (None, None, False, 202)


def test_resume_without_a_binding_is_recovering(driver):
    """The new owner may take a session up before its transport arrives."""
    driver.session("transferred")
    _, s = driver.do("b", c.resume, "s", 3)
    assert (s.state, s.owner, s.epoch, s.reattach_by_ms) == (RECOVERING, "b", 2, 121_000)


def test_thaw_gives_the_session_back_without_a_binding(driver):
    """A transfer that was not made can be given up; the session has to reattach."""
    driver.session("frozen")
    _, s = driver.do("a", c.thaw, "s", 2)
    assert (s.state, s.owner, s.epoch, s.target) == (RECOVERING, "a", 1, None)


@pytest.mark.parametrize("binding", [None, B2])
@pytest.mark.parametrize("state", ["attached", "recovering", "frozen"])
def test_failover_makes_the_requester_owner_with_a_new_epoch(driver, state, binding):
    """Failover works from every state but TERMINATED and says by epoch that the owner changed."""
    driver.session(state)
    version = driver.version()
    driver.pass_ms(4_000, alive="bc")
    _, s = driver.do("b", c.failover, "s", version, binding)
    assert (s.owner, s.epoch, s.state_version) == ("b", 2, version + 1)
    assert (s.state, s.target, s.freeze_by_ms) == (RECOVERING if binding is None else ATTACHED, None, None)
    assert s.owner_inc == 202


def test_termination_leaves_a_tombstone_that_refuses_everything(driver):
    """A terminated identity cannot be forked by creating it again."""
    driver.session("terminated")
    s = driver.machine.sessions["s"]
    assert (s.state, s.reason, s.binding) == (TERMINATED, "POLICY", None)
    for op in OPS.values():
        assert driver.do("a", *op(2))[0] == "SESSION_TERMINATED"


def test_an_operator_terminates_with_the_right_version_only(driver):
    """An operator need not be the owner, but must know the version."""
    driver.session("attached")
    assert driver.do("c", c.terminate, "s", 1, "ABUSE", False)[0] == "OWNERSHIP_CONFLICT"
    assert driver.do("c", c.terminate, "s", 0, "ABUSE", True)[0] == "VERSION_MISMATCH"
    assert driver.do("c", c.terminate, "s", 1, "ABUSE", True)[0] == "OK"


def test_of_two_nodes_that_race_to_fail_over_one_wins_and_the_other_learns_who(driver):
    """The loser is told OWNERSHIP_CONFLICT with the new owner, epoch and version."""
    driver.session("attached")
    driver.pass_ms(4_000, alive="bc")
    driver.seq += 2
    applied = driver.batch(
        ("b", 202, 0, [c.failover(driver.seq - 1, 2**50, "s", 1, B1)]),
        ("c", 303, 0, [c.failover(driver.seq, 2**50, "s", 1, B2)]),
    )
    (_, (won, _)), (_, (lost, record)) = applied.groups[0][2][0], applied.groups[1][2][0]
    assert won == 0
    assert lost == 1  # OWNERSHIP_CONFLICT
    assert (record.owner, record.epoch, record.state_version) == ("b", 2, 2)


def test_freeze_and_transfer_need_a_target_that_can_take_the_session(driver):
    """Unknown, lapsed, left and draining targets are refused, and so is the owner itself."""
    driver.session("attached")
    assert driver.do("a", c.freeze, "s", 1, "MIGRATION", "a")[0] == INVALID
    assert driver.do("a", c.freeze, "s", 1, "MIGRATION", "nobody")[0] == "NODE_NOT_LIVE"
    assert driver.do("a", c.freeze, "s", 1, "MIGRATION", "b")[0] == "OK"
    assert driver.do("b", c.drain)[0] == "OK"
    assert driver.do("a", c.transfer, "s", 2)[0] == "NODE_DRAINING"
    driver.pass_ms(4_000, alive="a")
    assert driver.do("a", c.transfer, "s", 2)[0] == "NODE_NOT_LIVE"
    assert driver.do("b", c.renew_lease)[0] == "OK"
    assert driver.do("b", c.leave)[0] == "OK"
    assert driver.do("a", c.transfer, "s", 2)[0] == "NODE_NOT_LIVE"
    assert driver.machine.sessions["s"].owner == "a"


def test_a_draining_node_takes_no_sessions_but_serves_those_it_has(driver):
    """Create and failover are refused at a draining node; reattach is not."""
    driver.session("attached")
    assert driver.do("b", c.create, "mine", B1, 600_000)[0] == "OK"
    assert driver.do("b", c.drain)[0] == "OK"
    assert driver.do("b", c.create, "t", B1, 600_000)[0] == "NODE_DRAINING"
    driver.pass_ms(4_000, alive="b")
    assert driver.do("b", c.failover, "s", 1, B1)[0] == "NODE_DRAINING"
    assert driver.do("b", c.reattach, "mine", 1, B2)[0] == "OK"


def test_a_session_is_expired_at_the_very_millisecond_whatever_the_sweep_did(driver):
    """Strict TTL: one millisecond before it counts, at the time it does not."""
    assert driver.do("a", c.create, "s", B1, 2_000)[0] == "OK"
    assert driver.do("a", c.create, "t", B1, 2_000)[0] == "OK"
    driver.now_ms += 1_999
    assert driver.do("a", c.reattach, "s", 1, B2)[0] == "OK"
    driver.now_ms += 1
    assert driver.do("a", c.reattach, "t", 1, B2)[0] == "SESSION_EXPIRED"
    assert driver.do("a", c.renew, "t", 1, 9_000)[0] == "SESSION_EXPIRED"
    assert driver.do("a", c.create, "t", B1, 9_000)[0] == "SESSION_EXPIRED"


def test_the_reattach_window_is_as_strict_as_the_ttl(driver):
    """A RECOVERING session whose window has passed is refused before any sweep saw it."""
    driver.session("recovering")
    driver.pass_ms(119_999, alive="ab")
    driver.now_ms += 1
    assert driver.do("a", c.reattach, "s", 1, B2)[0] == "SESSION_EXPIRED"


def test_limits_are_refused_with_a_reason(driver):
    """A TTL beyond the maximum and a session too many are LIMIT_EXCEEDED; tombstones count as sessions."""
    assert driver.do("a", c.configure, {"sessions_max": 2, "ttl_max_ms": 700_000})[0] == "OK"
    assert driver.do("a", c.create, "long", B1, 700_001)[0] == "LIMIT_EXCEEDED"
    driver.session("terminated")
    driver.session("attached", "t")
    assert driver.do("a", c.create, "u", B1, 600_000)[0] == "LIMIT_EXCEEDED"
    assert driver.do("a", c.renew, "t", 1, 700_001)[0] == "LIMIT_EXCEEDED"
    assert driver.do("a", c.renew, "t", 1, 700_000)[0] == "OK"
