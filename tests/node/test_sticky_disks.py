"""Sticky nodes whose data directories are put back, wiped or declared lost: nothing is made up, nothing is served."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from sticky_world import StickyNode, StickyWorld, ids, ready_sticky, sticky_config
from virtual_cluster import MS

from raftstore.errors import InvalidArgument
from raftstore.node.sticky.messages import decode
from raftstore.types import Reason

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


def restore_copy(node: StickyNode, kept: tuple[object, ...]) -> None:
    """Somebody puts an old copy of the data directory in place."""
    log, state, snapshot, files = copy.deepcopy(kept)
    node.disk.wipe()
    node.disk.durable_log, node.disk.durable_state = log, state  # type: ignore[assignment]
    node.disk.snapshot, node.disk._files = snapshot, files  # type: ignore[assignment]
    node.died_with = None
    for key in [key for key in node.world.told if key[0] == node.node_id]:
        del node.world.told[key]


def copy_of(node: StickyNode) -> tuple[object, ...]:
    disk = node.disk
    return copy.deepcopy((disk.durable_log, disk.durable_state, disk.snapshot, disk._files))


@pytest.mark.parametrize("unsettled", [False, True])
def test_a_disk_that_was_put_back_stops_its_node(unsettled: bool) -> None:
    """A peer remembers that it had come further: STATE_WENT_BACK; also while a later change is not settled yet."""
    world = filled()
    node = world.nodes[C]
    kept = copy_of(node)
    world.nodes[A].change({A: 3, B: 1, C: 1})
    world.wait_settled()
    node.crash()
    world.watch.lines.clear()
    world.watch.told = lambda *_: None  # type: ignore[method-assign]  # what the old copy tells is no news
    world.watch.owned = lambda *_: None  # type: ignore[method-assign]
    if unsettled:
        world.nodes[A].change(EVEN)
    restore_copy(node, kept)
    node.restart()
    assert world.run_until(lambda: node.failed is not None, 3_000)
    assert "STATE_WENT_BACK" in (node.failed or "") and "older than its promises" in (node.failed or "")
    assert not any(node.owns(s) for s in SESSIONS)


def test_a_wiped_node_gets_nothing_and_everybody_says_what_to_do() -> None:
    """It is not the node that held those sessions: it serves none of them, and its peers give it none."""
    world = filled()
    node = world.nodes[C]
    held = [s for s in SESSIONS if world.owner(s) is node]
    node.crash()
    node.wipe()
    node.restart()
    world.run(5_000)
    assert node.sticky.epoch() == 1
    for session_id in (*held, *(s for s in ids(60, "x") if world.nodes[A].sticky.gate.owner(s) == C)):
        assert node.create(session_id).reason is Reason.MAPPING_UNSETTLED
    assert "STORE_CHANGED" in node.reports and "PEER_STORE_CHANGED" in world.nodes[A].reports
    world.nodes[A].change({A: 1, B: 1, C: 5})
    world.run(5_000)
    assert node.sticky.machine.sessions == {}
    assert not world.settled()


def test_a_node_whose_disk_is_lost_before_anybody_knew_it_has_made_nothing() -> None:
    """Until all others have its directory in their logs it settles nothing: so nothing of it can be forgotten."""
    world = StickyWorld()
    world.start_all()
    node = world.nodes[A]
    for other in (world.nodes[B], world.nodes[C]):
        receive = other.sticky.receive

        def lossy(peer_id: str, payload: bytes, go_on: Any = receive) -> None:
            if peer_id != A or decode(payload)["type"] != "handed":
                go_on(peer_id, payload)  # what A answers them is lost: they cannot confirm it

        other.sticky.receive = lossy  # type: ignore[method-assign]
    world.run(3_000)
    assert node.sticky.epoch() == 1
    made = [s for s in ids(20) if serves(node, s) and node.create(s).reason is None]
    node.crash()
    node.wipe()
    for other in (world.nodes[B], world.nodes[C]):
        other.crash()
        other.restart()
    node.restart()
    world.run(5_000)
    for session_id in made:
        assert node.create(session_id).reason is not None, f"{session_id} is forgotten"
    world.wait_settled()


def lose(world: StickyWorld, node_id: str) -> None:
    """That node is gone for good, and an operator says so."""
    world.nodes[node_id].crash()
    world.nodes[node_id].died_with = None
    world.run(200)
    rest = {n: 1 for n in world.nodes if n != node_id}
    world.nodes[next(iter(rest))].change(rest, lost=[node_id])


def test_what_a_lost_node_held_is_open_again_after_the_longest_ttl_only() -> None:
    """Not a moment before; the refusal says why; then the id begins anew."""
    world = filled(config=sticky_config(3, ttl_max_ms=TTL_MAX_MS, ttl_default_ms=TTL_MAX_MS))
    at_c = [s for s in SESSIONS if world.owner(s).node_id == C]
    session_id = at_c[0]
    lose(world, C)
    began = world.now
    world.run(2_000)
    others = [s for s in SESSIONS if s not in at_c]
    assert all(serves(world.owner(s), s) for s in others)
    answer = world.owner(session_id).create(session_id)
    assert answer.reason is Reason.MAPPING_UNSETTLED and "declared lost" in answer.detail
    assert not world.run_until(lambda: world.owner(session_id).sticky.gate.refusal(session_id, {}, {}) is None, 17_500)
    world.wait_settled()
    assert (world.now - began) / MS >= TTL_MAX_MS - 200
    world.watch.forgiven.update(at_c)
    assert world.owner(session_id).create(session_id).reason is None


@pytest.mark.parametrize("wait_ms", [500, 30_000])
def test_a_zombie_with_a_lost_directory_fails_closed(wait_ms: int) -> None:
    """The node that was declared lost comes back as it was: it is told, and stops; while unsettled and long after."""
    world = filled(config=sticky_config(3, ttl_max_ms=TTL_MAX_MS, ttl_default_ms=TTL_MAX_MS))
    node = world.nodes[C]
    lose(world, C)
    world.run(wait_ms)
    if wait_ms > TTL_MAX_MS:
        world.wait_settled()
        world.nodes[B].change(EVEN)  # it is to come back, with an empty directory
        world.run(2_000)
    node.restart()
    assert world.run_until(lambda: node.failed is not None, 3_000)
    assert "DECLARED_LOST" in (node.failed or "")
    assert not any(node.owns(s) for s in SESSIONS)
    world.run(2_000)
    assert all(n.failed is None for n in world.nodes.values() if n is not node)


def test_a_lost_node_comes_back_with_an_empty_directory() -> None:
    """It may wait for its return while the change goes on, also through a second one; then it takes its share."""
    world = filled(config=sticky_config(3, ttl_max_ms=TTL_MAX_MS, ttl_default_ms=TTL_MAX_MS))
    node = world.nodes[C]
    at_c = [s for s in SESSIONS if world.owner(s).node_id == C]
    lose(world, C)
    node.wipe()
    node.restart()
    world.run(1_000)
    with pytest.raises(InvalidArgument):
        world.nodes[A].change(EVEN)  # too early: what it held has not expired
    world.nodes[A].change({A: 1, B: 2})
    world.run(1_000)
    assert node.failed is None
    assert world.run_until(
        lambda: all(n.sticky.machine.placement.is_closed for n in (world.nodes[A], world.nodes[B])), 30_000
    )
    world.nodes[A].change(EVEN)
    world.watch.forgiven.update(at_c)
    world.wait_settled()
    assert all(world.owner(s).create(s).reason is None for s in at_c)
    assert any(world.owner(s) is node for s in SESSIONS)


@pytest.mark.parametrize("rest", [{A: 1, B: 1}, {A: 0, B: 1}], ids=["maps to the giver", "maps to another"])
def test_what_was_on_its_way_to_a_lost_node_stays_closed_for_ever(rest: dict[str, int]) -> None:
    """The giver cannot know whether it arrived: only its mark stays, and nobody waits for it."""
    world = filled(config=sticky_config(3, ttl_max_ms=TTL_MAX_MS, ttl_default_ms=TTL_MAX_MS))
    node = world.nodes[A]
    world.nodes[B].change({C: 1})
    away = [s for s in SESSIONS if s in node.sticky.machine.sessions]
    assert world.run_until(lambda: node.sticky.epoch() == 2 and all(node.record(s).owner == C for s in away))
    world.nodes[C].crash()
    world.run(200)
    world.nodes[A].change(rest, lost=[C])
    world.run(2_000)
    assert set(away) <= node.sticky.machine.departed.keys() and not node.sticky.machine.sessions
    world.run(TTL_MAX_MS + 3_000)
    world.wait_settled()
    for session_id in away:
        answer = node.create(session_id)
        assert answer.reason is Reason.OWNERSHIP_CONFLICT
        assert (answer.owner == B) == (rest[A] == 0)


@pytest.mark.parametrize("disturbed", [False, True], ids=["at once", "after another change"])
def test_an_id_that_began_anew_is_not_forgotten_where_it_had_been_before(disturbed: bool) -> None:
    """It was at A, went to B, which is lost, and began again at C: A's mark of it says nothing of the new session."""
    options = {"ttl_max_ms": TTL_MAX_MS, "ttl_default_ms": TTL_MAX_MS}
    world = StickyWorld(config=sticky_config(3, {A: 1, B: 0, C: 0}, **options))
    world.start_all()
    world.wait_settled()
    a, c = world.nodes[A], world.nodes[C]
    assert a.create("s").reason is None
    a.change({A: 0, B: 1, C: 0})
    world.wait_settled()
    world.nodes[B].crash()
    world.nodes[B].died_with = None
    world.run(200)
    c.change({C: 1}, lost=[B])
    world.run(TTL_MAX_MS + 3_000)
    world.wait_settled()
    world.watch.forgiven.add("s")
    assert c.create("s").reason is None
    c.change({A: 1, C: 0})
    if disturbed:  # the transfer is in doubt, and A is asked about it
        assert world.run_until(lambda: c.record("s").owner == A)
        a.crash()
        c.change({A: 0, C: 1})
        a.restart()
    world.wait_settled()
    holder, record = world.live_holder("s")
    assert (holder, record.state_version) == (C if disturbed else A, world.watch.lines["s"].version)


def test_nothing_is_given_to_a_directory_that_the_giver_has_not_written_down() -> None:
    """It could be lost and come back empty without anybody's noticing: sessions that went there would be forgotten."""
    world = StickyWorld(config=sticky_config(4, {D: 0}, ttl_max_ms=5_000, ttl_default_ms=5_000))
    world.start_all()
    world.wait_settled()
    node = world.nodes[D]
    lose(world, D)
    node.wipe()
    world.wait_settled()
    for session_id in SESSIONS:
        assert world.owner(session_id).create(session_id).reason is None
    node.restart()  # a new directory, which nobody knows
    world.run(1_000)
    deaf = [world.nodes[n] for n in (A, B, C)]
    for other in deaf:
        receive = other.sticky.receive

        def lossy(peer_id: str, payload: bytes, go_on: Any = receive) -> None:
            if peer_id != D or decode(payload)["type"] != "handed":
                go_on(peer_id, payload)

        other.sticky.receive = lossy  # type: ignore[method-assign]
    world.nodes[A].change({A: 1, B: 1, C: 1, D: 1})
    world.run(1_500)
    assert node.sticky.epoch() > 1 and node.sticky.machine.sessions == {}
    node.crash()
    node.wipe()
    for other in deaf:
        other.crash()
        other.restart()
    node.restart()
    world.wait_settled()
    whole(world)


def test_who_runs_is_not_declared_lost() -> None:
    """Nor who is in the mapping, nor a stranger."""
    world = filled()
    for nodes, lost in (({A: 1, B: 1}, [C]), ({A: 1, B: 1}, [A]), (EVEN, [C]), ({A: 1}, ["vpn-9"])):
        with pytest.raises(InvalidArgument) as refused:
            world.nodes[A].change(nodes, lost=lost)
        assert refused.value.field == "lost" and "add it" not in refused.value.problem
