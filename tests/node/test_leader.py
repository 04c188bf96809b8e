"""What a leader does: batches within bounds, a resume before anything else, the machine's house in order."""

from typing import Any

from node_parts import ReplicaRig
from virtual_cluster import BINDING, make_config, ready_world, requests_of

from raftstore.node.leader import FORWARDED_GROUPS_MAX, LeaderDuties
from raftstore.ownership import SWEEP_MAX, batches, commands
from raftstore.raft.seams import FOLLOWER, LEADER


class FakeRaft:
    """As much of a Raft node as the duties use."""

    def __init__(self) -> None:
        self.role = LEADER
        self.is_leader_ready = True
        self.is_transferring = False
        self.quorum_was_anchored = False
        self.witness_ms = 0
        self.term = 3
        self.last_log_index = 10
        self.last_applied = 10
        self.proposed: list[list[Any]] = []
        self.wanted: list[tuple[str, int]] = []

    def want_commit(self, peer: str, index: int) -> None:
        self.wanted.append((peer, index))

    def propose(self, data: bytes) -> int | None:
        batch = batches.decode_batch(data)
        assert batch is not None
        self.proposed.append(batch)
        self.last_log_index += 1
        return self.last_log_index


class Rig:
    def __init__(self, *, batch_ops_max: int = 4, entry_bytes_max: int = 4_096) -> None:
        self.replica_rig = ReplicaRig()
        self.raft: Any = FakeRaft()
        self.own: list[tuple[bytes, int]] = []
        self.submitted: list[tuple[str, Any]] = []
        self.reports: list[str] = []
        self.duties = LeaderDuties(
            clock=self.replica_rig.clock,
            cluster_clock=self.replica_rig.cluster_clock,
            raft=self.raft,
            replica=self.replica_rig.replica,
            take_own_group=lambda ops_max, bytes_max: self.own.pop(0) if self.own else (b"", 0),
            submit=lambda kind, callback: self.submitted.append((kind, callback)),
            report=lambda kind, detail: self.reports.append(kind),
            wanted_params=make_config().machine_params(),
            batch_ops_max=batch_ops_max,
            entry_bytes_max=entry_bytes_max,
        )

    def forward(self, node_id: str, count: int, *, inc: int = 202, padding: int = 0) -> bool:
        name = "x" * padding or "s"
        ops = [commands.detach(seq, 2**50, name, 1, "X") for seq in range(count)]
        return self.duties.accept_forwarded(batches.pack_group(node_id, inc, 0, ops), "vpn-2", 202)

    def sizes(self) -> list[list[int]]:
        """Ops per group of every batch."""
        return [[len(group[3]) for group in batch[3]] for batch in self.raft.proposed]


def test_groups_of_several_nodes_share_a_batch_up_to_its_bound() -> None:
    """Own ops first, then forwarded groups in order, whole; what does not fit waits for the next entry."""
    rig = Rig()
    rig.own.append((batches.pack_group("vpn-1", 101, 0, [commands.drain(1, 2**50)]), 1))
    assert rig.forward("vpn-2", 2) and rig.forward("vpn-2", 2) and rig.forward("vpn-2", 4)
    assert rig.duties.propose()
    assert rig.sizes() == [[1, 2], [2], [4]]
    assert (rig.duties.batches, rig.duties.batched_ops) == (3, 9)


def test_a_batch_keeps_within_its_bytes() -> None:
    """The second group would make the entry too large: it goes into the next."""
    rig = Rig(batch_ops_max=100)
    assert rig.forward("vpn-2", 36, padding=64) and rig.forward("vpn-2", 36, padding=64)
    rig.duties.propose()
    assert rig.sizes() == [[36], [36]]
    assert not rig.forward("vpn-2", 60, padding=64)  # more than an entry may hold


def test_only_a_few_entries_are_on_their_way_at_once() -> None:
    """Beyond them ops gather, so that batches grow with the load."""
    rig = Rig(batch_ops_max=1)
    for _ in range(6):
        assert rig.forward("vpn-2", 1)
    rig.duties.propose()
    assert len(rig.raft.proposed) == 4
    rig.raft.last_applied += 1
    rig.duties.propose()
    assert len(rig.raft.proposed) == 5


def test_a_forwarded_group_is_taken_only_from_the_process_that_made_it() -> None:
    """Wrong node, wrong incarnation, too many ops, garbage: refused, to be sent again or never."""
    rig = Rig()
    assert rig.forward("vpn-2", 1)
    assert not rig.forward("vpn-3", 1)
    assert not rig.forward("vpn-2", 1, inc=203)
    assert not rig.forward("vpn-2", 5)
    assert not rig.duties.accept_forwarded(b"\xc1", "vpn-2", 202)
    rig.raft.is_leader_ready = False
    assert not rig.forward("vpn-2", 1)


def test_forwarded_groups_wait_in_a_bounded_queue() -> None:
    """Beyond the bound their senders are told to try again."""
    rig = Rig()
    assert all(rig.forward("vpn-2", 1) for _ in range(FORWARDED_GROUPS_MAX))
    assert not rig.forward("vpn-2", 1)


def test_who_leads_no_more_forgets_what_was_forwarded() -> None:
    """Its senders send again to the next leader; nothing of it may come up again here."""
    rig = Rig()
    assert rig.forward("vpn-2", 1)
    rig.raft.role = FOLLOWER
    assert not rig.duties.propose()
    rig.raft.role = LEADER
    assert not rig.duties.propose() and rig.raft.proposed == []


def test_nothing_is_proposed_before_ready_or_while_leadership_is_handed_over() -> None:
    """The ops wait; they are not taken out of the queue."""
    rig = Rig()
    assert rig.forward("vpn-2", 1)
    rig.raft.is_transferring = True
    assert not rig.duties.propose()
    rig.raft.is_transferring, rig.raft.is_leader_ready = False, False
    assert not rig.duties.propose()
    rig.raft.is_leader_ready = True
    assert rig.duties.propose() and rig.sizes() == [[1]]


def test_an_unanchored_leader_resumes_first_and_once_per_term() -> None:
    """One batch without ops, with the jump of the stop; everything else waits until it is applied."""
    rig = Rig()
    rig.replica_rig.cluster_clock.is_live = False
    rig.replica_rig.clock.wall += 5_000
    assert rig.forward("vpn-2", 1)
    assert rig.duties.propose() and not rig.duties.propose()
    ((stamp_ms, wall_ms, jump_ms, groups),) = rig.raft.proposed
    assert (jump_ms, groups) == (5_000, []) and stamp_ms == 1_000
    assert wall_ms == rig.replica_rig.clock.wall
    rig.raft.term += 1
    assert rig.duties.propose()


def test_no_jump_when_a_voter_of_the_election_knew_the_time() -> None:
    """The cluster did not stop: cluster time goes on from what is known, and only the leases start anew."""
    rig = Rig()
    rig.replica_rig.cluster_clock.is_live = False
    rig.replica_rig.clock.wall += 5_000
    rig.raft.quorum_was_anchored = True
    assert rig.duties.propose()
    assert rig.raft.proposed[0][2] == 0


def test_a_stop_beyond_the_bound_is_reported() -> None:
    """Cluster time stays where it is and says so."""
    rig = Rig()
    rig.replica_rig.cluster_clock.is_live = False
    rig.replica_rig.clock.wall += 86_400_001
    assert rig.duties.propose()
    assert rig.raft.proposed[0][2] == 0 and rig.reports == ["CLOCK_NOT_RESUMED"]


def test_stamps_never_go_back() -> None:
    """Even if the local estimate is behind what was applied."""
    rig = Rig()
    rig.replica_rig.cluster_clock.anchor(10)
    assert rig.forward("vpn-2", 1)
    rig.duties.propose()
    assert rig.raft.proposed[0][0] == rig.replica_rig.replica.machine.clock_ms == 1_000


def test_the_house_is_kept_one_op_of_a_kind_at_a_time() -> None:
    """Parameters as configured, and due sessions swept; the next only after the answer."""
    rig = Rig()
    rig.replica_rig.by("vpn-2", commands.create, "s", tuple(BINDING), 100)
    rig.replica_rig.by("vpn-2", commands.configure, {"lease_ttl_ms": 2_000})
    rig.replica_rig.clock.pass_ms(2_000)
    rig.duties.tick()
    rig.duties.tick()
    assert [kind for kind, _ in rig.submitted] == ["configure", "sweep"]
    assert rig.duties.sweep == [("s", 1)]


def test_a_sweep_fits_the_smallest_entry() -> None:
    """As many candidates as there is room for, and the rest with the next."""
    rig = Rig(entry_bytes_max=4_096)
    for i in range(60):
        rig.replica_rig.by("vpn-2", commands.create, f"{i:064d}", tuple(BINDING), 100)
    rig.replica_rig.clock.pass_ms(2_000)
    rig.duties.tick()
    assert 0 < len(rig.duties.sweep) < 60 <= SWEEP_MAX
    assert len(commands.sweep(2**53, 2**50, rig.duties.sweep)) < 4_096


def test_the_house_waits_for_readiness_anchor_and_membership() -> None:
    """Whoever is not all three proposes nothing of its own."""
    for spoil in ("ready", "anchor", "joined"):
        rig = Rig()
        rig.replica_rig.by("vpn-2", commands.configure, {"lease_ttl_ms": 2_000})
        rig.raft.is_leader_ready = spoil != "ready"
        rig.replica_rig.cluster_clock.is_live = spoil != "anchor"
        rig.replica_rig.replica.is_joined = spoil != "joined"
        rig.duties.tick()
        assert rig.submitted == []


def test_leases_start_anew_when_an_unanchored_leader_resumes() -> None:
    """Two of three restart while the owner is cut off: its lease runs in full again before anyone may take over."""
    world = ready_world(21)
    requests = requests_of(world)
    owner = world.nodes["vpn-1"]
    assert owner.do(requests.create("s", BINDING, None, None, None)).reason is None
    world.run(200)
    world.cut(["vpn-1"])
    for name in ("vpn-2", "vpn-3"):
        world.nodes[name].crash()
    world.run(2_000)
    for name in ("vpn-2", "vpn-3"):
        world.nodes[name].restart()
    taker = world.nodes["vpn-2"]
    assert world.run_until(lambda: taker.cor.why_refused() is None)
    left_ms = taker.cor.replica.machine.nodes["vpn-1"].lease_until_ms - taker.cor.cluster_clock.now_ms()
    assert left_ms > 2_000
