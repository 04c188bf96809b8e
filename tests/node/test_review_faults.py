"""Scenarios that a reviewer built to break a promise, each at the level of a whole cluster on virtual time."""

from __future__ import annotations

from types import SimpleNamespace

from virtual_cluster import BINDING, VirtualNode, World, ready_world, requests_of

from raftstore.node.proposals import Answer, Ticket
from raftstore.node.runtime import Runtime
from raftstore.types import SessionState


def bound(world: World, node: VirtualNode) -> None:
    assert node.do(requests_of(world).create("s", BINDING, None, None, None)).reason is None


def test_a_late_binding_that_was_replaced_meanwhile_takes_nothing_from_the_newer_one() -> None:
    """The embedder decides late: by then another caller has bound the session, was told so, and keeps it."""
    world = ready_world(8)
    node = world.nodes["vpn-1"]
    bound(world, node)
    late = node.record("s")
    assert node.do(requests_of(world).reattach("s", 1, BINDING, None, None)).reason is None
    node.cor.detach_late(late)
    assert node.owns("s")
    world.run(500)
    assert node.owns("s") and node.record("s").state_version == 2


def test_a_caller_that_left_takes_a_later_binding_along_only_with_notice() -> None:
    """Its binding was replaced before it was seen to have left: whoever bound later is told that it is not owned."""
    world = ready_world(8)
    node = world.nodes["vpn-1"]
    bound(world, node)
    left = Ticket(requests_of(world).reattach("s", 1, BINDING, None, None))
    left.answer = node.do(left.request)
    assert node.do(requests_of(world).reattach("s", 2, BINDING, None, None)).reason is None
    fenced: list[tuple[str, int]] = []
    runtime = SimpleNamespace(
        core=node.cor,
        machine=node.cor.replica.machine,
        node_id="vpn-1",
        incarnation=node.cor.incarnation,
        fenced=lambda lost, _reason: fenced.extend(lost),
        _late=lambda _op_id, _record: None,
    )
    Runtime.caller_left(runtime, left)  # type: ignore[arg-type]
    assert isinstance(left.answer, Answer) and not node.owns("s") and fenced == [("s", 1)]


def leaderless_hour(seed: int) -> None:
    """The restarted node has the longer log, so that it leads, and not the one that was up all the time."""
    world = ready_world(seed)
    witness, down, restarted = sorted(world.nodes.values(), key=lambda n: n.node_id == world.leader)
    assert witness.do(requests_of(world).create("s", BINDING, 60_000, None, None)).reason is None
    world.run(200)
    down.crash()
    world.cut([restarted.node_id], notice_ms=1_000)
    restarted.submit(requests_of(world).create("unheard-of", BINDING, None, None, None))
    world.run(5)
    restarted.crash()
    world.cut_pairs.clear()
    restarted.wall_offset_ms = -86_400_000  # the clock on the wall is not asked
    world.run(3_600_000)
    restarted.restart()
    world.wait_ready()
    assert world.leader == restarted.node_id
    assert world.run_until(lambda: witness.record("s").state == SessionState.TERMINATED)
    assert witness.record("s").reason == "TTL_EXPIRED"
    assert 3_600_000 < witness.cor.replica.machine.clock_ms < 3_640_000


def test_time_without_a_leader_counts_when_a_witness_of_it_elects_the_next() -> None:
    """Two of three are down for an hour; the one that comes back and leads takes the time from the one that was up."""
    for seed in range(1, 4):
        leaderless_hour(seed)
