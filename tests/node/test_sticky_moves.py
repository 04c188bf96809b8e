"""A mapping change on virtual time, disturbed at every step of it: crashes, rollbacks, cuts, late and lost answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sticky_watch import AT
from sticky_world import StickyNode, StickyWorld, ids, ready_sticky, sticky_config
from virtual_cluster import BINDING

from raftstore.ownership import MappedNode, events
from raftstore.types import Reason, SessionState

SESSIONS = ids(12)
A, B, C = "vpn-1", "vpn-2", "vpn-3"
MOVE = (events.FROZE, events.OWNER_CHANGED, events.SESSION_ADMITTED, events.SESSION_HANDED_OVER)
STEPS = (*MOVE, events.MAPPING_ADOPTED, events.MAPPING_CONFIRMED, events.MAPPING_SETTLED, events.MAPPING_CLOSED)


def filled(seed: int = 1, *, on: str = A) -> StickyWorld:
    """Three nodes, and all sessions at one of them, but for one tombstone among them."""
    world = StickyWorld(seed, config=sticky_config(3, {on: 1, **{n: 0 for n in (A, B, C) if n != on}}))
    world.start_all()
    world.wait_settled()
    node = world.nodes[on]
    for session_id in SESSIONS:
        assert node.create(session_id).reason is None
    assert node.do(node.requests.terminate(SESSIONS[-1], 1, "LOGOUT", False, None)).reason is None
    return world


def whole(world: StickyWorld) -> None:
    """Every session is where it maps, alone, with the newest version; the tombstone is one."""
    for session_id in SESSIONS:
        holder, record = world.live_holder(session_id)
        assert holder == world.owner(session_id).node_id
        assert record.state_version == world.watch.lines[session_id].version
        assert (record.state == SessionState.TERMINATED) == (session_id == SESSIONS[-1])


def told(node: StickyNode, kinds: tuple[int, ...]) -> int:
    return sum(n == node.node_id and e[AT["event"]] in kinds for (n, _), e in node.world.told.items())


def crash_at_step(world: StickyWorld, victim: str, number: int) -> bool:
    """Kill a node in the instant in which its log has applied step `number` of the change; whether it came so far."""
    node = world.nodes[victim]
    before = told(node, STEPS)
    if not world.run_until(lambda: told(node, STEPS) - before >= number, 3_000):
        return False
    node.crash()
    return True


@pytest.mark.parametrize("victim", [A, B, C])
@pytest.mark.parametrize("undo", [False, True], ids=["resumed", "rolled back"])
def test_a_change_survives_a_crash_after_each_of_its_steps(victim: str, undo: bool) -> None:
    """Whoever dies and whenever: the change is completed, or taken back, with every session in one place."""
    number = 1
    while True:
        world = filled(number)
        world.nodes[A].change({B: 1, C: 1})
        if not crash_at_step(world, victim, number):
            break
        if undo:
            other = next(n for n in world.running if n.sticky.epoch() == 2)
            other.change({A: 1, B: 0, C: 0})
        world.run(300)
        world.nodes[victim].restart()
        world.wait_settled()
        whole(world)
        number += 3 if victim == A and number > 12 else 1
    assert number > 4


@pytest.mark.parametrize("victim", [A, B])
def test_a_change_survives_a_crash_at_any_time(victim: str) -> None:
    """Not only behind an applied step: also while entries and messages are on their way, with a slow disk."""
    for number in range(24):
        world = filled(number)
        world.nodes[victim].sync_ms = 7
        world.nodes[A].change({B: 1})
        world.run(number * 2.7)
        world.nodes[victim].crash()
        world.run(50)
        world.nodes[victim].restart()
        world.wait_settled()
        whole(world)


def change_while(world: StickyWorld, node: StickyNode, kind: str, mapped: list[MappedNode]) -> None:
    """Begin a change in the instant in which ops of that kind are on their way to the disk of `node`."""
    pending = node.cor.proposals._pending
    assert world.run_until(lambda: any(p.request.kind == kind for p in pending.values()), 5_000), kind
    node.sticky.change(mapped, (), None, lambda _: None)


@pytest.mark.parametrize("kind", ["freeze", "transfer", "forget"])
@pytest.mark.parametrize("to", [A, C])
def test_an_op_of_the_mapping_before_that_comes_after_the_next_one(kind: str, to: str) -> None:
    """A transfer that the log takes in behind the next mapping is in doubt, and asked about: no session stays away."""
    for sync_ms in (1, 30, 700):
        world = filled(sync_ms)
        world.nodes[A].sync_ms = sync_ms
        world.nodes[B].change({B: 1})
        change_while(world, world.nodes[A], kind, [MappedNode(to, 1, False), MappedNode(B, 0, False)])
        world.wait_settled(60_000)
        world.nodes[A].sync_ms = 1
        whole(world)


@pytest.mark.parametrize("sync_ms", [1, 30, 700, 2_600])
def test_a_reclaim_of_the_mapping_before_that_comes_after_the_next_one(sync_ms: int) -> None:
    """While a session is being taken back it is offered to nobody, whatever the next mapping says of it."""
    world = filled(sync_ms)
    cut_off = world.nodes[A]
    world.nodes[B].change({B: 1})
    assert world.run_until(lambda: told(cut_off, (events.OWNER_CHANGED,)) >= 5)
    world.cut([A])
    world.run(1_500)
    cut_off.change({A: 1, B: 0})  # the transfers are in doubt
    world.nodes[A].sync_ms = sync_ms
    world.heal()
    change_while(world, cut_off, "reclaim", [MappedNode(A, 0, False), MappedNode(B, 1, False)])
    world.wait_settled(60_000)
    cut_off.sync_ms = 1
    whole(world)


@pytest.mark.parametrize("number", range(8))
def test_a_mapping_whose_proposer_lost_patience_counts_from_its_entry_on(number: int) -> None:
    """The disk takes longer than the proposer waits: what peers answered under the mapping before has no effect."""
    world = filled(number)
    node = world.nodes[B]
    world.nodes[A].change({B: 1})
    assert world.run_until(lambda: node.sticky.epoch() == 2)
    world.run(number * 2)
    node.sync_ms = 2_400
    node.sticky.change([MappedNode(C, 1, False)], (), None, lambda _: None)
    world.run(6_000)
    node.sync_ms = 1
    world.wait_settled(60_000)
    whole(world)
    assert all(n.failed is None for n in world.running)


def test_a_session_transferred_by_an_earlier_change_is_asked_about_and_taken_back() -> None:
    """The taker never got it and, by the newer mapping, never can: it is the giver's again, one epoch on."""
    world = filled()
    world.nodes[C].change({B: 1})
    giver = world.nodes[A]
    assert world.run_until(lambda: told(giver, (events.OWNER_CHANGED,)) >= 11)
    world.cut([B])  # nothing of it ever arrives there
    giver.change({A: 1, B: 0})
    world.run(500)
    assert not giver.owns(SESSIONS[0]) and giver.reattach(SESSIONS[0]).reason is Reason.MAPPING_UNSETTLED
    world.heal()
    world.wait_settled()
    whole(world)
    record = giver.record(SESSIONS[0])
    assert (record.epoch, record.state_version) == (3, 4)
    assert giver.do(giver.requests.resume(SESSIONS[0], 4, BINDING, None)).reason is None
    assert giver.owns(SESSIONS[0], 3)


def test_a_giver_that_dies_while_it_takes_back_asks_again() -> None:
    """Nobody is told that nothing is left for him while sessions are in doubt: otherwise nobody would be asked."""
    world = filled()
    giver = world.nodes[A]
    world.nodes[C].change({B: 1})
    assert world.run_until(lambda: told(giver, (events.OWNER_CHANGED,)) >= 11)
    world.cut([B])
    giver.change({A: 1, B: 0})
    giver.sync_ms = 400
    world.heal()
    pending = giver.cor.proposals._pending
    assert world.run_until(lambda: any(p.request.kind == "reclaim" for p in pending.values()))
    world.run(60)
    giver.crash()
    giver.sync_ms = 1
    world.run(1_000)
    giver.restart()
    world.wait_settled()
    whole(world)


def test_only_what_was_transferred_to_a_peer_and_maps_elsewhere_can_be_declined_by_it() -> None:
    """Whatever a peer says: what maps to it may be on its way into its log, and others' sessions are not its."""
    world = filled()
    giver = world.nodes[A]
    world.nodes[C].change({B: 1})
    assert world.run_until(lambda: told(giver, (events.OWNER_CHANGED,)) >= 11)
    world.cut([A])
    record = giver.record(SESSIONS[0])
    for peer_id in (B, C):
        giver.sticky._giver.pulled(peer_id, 1, [], [[SESSIONS[0], record.state_version]])
    giver.sticky._giver.pulled(C, 2, [[SESSIONS[0], record.state_version]], [])
    world.run(300)
    assert giver.record(SESSIONS[0]) == record and told(giver, (events.REFUSED,)) <= 1
    world.heal()
    world.wait_settled()
    whole(world)


def test_a_session_frozen_for_another_node_is_thawed_first() -> None:
    """Its node died behind the freeze, and the next mapping sends it to a third one: never to the former target."""
    world = filled()
    giver = world.nodes[A]
    world.nodes[C].change({B: 1})
    giver.sync_ms = 30
    assert world.run_until(lambda: told(giver, (events.FROZE,)) == 11 and not told(giver, (events.OWNER_CHANGED,)))
    giver.crash()
    world.run(100)
    world.nodes[C].change({C: 1, B: 0})
    giver.restart()
    world.wait_settled(60_000)
    giver.sync_ms = 1
    whole(world)
    assert told(giver, (events.THAWED,)) >= 11
    assert told(world.nodes[B], (events.SESSION_ADMITTED,)) <= 1  # the tombstone needs no freeze


def test_a_node_owns_nothing_that_it_has_begun_to_give_away() -> None:
    """Not from the commit of the freeze on: from its proposal on."""
    world = filled()
    giver = world.nodes[A]
    assert giver.owns(SESSIONS[0])
    world.nodes[C].change({B: 1})
    assert world.run_until(lambda: any(p.request.kind == "freeze" for p in giver.cor.proposals._pending.values()))
    assert giver.record(SESSIONS[0]).state == SessionState.ATTACHED
    assert not any(giver.owns(s) for s in SESSIONS)
    world.wait_settled()


def test_a_session_that_did_arrive_is_not_taken_back() -> None:
    """The acknowledgement was lost: the taker says under the next mapping that it has it, and gives it back itself."""
    world = filled()
    world.nodes[A].change({B: 1})
    assert world.run_until(lambda: told(world.nodes[B], (events.SESSION_ADMITTED,)) >= 12)
    world.cut([B])
    world.nodes[A].change({A: 1, B: 0})
    world.run(500)
    world.heal()
    world.wait_settled()
    whole(world)
    assert world.nodes[A].record(SESSIONS[0]).epoch == 3
    assert told(world.nodes[A], (events.SESSION_ADMITTED,)) >= 1


def test_a_tombstone_stays_final_wherever_it_goes() -> None:
    """It travels there and back, twice, and to a third node: the id is never free again."""
    world = filled()
    tombstone = SESSIONS[-1]
    for at in (B, A, B, C, A):
        world.nodes[A].change({at: 1, **{n: 0 for n in (A, B, C) if n != at}})
        world.wait_settled()
        whole(world)
        assert world.nodes[at].create(tombstone).reason is Reason.SESSION_TERMINATED
        assert world.nodes[at].record(tombstone).state_version == 2


def test_thousands_of_sessions_move_in_batches() -> None:
    """More than a scan slice and many messages: all arrive, none twice, and `left` counts down to nothing."""
    world = StickyWorld(config=sticky_config(2, {B: 0}))
    world.start_all()
    world.wait_settled()
    node = world.nodes[A]
    session_ids = ids(2_300)
    callers = [node.submit(node.requests.create(s, BINDING, 600_000, None, 10_000)) for s in session_ids]
    assert world.run_until(lambda: all(c.answer is not None for c in callers))
    world.check_owners = lambda: None  # type: ignore[method-assign]  # thousands at every event take too long
    node.change({A: 0, B: 1})
    assert node.sticky.left() is None  # not counted yet
    assert world.run_until(lambda: node.sticky.left() is not None and len(node.sticky.machine.departed) > 0)
    left = node.sticky.left()
    assert left is not None and 0 < left[B] <= 2_300
    world.wait_settled(60_000)
    assert node.sticky.left() == {} and len(node.sticky.machine.departed) == 2_300
    assert len(world.nodes[B].assigned_log) == 2_300 == len(set(world.nodes[B].assigned_log))
    assert len(node.fenced_log) == 0 or {s for s, _, _ in node.fenced_log} <= set(session_ids)


def test_the_embedder_of_the_new_node_resumes_what_it_is_given() -> None:
    """It owns it from its resume on, under the next epoch; the old node refuses with the right one."""
    world = filled()
    world.nodes[C].change({B: 1})
    world.wait_settled()
    new, old = world.nodes[B], world.nodes[A]
    assert sorted(new.assigned_log) == sorted(SESSIONS[:-1])
    session_id = SESSIONS[0]
    assert not new.owns(session_id) and not old.owns(session_id)
    version = new.record(session_id).state_version
    assert new.do(new.requests.resume(session_id, version, BINDING, None)).reason is None
    assert new.owns(session_id, 2)
    answer = old.reattach(session_id)
    assert answer.reason is Reason.OWNERSHIP_CONFLICT and answer.owner == B


def test_a_caller_without_patience_does_not_keep_a_session_from_leaving() -> None:
    """A binding that commits late, while its session is on its way out, is owned by nobody."""
    world = filled()
    node = world.nodes[A]
    node.sync_ms = 400
    caller = node.submit(node.requests.reattach(SESSIONS[0], 1, BINDING, None, 20))
    world.nodes[B].change({B: 1})
    world.run(400)
    node.sync_ms = 1
    world.wait_settled()
    whole(world)
    assert caller.answer is not None and not node.owns(SESSIONS[0])


@pytest.mark.parametrize("part", [(A,), (B,), (A, B)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ttl_never_grows_on_the_way(part: tuple[str, ...], seed: int) -> None:
    """Through partitions, stops and clocks that differ, a session ends when it would have ended where it was."""
    world = StickyWorld(seed, config=sticky_config(2, {B: 0}), drift_ppm=9_900)
    world.start_all()
    world.wait_settled()
    node = world.nodes[A]
    node.create("s", 8_000)
    began = world.now
    node.change({A: 0, B: 1})
    world.run(seed * 3)
    world.cut([A])
    for victim in part:
        world.nodes[victim].crash()
    world.run(3_000)
    for victim in part:
        world.nodes[victim].restart()
    world.heal()
    assert world.run_until(lambda: len(world.nodes[B].assigned_log) > 0, 5_000)
    taker = world.nodes[B]
    assert taker.do(taker.requests.resume("s", taker.record("s").state_version, BINDING, None)).reason is None
    assert taker.owns("s")
    assert world.run_until(lambda: not taker.owns("s"), 9_000)
    passed_ms = (world.now - began) / 1e6
    assert 7_000 < passed_ms < 8_200, passed_ms
    assert world.run_until(lambda: taker.record("s").state == SessionState.TERMINATED, 2_000)
    world.wait_settled()


def test_a_ttl_counts_from_before_the_question_however_late_the_answer_comes() -> None:
    """The answer is nearly a second on its way: the session ends no later for it."""
    world = StickyWorld(config=sticky_config(2, {B: 0}))
    world.start_all()
    world.wait_settled()
    node, taker = world.nodes[A], world.nodes[B]
    node.create("s", 5_000)
    expires_ns = world.now + 5_000_000_000
    receive = taker.sticky.receive
    taker.sticky.receive = lambda p, m: taker.call_later(0.9, receive, p, m)  # type: ignore[method-assign,assignment,return-value]
    node.change({A: 0, B: 1})
    assert world.run_until(lambda: "s" in taker.sticky.machine.sessions, 20_000)
    left_ms = taker.record("s").expires_at_ms - taker.cor.cluster_clock.now_ms()
    assert left_ms <= (expires_ns - world.now) / 1e6 + 20


def test_what_the_taker_cannot_take_in_stays_with_the_giver() -> None:
    """Its machine is full: it says so, acknowledges nothing, and takes the rest when there is room again."""
    world = filled()
    taker = world.nodes[B]
    limit = taker.sticky.machine.params["sessions_max"]
    taker.cor.leader._configuring = True  # so that the limit stays as it is set here
    taker.sticky.machine.params["sessions_max"] = 4
    world.nodes[A].change({B: 1})
    world.run(2_000)
    assert len(taker.sticky.machine.sessions) == 4 and "SESSION_NOT_ADMITTED" in taker.reports
    assert len(world.nodes[A].sticky.machine.sessions) == 8
    taker.sticky.machine.params["sessions_max"] = limit
    world.wait_settled()
    whole(world)


def test_a_session_that_ends_on_its_way_arrives_as_ended() -> None:
    """Its TTL passes while nobody can fetch it: the taker gets it, and ends it without anybody acting for it."""
    world = StickyWorld(config=sticky_config(2, {B: 0}))
    world.start_all()
    world.wait_settled()
    node = world.nodes[A]
    node.create("s", 2_000)
    node.change({A: 0, B: 1})
    assert world.run_until(lambda: told(node, (events.OWNER_CHANGED,)) == 1)
    world.cut([A])
    world.run(4_000)
    world.heal()
    world.wait_settled()
    assert world.run_until(lambda: world.nodes[B].record("s").state == SessionState.TERMINATED)
    assert world.nodes[B].record("s").reason == "TTL_EXPIRED"


def test_links_that_blink_all_the_time_only_slow_a_change_down() -> None:
    """Every few milliseconds all that is on its way is lost, and a new link stands at once."""
    for period_ms in (3, 5, 9):
        world = filled(period_ms)
        world.nodes[A].change({B: 1, C: 1})
        for _ in range(60):
            world.run(period_ms)
            for one, other in ((A, B), (A, C), (B, C)):
                world.nodes[one].lose_peer(other, False)
                world.nodes[other].lose_peer(one, False)
            world.heal()
        world.wait_settled()
        whole(world)


def test_answers_that_come_a_second_time_or_too_late_change_nothing() -> None:
    """A frame of an earlier question is passed over; the same one twice finds what it brings already here."""
    world = filled()
    taker, frames = world.nodes[B], []
    receive: Callable[[str, bytes], None] = taker.sticky.receive

    def keep(peer_id: str, payload: bytes) -> None:
        frames.append((peer_id, payload))
        receive(peer_id, payload)
        receive(peer_id, payload)

    taker.sticky.receive = keep  # type: ignore[method-assign]
    world.nodes[A].change({B: 1})
    world.wait_settled()
    whole(world)
    for to in ({A: 1}, {B: 1}, {C: 1}):
        world.nodes[A].change(to)
        world.run(4)
        for peer_id, payload in frames[-30:]:
            receive(peer_id, payload)
        world.wait_settled()
        whole(world)


def test_a_drained_node_gives_everything_away_and_serves_on_as_a_door() -> None:
    """Draining leaves it in the mapping without a session; without the mark it gets its share again."""
    world = ready_sticky()
    for session_id in SESSIONS:
        world.owner(session_id).create(session_id)
    world.nodes[A].change({A: 1, B: 1, C: 1}, draining=[A])
    world.wait_settled()
    assert not world.nodes[A].sticky.machine.sessions
    assert all(world.owner(s).node_id != A for s in SESSIONS)
    world.nodes[B].change({A: 1, B: 1, C: 1})
    world.wait_settled()
    assert world.nodes[A].sticky.machine.sessions
    for session_id in SESSIONS:
        world.live_holder(session_id)
