"""The core among its peers: reads, refusals, links, snapshots, and how it fails closed."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
from virtual_cluster import BINDING, VirtualNode, World, ready_world, requests_of

from raftstore.errors import Unavailable
from raftstore.node import peer_messages as node_messages
from raftstore.node.core import Core
from raftstore.node.peer_messages import is_node_message
from raftstore.node.step_timer import StepTimer
from raftstore.ownership import Machine, join, pack_group
from raftstore.raft.peer_messages import decode
from raftstore.types import Reason, SessionState


def leader_and_others(world: World) -> tuple[VirtualNode, list[VirtualNode]]:
    assert world.leader is not None
    return world.nodes[world.leader], [n for n in world.nodes.values() if n.node_id != world.leader]


def test_a_refusal_leaves_nothing_for_the_garbage_collector() -> None:
    """Callers without a majority are refused by the ten thousand: nobody may have to wait for what they leave."""
    world = ready_world(30)
    leader, _ = leader_and_others(world)
    world.cut([leader.node_id])
    assert world.run_until(lambda: not leader.cor.raft.has_quorum, 2_000)

    def refused() -> weakref.ref[Unavailable]:
        try:
            leader.cor.read(lambda _is_confirmed: None)
        except Unavailable as refusal:
            return weakref.ref(refusal)
        raise AssertionError("taken")

    gc.disable()
    try:
        assert refused()() is None
    finally:
        gc.enable()


@pytest.mark.plain
def test_an_idle_follower_is_woken_by_its_leader_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own house-keeping goes with the leader's beats: waking up is what an idle node costs."""
    world = ready_world(34)
    _, followers = leader_and_others(world)
    fired: list[StepTimer] = []
    ticked: list[Core] = []
    on_timer, tick = StepTimer._fired, Core._tick
    monkeypatch.setattr(StepTimer, "_fired", lambda timer: (fired.append(timer), on_timer(timer)))
    monkeypatch.setattr(Core, "_tick", lambda core, now: (ticked.append(core), tick(core, now)))
    world.run(3_000)
    for follower in followers:
        assert fired.count(follower.cor._timer) <= 3  # the first were set before
        assert ticked.count(follower.cor) >= 29


def test_a_cut_off_leader_confirms_no_read() -> None:
    """It does not know yet that it was deposed, and must not answer from what it has."""
    world = ready_world(31)
    requests = requests_of(world)
    old, (other, third) = leader_and_others(world)
    assert other.do(requests.create("s", BINDING, None, None, None)).reason is None
    told: list[bool] = []
    world.cut([old.node_id], notice_ms=60_000)
    for voter in (other, third):
        voter.lose_peer(old.node_id, False)
    assert world.run_until(lambda: other.cor.raft.has_quorum and other.cor.raft.leader_id != old.node_id, 2_000)
    assert old.cor.raft.last_applied <= other.cor.raft.last_applied
    if old.cor.raft.has_quorum:
        old.cor.read(told.append)
    world.run(2_000)
    assert True not in told


def test_commits_go_out_before_they_are_applied_and_nothing_is_read_here_until_then() -> None:
    """Followers apply meanwhile; whoever is told there what was committed must not find less at the leader."""
    world = ready_world(35)
    leader, (follower, _) = leader_and_others(world)
    core, may_read = leader.cor, []
    send = core.outbox._send

    def watch(peer_id: str, payload: bytes) -> bool:
        if not is_node_message(payload) and decode(payload).get("commit_index", 0) > core.raft.last_applied:
            may_read.append(core.may_read_now())
        return send(peer_id, payload)

    core.outbox._send = watch
    for number in range(10):
        assert follower.do(requests_of(world).create(f"s{number}", BINDING, None, None, None)).reason is None
    assert len(may_read) >= 5 and not any(may_read)
    assert core.may_read_now()


def without_read_lease(leader: VirtualNode) -> None:
    """From now on its reads ask a majority."""
    raft = leader.cor.raft
    raft.timing = replace(raft.timing, read_lease_ns=0)
    raft.step()


def test_a_read_that_begins_while_cut_off_is_never_answered_from_memory() -> None:
    """At the instant of the cut the leader still thinks it leads: the read waits for a majority and fails."""
    world = ready_world(32)
    old, (other, _) = leader_and_others(world)
    assert other.do(requests_of(world).create("s", BINDING, None, None, None)).reason is None
    told: list[bool] = []
    world.cut([old.node_id], notice_ms=60_000)
    without_read_lease(old)
    old.cor.read(told.append)
    world.run(2_000)
    assert told == [False]


def test_a_reader_is_answered_though_another_link_of_the_leader_broke() -> None:
    """Only the reader's own link decides whether the answer may be sent."""
    world = ready_world(33)
    leader, (reader, third) = leader_and_others(world)
    told: list[bool] = []
    without_read_lease(leader)
    reader.cor.read(told.append)
    assert world.run_until(lambda: bool(leader.cor.raft._reads), 100)
    leader.lose_peer(third.node_id, False)
    third.lose_peer(leader.node_id, False)
    assert world.run_until(lambda: told != [], 1_000)
    assert told == [True]


def test_an_answer_for_an_earlier_connection_is_not_sent_to_the_next() -> None:
    """A process that came back counts its requests anew: an old answer would confirm the wrong one."""
    world = ready_world(34)
    leader, (reader, _) = leader_and_others(world)
    told: list[bool] = []
    without_read_lease(leader)
    reader.cor.read(told.append)
    assert world.run_until(lambda: bool(leader.cor.raft._reads), 100)
    sent: list[str] = []
    for node, peer in ((leader, reader.node_id), (reader, leader.node_id)):
        node.lose_peer(peer, False)
    world.connect(leader.node_id, reader.node_id)
    send = leader.cor._links.send
    leader.cor._links.send = lambda peer, data: (sent.append(peer) if data[1] == 35 else None) or send(peer, data)  # type: ignore[method-assign]
    world.run(500)
    assert reader.node_id not in sent and told == [False]


@pytest.mark.plain
def test_an_op_that_a_leader_was_not_ready_for_is_sent_again() -> None:
    """Refused at the transport of the op, not its content: the caller waits a little longer, and no more."""
    world = ready_world(35)
    leader, (other, _) = leader_and_others(world)
    accept = leader.cor.leader.accept_forwarded
    refused: list[str] = []
    leader.cor.leader.accept_forwarded = lambda *a: bool(refused.append(a[1]))  # type: ignore[method-assign, func-returns-value]
    caller = other.submit(requests_of(world).create("s", BINDING, None, None, None))
    assert world.run_until(lambda: len(refused) > 1, 1_000)
    leader.cor.leader.accept_forwarded = accept  # type: ignore[method-assign]
    assert world.run_until(lambda: caller.answer is not None, 1_000)
    assert caller.answer is not None and caller.answer.reason is None


def test_a_frame_that_is_no_message_costs_its_sender_the_link() -> None:
    """Reported, the link closed, and the node goes on."""
    world = ready_world(36)
    node, (peer, _) = leader_and_others(world)
    for frame in (b"", b"\x92\x21", b"\xc1\xff", b"\x92\x20\x07"):
        node.reports.clear()
        node.cor.receive(peer.node_id, frame)
        assert node.reports == ["MALFORMED_MESSAGE"] and peer.node_id not in node.links
    assert node.failed is None


class Buggy:
    """A machine but for one mistake."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def apply(self, *_: object) -> float:
        return 1 / 0


@pytest.mark.plain
def test_a_bug_stops_the_node_for_good() -> None:
    """Whatever was not foreseen, nothing can be trusted after it: own nothing, answer what is certain, say why."""
    world = ready_world(37)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None
    waiting = node.submit(requests.reattach("s", 1, BINDING, None, None))
    node.cor.replica.machine = Buggy(node.cor.replica.machine)  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        world.run(1_000)
    assert node.failed is not None and node.failed.startswith("INTERNAL_ERROR")
    assert not node.owns("s") and ("s", 1, "INTERNAL_ERROR") in node.fenced_log
    assert waiting.answer is not None and not waiting.answer.decided
    refusal = node.submit(requests.renew("s", 1, None, None)).refused
    assert refusal is not None and refusal.reason is Reason.NODE_STOPPING


def test_a_stopped_node_answers_what_never_left_as_certain() -> None:
    """Not proposed: unavailable, for good. On its way: unknown."""
    world = ready_world(38)
    requests = requests_of(world)
    _, (node, _) = leader_and_others(world)
    sent = node.submit(requests.create("a", BINDING, None, None, None))
    world.run(0.01)
    unsent = node.submit(requests.create("b", BINDING, None, None, None))
    node.cor.close("stopped")
    assert sent.answer is not None and not sent.answer.decided
    assert unsent.answer is not None and unsent.answer.decided
    assert unsent.answer.reason is Reason.NODE_STOPPING


def test_an_owner_that_missed_its_loss_learns_it_from_a_snapshot() -> None:
    """The others failed the session over and cut their logs: after the heal the old owner owns nothing."""
    world = ready_world(39)
    requests = requests_of(world)
    owner, taker = world.nodes["vpn-1"], world.nodes["vpn-2"]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    world.cut(["vpn-1"])
    assert world.run_until(lambda: taker.cor.why_refused() is None)
    while taker.do(requests.failover("s", 1, BINDING, None)).reason is not None:
        world.run(50)
    for node in (taker, world.nodes["vpn-3"]):
        node.disk.write_snapshot(0)
    world.run(100)
    world.heal()
    world.wait_ready()
    world.wait_equal()
    assert world.snapshots_installed == 1
    assert owner.record("s").owner == "vpn-2" and not owner.owns("s") and taker.owns("s", 2)


def test_a_wiped_member_gets_a_snapshot_and_votes_again() -> None:
    """The entries are gone everywhere: the state comes whole, and the log goes on behind it."""
    world = ready_world(40)
    requests = requests_of(world)
    for i in range(5):
        assert world.nodes["vpn-1"].do(requests.create(f"s{i}", BINDING, None, None, None)).reason is None
    wiped = world.nodes["vpn-3"]
    wiped.crash()
    wiped.disk.wipe()
    for name in ("vpn-1", "vpn-2"):
        world.nodes[name].disk.write_snapshot(0)
    world.run(1_000)
    wiped.restart()
    assert world.run_until(lambda: not wiped.cor.raft.is_learner)
    world.wait_ready()
    world.wait_equal()
    assert world.snapshots_installed == 1 and len(wiped.cor.replica.machine.sessions) == 5


def test_a_cluster_comes_back_from_its_snapshots() -> None:
    """All killed after their logs were cut: everything acknowledged is there, and nobody owns it yet."""
    world = ready_world(41)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    for i in range(5):
        assert node.do(requests.create(f"s{i}", BINDING, None, None, None)).reason is None
    for member in world.nodes.values():
        member.disk.write_snapshot(2)
    world.run(100)
    for member in world.nodes.values():
        assert member.disk.snapshot is not None
        member.crash()
    world.start_all()
    world.wait_ready()
    world.wait_equal()
    for i in range(5):
        assert node.record(f"s{i}").state in (SessionState.ATTACHED, SessionState.RECOVERING)
        assert not any(n.owns(f"s{i}") for n in world.nodes.values())


def test_replicas_that_differ_stop_serving() -> None:
    """A follower whose chain is another than its leader's finds out by the heads that the leader shows."""
    world = ready_world(42)
    requests = requests_of(world)
    _, (follower, _) = leader_and_others(world)
    assert follower.do(requests.create("s", BINDING, None, None, None)).reason is None
    follower.cor.replica.machine.head = bytes(32)
    assert world.run_until(lambda: follower.failed is not None, 5_000)
    assert follower.failed is not None and follower.failed.startswith("STATE_DIVERGENCE")
    assert not follower.owns("s")


def test_a_late_binding_is_detached_though_the_lease_had_lapsed_when_it_was_learnt() -> None:
    """Cut off with the op on its way, told unknown, healed after the lease: refused at first, and tried again."""
    world = ready_world(43)
    requests = requests_of(world)
    _, (node, _) = leader_and_others(world)
    assert node.do(requests.create("s", None, None, None, None)).reason is None
    caller = node.submit(requests.reattach("s", 1, BINDING, None, 20))
    world.run(3)  # it has reached the leader
    world.cut([node.node_id])
    world.run(5_000)
    assert caller.answer is not None and not caller.answer.decided
    assert node.record("s").state_version == 1
    world.heal()
    assert world.run_until(lambda: node.late_log == ["s"], 2_000)
    assert not node.cor.lease.is_held
    assert world.run_until(lambda: node.record("s").state == SessionState.RECOVERING, 5_000)
    assert node.record("s").reason == "LATE_COMMIT" and not node.owns("s")
    world.run(500)
    assert len(node.cor.late) == 0


def test_only_the_leader_s_chain_counts() -> None:
    """A follower that differs must not stop the others: who is right is what the leader's log says."""
    world = ready_world(44)
    _, (node, other) = leader_and_others(world)
    index = node.cor.replica.machine.index
    wrong = node_messages.encode({"type": "chain_head", "index": index, "head": bytes(32)})
    node.cor.receive(other.node_id, wrong)
    world.run(100)
    assert node.failed is None
    assert node.cor.raft.leader_id is not None
    node.cor.receive(node.cor.raft.leader_id, wrong)
    assert node.failed is not None and node.failed.startswith("STATE_DIVERGENCE")


@pytest.mark.plain
def test_a_message_that_breaks_an_invariant_stops_the_node() -> None:
    """A bug met while a message is handled is as final as one met in a step."""
    world = ready_world(45)
    _, (node, other) = leader_and_others(world)
    node.cor.leader.accept_forwarded = lambda *_: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        node.cor.receive(other.node_id, node_messages.encode({"type": "forward", "group": b"\x90"}))
    assert node.failed is not None and node.failed.startswith("INTERNAL_ERROR")


def test_whoever_begins_to_detach_a_late_binding_owns_it_no_more() -> None:
    """As with every giving up: false from the proposal on, also if the embedder's word comes after it."""
    world = ready_world(46)
    node = world.nodes["vpn-1"]
    assert node.do(requests_of(world).create("s", BINDING, None, None, None)).reason is None
    record = node.record("s")
    node.cor.detach_late(record)
    assert not node.owns("s")
    assert not node.cor.replica.confirm(record) and not node.owns("s")
    assert world.run_until(lambda: node.record("s").reason == "LATE_COMMIT", 1_000)


def test_refusals_before_a_proposal_have_no_effect_and_a_reason() -> None:
    """Stopping, or too much waits: refused at once, and `owns` says what it said before."""
    world = ready_world(47)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None
    node.cor.why_storage_refuses = lambda: "no room"
    full = node.submit(requests.detach("s", 1, "X", None)).refused
    node.cor.why_storage_refuses = lambda: None
    waiting = [node.submit(requests.renew("s", 1, None, None)) for _ in range(world.config.limits.pending_ops_max)]
    many = node.submit(requests.detach("s", 1, "X", None)).refused
    assert world.run_until(lambda: all(w.answer is not None for w in waiting))
    node.cor.is_stopping = True
    stopping = node.submit(requests.detach("s", 1, "X", None)).refused
    reasons = [refusal and refusal.reason for refusal in (full, many, stopping)]
    assert reasons == [Reason.OVERLOADED, Reason.OVERLOADED, Reason.NODE_STOPPING]
    assert node.owns("s", 1)


def test_a_process_whose_renewal_is_refused_as_a_former_one_stops() -> None:
    """Though it missed the entry in which a newer process joined under its id: the refusal says it as well."""
    world = ready_world(48)
    leader, (node, _) = leader_and_others(world)
    assert node.do(requests_of(world).create("s", BINDING, None, None, None)).reason is None
    node.superseded = lambda incarnation: None  # type: ignore[method-assign]
    newer = pack_group(node.node_id, node.cor.incarnation + 1, 0, [join(1, 2**50)])
    leader.cor.leader._forwarded.append((newer, 1, node.node_id))
    assert world.run_until(lambda: node.failed is not None, 5_000)
    assert node.failed is not None and node.failed.startswith("NODE_FENCED")
    assert not node.owns("s") and ("s", 1, "NODE_FENCED") in node.fenced_log
