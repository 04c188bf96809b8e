"""Random operations and faults against a whole cluster on virtual time, judged by its audit trail.

Every seed is a schedule of its own: races, migrations, failovers, callers without patience, cuts, pauses, crashes with
lost writes, lost disks, slow disks, drifting clocks, logs that are cut so that who lags gets a snapshot. The world
checks "never two" at every instant, readers that they read nothing old; the end of each run checks what callers were
told against what the trail says. A failing seed is named by the test's own parameter.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import NamedTuple

import pytest
from virtual_cluster import BINDING, Caller, VirtualNode, World, requests_of

from raftstore.errors import Unavailable
from raftstore.node.proposals import Request
from raftstore.node.requests import Requests
from raftstore.ownership.events import EVENT_NAMES, FIELDS

SESSIONS = [f"s{i}" for i in range(4)]
RUN_MS = 25_000
SEEDS = range(1, 13)


class Told(NamedTuple):
    """One op, and who waits for its answer."""

    node_id: str
    incarnation: int
    request: Request
    caller: Caller
    deadline_ms: int


class Load:
    """Callers at every node that want something random of a few sessions."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.requests: Requests = requests_of(world)
        self.told: list[Told] = []
        self.reads = 0

    def act(self) -> None:
        node = self.rng.choice(list(self.world.nodes.values()))
        if node.core is None or node.core.stopped is not None or node.paused_until > self.world.now:
            return
        if self.rng.random() < 0.2:
            self._read(node)
            return
        request = self._choose(node)
        deadline_ms = node.core.cluster_clock.now_ms() + (request.timeout_ms or 2_000)
        self.told.append(Told(node.node_id, node.core.incarnation, request, node.submit(request), deadline_ms))

    def _read(self, node: VirtualNode) -> None:
        """A linearizable read sees at least what anybody was told before it began."""
        session_id, core = self.rng.choice(SESSIONS), node.cor
        answers = [told.caller.answer for told in self.told if told.request.session_id == session_id]
        known = max((a.record.state_version for a in answers if a and a.decided and a.reason is None), default=0)

        def ready(good: bool) -> None:
            record = core.replica.machine.sessions.get(session_id)
            if good:
                self.reads += 1
                assert known <= (0 if record is None else record.state_version), f"{node.node_id}: stale read"

        try:
            core.read(ready)
        except Unavailable:
            return

    def _choose(self, node: VirtualNode) -> Request:
        rng, requests = self.rng, self.requests
        session_id = rng.choice(SESSIONS)
        record = node.cor.replica.machine.sessions.get(session_id)
        timeout = rng.choice((None, None, 5, 30, 300))
        if record is None:
            return requests.create(session_id, BINDING, rng.choice((None, 8_000)), None, timeout)
        version = record.state_version + rng.choice((0, 0, 0, 0, 0, 1, -1))
        version = max(0, version)
        other = rng.choice([n for n in self.world.nodes if n != node.node_id])
        choices = [
            lambda: requests.reattach(session_id, version, BINDING, None, timeout),
            lambda: requests.reattach(session_id, version, BINDING, None, timeout),
            lambda: requests.failover(session_id, version, BINDING, timeout),
            lambda: requests.detach(session_id, version, "DETACHED", timeout),
            lambda: requests.renew(session_id, version, 600_000, timeout),
            lambda: requests.freeze(session_id, version, "MIGRATION", other, timeout),
            lambda: requests.transfer(session_id, version, timeout),
            lambda: requests.resume(session_id, version, BINDING, timeout),
            lambda: requests.thaw(session_id, version, timeout),
        ]
        return rng.choice(choices)()


class Faults:
    """One fault at a time or several; `heal` ends them all."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        kinds = ["cut", "pause", "crash", "slow_disk", "crash_all", "wall", "wipe"]
        self.kinds = rng.sample(kinds, rng.randint(2, 7))
        self.cuts_logs = rng.random() < 0.6

    def cut_a_log(self) -> None:
        """A node writes a snapshot and forgets its log, but for a few entries."""
        node = self.rng.choice(list(self.world.nodes.values()))
        if node.core is not None and node.core.stopped is None and node.paused_until <= self.world.now:
            node.disk.write_snapshot(self.rng.choice((0, 0, 3, 50)))

    def act(self) -> None:
        world, rng = self.world, self.rng
        node = rng.choice(list(world.nodes.values()))
        match rng.choice(self.kinds):
            case "cut":
                world.cut([node.node_id], notice_ms=rng.choice((0, 100, 2_000)))
            case "pause":
                node.pause(rng.choice((50, 700, 4_000)))
            case "crash":
                if node.core is not None and sum(n.core is None for n in world.nodes.values()) == 0:
                    node.crash()
            case "wipe":
                if all(n.core is not None and not n.core.raft.is_learner for n in world.nodes.values()):
                    node.crash()  # one at a time: who forgets more than a minority has lost
                    node.disk.wipe()
                    node.restart()
            case "slow_disk":
                node.sync_ms = rng.choice((1.0, 20.0, 400.0))
            case "crash_all":
                for member in world.nodes.values():
                    if member.core is not None:
                        member.crash()
            case "wall":
                node.wall_offset_ms = rng.choice((-86_400_000, 0, 86_400_000))

    def heal(self) -> None:
        world = self.world
        for node in world.nodes.values():
            if node.core is None:
                node.restart()
        world.heal()


def run_schedule(seed: int) -> World:
    rng = Random(seed)
    world = World(seed, size=rng.choice((3, 3, 5)), policy=rng.choice(("deny", "terminate")), drift_ppm=9_900)
    world.start_all()
    world.wait_ready()
    load, faults = Load(world, rng), Faults(world, rng)
    passed = 0.0
    while passed < RUN_MS:
        step = rng.expovariate(1 / 60)
        world.run(step)
        passed += step
        load.act()
        if faults.cuts_logs and rng.random() < 0.1:
            faults.cut_a_log()
        if rng.random() < 0.03:
            faults.act()
        if rng.random() < 0.03:
            faults.heal()
    faults.heal()
    for node in world.nodes.values():
        node.sync_ms = 1.0
        assert node.failed is None, node.failed
    world.run(5_000)
    world.wait_ready()
    world.run(3_000)  # cluster time passes every deadline
    world.wait_equal()
    judge(world, load.told)
    assert load.reads > 0
    assert all(len(node.cor.late) == 0 for node in world.nodes.values()), "a late binding was left bound"
    return world


def judge(world: World, told: list[Told]) -> None:
    """What callers were told, against the one history that all nodes agree on."""
    at = {name: FIELDS.index(name) for name in FIELDS}
    history = [world.history[number] for number in sorted(world.history)]
    assert [e[at["number"]] for e in history] == list(range(1, len(history) + 1))
    by_op = {}
    versions: Counter[str] = Counter()
    for event in history:
        op_id = (event[at["node"]], event[at["incarnation"]], event[at["seq"]])
        name, session_id = EVENT_NAMES[event[at["event"]]], event[at["session_id"]]
        if name == "Refused":
            by_op.setdefault(op_id, event)  # a second copy of an op that was answered is refused: the first counts
            continue
        if session_id is not None:
            versions[session_id] += 1
            assert event[at["state_version"]] == versions[session_id], f"{session_id} skipped a version: {event}"
            assert op_id not in by_op or name in ("Expired", "Terminated", "Thawed", "Detached"), f"twice: {event}"
        by_op[op_id] = event
    for item in told:
        event = by_op.get((item.node_id, item.incarnation, item.caller.seq))
        judge_one(item, None if event is None else (EVENT_NAMES[event[at["event"]]], event, at))


def judge_one(item: Told, found: tuple[str, tuple[object, ...], dict[str, int]] | None) -> None:
    answer = item.caller.answer
    if item.caller.refused is not None:
        assert item.caller.seq == 0  # it never got a number, so nothing of it can be anywhere
    elif answer is None:
        pass  # its process died first
    elif not answer.decided:
        if found is not None and found[0] != "Refused":
            assert found[1][found[2]["at_ms"]] <= item.deadline_ms, f"revived after its deadline: {found}"
    elif answer.reason is None:
        assert found is not None and found[0] != "Refused", f"acknowledged and not in the trail: {item}"
    elif answer.log_index:
        assert found is not None and found[0] == "Refused", f"rejected, but the trail says {found}: {item}"
    else:
        assert found is None or found[0] == "Refused", f"told that it never happens, but: {found}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_schedule_keeps_every_promise(seed: int) -> None:
    """Never two at any instant; what was told is what the trail says; afterwards the cluster serves again."""
    world = run_schedule(seed)
    assert world.owner_checks > 0
