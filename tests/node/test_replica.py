"""What an applied entry means for this process: grants, strikes, late commits, chain heads."""

import pytest
from node_parts import INCARNATION, ME, MS, REQUESTS, ReplicaRig
from virtual_cluster import BINDING

from raftstore.node.replica import ReplicaDiverged
from raftstore.ownership import commands
from raftstore.types import Reason, SessionState

WIRE = tuple(BINDING)


def owner_rig() -> ReplicaRig:
    rig = ReplicaRig()
    assert rig.do(REQUESTS.create("s", BINDING, None, None, None)).reason is None
    assert rig.owned.owns("s", 1)
    return rig


def test_a_binding_is_owned_in_the_moment_its_caller_is_told() -> None:
    """Create with a binding, reattach and resume grant; create without one does not."""
    rig = owner_rig()
    assert rig.do(REQUESTS.reattach("s", 1, BINDING, 1, None)).record.state_version == 2
    assert rig.owned.owns("s", 1)
    assert rig.do(REQUESTS.create("t", None, None, None, None)).reason is None
    assert not rig.owned.owns("t")


def test_a_refused_binding_grants_nothing() -> None:
    """The session is another node's: OWNERSHIP_CONFLICT, with its record, and not owned here."""
    rig = ReplicaRig()
    rig.by("vpn-2", commands.create, "s", WIRE, 60_000)
    answer = rig.do(REQUESTS.reattach("s", 1, BINDING, None, None))
    assert answer.reason is Reason.OWNERSHIP_CONFLICT and answer.record.owner == "vpn-2"
    assert not rig.owned.owns("s")


def test_nobody_else_s_entry_grants_anything_here() -> None:
    """A group of an older process under this node's own id makes this process no owner."""
    rig = ReplicaRig()
    rig.entry((ME, INCARNATION + 1, 0, [commands.join(1, 2**50)]))
    rig.entry((ME, INCARNATION + 1, 0, [commands.create(2, 2**50, "s", WIRE, 60_000, None)]))
    assert rig.record("s").owner == ME
    assert not rig.owned.owns("s")
    assert rig.news.superseded_by == INCARNATION + 1


def test_a_session_bound_by_another_process_of_this_node_is_struck_off() -> None:
    """Same owner, same epoch, but a newer incarnation bound it: this process may not act for it."""
    rig = owner_rig()
    rig.entry((ME, INCARNATION + 1, 0, [commands.join(1, 2**50)]))
    rig.stamp_ms += 60_000
    rig.entry((ME, INCARNATION + 1, 0, [commands.renew_lease(2, 2**50)]))
    rig.entry((ME, INCARNATION + 1, 0, [commands.reattach(3, 2**50, "s", 1, WIRE, None)]))
    assert rig.record("s").epoch == 1 and rig.record("s").owner_inc == INCARNATION + 1
    assert not rig.owned.owns("s")
    assert [entry[:2] for entry in rig.news.fenced_log] == [("s", 1)]


def test_a_session_that_came_back_under_a_newer_epoch_is_not_owned_by_the_old_binding() -> None:
    """Away and back in one entry, bound for a caller that had left: the epoch on the list is a former one."""
    rig = owner_rig()
    freeze = rig.submit(REQUESTS.freeze("s", 1, "MIGRATION", "vpn-2", None))
    rig.commit(freeze)
    rig.owned.grant("s", 1, 2**60)  # as if the list had kept it
    there = [commands.transfer(901, 2**50, "s", 2)]
    back = [commands.resume(902, 2**50, "s", 3, WIRE), commands.freeze(903, 2**50, "s", 4, "MIGRATION", ME)]
    home = commands.transfer(904, 2**50, "s", 5)
    resume = rig.submit(REQUESTS.resume("s", 6, None, None))
    again = rig.submit(REQUESTS.reattach("s", 7, BINDING, None, None))
    again.pending.request.binds = False  # nobody is told, so nothing is granted
    rig.entry((ME, INCARNATION, 0, there), ("vpn-2", 202, 0, [*back, home]), rig.group(resume, again))
    assert rig.record("s")[1:4] == (SessionState.ATTACHED, ME, 3)
    assert not rig.owned.owns("s") and rig.news.fenced_log == [("s", 1, "OWNER_CHANGED")]


def test_a_failover_by_another_node_strikes_off() -> None:
    """The epoch that was lost is told, so that it can be refused downstream."""
    rig = owner_rig()
    rig.stamp_ms += 60_000
    rig.entry(*[(n, i, 0, [commands.renew_lease(50, 2**50)]) for n, i in (("vpn-2", 202), ("vpn-3", 303))])
    rig.by("vpn-2", commands.failover, "s", 1, WIRE)
    assert rig.record("s").owner == "vpn-2" and not rig.owned.owns("s")
    assert [entry[:2] for entry in rig.news.fenced_log] == [("s", 1)]


def test_an_operator_s_terminate_elsewhere_strikes_off() -> None:
    """The reason of the transition is what the embedder hears."""
    rig = owner_rig()
    rig.by("vpn-2", commands.terminate, "s", 1, "POLICY", True)
    assert not rig.owned.owns("s") and rig.news.fenced_log == [("s", 1, "POLICY")]


def test_a_transferred_session_is_handed_to_its_new_owner_s_embedder() -> None:
    """Assigned when the transfer is applied; owned only by the resume."""
    rig = ReplicaRig()
    rig.by("vpn-2", commands.create, "s", WIRE, 60_000)
    rig.by("vpn-2", commands.freeze, "s", 1, "MIGRATION", ME)
    assert rig.news.assigned_log == []
    rig.by("vpn-2", commands.transfer, "s", 2)
    assert rig.news.assigned_log == ["s"] and not rig.owned.owns("s")
    assert rig.do(REQUESTS.resume("s", 3, BINDING, None)).record.epoch == 2
    assert rig.owned.owns("s", 2)


def test_two_changes_in_one_entry_leave_what_the_last_one_means() -> None:
    """Given up and bound again in one batch: owned at the end, and nobody hears of a fence."""
    rig = owner_rig()
    away = rig.submit(REQUESTS.detach("s", 1, "ROAMING", None))
    back = rig.submit(REQUESTS.reattach("s", 2, BINDING, None, None))
    rig.commit(away, back)
    assert back.answers[0].record.state_version == 3
    assert rig.owned.owns("s", 1) and rig.news.fenced_log == []


def test_bound_and_taken_away_in_one_entry_is_not_owned() -> None:
    """The caller hears of its commit, and the embedder of the fence behind it."""
    rig = owner_rig()
    bind = rig.submit(REQUESTS.reattach("s", 1, BINDING, None, None))
    rig.entry(rig.group(bind), rig.group_by("vpn-2", commands.terminate, "s", 2, "POLICY", True))
    assert bind.answers[0].reason is None
    assert not rig.owned.owns("s") and rig.news.fenced_log == [("s", 1, "POLICY")]


def test_no_grant_while_a_later_op_gives_the_session_up() -> None:
    """A reattach that commits after the freeze was proposed is not owned: its replica may lag behind the next owner."""
    rig = owner_rig()
    bind = rig.submit(REQUESTS.reattach("s", 1, BINDING, None, None))
    freeze = rig.submit(REQUESTS.freeze("s", 2, "MIGRATION", "vpn-2", None))
    rig.commit(bind)
    assert bind.answers[0].reason is None and not rig.owned.owns("s")
    rig.commit(freeze)
    assert rig.record("s").state == SessionState.FROZEN and not rig.owned.owns("s")


def test_a_binding_whose_caller_was_told_unknown_is_not_owned() -> None:
    """It is reported as late, with its record; the outcome can be asked for."""
    rig = ReplicaRig()
    told = rig.submit(REQUESTS.create("s", BINDING, None, None, None))
    rig.tell_unknown(told)
    rig.commit(told)
    assert len(told.answers) == 1 and not rig.owned.owns("s")
    assert [r.session_id for r in rig.news.late_log] == ["s"]
    outcome = rig.proposals.outcome(told.pending.seq)
    assert outcome is not None and outcome.decided and outcome.reason is None


def test_a_late_binding_ends_the_one_it_replaced() -> None:
    """Owned by an earlier binding, then bound anew for a caller that had left: the old transport is fenced."""
    rig = owner_rig()
    told = rig.submit(REQUESTS.reattach("s", 1, BINDING, None, None))
    rig.tell_unknown(told)
    assert rig.owned.owns("s", 1)
    rig.commit(told)
    assert not rig.owned.owns("s")
    assert rig.news.fenced_log == [("s", 1, "LATE_COMMIT")] and len(rig.news.late_log) == 1


def test_a_late_binding_can_be_confirmed_while_nothing_has_changed() -> None:
    """Owned after all by the embedder's word; after any further transition that word is too late."""
    rig = ReplicaRig()
    told = rig.submit(REQUESTS.create("s", BINDING, None, None, None))
    rig.tell_unknown(told)
    rig.commit(told)
    (record,) = rig.news.late_log
    assert rig.replica.confirm(record) and rig.owned.owns("s", 1)
    rig.by("vpn-2", commands.terminate, "s", 1, "POLICY", True)
    assert not rig.replica.confirm(record) and not rig.owned.owns("s")


def test_a_detach_of_unknown_outcome_keeps_the_session_given_up_until_it_is_decided() -> None:
    """While it may still commit no binding counts here; once it cannot, one does."""
    rig = owner_rig()
    gone = rig.submit(REQUESTS.detach("s", 1, "ROAMING", None))
    rig.tell_unknown(gone)
    assert rig.do(REQUESTS.reattach("s", 1, BINDING, None, None)).reason is None
    assert not rig.owned.owns("s")
    rig.stamp_ms += 2_001
    rig.by("vpn-2", commands.renew_lease)
    for pending in rig.proposals.decide_unknown(rig.replica.machine.clock_ms):
        rig.replica.finish(pending, rig.proposals.outcome(pending.seq), rig.clock.ns, waits=False)
    assert rig.do(REQUESTS.reattach("s", 2, BINDING, None, None)).reason is None
    assert rig.owned.owns("s")


def test_equal_chain_heads_are_quiet_and_a_different_one_stops_the_node() -> None:
    """Compared at once for an applied entry, and when it is applied for a later one."""
    rig = owner_rig()
    machine = rig.replica.machine
    rig.replica.compare_head(machine.index, machine.head)
    rig.replica.compare_head(10**6, bytes(32))
    with pytest.raises(ReplicaDiverged, match="entry"):
        rig.replica.compare_head(machine.index, bytes(32))
    rig.replica.compare_head(rig.index + 1, bytes(32))
    with pytest.raises(ReplicaDiverged):
        rig.by("vpn-2", commands.drain)


def test_a_session_stops_being_owned_when_its_ttl_ends_by_local_time() -> None:
    """No message is needed for that."""
    rig = ReplicaRig()
    assert rig.do(REQUESTS.create("s", BINDING, 500, None, None)).reason is None
    rig.clock.pass_ms(499)
    assert rig.owned.owns("s")
    rig.clock.pass_ms(1)
    assert not rig.owned.owns("s")


def test_a_lease_counts_only_by_the_configured_terms() -> None:
    """By other terms the machine may lose patience too early for these clocks: its holder has none, nor at a change."""
    rig = ReplicaRig()
    rig.by("vpn-2", commands.renew_lease)
    usual_ns = rig.replica.holder_lease_ns()
    assert usual_ns == 3_000 * MS * 99 // 100 - MS
    rig.by("vpn-2", commands.configure, {"lease_ttl_ms": 1_000, "max_clock_drift_ppm": 20_000})
    assert rig.replica.holder_lease_ns() == 0
    for other in ({"lease_ttl_ms": 1_000}, {"lease_ttl_ms": 9_000}, {"max_clock_drift_ppm": 1}):
        rig.by("vpn-2", commands.configure, {"lease_ttl_ms": 3_000, "max_clock_drift_ppm": 10_000} | other)
        rig.by("vpn-2", commands.renew_lease)
        assert rig.replica.holder_lease_ns() == 0
    rig.by("vpn-2", commands.configure, {"lease_ttl_ms": 3_000, "max_clock_drift_ppm": 10_000})
    assert rig.replica.holder_lease_ns() == 0
    rig.by("vpn-2", commands.renew_lease)
    assert rig.replica.holder_lease_ns() == usual_ns
