"""A snapshot takes the place of entries that this replica never saw: what may still be owned, answered, expected."""

from node_parts import INCARNATION, ME, REQUESTS, ReplicaRig
from virtual_cluster import BINDING

from raftstore.node.proposals import Request
from raftstore.ownership import commands
from raftstore.types import Reason

WIRE = tuple(BINDING)


def owner_rig() -> ReplicaRig:
    rig = ReplicaRig()
    assert rig.do(REQUESTS.create("s", BINDING, None, None, None)).reason is None
    return rig


def test_what_the_snapshot_shows_unchanged_stays_owned() -> None:
    """Same epoch, same process, still bound: nobody else can have had it."""
    rig = owner_rig()
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.create, "t", WIRE, 60_000))
    there.install()
    assert rig.owned.owns("s", 1) and rig.news.fenced_log == []


def test_what_the_snapshot_shows_changed_is_struck_off_and_told() -> None:
    """Terminated meanwhile: not owned from the moment of the installation."""
    rig = owner_rig()
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.terminate, "s", 1, "POLICY", True))
    there.install()
    assert not rig.owned.owns("s") and rig.news.fenced_log == [("s", 1, "SNAPSHOT_INSTALLED")]


def test_a_session_that_came_back_inside_the_snapshot_is_under_another_epoch() -> None:
    """Lost to another node and failed over again, bound by this process's own late op: the old epoch is fenced."""
    rig = owner_rig()
    there = rig.elsewhere()
    late = rig.submit(REQUESTS.failover("s", 2, BINDING, None))
    late.pending.request.binds = False  # nobody is told, so nothing is granted
    rig.stamp_ms += 60_000
    there.entry(("vpn-2", 202, 0, [commands.renew_lease(901, 2**50), commands.failover(902, 2**50, "s", 1, WIRE)]))
    there.entry(("vpn-2", 202, 0, [commands.leave(903, 2**50)]))
    there.entry((ME, INCARNATION, 0, [commands.renew_lease(904, 2**50)]))
    rig.stamp_ms -= 60_000
    there.entry((ME, INCARNATION, 0, [commands.failover(late.pending.seq, 2**50, "s", 2, WIRE)]))
    assert there.machine.sessions["s"][1:4] == (1, ME, 3)
    there.install()
    assert not rig.owned.owns("s") and rig.news.fenced_log == [("s", 1, "SNAPSHOT_INSTALLED")]


def test_callers_learn_from_the_snapshot_what_became_of_their_ops() -> None:
    """A committed binding that still stands is granted, a refused one is refused, an unseen op goes on waiting."""
    rig = owner_rig()
    bound = rig.submit(REQUESTS.reattach("s", 1, BINDING, None, None))
    refused = rig.submit(REQUESTS.renew("s", 9, 60_000, None))
    unseen = rig.submit(REQUESTS.create("u", BINDING, None, None, None))
    there = rig.elsewhere()
    there.entry(rig.group(bound, refused))
    there.install()
    assert bound.answers[0].reason is None and rig.owned.owns("s", 1)
    assert refused.answers[0].reason is Reason.VERSION_MISMATCH
    assert unseen.answers == []
    rig.commit(unseen)
    assert unseen.answers[0].reason is None and rig.owned.owns("u")


def test_a_binding_that_the_snapshot_shows_superseded_is_answered_and_fenced() -> None:
    """Its caller hears "committed"; the embedder hears at once that it is past."""
    rig = ReplicaRig()
    bound = rig.submit(REQUESTS.create("s", BINDING, None, None, None))
    there = rig.elsewhere()
    there.entry(rig.group(bound))
    there.entry(rig.group_by("vpn-2", commands.terminate, "s", 1, "POLICY", True))
    there.install()
    assert bound.answers[0].reason is None and not rig.owned.owns("s")
    assert rig.news.fenced_log == [("s", 1, "SNAPSHOT_INSTALLED")]


def test_a_binding_of_unknown_outcome_found_in_the_snapshot_is_late() -> None:
    """Remembered by the machine: reported as late, not owned."""
    rig = owner_rig()
    held = rig.submit(REQUESTS.create("other", None, None, None, None))  # keeps the machine's memory open
    told = rig.submit(REQUESTS.create("t", BINDING, None, None, None), timeout_ms=100)
    rig.clock.pass_ms(100)
    for pending, answer in rig.proposals.out_of_patience(rig.clock.ns, rig.replica.machine.clock_ms):
        rig.replica.finish(pending, answer, rig.clock.ns)
    assert [a.decided for a in told.answers] == [False] and held.answers == []
    there = rig.elsewhere()
    there.entry(rig.group(told))
    there.install()
    assert not rig.owned.owns("t") and [r.session_id for r in rig.news.late_log] == ["t"]


def test_an_unknown_giving_up_that_the_snapshot_does_not_decide_stays_under_way() -> None:
    """It may stand in an entry behind the snapshot: until it cannot, no binding counts here."""
    rig = owner_rig()
    bind = rig.submit(REQUESTS.reattach("s", 1, BINDING, None, None), timeout_ms=9_000)
    freeze = rig.submit(REQUESTS.freeze("s", 2, "MIGRATION", "vpn-2", None))
    rig.tell_unknown(freeze)
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.create, "t", WIRE, 60_000))
    there.install()
    rig.commit(bind)
    assert bind.answers[0].reason is None and not rig.owned.owns("s")
    rig.commit(freeze)
    assert rig.record("s").target == "vpn-2"


def test_an_unknown_giving_up_that_is_closed_in_the_snapshot_holds_nothing_up() -> None:
    """The machine has forgotten it and refuses it from now on: its fate stays unknown, a new binding counts."""
    rig = owner_rig()
    gone = rig.submit(REQUESTS.detach("s", 1, "ROAMING", None))
    rig.tell_unknown(gone)
    after = rig.submit(REQUESTS.create("t", BINDING, None, None, None))
    there = rig.elsewhere()
    there.entry(rig.group(gone))
    there.entry(rig.group(after))
    there.install()
    outcome = rig.proposals.outcome(gone.pending.seq)
    assert outcome is not None and not outcome.decided
    assert rig.do(REQUESTS.reattach("s", rig.record("s").state_version, BINDING, None, None)).reason is None
    assert rig.owned.owns("s")


def test_a_renewal_that_the_snapshot_covers_lengthens_no_lease() -> None:
    """The parameters it was granted under may be others than those known here, before and after."""
    rig = ReplicaRig()
    renewal = rig.submit(rig_renewal())
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.configure, {"lease_ttl_ms": 100}))
    there.entry(rig.group(renewal))
    there.entry(rig.group_by("vpn-2", commands.configure, {"lease_ttl_ms": 3_000}))
    there.install()
    assert renewal.answers[0].reason is None
    assert rig.replica.holder_lease_ns() == 0


def test_a_session_that_was_assigned_inside_the_snapshot_is_handed_out() -> None:
    """Its embedder could not resume it otherwise."""
    rig = ReplicaRig()
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.create, "s", WIRE, 60_000))
    there.entry(rig.group_by("vpn-2", commands.freeze, "s", 1, "DRAIN", ME))
    there.entry(rig.group_by("vpn-2", commands.transfer, "s", 2))
    there.install()
    assert rig.news.assigned_log == ["s"]


def test_a_newer_process_inside_the_snapshot_supersedes_this_one() -> None:
    """The node learns it from the state as well as from an entry, and no op of it is waited for."""
    rig = owner_rig()
    gone = rig.submit(REQUESTS.detach("s", 1, "ROAMING", None))
    rig.tell_unknown(gone)
    there = rig.elsewhere()
    there.entry((ME, INCARNATION + 1, 0, [commands.join(1, 2**50)]))
    there.install()
    assert rig.news.superseded_by == INCARNATION + 1
    assert rig.proposals.undecided() == []


def test_events_in_memory_stay_dense_over_a_snapshot() -> None:
    """Numbers jump at a snapshot, and followers count positions: what came before is left to the files."""
    rig = owner_rig()
    assert len(rig.replica.recent_events) > 0
    there = rig.elsewhere()
    there.entry(rig.group_by("vpn-2", commands.create, "t", WIRE, 60_000))
    there.install()
    rig.by("vpn-2", commands.create, "u", WIRE, 60_000)
    newest = rig.replica.machine.event_seq
    assert rig.replica.recent_events.after(0, 100) is None
    events = rig.replica.recent_events.after(newest - 1, 100)
    assert events is not None and [event[0] for event in events] == [newest]


def rig_renewal() -> Request:
    return Request("renew_lease", None, commands.renew_lease, None)
