"""One session from machine to machine: given, taken, taken back, and never in two places."""

from __future__ import annotations

from typing import Any

from raftstore.ownership import commands as c
from raftstore.ownership import invariants
from raftstore.ownership.records import Mark

B1 = ("t1", "udp", "198.51.100.7:51820")
RECOVERING, FROZEN, TERMINATED = 2, 3, 4


def admit(
    sid: str = "s", at_epoch: int = 1, *, epoch: int = 2, version: int = 5, created: int = 500, expires: int = 700_000,
    reason: str | None = None, moved_at: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """What b handed over."""
    ended = (reason, reason and "e", 0 if reason else moved_at)
    return (c.admit, sid, at_epoch, "b", epoch, version, 9, "terminate", created, expires, *ended)


def test_a_session_is_created_under_the_present_epoch_only(settled):
    """A judgement by another mapping does not count any more, and `create` without an epoch is refused too."""
    settled.adopt(2)
    for epoch in (0, 1, 3):
        settled.refused("OWNERSHIP_CONFLICT", c.create_mapped, "s", B1, 600_000, None, epoch)
    settled.refused("OWNERSHIP_CONFLICT", c.create, "s", B1, 600_000)
    settled.ok(c.create_mapped, "s", B1, 600_000, "terminate", 2)
    assert (settled.record().owner, settled.record().state_version, settled.record().policy) == ("a", 1, "terminate")
    settled.refused("SESSION_EXISTS", c.create_mapped, "s", B1, 600_000, None, 1)


def test_a_session_freezes_only_for_a_node_of_the_mapping(settled):
    """Nodes of other machines are known by the mapping alone; a draining one can be given sessions by its operator."""
    settled.ok(c.create_mapped, "s", B1, 600_000, None, 1)
    settled.refused("NODE_NOT_LIVE", c.freeze, "s", 1, "MAPPING", "d")
    settled.refused("INVALID_TRANSITION", c.freeze, "s", 1, "MAPPING", "a")
    settled.ok(c.freeze, "s", 1, "MAPPING", "b")
    settled.adopt(2, "ac")
    settled.refused("NODE_NOT_LIVE", c.transfer, "s", 2)
    settled.ok(c.thaw, "s", 2)


def test_nobody_changes_a_session_that_is_away(settled):
    """No owner's op, no operator, no failover, no sweep, at any version, before and after its TTL."""
    settled.away()
    before = settled.record()
    assert (before.owner, before.state, before.epoch, before.state_version) == ("b", FROZEN, 2, 3)
    for after_ttl in (False, True):
        for version in (2, 3, 4):
            ops = [
                (c.reattach, "s", version, B1),
                (c.detach, "s", version, "WHY"),
                (c.renew, "s", version, 600_000),
                (c.freeze, "s", version, "MAPPING", "c"),
                (c.transfer, "s", version),
                (c.resume, "s", version),
                (c.thaw, "s", version),
                (c.failover, "s", version),
                (c.terminate, "s", version, "POLICY"),
                (c.terminate, "s", version, "POLICY", True),
            ]
            for op in ops:
                settled.refused("SESSION_EXPIRED" if after_ttl else "OWNERSHIP_CONFLICT", *op)
            settled.ok(c.sweep, [("s", version)])
            assert settled.driver.applied.events == []
        settled.refused("SESSION_EXPIRED" if after_ttl else "SESSION_EXISTS", c.create_mapped, "s", B1, 5, None, 1)
        assert settled.record() == before
        settled.driver.now_ms = before.expires_at_ms
        settled.driver.do("a", c.renew_lease)


def test_a_session_that_went_leaves_a_mark_under_which_it_cannot_begin_anew(settled):
    """Forgotten is only the record; the identity stays taken, under every later mapping."""
    settled.away()
    settled.twice(c.forget, "s", 3, "b")
    assert (settled.machine.get("s"), settled.machine.departed) == (None, {"s": Mark(3, 1)})
    settled.ok(c.forget, "s", 2, "b")
    settled.refused("SESSION_NOT_FOUND", c.forget, "s", 4, "b")
    settled.refused("SESSION_NOT_FOUND", c.forget, "other", 1, "b")
    settled.refused("OWNERSHIP_CONFLICT", c.create_mapped, "s", B1, 600_000, None, 1)
    settled.refused("SESSION_NOT_FOUND", c.reclaim, "s", 3)
    settled.refused("SESSION_NOT_FOUND", c.resume, "s", 3)
    settled.adopt(2)
    settled.settle()
    settled.refused("OWNERSHIP_CONFLICT", c.create_mapped, "s", B1, 600_000, None, 2)


def test_only_what_the_taker_has_is_forgotten(settled):
    """The version must be the one it has, and the session must be its, or be a tombstone."""
    settled.ok(c.create_mapped, "s", B1, 600_000, None, 1)
    for taker in "ab":
        settled.refused("INVALID_TRANSITION", c.forget, "s", 1, taker)
    settled.ok(c.freeze, "s", 1, "MAPPING", "b")
    settled.refused("INVALID_TRANSITION", c.forget, "s", 2, "b")
    settled.ok(c.transfer, "s", 2)
    for version in (2, 4):
        settled.refused("VERSION_MISMATCH", c.forget, "s", version, "b")
    settled.refused("INVALID_TRANSITION", c.forget, "s", 3, "c")
    settled.ok(c.forget, "s", 3, "b")
    settled.ok(c.create_mapped, "t", B1, 600_000, None, 1)
    settled.ok(c.terminate, "t", 1, "POLICY")
    settled.refused("VERSION_MISMATCH", c.forget, "t", 1, "c")
    settled.refused("INVALID_TRANSITION", c.forget, "t", 2, "a")
    settled.ok(c.forget, "t", 2, "c")
    assert settled.machine.departed == {"s": Mark(3, 1), "t": Mark(2, 1)}
    assert settled.machine.sessions == {}
    assert {owner: n for owner, n in settled.machine.tally.owned.items() if n} == {}


def test_a_session_is_taken_back_with_a_new_epoch_and_only_from_away(settled):
    """Reclaimed it is this node's, frozen, to be resumed; what the other once held of it is a version too old."""
    settled.refused("SESSION_NOT_FOUND", c.reclaim, "s", 1)
    settled.ok(c.create_mapped, "s", B1, 600_000, None, 1)
    settled.refused("INVALID_TRANSITION", c.reclaim, "s", 1)
    settled.ok(c.freeze, "s", 1, "MAPPING", "b")
    settled.refused("INVALID_TRANSITION", c.reclaim, "s", 2)
    settled.ok(c.transfer, "s", 2)
    for version in (2, 4):
        settled.refused("VERSION_MISMATCH", c.reclaim, "s", version)
    settled.driver.now_ms += 100
    settled.ok(c.reclaim, "s", 3)
    (event,) = settled.driver.applied.events
    assert (event[15], event[16]) == ("RECLAIMED", "b")  # why, and from whom
    s = settled.record()
    assert (s.state, s.owner, s.epoch, s.state_version, s.target) == (FROZEN, "a", 3, 4, "a")
    assert (s.owner_inc, s.transferred, s.freeze_by_ms) == (101, True, settled.driver.now_ms + 10_000)
    assert s.owned_since == settled.driver.index
    settled.refused("VERSION_MISMATCH", c.reclaim, "s", 3)
    settled.refused("INVALID_TRANSITION", c.reclaim, "s", 4)
    settled.refused("VERSION_MISMATCH", c.forget, "s", 3, "b")
    settled.ok(c.resume, "s", 4, B1)
    settled.ok(c.terminate, "s", 5, "POLICY")
    settled.refused("INVALID_TRANSITION", c.reclaim, "s", 6)


def test_what_a_peer_said_under_another_mapping_neither_forgets_nor_takes_back(settled):
    """Both ops name the epoch by which they were judged: under the next one the same session may be on its way back."""
    settled.away()
    settled.adopt(2)
    for epoch in (0, 1, 3):
        settled.refused("OWNERSHIP_CONFLICT", c.forget, "s", 3, "b", epoch)
        settled.refused("OWNERSHIP_CONFLICT", c.reclaim, "s", 3, epoch)
        settled.refused("OWNERSHIP_CONFLICT", c.forget, "other", 1, "b", epoch)
        settled.refused("OWNERSHIP_CONFLICT", c.reclaim, "other", 1, epoch)
    settled.ok(c.reclaim, "s", 3, 2)
    settled.away("t")
    settled.ok(c.forget, "t", 3, "b", 2)
    settled.refused("OWNERSHIP_CONFLICT", c.forget, "t", 3, "b", 1)


def test_an_admitted_session_is_as_its_owners_log_left_it_and_waits_to_be_resumed(settled):
    """Version, epoch, nonce, policy and times stay; admitted again, nothing changes."""
    settled.twice(*admit())
    s = settled.record()
    assert (s.state, s.owner, s.epoch, s.state_version, s.nonce, s.policy) == (FROZEN, "a", 2, 5, 9, "terminate")
    assert (s.created_at_ms, s.expires_at_ms, s.freeze_by_ms, s.reattach_by_ms) == (500, 700_000, 11_000, None)
    assert (s.binding, s.target, s.transferred, s.reason, s.owner_inc) == (None, "a", True, "MAPPING", 101)
    assert s.owned_since == settled.driver.index - 1
    settled.ok(*admit(version=4))
    settled.refused("SESSION_FROZEN", c.reattach, "s", 5, B1)
    settled.refused("INVALID_TRANSITION", c.thaw, "s", 5)
    settled.ok(c.resume, "s", 5, B1)
    settled.ok(*admit())
    s = settled.record()
    assert (s.state_version, s.epoch, s.owner) == (6, 2, "a")


def test_a_session_is_admitted_under_the_present_epoch_only(settled):
    """What was handed over under another mapping is excluded for ever, also if it would change nothing."""
    settled.adopt(2)
    for epoch in (0, 1, 3):
        settled.refused("OWNERSHIP_CONFLICT", *admit(at_epoch=epoch))
    settled.ok(*admit(at_epoch=2))
    settled.refused("OWNERSHIP_CONFLICT", *admit(at_epoch=1))


def test_a_tombstone_is_admitted_as_one(settled):
    """A terminated identity stays terminated wherever it goes."""
    settled.twice(*admit(reason="POLICY"))
    s = settled.record()
    assert (s.state, s.reason, s.state_version, s.transferred) == (TERMINATED, "POLICY", 5, False)
    assert (s.target, s.freeze_by_ms, s.owner) == (None, None, "e")  # under whom it ended, whoever keeps it
    settled.refused("INVALID_TRANSITION", *admit(version=6))
    settled.refused("SESSION_TERMINATED", c.resume, "s", 5)
    settled.refused("SESSION_TERMINATED", c.create_mapped, "s", B1, 600_000, None, 1)
    assert {owner: n for owner, n in settled.machine.tally.owned.items() if n} == {}


def test_a_tombstone_is_never_taken_back(settled):
    """Also one that ended under a node of another machine, whose owner is as far away as that of a transferred one."""
    settled.ok(*admit(reason="POLICY"))
    settled.refused("INVALID_TRANSITION", c.reclaim, "s", 5)
    settled.ok(c.create_mapped, "t", B1, 600_000, None, 1)
    settled.ok(c.terminate, "t", 1, "POLICY")
    settled.refused("INVALID_TRANSITION", c.reclaim, "t", 2)


def test_a_tombstone_comes_back_as_it_went(settled):
    """It travels without a new version: it is taken again, or it would be nowhere."""
    settled.ok(*admit(reason="POLICY"))
    settled.adopt(2)
    settled.ok(c.forget, "s", 5, "b", 2)
    for version in (4, 5):
        settled.ok(*admit(at_epoch=2, version=version))
        assert settled.machine.departed == {"s": Mark(5, 2)}
    settled.ok(*admit(at_epoch=2, reason="POLICY"))
    assert (settled.record().state, settled.record().state_version, settled.machine.departed) == (TERMINATED, 5, {})


def test_a_session_that_lives_here_is_never_replaced(settled):
    """An older version of it is known; a newer one would be a fork, and is refused: also against a tombstone."""
    settled.ok(c.create_mapped, "s", B1, 600_000, None, 1)
    settled.ok(*admit(epoch=1, version=1))
    for version in (2, 9):
        settled.refused("INVALID_TRANSITION", *admit(version=version))
        settled.refused("INVALID_TRANSITION", *admit(version=version, reason="POLICY"))
    settled.ok(c.terminate, "s", 1, "POLICY")
    settled.refused("INVALID_TRANSITION", *admit(version=3))


def test_a_session_comes_back_over_its_mark_and_over_its_record(settled):
    """Home again under a newer version, before or after it was forgotten here; under an older one it is known."""
    settled.away("s")
    settled.away("t")
    settled.adopt(2)
    settled.ok(c.forget, "s", 3, "b", 2)
    for sid in "st":
        settled.ok(*admit(sid, 2, version=3))
        assert settled.machine.departed == {"s": Mark(3, 2)}
        assert sid == "s" or settled.record("t").owner == "b"
    for sid in "st":
        settled.ok(*admit(sid, 2, epoch=3, version=4))
        assert (settled.record(sid).owner, settled.record(sid).state_version) == ("a", 4)
        assert settled.record(sid).owned_since == settled.driver.index
        settled.ok(c.resume, sid, 4, B1)
    assert settled.machine.departed == {}
    settled.refused("VERSION_MISMATCH", c.forget, "t", 3, "b", 2)
    settled.refused("VERSION_MISMATCH", c.reclaim, "t", 3, 2)


def test_an_id_that_began_anew_is_taken_whatever_its_mark_says(settled):
    """Its node was lost, another one began it again: transferred after it went from here, its version is no past."""
    settled.away()
    settled.ok(c.forget, "s", 3, "b")
    settled.adopt(2, "ac")
    settled.adopt(3, "ac")
    settled.ok(*admit(at_epoch=3, epoch=2, version=3, moved_at=3))
    assert (settled.record().owner, settled.record().state_version, settled.machine.departed) == ("a", 3, {})
    settled.adopt(4)
    settled.away("t")
    settled.adopt(5)
    settled.ok(c.forget, "t", 3, "b", 5)
    settled.adopt(6)
    for moved_at in (1, 3, 4):  # from before: it was here, and went on from here
        settled.ok(*admit("t", 6, version=3, moved_at=moved_at))
        assert settled.machine.get("t") is None
    settled.ok(*admit("t", 6, epoch=1, version=2, reason="POLICY"))
    assert (settled.record("t").state, settled.machine.departed) == (TERMINATED, {})


def test_a_transfer_says_under_which_mapping_it_was_made(settled):
    """That of its entry, whatever its proposer went by: its taker tells by it what it has given away since."""
    settled.ok(c.create_mapped, "s", B1, 600_000, None, 1)
    settled.ok(c.freeze, "s", 1, "MAPPING", "b")
    settled.adopt(2)
    settled.ok(c.transfer, "s", 2)
    assert settled.record().owner_inc == 2


def test_an_admitted_session_expires_to_the_millisecond(settled):
    """One that arrives after its TTL is here, and dead before anybody can use it."""
    settled.ok(*admit(expires=1_500))
    settled.ok(*admit("late", created=1, expires=900))
    settled.refused("SESSION_EXPIRED", c.resume, "late", 5, B1)
    settled.ok(c.sweep, [("late", 5), ("s", 5)])
    assert settled.record("late").state == TERMINATED
    assert settled.record("late").reason == "TTL_EXPIRED"
    settled.driver.now_ms = 1_499
    settled.ok(c.resume, "s", 5, B1)
    settled.driver.now_ms = 1_500
    settled.refused("SESSION_EXPIRED", c.reattach, "s", 6, B1)


def test_an_admitted_session_that_nobody_resumes_recovers(settled):
    """After the freeze timeout it waits in the reattach window like any other."""
    settled.ok(*admit())
    settled.driver.now_ms += 10_000
    settled.driver.do("a", c.renew_lease)
    settled.ok(c.sweep, [("s", 5)])
    assert (settled.record().state, settled.record().state_version) == (RECOVERING, 6)


def test_a_session_from_the_future_began_at_the_latest_now(settled):
    """Clocks of two machines differ: the beginning is cut to what this one can have seen."""
    settled.ok(*admit(created=5_000))
    assert settled.record().created_at_ms == settled.driver.now_ms


def test_sessions_and_marks_share_one_limit(settled):
    """Marks count, a session that takes the place of its mark does not count twice, and a return is never too many."""
    settled.away("s")
    settled.away("t")
    settled.ok(c.forget, "s", 3, "b")
    settled.driver.do("a", c.configure, {"sessions_max": 2})
    settled.refused("LIMIT_EXCEEDED", c.create_mapped, "u", B1, 600_000, None, 1)
    settled.refused("LIMIT_EXCEEDED", *admit("u"))
    settled.ok(*admit("s"))
    settled.ok(*admit("t"))
    settled.driver.do("a", c.configure, {"sessions_max": 3})
    settled.ok(*admit("u"))


def test_a_failed_move_can_be_taken_back_and_made_again(settled):
    """Given, declined, reclaimed, resumed, given again: versions and epochs only grow."""
    settled.away()
    settled.ok(c.reclaim, "s", 3)
    settled.ok(c.resume, "s", 4)
    settled.ok(c.freeze, "s", 5, "MAPPING", "c")
    settled.ok(c.transfer, "s", 6)
    s = settled.record()
    assert (s.owner, s.epoch, s.state_version) == ("c", 4, 7)
    settled.refused("INVALID_TRANSITION", c.forget, "s", 7, "b")
    settled.ok(c.forget, "s", 7, "c")


def test_expired_and_away_it_can_still_be_taken_back_and_then_ends(settled):
    """What never arrived must end here: reclaimed after its TTL it is swept, and cannot be resumed."""
    settled.away()
    settled.driver.now_ms = settled.record().expires_at_ms
    settled.driver.do("a", c.renew_lease)
    settled.ok(c.reclaim, "s", 3)
    settled.refused("SESSION_EXPIRED", c.resume, "s", 4)
    settled.ok(c.sweep, [("s", 4)])
    assert settled.record().state == TERMINATED


def test_invariants_hold_a_session_away_against_the_mapping(settled):
    """An owner that never joined is an error, unless the session was given to it under a mapping."""
    settled.away()
    assert invariants.check(settled.machine) == []
    settled.machine.placement = None
    assert invariants.check(settled.machine) == ["session s: owner never joined"]
