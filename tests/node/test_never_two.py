"""The promise at the level of a whole cluster, on virtual time: one owner at most, through everything."""

from virtual_cluster import BINDING, World, ready_world, requests_of

from raftstore.types import Reason, SessionState

LEASE_MS = 3_000


def others(world: World, node_id: str) -> list[str]:
    return [n for n in world.nodes if n != node_id]


def test_a_new_cluster_elects_joins_and_serves() -> None:
    """Three empty directories become a cluster without anybody's help."""
    world = ready_world()
    answer = world.nodes["vpn-1"].do(requests_of(world).create("s", BINDING, None, None, None))
    assert answer.reason is None
    assert world.nodes["vpn-1"].owns("s", 1)
    world.wait_equal()


def test_a_cut_off_owner_refuses_and_is_fenced_before_anyone_may_take_over() -> None:
    """The minority refuses at once; its lease ends before the machine lets another node fail over."""
    world = ready_world(2)
    requests = requests_of(world)
    owner = world.nodes["vpn-1"]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    world.cut(["vpn-1"])
    world.run(700)
    refusal = owner.submit(requests.reattach("s", 1, BINDING, None, None)).refused
    assert refusal is not None and refusal.reason is Reason.NO_QUORUM
    taker = world.nodes["vpn-2"]
    assert world.run_until(lambda: taker.cor.why_refused() is None)
    assert owner.owns("s")
    early = taker.do(requests.failover("s", 1, BINDING, None))
    assert early.reason is Reason.OWNER_STILL_LIVE
    while (answer := taker.do(requests.failover("s", 1, BINDING, None))).reason is not None:
        assert answer.reason is Reason.OWNER_STILL_LIVE
        world.run(10)
    assert not owner.owns("s")
    assert taker.owns("s", 2)
    assert ("s", 1, "LEASE_LAPSED") in owner.fenced_log
    world.heal()
    world.wait_ready()
    world.wait_equal()
    assert not owner.owns("s") and taker.owns("s", 2)


def test_a_refusal_is_known_to_all_callers_until_the_majority_is_back() -> None:
    """Without a majority one op finds out for all; the first message that ends it makes everybody ask again."""
    world = ready_world(2)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.cor.known_refusal is None
    world.cut(["vpn-1"])
    assert world.run_until(lambda: not node.cor.raft.has_quorum)
    asked = node.submit(requests.create("s", BINDING, None, None, None)).refused
    assert asked is not None and asked.reason is Reason.NO_QUORUM
    assert node.cor.known_refusal == (asked.reason, asked.detail)
    world.heal()
    assert world.run_until(lambda: node.cor.raft.has_quorum)
    assert node.cor.known_refusal is None
    world.wait_ready()
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None


def test_after_the_heal_a_fenced_owner_owns_again_only_by_a_new_binding() -> None:
    """A renewed lease alone gives nothing back: the binding has to be made again (policy deny)."""
    world = ready_world(3)
    requests = requests_of(world)
    owner = world.nodes["vpn-3"]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    world.cut(["vpn-3"])
    world.run(LEASE_MS + 500)
    world.heal()
    world.wait_ready()
    assert not owner.owns("s")
    assert owner.do(requests.reattach("s", 1, BINDING, None, None)).reason is None
    assert owner.owns("s", 1)


def test_a_paused_owner_owns_nothing_when_it_wakes_after_its_lease() -> None:
    """SIGSTOP longer than the lease: `owns` is false at the first instant after it, before anything else runs."""
    world = ready_world(4)
    requests = requests_of(world)
    leader = world.leader
    assert leader is not None
    owner = world.nodes[others(world, leader)[0]]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    owner.pause(LEASE_MS + 2_000)
    taker = world.nodes[leader]
    assert world.run_until(lambda: taker.record("s").state == SessionState.ATTACHED)
    world.run(LEASE_MS + 100)
    assert taker.do(requests.failover("s", 1, BINDING, None)).reason is None
    assert owner.paused_until > world.now and not owner.owns("s")
    world.run(3_000)
    assert not owner.owns("s") and taker.owns("s", 2)
    world.wait_equal()


def test_a_migration_gives_up_here_before_it_begins_there() -> None:
    """From the proposal of the freeze on, the old owner owns nothing, whatever becomes of it."""
    world = ready_world(5)
    requests = requests_of(world)
    old, new = world.nodes["vpn-1"], world.nodes["vpn-2"]
    assert old.do(requests.create("s", BINDING, None, None, None)).reason is None
    caller = old.submit(requests.freeze("s", 1, "MIGRATION", "vpn-2", None))
    assert not old.owns("s")
    assert world.run_until(lambda: caller.answer is not None)
    assert old.do(requests.transfer("s", 2, None)).reason is None
    assert world.run_until(lambda: "s" in new.assigned_log)
    answer = new.do(requests.resume("s", 3, BINDING, None))
    assert answer.reason is None and answer.record.epoch == 2
    assert new.owns("s", 2) and not old.owns("s")


def test_a_refused_giving_up_still_needs_a_new_binding() -> None:
    """A detach with a stale version changes nothing in the cluster, and yet `owns` stays false until a reattach."""
    world = ready_world(6)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None
    assert node.do(requests.detach("s", 7, "DETACHED", None)).reason is Reason.VERSION_MISMATCH
    assert not node.owns("s")
    assert node.do(requests.reattach("s", 1, BINDING, None, None)).reason is None
    assert node.owns("s")


def test_a_restarted_owner_cannot_bind_before_its_older_process_is_certainly_dead() -> None:
    """A newer incarnation is no proof: OWNER_STILL_LIVE until the older lease has lapsed."""
    world = ready_world(7)
    requests = requests_of(world)
    node = world.nodes["vpn-2"]
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None
    node.crash()
    node.restart()
    world.wait_ready()
    answer = node.do(requests.reattach("s", 1, BINDING, None, None))
    assert answer.reason is Reason.OWNER_STILL_LIVE
    assert world.run_until(lambda: node.record("s").state == SessionState.RECOVERING)
    assert node.do(requests.reattach("s", node.record("s").state_version, BINDING, None, None)).reason is None
    assert node.owns("s")


def test_a_binding_of_unknown_outcome_that_commits_late_is_not_owned() -> None:
    """The caller was told "unknown"; the entry commits after the heal; the node detaches it again (LATE_COMMIT)."""
    world = ready_world(8)
    requests = requests_of(world)
    leader = world.leader
    assert leader is not None
    node = world.nodes[leader]
    assert node.do(requests.create("s", None, None, None, None)).reason is None
    for other in others(world, leader):
        world.nodes[other].sync_ms = 400.0  # the entry reaches their logs, their answers come too late
    caller = node.submit(requests.reattach("s", 1, BINDING, None, 20))
    assert world.run_until(lambda: caller.answer is not None)
    assert caller.answer is not None and not caller.answer.decided
    for other in others(world, leader):
        world.nodes[other].sync_ms = 1.0
    assert world.run_until(lambda: node.late_log == ["s"])
    assert not node.owns("s")
    assert world.run_until(lambda: node.record("s").reason == "LATE_COMMIT")
    assert node.record("s").state == SessionState.RECOVERING
    outcome = node.cor.proposals.outcome(caller.seq)
    assert outcome is not None and outcome.decided and outcome.reason is None


def test_an_op_that_the_leader_took_with_it_is_answered_by_the_next_one() -> None:
    """The leader dies with an op on its way: the node sends it again to the next leader, and it is applied once."""
    world = ready_world(9)
    requests = requests_of(world)
    leader = world.leader
    assert leader is not None
    node = world.nodes[others(world, leader)[0]]
    caller = node.submit(requests.create("s", BINDING, None, None, 5_000))
    world.run(0.1)
    world.nodes[leader].crash()
    assert world.run_until(lambda: caller.answer is not None)
    assert caller.answer is not None and caller.answer.reason is None
    assert node.record("s").state_version == 1 and node.owns("s")


def test_all_nodes_killed_at_once_lose_nothing_acknowledged() -> None:
    """Power loss everywhere: what was acknowledged is there afterwards, at its version, and nobody owns it yet."""
    world = ready_world(10)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    for i in range(20):
        assert node.do(requests.create(f"s{i}", BINDING, None, None, None)).reason is None
    for member in world.nodes.values():
        member.crash()
    world.start_all()
    world.wait_ready()
    world.wait_equal()
    for i in range(20):
        assert node.record(f"s{i}").state_version >= 1
        assert not any(n.owns(f"s{i}") for n in world.nodes.values())


def test_the_terminate_policy_ends_sessions_of_a_lost_owner() -> None:
    """Option B: once the owner's lease has lapsed, the sweep ends its sessions for good."""
    world = ready_world(11, policy="terminate")
    requests = requests_of(world)
    owner = world.nodes["vpn-1"]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    world.run(100)
    world.cut(["vpn-1"])
    other = world.nodes["vpn-2"]
    assert world.run_until(lambda: other.record("s").state == SessionState.TERMINATED)
    assert other.record("s").reason == "OWNER_LOST"
    assert not owner.owns("s")
    world.heal()
    world.wait_equal()
    assert owner.record("s").state == SessionState.TERMINATED


def test_a_wiped_member_does_not_vote_until_it_caught_up() -> None:
    """A lost disk makes a learner; it is promoted once an entry appended after its return is committed."""
    world = ready_world(12)
    requests = requests_of(world)
    assert world.nodes["vpn-1"].do(requests.create("s", BINDING, None, None, None)).reason is None
    wiped = world.nodes["vpn-3"]
    wiped.crash()
    wiped.disk.durable_log.clear()
    wiped.disk.durable_state = (0, None, False)
    wiped.restart()
    assert wiped.cor.raft.is_learner
    assert world.run_until(lambda: not wiped.cor.raft.is_learner)
    world.wait_ready()
    world.wait_equal()
    assert wiped.record("s").owner == "vpn-1"


def test_wall_clocks_a_day_off_change_nothing_while_the_cluster_runs() -> None:
    """Wall time decides nothing: cluster time goes on with monotonic clocks."""
    world = ready_world(13)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.do(requests.create("s", BINDING, 60_000, None, None)).reason is None
    for member, days in zip(world.nodes.values(), (1, -1, 1), strict=True):
        member.wall_offset_ms = days * 86_400_000
    world.run(5_000)
    assert node.do(requests.reattach("s", 1, BINDING, None, None)).reason is None
    assert node.owns("s")


def test_cluster_time_goes_on_after_a_stop_of_the_whole_cluster() -> None:
    """TTLs stay strict over a full stop: cluster time jumps by the wall time that passed."""
    world = ready_world(14)
    requests = requests_of(world)
    assert world.nodes["vpn-1"].do(requests.create("s", BINDING, 60_000, None, None)).reason is None
    for member in world.nodes.values():
        member.crash()
    world.run(120_000)
    world.start_all()
    world.wait_ready()
    assert world.run_until(lambda: world.nodes["vpn-1"].record("s").state == SessionState.TERMINATED)
    assert world.nodes["vpn-1"].record("s").reason == "TTL_EXPIRED"


def test_a_binding_that_crosses_with_a_giving_up_is_fenced_and_said() -> None:
    """A reattach commits while a detach is under way: its caller hears of the commit and of the fence."""
    world = ready_world(15)
    requests = requests_of(world)
    node = world.nodes["vpn-1"]
    assert node.do(requests.create("s", BINDING, None, None, None)).reason is None
    binding = node.submit(requests.reattach("s", 1, BINDING, None, None))
    leaving = node.submit(requests.detach("s", 1, "DETACHED", None))
    assert world.run_until(lambda: binding.answer is not None and leaving.answer is not None)
    assert binding.answer is not None and binding.answer.reason is None
    assert leaving.answer is not None and leaving.answer.reason is Reason.VERSION_MISMATCH
    assert not node.owns("s")
    assert ("s", 1, "GIVEN_UP") in node.fenced_log


def test_a_session_keeps_the_policy_it_was_created_under() -> None:
    """Option A and B side by side: of a lost owner's sessions one waits for a failover, the other ends."""
    world = ready_world(16, policy="terminate")
    requests = requests_of(world)
    owner, taker = world.nodes["vpn-1"], world.nodes["vpn-2"]
    assert owner.do(requests.create("waits", BINDING, None, "deny", None)).reason is None
    assert owner.do(requests.create("ends", BINDING, None, None, None)).reason is None
    world.run(100)
    world.cut(["vpn-1"])
    assert world.run_until(lambda: taker.record("ends").state == SessionState.TERMINATED)
    assert world.run_until(lambda: taker.cor.why_refused() is None)
    assert taker.record("ends").reason == "OWNER_LOST"
    assert taker.do(requests.failover("waits", 1, BINDING, None)).reason is None
    assert taker.owns("waits", 2) and not owner.owns("waits") and not owner.owns("ends")
