"""While two mappings of one epoch stand, nobody acts for what they dispute, at no instant."""

from __future__ import annotations

import pytest
from sticky_world import StickyNode, StickyWorld, ids
from virtual_cluster import BINDING

from raftstore.node.proposals import Request
from raftstore.ownership import MappedNode
from raftstore.types import Reason

A, B, C = "vpn-1", "vpn-2", "vpn-3"
MINE, THEIRS = {A: 2, B: 1, C: 1}, {A: 1, B: 1, C: 9}
SESSIONS = ids(40)


class Strict(StickyWorld):
    """At every instant: no node owns what, as it knows itself, another mapping of its epoch sends elsewhere."""

    is_strict = False

    def check_owners(self) -> None:
        super().check_owners()
        for node in self.running if self.is_strict else ():
            for session_id, epoch in node.cor.owned.held():
                disputed = node.owns(session_id, epoch) and node.sticky.gate.disagrees(session_id)
                assert not disputed, f"{node.node_id} acts for {session_id} at {self.now}"


def filled() -> Strict:
    """Three settled nodes, each with the sessions that map to it."""
    world = Strict()
    world.start_all()
    world.wait_ready()
    world.wait_settled()
    for session_id in SESSIONS:
        assert world.owner(session_id).create(session_id).reason is None
    return world


def owned_and_theirs(world: Strict) -> list[str]:
    """Sessions that A owns now and that C's new mapping sends elsewhere."""
    found = [s for s in SESSIONS if world.nodes[A].owns(s) and world.nodes[C].sticky.gate.owner(s) != A]
    assert len(found) > 2
    return found


def rebind(node: StickyNode, session_id: str, timeout_ms: int | None = None) -> Request:
    return node.requests.reattach(session_id, node.record(session_id).state_version, BINDING, None, timeout_ms)


def two_sides() -> tuple[Strict, list[str]]:
    """A and C have gone apart, and neither knows it: A is cut off, and owns what C's mapping sends elsewhere."""
    world = filled()
    world.cut([A])
    world.nodes[C].change(THEIRS)
    world.nodes[A].change(MINE)
    world.run(1_500)
    return world, owned_and_theirs(world)


@pytest.mark.parametrize("sync_ms", [20, 300, 700])
def test_a_binding_that_commits_while_its_session_is_disputed_is_never_owned(sync_ms: int) -> None:
    """Not until the next message of the other side: not at all. Its caller learns that it committed and is fenced."""
    world, ours = two_sides()
    node = world.nodes[A]
    node.sync_ms = sync_ms
    callers = [node.submit(rebind(node, s)) for s in ours]
    node.fenced_log.clear()
    world.is_strict = True
    world.heal()
    assert world.run_until(lambda: all(c.answer is not None for c in callers), 5_000)
    world.run(1_500)
    assert not any(node.owns(s) for s in ours)
    fenced = [s for s, _, reason in node.fenced_log if reason == "MAPPING_MISMATCH"]
    assert sorted(fenced) == sorted(2 * ours)  # when the dispute began, and when the new binding committed


def test_a_late_binding_is_not_confirmed_while_its_session_is_disputed() -> None:
    """Its caller had lost patience, its embedder says that it stands: the dispute came between them."""
    world, ours = two_sides()
    node = world.nodes[A]
    assert node.do(rebind(node, ours[0])).reason is None
    record = node.record(ours[0])
    assert node.cor.replica.confirm(record)
    world.heal()
    world.run(1_500)
    assert node.sticky.gate.disagrees(ours[0]) and node.record(ours[0]) == record
    assert not node.cor.replica.confirm(record)
    assert not node.owns(ours[0])


def test_a_mapping_that_meets_one_of_a_peer_that_has_gone_is_disputed_all_the_same() -> None:
    """The peer told its mapping while this node's own was on its way to the disk, and cannot be heard any more."""
    world = filled()
    node = world.nodes[A]
    node.sync_ms = 400
    node.sticky.change([MappedNode(n, weight, False) for n, weight in MINE.items()], (), None, lambda _: None)
    world.nodes[C].change(THEIRS)
    session_id = next(s for s in SESSIONS if world.nodes[C].sticky.gate.owner(s) == C and node.owns(s))
    assert world.run_until(lambda: node.sticky.gate.disagrees(session_id), 200)
    world.cut([A])
    ours = owned_and_theirs(world)
    assert world.run_until(lambda: node.sticky.epoch() == 2)
    world.run(200)
    assert not any(node.owns(s) for s in ours)
    refusal = node.sticky.refusal(session_id)
    assert refusal is not None and refusal.reason in (Reason.MAPPING_UNSETTLED, Reason.OWNERSHIP_CONFLICT)
    assert {s for s, _, reason in node.fenced_log if reason == "MAPPING_MISMATCH"} >= {
        s for s in ours if node.sticky.gate.owner(s) == A
    }


def test_what_is_not_disputed_is_bound_on_as_ever() -> None:
    """Both mappings send it here: bindings that commit meanwhile are owned."""
    world, _ = two_sides()
    node = world.nodes[A]
    agreed = [
        s for s in SESSIONS if node.owns(s) and A == node.sticky.gate.owner(s) == world.nodes[C].sticky.gate.owner(s)
    ]
    assert agreed
    node.sync_ms = 300
    callers = [node.submit(rebind(node, s)) for s in agreed]
    world.heal()
    assert world.run_until(lambda: all(c.answer is not None for c in callers), 5_000)
    assert all(node.owns(s) for s in agreed)


def test_a_binding_behind_which_a_newer_mapping_waits_ends_what_it_was_to_go_on_with() -> None:
    """The peer's mapping has a higher epoch and is on its way into this log: fenced means that nothing is owned."""
    world = filled()
    node = world.nodes[A]
    node.sync_ms = 300
    session_id = SESSIONS[next(i for i, s in enumerate(SESSIONS) if world.owner(s) is node)]
    world.nodes[C].change({B: 1, C: 1})
    caller = node.submit(rebind(node, session_id))
    assert node.owns(session_id) and node.sticky.epoch() == 1
    assert world.run_until(lambda: caller.answer is not None, 1_000)
    assert node.sticky.epoch() == 1 and node.record(session_id).owner == A
    assert not node.owns(session_id)
    assert (session_id, 1, "MAPPING_MISMATCH") in node.fenced_log
    node.sync_ms = 1
    world.wait_settled()
    assert world.live_holder(session_id)[0] == world.owner(session_id).node_id
