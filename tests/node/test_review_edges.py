"""The edge of the lease, with successors that try again at every moment of it, on clocks at the very bound of drift.

Beyond the random schedules: a process that crashed lives on here as a ghost, cut off from everybody, whose loop turns
and whose `owns` is asked (a clone, a zombie behind a partition); whoever may take a session over tries every other
millisecond around the moment at which the lease lapses; whoever owns must have been told so.
"""

from __future__ import annotations

from random import Random

import pytest
from virtual_cluster import BINDING, MS, Caller, VirtualNode, World, requests_of

from raftstore.node.core import Core
from raftstore.node.proposals import Answer, Request
from raftstore.ownership.events import EVENT_NAMES, FIELDS
from raftstore.ownership.records import FROZEN

DRIFT_PPM = 10_000
ROUNDS = 6
NEAR_MS = 90  # from here to the lapse successors try all the time
WRONG_MS = (-86_400_000, 0, 5_000, 60_000)  # clocks on the wall after a stop: sessions outlive them, leases must
SEEDS = (1, 2, 4, 7, 9, 11)  # together they notice each margin that is taken away


class EdgeWorld(World):
    """A world with ghosts, in which an owner is a process rather than a node."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__(seed, size=size, drift_ppm=DRIFT_PPM)
        self.ghosts: list[Core] = []
        self.told: set[tuple[int, str, int]] = set()  # (incarnation, session, epoch) of every binding that was told
        self.deadlines: dict[tuple[int, int], int] = {}  # (incarnation, seq) of every op, and its deadline
        for node in self.nodes.values():
            node.drift_ppm = self.rng.choice((-DRIFT_PPM, DRIFT_PPM))

    def check_owners(self) -> None:
        owners: dict[str, int] = {}
        running = [node.core for node in self.nodes.values() if node.core is not None]
        self.ghosts = [core for core in self.ghosts if core.lease.is_held]
        for core in self.ghosts:
            core.owned.keep_until(core.clock.now_ns() + 1_000 * MS)  # its loop turns
        for core in (*running, *self.ghosts):
            for session_id, epoch in core.owned.held():
                if core.owned.owns(session_id, epoch):
                    self.owner_checks += 1
                    assert owners.setdefault(session_id, core.incarnation) == core.incarnation, (
                        f"{session_id} has a second owner, {core.node_id}, at {self.now}"
                    )
                    assert (core.incarnation, session_id, epoch) in self.told, "owned, and nobody was told"

    def check_deadlines(self) -> None:
        """Nothing was done for an op in an entry stamped after its deadline."""
        at = {name: FIELDS.index(name) for name in FIELDS}
        for event in self.history.values():
            deadline_ms = self.deadlines.get((event[at["incarnation"]], event[at["seq"]]))
            if deadline_ms is not None and EVENT_NAMES[event[at["event"]]] != "Refused":
                assert event[at["at_ms"]] <= deadline_ms, f"done after its deadline: {event}"

    def leave_ghost(self, node: VirtualNode) -> None:
        if node.core is not None:
            self.ghosts.append(node.core)
            node.crash()


class Told(Caller):
    """Notes at the moment of the answer what its process may act for from then on."""

    def __init__(self, world: EdgeWorld, incarnation: int) -> None:
        super().__init__()
        self.incarnation = incarnation
        self._told = world.told

    def answered(self, answer: Answer) -> None:
        super().answered(answer)
        if answer.decided and answer.reason is None and answer.record is not None:
            self._told.add((self.incarnation, answer.record.session_id, answer.record.epoch))


class Round:
    """One fault at the owner, and everybody who wants its session."""

    def __init__(self, world: EdgeWorld, rng: Random, session_id: str) -> None:
        self.world = world
        self.rng = rng
        self.session_id = session_id
        self.requests = requests_of(world)
        self.waiting: dict[str, Told] = {}

    def play(self) -> None:
        rng, world = self.rng, self.world
        owner = self._begin()
        world.run(rng.uniform(0, 1_100))  # anywhere between two renewals
        self._hurt(owner)
        self._struggle(rng.uniform(3_200, 5_000))
        for node in world.nodes.values():
            node.sync_ms, node.paused_until = 1.0, min(node.paused_until, world.now)
            if node.core is None:
                node.restart()
        world.heal()
        world.run(100)
        world.wait_ready()

    def _begin(self) -> VirtualNode:
        node = self.rng.choice(list(self.world.nodes.values()))

        def has_it() -> bool:
            self._submit(node)
            return node.owns(self.session_id)

        assert self.world.run_until(has_it, 20_000)
        return node

    def _submit(self, node: VirtualNode, timeout_ms: int | None = None) -> None:
        """What may give this node the session, unless it waits for an answer or has it."""
        core, caller = node.core, self.waiting.get(node.node_id)
        if core is None or core.stopped is not None or node.paused_until > self.world.now:
            return
        waits = caller is not None and caller.seq and caller.answer is None and caller.incarnation == core.incarnation
        if waits or core.owned.owns(self.session_id):
            return
        record = core.replica.machine.sessions.get(self.session_id)
        if record is None:
            request = self.requests.create(self.session_id, BINDING, None, None, timeout_ms)
        elif record.owner != node.node_id:
            request = self.requests.failover(self.session_id, record.state_version, BINDING, timeout_ms)
        elif record.state == FROZEN:
            request = self.requests.resume(self.session_id, record.state_version, BINDING, timeout_ms)
        else:
            request = self.requests.reattach(self.session_id, record.state_version, BINDING, None, timeout_ms)
        self.waiting[node.node_id] = self._ask(node, request)

    def _ask(self, node: VirtualNode, request: Request) -> Told:
        """A caller's op; a refusal before it is proposed leaves a caller that waits for nothing."""
        core = node.cor
        caller = Told(self.world, core.incarnation)
        if core.why_not_taken() is None:
            caller.seq = core.submit(request, caller.answered)
            timeout_ms = request.timeout_ms or self.world.config.timing.op_timeout_ms
            self.world.deadlines[core.incarnation, caller.seq] = core.cluster_clock.now_ms() + timeout_ms
        return caller

    def _hurt(self, owner: VirtualNode) -> None:
        rng, world = self.rng, self.world
        if rng.random() < 0.3:  # commits come so late that callers have given up, and leases are half over
            for node in world.nodes.values():
                node.sync_ms = rng.uniform(100, 400)
        version = owner.record(self.session_id).state_version
        other = rng.choice([n for n in world.nodes.values() if n is not owner])
        match rng.randrange(9):
            case 0 | 1:
                world.cut([owner.node_id], notice_ms=rng.choice((0, 2_000)))
            case 2:
                world.leave_ghost(owner)
                owner.restart()
            case 3:
                world.leave_ghost(owner)
            case 4:  # a migration, and a cut in the middle of it
                self._ask(owner, self.requests.freeze(self.session_id, version, "MIGRATION", other.node_id, None))
                world.run(rng.uniform(0, 8))
                self._ask(owner, self.requests.transfer(self.session_id, version + 1, None))
                world.run(rng.uniform(0, 8))
                world.cut([owner.node_id], notice_ms=rng.choice((0, 2_000)))
            case 5:  # a migration whose owner learns of it last
                self._ask(owner, self.requests.freeze(self.session_id, version, "MIGRATION", other.node_id, None))
                self._ask(owner, self.requests.transfer(self.session_id, version + 1, None))
                world.run(rng.uniform(0.2, 5))
                owner.pause(rng.uniform(50, 900))
            case 6:  # the leader goes with the owner
                world.cut([owner.node_id], notice_ms=0)
                leader = world.leader
                if leader is not None and leader != owner.node_id:
                    world.leave_ghost(world.nodes[leader])
                    world.run(rng.uniform(0, 2_000))
                    world.nodes[leader].restart()
            case 7:  # everybody's processes are replaced; their clocks on the wall are not to be trusted
                for node in world.nodes.values():
                    world.leave_ghost(node)
                    node.wall_offset_ms = rng.choice(WRONG_MS)
                world.run(rng.uniform(0, 1_500))
                for node in rng.sample(list(world.nodes.values()), len(world.nodes)):
                    node.restart()
                    world.run(rng.choice((0, 0, 700)))
            case 8:  # the owner goes on; a majority of the others' processes is replaced under it
                world.cut([owner.node_id], notice_ms=0)
                for node in world.nodes.values():
                    if node is not owner:
                        world.leave_ghost(node)
                        node.wall_offset_ms = rng.choice(WRONG_MS)
                        node.restart()

    def _struggle(self, ms: float) -> None:
        world, rng = self.world, self.rng
        end = world.now + int(ms * MS)
        while world.now < end:
            for node in world.nodes.values():
                self._submit(node, rng.choice((None, 40)))
            world.run(rng.uniform(0.5, 2.0) if self._is_near() else 15)

    def _is_near(self) -> bool:
        """Whether some lease or fence is about to lapse by some node's clock."""
        for node in self.world.nodes.values():
            if node.core is not None:
                record = node.core.replica.machine.sessions.get(self.session_id)
                owner = None if record is None else node.core.replica.machine.nodes.get(record.owner)
                if owner is not None:
                    left_ms = max(owner.lease_until_ms, owner.fence_until_ms) - node.core.cluster_clock.now_ms()
                    if -5 < left_ms < NEAR_MS:
                        return True
        return False


def run_edges(seed: int) -> EdgeWorld:
    rng = Random(seed)
    world = EdgeWorld(seed, rng.choice((3, 3, 5)))
    world.start_all()
    world.wait_ready()
    for number in range(ROUNDS):
        Round(world, rng, f"s{number}").play()
    world.wait_equal()
    world.check_deadlines()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_no_successor_is_let_in_while_an_older_owner_may_still_act(seed: int) -> None:
    """Owners that are cut off, cloned, paused or resumed after a full stop never overlap with whoever takes over."""
    assert run_edges(seed).owner_checks > 0
