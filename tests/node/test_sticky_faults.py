"""Bad input and faults around mappings: nodes that are down, that missed changes, that go by different ones."""

from __future__ import annotations

from random import Random

import pytest
from sticky_world import StickyNode, StickyWorld, ids, ready_sticky, sticky_config
from virtual_cluster import BINDING

from raftstore.errors import InvalidArgument, Unavailable
from raftstore.node.proposals import Answer
from raftstore.ownership import MappedNode
from raftstore.types import Reason, SessionState

A, B, C, D = "vpn-1", "vpn-2", "vpn-3", "vpn-4"
EVEN = {A: 1, B: 1, C: 1}
SESSIONS = ids(40)
TTL_MAX_MS = 20_000


def filled(**options: object) -> StickyWorld:
    """Three settled nodes, each with the sessions that map to it."""
    world = ready_sticky(**options)  # type: ignore[arg-type]
    for session_id in SESSIONS:
        assert world.owner(session_id).create(session_id).reason is None
    return world


def whole(world: StickyWorld) -> None:
    """Every session is where it maps, alone, with the newest version."""
    for session_id in SESSIONS:
        holder, record = world.live_holder(session_id)
        assert holder == world.owner(session_id).node_id
        assert record.state_version == world.watch.lines[session_id].version


def serves(node: StickyNode, session_id: str) -> bool:
    return node.sticky.refusal(session_id) is None


# -- down, and by themselves ------------------------------------------------------------------------------------------


def test_a_session_of_a_node_that_is_down_is_unavailable_and_the_answer_says_where() -> None:
    """No other node takes it; the refusal names the node and what ends the wait."""
    world = filled()
    session_id = next(s for s in SESSIONS if world.owner(s).node_id == C)
    world.nodes[C].crash()
    world.run(100)
    answer = world.nodes[A].reattach(session_id)
    assert answer.reason is Reason.OWNERSHIP_CONFLICT and answer.owner == C
    assert all(said in answer.detail for said in ("not connected", f"until {C} is back", f"set --lost {C}"))
    assert all(serves(world.owner(s), s) for s in SESSIONS if world.owner(s).node_id != C)
    world.nodes[C].restart()
    world.wait_settled()
    world.run(4_000)  # until the lease of its former process has lapsed
    assert world.nodes[C].reattach(session_id).reason is None


def test_a_node_cut_off_serves_its_own_sessions_on() -> None:
    """No transition needs another node: that is the point of the strategy."""
    world = filled()
    world.cut([A])
    world.run(5_000)
    for session_id in SESSIONS:
        if world.owner(session_id).node_id == A:
            assert world.nodes[A].owns(session_id)
            assert world.nodes[A].reattach(session_id).reason is None


@pytest.mark.parametrize("missed", [1, 3])
def test_a_node_that_missed_changes_catches_up_with_the_newest(missed: int) -> None:
    """It comes back with an old epoch, adopts the newest one, and gives away what is not its any more."""
    world = filled()
    world.nodes[C].crash()
    for number in range(missed):
        world.nodes[A].change({A: 1, B: 1 + number, C: 1})
    others = [s for s in SESSIONS if world.owner(s).node_id == A and serves(world.nodes[A], s)]
    assert others  # what no mapping ever sent elsewhere is served on
    world.nodes[C].restart()
    world.wait_settled()
    assert world.nodes[C].sticky.epoch() == 1 + missed
    whole(world)


def test_until_a_missing_node_has_confirmed_nobody_makes_what_it_may_hold() -> None:
    """The id maps here now, and the node where it did may have it: unavailable, and the answer names that node."""
    world = filled()
    world.nodes[C].crash()
    at_c = [s for s in SESSIONS if world.owner(s).node_id == C]
    world.nodes[A].change({A: 1, B: 1})
    world.run(2_000)
    for session_id in at_c:
        answer = world.owner(session_id).create(session_id)
        assert answer.reason is Reason.MAPPING_UNSETTLED and C in answer.detail
    world.nodes[C].restart()
    world.wait_settled()
    assert world.nodes[C].sticky.machine.sessions == {}
    whole(world)


# -- founding ---------------------------------------------------------------------------------------------------------


def test_nothing_is_founded_while_a_node_is_missing() -> None:
    """Each would start a world of its own; the refusal says what is waited for."""
    world = StickyWorld()
    world.nodes[A].start()
    world.nodes[B].start()
    world.heal()
    world.run(3_000)
    answer = world.nodes[A].create("s")
    assert answer.reason is Reason.MAPPING_UNSETTLED and "waits until all nodes" in answer.detail
    assert world.nodes[A].sticky.status()["waits_for"] == [C]
    world.nodes[C].restart()
    world.wait_settled()


def test_nodes_with_different_tables_found_nothing() -> None:
    """Both say that their cluster.conf differ; nobody takes a session."""
    world = StickyWorld()
    for node_id, weight in ((A, 1), (B, 1), (C, 2)):
        world.config = sticky_config(3, {C: weight})
        world.nodes[node_id].start()
    world.heal()
    world.run(3_000)
    assert all(node.sticky.epoch() == 0 for node in world.running)
    assert all("MAPPING_MISMATCH" in node.reports for node in world.running)


def test_weights_of_zero_take_nothing_and_all_zero_is_refused() -> None:
    """A node of weight 0 is a door without a room; a mapping without any room is no mapping."""
    world = filled()
    with pytest.raises(InvalidArgument):
        world.nodes[A].change({A: 0, B: 0, C: 0})
    with pytest.raises(InvalidArgument):
        world.nodes[A].change({A: 1, B: 0}, draining=[A])
    world.nodes[A].change({A: 0, B: 1, C: 1})
    world.wait_settled()
    assert world.nodes[A].sticky.machine.sessions == {}
    whole(world)


# -- two mappings -----------------------------------------------------------------------------------------------------


def conflict(world: StickyWorld, first: dict[str, int], second: dict[str, int]) -> None:
    """A and C make two mappings of one epoch while they cannot hear each other."""
    world.cut([A])
    world.nodes[A].change(first)
    world.nodes[C].change(second)
    world.run(1_500)
    world.heal()
    world.run(1_500)


def test_two_mappings_of_one_epoch_stop_exactly_what_they_dispute() -> None:
    """Where both send a session to the same node it is served on; where not, nobody owns it; the next epoch ends it."""
    world = filled()
    conflict(world, {A: 3, B: 1, C: 1}, {A: 1, B: 1, C: 3})
    by_a, by_c = world.nodes[A].sticky.gate, world.nodes[C].sticky.gate
    disputed = {s for s in SESSIONS if by_a.owner(s) != by_c.owner(s)}
    assert 5 < len(disputed) < 35
    assert {n.sticky.epoch() for n in world.running} == {2}
    assert all("MAPPING_MISMATCH" in node.reports for node in world.running)
    for session_id in SESSIONS:
        owning = [n.node_id for n in world.running if n.owns(session_id)]
        serving = [n.node_id for n in world.running if serves(n, session_id)]
        if session_id in disputed:
            assert owning == [] == serving
            refusals = [n.sticky.refusal(session_id) for n in (world.nodes[A], world.nodes[C])]
            assert all(r is not None for r in refusals)
            assert any(r is not None and "disagree" in r.detail for r in refusals) or by_a.owner(session_id) == C
        elif world.nodes[A].sticky.gate.owner(session_id) == A:
            moved = world.nodes[A].record(session_id).epoch > 1
            assert serving == [A] and (owning == [A] or moved)
    world.run(60_000)
    assert not world.settled()  # it does not go away by itself
    world.nodes[B].change(EVEN)
    world.wait_settled()
    whole(world)
    assert all(serves(world.owner(s), s) for s in SESSIONS)


def test_a_binding_that_was_on_its_way_when_the_dispute_began_is_not_owned() -> None:
    """The log takes it; the node does not act by it."""
    world = filled()
    conflict_at = world.nodes[A]
    world.cut([A])
    world.nodes[C].change({A: 1, B: 1, C: 9})
    conflict_at.change({A: 2, B: 1, C: 1})
    world.run(1_500)
    ours = [s for s in SESSIONS if conflict_at.owns(s) and world.nodes[C].sticky.gate.owner(s) == C]
    assert ours
    conflict_at.sync_ms = 300
    requests = [
        conflict_at.requests.reattach(s, conflict_at.record(s).state_version, BINDING, None, None) for s in ours
    ]
    for request in requests:
        assert conflict_at.submit(request).refused is None
    world.heal()
    world.run(2_000)
    assert not any(conflict_at.owns(s) for s in ours)
    assert all(conflict_at.record(s).state_version == 2 for s in ours)


def test_what_one_side_of_a_conflict_gave_away_is_waited_for_by_the_other() -> None:
    """C gave sessions to D by a mapping of which the maker of the next never heard: D is waited for all the same."""
    world = StickyWorld(config=sticky_config(4, {D: 0}))
    world.start_all()
    world.wait_settled()
    for session_id in SESSIONS:
        assert world.owner(session_id).create(session_id).reason is None
    world.nodes[A].change(EVEN)  # D is out, and all know it
    world.wait_settled()
    assert world.nodes[A].sticky.machine.placement is not None
    assert world.nodes[A].sticky.machine.placement.involved == (A, B, C)
    world.cut([C, D])
    world.nodes[C].change({A: 1, B: 1, C: 1, D: 5})
    world.nodes[A].change({A: 1, B: 2, C: 1})
    assert world.run_until(lambda: len(world.nodes[D].assigned_log) > 3, 5_000)
    world.nodes[D].crash()
    world.nodes[A].change({A: 3, B: 1, C: 1})  # knows nothing of D
    world.heal()
    world.run(5_000)
    given = [s for s in SESSIONS if s in world.nodes[C].sticky.machine.departed]
    assert given
    for session_id in given:
        answer = world.owner(session_id).create(session_id)
        assert answer.reason is not None
        assert answer.reason is Reason.OWNERSHIP_CONFLICT or D in answer.detail
    assert not world.settled()
    world.nodes[D].restart()
    world.wait_settled()
    whole(world)


def test_a_change_is_closed_only_when_all_have_settled_it() -> None:
    """D is out of the mapping and still has sessions for C: the others, who wait for nothing, keep it in mind."""
    world = ready_sticky(size=4)
    for session_id in SESSIONS:
        assert world.owner(session_id).create(session_id).reason is None
    world.cut_pairs.add(frozenset((C, D)))
    world.nodes[C].lose_peer(D, True)
    world.nodes[D].lose_peer(C, True)
    world.nodes[A].change(EVEN)
    world.run(5_000)
    placements = [world.nodes[n].sticky.machine.placement for n in (A, B, C)]
    assert [p is not None and p.is_settled for p in placements] == [True, True, False]
    assert all(p is not None and D in p.involved and not p.is_closed for p in placements)
    world.heal()
    world.wait_settled()
    whole(world)


def test_a_mapping_epoch_never_goes_back_by_an_operator() -> None:
    """Only the next epoch can be asked for; the old mapping comes back under a new one."""
    world = filled()
    world.nodes[A].change({A: 1, B: 1})
    world.wait_settled()
    mapped = [MappedNode(n, 1, False) for n in (A, B, C)]
    for epoch in (1, 2, 4):
        with pytest.raises(InvalidArgument):
            world.nodes[A].sticky.change(mapped, (), epoch, lambda _: None)
    answers: list[Answer] = []
    world.nodes[A].sticky.change(mapped, (), 3, answers.append)
    assert world.run_until(lambda: bool(answers))
    world.wait_settled()
    assert answers[0].reason is None and world.nodes[C].sticky.epoch() == 3
    whole(world)


def test_of_two_changes_at_one_node_the_second_waits() -> None:
    """While one is on its way into the log there is no next epoch to be asked for."""
    world = filled()
    mapped = [MappedNode(n, 1, False) for n in (A, B)]
    world.nodes[A].sticky.change(mapped, (), None, lambda _: None)
    with pytest.raises(Unavailable):
        world.nodes[A].sticky.change(mapped, (), None, lambda _: None)
    world.wait_settled()


def test_an_op_of_an_earlier_mapping_makes_no_session() -> None:
    """A create that was on its way into the log when the mapping changed is refused by the log itself."""
    rng = Random(5)
    for _ in range(5):
        world = ready_sticky(rng.randrange(100))
        node = world.nodes[A]
        node.sync_ms = 30
        session_id = next(s for s in ids(300) if world.owner(s) is node)
        node.sticky.change([MappedNode(B, 1, False)], (), None, lambda _: None)
        answer = node.create(session_id)
        assert answer.reason is Reason.OWNERSHIP_CONFLICT and answer.log_index > 0
        world.wait_settled()
        assert world.holders(session_id) == []
        assert world.nodes[B].create(session_id).reason is None
        assert world.nodes[B].record(session_id).state == SessionState.ATTACHED
