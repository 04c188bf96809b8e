"""Sticky nodes on virtual time: founding, placement, and a mapping change from one end to the other."""

from __future__ import annotations

from sticky_world import StickyWorld, ids, ready_sticky, sticky_config

from raftstore.types import Reason, SessionState


def test_a_session_lives_where_it_maps_and_nowhere_else():
    """The right node takes it; every other refuses with OWNERSHIP_CONFLICT and the right node."""
    world = ready_sticky()
    for session_id in ids(30):
        right = world.owner(session_id)
        for node in world.running:
            answer = node.create(session_id)
            if node is right:
                assert answer.reason is None and node.owns(session_id)
            else:
                assert answer.reason is Reason.OWNERSHIP_CONFLICT
                assert answer.owner == right.node_id


def test_a_node_more_moves_exactly_what_maps_to_it():
    """From 3 to 4 nodes: sessions go to the new node alone, one epoch on, two transitions on, bound nowhere."""
    world = StickyWorld(config=sticky_config(4, {"vpn-4": 0}))
    world.start_all()
    world.wait_settled()
    before = {sid: world.owner(sid).node_id for sid in ids(200)}
    for session_id, owner in before.items():
        assert world.nodes[owner].create(session_id).reason is None
    world.nodes["vpn-2"].change({f"vpn-{i}": 1 for i in range(1, 5)})
    world.wait_settled()
    moved = 0
    for session_id, owner in before.items():
        holder, record = world.live_holder(session_id)
        assert holder == world.owner(session_id).node_id
        if holder == owner:
            assert (record.epoch, record.state_version) == (1, 1)
            assert world.nodes[owner].owns(session_id)
        else:
            moved += 1
            assert holder == "vpn-4"
            assert (record.epoch, record.state_version, record.state) == (2, 3, SessionState.FROZEN)
            assert session_id in world.nodes[owner].sticky.machine.departed
            assert session_id in world.nodes["vpn-4"].assigned_log
    assert 30 <= moved <= 70
