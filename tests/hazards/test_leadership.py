"""Holes of leadership and of answers to callers (H10, H11, H14, H16, H19, H22, H25, and the catch-up livelock)."""

import pickle
import random
import threading
import time

import msgpack
import pytest
from harness import Driver, StockTransport, Told
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import syncobj as stock_module
from pysyncobj.node import Node

from raftstore.codec.messages import MalformedMessage
from raftstore.raft.peer_messages import decode, encode
from raftstore.raft.seams import InvariantViolation


def test_h10_an_isolated_leader_stops_claiming_to_lead(stock, ours):
    """Cut off from everybody, it gives up within one election timeout; the stock class claims on for half a minute."""

    def claimed_ms(c: Driver) -> int:
        assert c.elect("A", "BC")
        c.settle("A")
        c.isolate("A")
        waited = 0
        while c.leads("A") and waited < 60_000:
            c.tick("A", ms=50)
            waited += 50
        return waited

    assert claimed_ms(stock()) > 29_000
    assert claimed_ms(ours()) <= 600


def test_h10_a_write_without_a_leader_is_refused_not_kept(stock, ours):
    """Nobody answers a caller whom the stock class keeps waiting; two minutes later, healed, it commits after all."""

    def schedule(c: Driver) -> tuple[Told, str | None]:
        assert c.elect("A", "BC")
        c.settle("A")
        for i in "ABC":
            c.isolate(i)
        for _ in range(1200):
            c.tick("A", ms=100)
        told = c.acquire("A", "s", "gave up")
        for _ in range(1200):
            c.tick("A", ms=100)
        before = list(told.calls)
        c.connect_all()
        assert c.elect("A", "BC")
        c.settle("A", rounds=8)
        return before, c.owner("B", "s")

    assert schedule(stock()) == ([], "gave up")
    assert schedule(ours()) == ([(None, "UNAVAILABLE")], None)


def test_h11_a_lost_forward_is_not_waited_for_in_vain(stock, ours):
    """The stock follower forwards and forgets; ours refuses at once, and the node above forwards and asks again."""

    def schedule(c: Driver) -> Told:
        assert c.elect("A", "BC")
        c.settle("A")
        told = c.acquire("B", "s", "b")
        c.cut("A", "B")
        c.connect("A", "B")
        for _ in range(50):
            c.settle("A", rounds=1)
        return told

    assert schedule(stock()).calls == []
    assert schedule(ours()).calls == [(None, "UNAVAILABLE")]


def test_h11_no_failure_is_told_of_what_committed(stock, ours):
    """The stock class says LEADER_CHANGED of a command that is then committed; here that path does not exist."""
    c = stock()
    assert c.elect("A", "BC")
    c.settle("A")
    told = c.acquire("B", "s", "b")
    c.deliver("B", "A")
    c.tick("A")
    c.queues["A", "B"].clear()
    c.settle("A", "AC")
    c.isolate("A")
    c.elect("C", "B")
    c.settle("C", "BC")
    assert told.calls == [(None, "LEADER_CHANGED")]
    assert c.owner("B", "s") == "b"

    raft = ours().members["B"].raft
    for forward in (raft._applyCommand, raft._checkCommandsToApply):
        with pytest.raises(InvariantViolation):
            forward(b"\x00", None)
    with pytest.raises(KeyError):
        encode({"type": "apply_command", "command": b"\x00"})


class Simulation:
    """Time that runs for every node alike, in steps of 50 ms; links deliver within a step."""

    def __init__(self, c: Driver, seed: int) -> None:
        self.c, self.changes, self.last = c, 0, None
        stock_module.random = random.Random(seed)
        c.rng = random.Random(seed)

    def run(self, seconds: float, without: str = "") -> None:
        c = self.c
        for _ in range(int(seconds * 20)):
            c.tick(ms=50)
            for i in without:
                for j in c.ids:
                    c.queues[i, j].clear()
                    c.queues[j, i].clear()
            c.flush()
            leaders = [i for i in c.ids if c.leads(i)]
            if leaders:
                current = max((c.term(i), i) for i in leaders)
                self.changes += self.last not in (None, current)
                self.last = current


def rejoin(c: Driver, seed: int) -> int:
    """Leader changes after a follower that was cut off for ten seconds is back."""
    world = Simulation(c, seed)
    world.run(5)
    assert world.last is not None
    away = next(i for i in c.ids if i != world.last[1])
    world.run(3.5, without=away)
    c.isolate(away)
    world.run(6.5)
    before = world.changes
    c.connect_all()
    world.run(5)
    return world.changes - before


@pytest.mark.parametrize("seed", range(4))
def test_h14_a_rejoining_node_deposes_nobody(stock, ours, seed):
    """A follower that comes back from a cut deposes a healthy stock leader, and none of ours."""
    assert rejoin(stock(), seed) >= 1
    assert rejoin(ours(), seed) == 0


def test_h14_a_broken_link_deposes_nobody(stock, ours):
    """With one link of three broken the stock cluster changes leaders for ever; ours stays."""

    def changes(c: Driver) -> int:
        world = Simulation(c, 3)
        world.run(5)
        leader = world.last[1]
        c.cut(leader, next(i for i in c.ids if i != leader))
        before = world.changes
        world.run(30)
        return world.changes - before

    assert changes(stock()) >= 1
    assert changes(ours()) == 0


def test_h16_an_answer_never_reaches_the_next_process(stock):
    """Request ids of the stock class start at 0 in each process: the old answer convinces the new caller."""
    c = stock()
    assert c.elect("A", "BC")
    c.settle("A")
    c.acquire("B", "s", "X")
    c.deliver("B", "A")
    c.restart("B")
    c.connect_all()
    c.beat("A")
    append = {"type": "append_entries", "term": c.term("A"), "commit_index": 1, "entries": []}
    c.inject("A", "B", pickle.dumps({**append, "prevLogIdx": 2, "prevLogTerm": 1}))
    c.queues["B", "A"].clear()
    told = c.acquire("B", "s", "Y")
    c.deliver("B", "A")
    c.settle("A", rounds=8)
    assert told.calls[0] == (True, "SUCCESS")
    assert c.owner("A", "s") == "X"


def test_h16_there_is_no_such_answer_on_our_wire():
    """Nothing on the wire answers a forwarded command: every node takes results from its own log."""
    for forged in ({"type": "apply_command_response", "request_id": 1}, {"type": "apply_command", "request_id": 1}):
        with pytest.raises(KeyError):
            encode(forged)
        with pytest.raises(MalformedMessage):
            decode(msgpack.packb(forged))


def test_h19_callers_are_told_when_a_snapshot_passes_their_entry(stock, ours):
    """A snapshot that jumps over an entry leaves its stock caller waiting for ever."""

    def schedule(c: Driver) -> Told:
        assert c.elect("A", "BC")
        c.settle("A")
        c.isolate("A")
        told = c.acquire("A", "s", "A")
        assert c.elect("B", "C")
        c.settle("B", "BC")
        for n in range(10):
            c.put("B", n)
        c.settle("B", "BC")
        c.compact("B")
        c.settle("B", "BC")
        c.connect_all()
        c.beat("B")
        c.flush()
        c.beat("B")
        c.deliver("B", "A")
        c.settle("B", rounds=20)
        assert c.applied("A") > 10
        return told

    assert schedule(stock()).calls == []
    assert schedule(ours()).calls == [(None, "UNKNOWN")]


def test_h22_nothing_is_refused_that_then_happens(stock, stock_time, ours):
    """A full pipe makes the stock class raise for a command that it has queued already."""
    c = stock("A", appendEntriesUseBatch=False, commandsQueueSize=0)
    node, refused = c.nodes["A"], None
    for number in range(200_000):
        try:
            node.put(number)
        except OSError:
            refused = number
            break
    assert refused is not None
    stock_time.now_s += 10
    stock_time.step_s = 0.0
    for _ in range(20):
        c.tick("A", ms=200)
    assert refused in c.history("A")

    d = ours("A")
    with pytest.raises(InvariantViolation):
        d.members["A"].raft._applyCommand(b"\x00", None)
    assert d.put("A", 1).calls == [(None, "UNAVAILABLE")]
    d.tick("A", ms=2000)
    assert d.history("A") == []


def test_h25_no_thread_whose_end_goes_unnoticed(ours):
    """The stock tick thread ends with the thread that made it, and the object goes on claiming to lead."""
    kept = stock_module.monotonicTime
    stock_module.monotonicTime = time.monotonic
    leading = threading.Event()
    made: list[SyncObj] = []

    def make() -> None:
        conf = SyncObjConf(
            autoTick=True,
            autoTickPeriod=0.005,
            appendEntriesPeriod=0.005,
            raftMinTimeout=0.02,
            raftMaxTimeout=0.03,
            onStateChanged=lambda old, new: leading.set() if new == 2 else None,
        )
        links = type("Nobody", (), {"send": lambda *_: False})()
        made.append(SyncObj(Node("A"), [], conf, transport=StockTransport(links, "A")))
        assert leading.wait(5)

    try:
        starter = threading.Thread(target=make)
        starter.start()
        starter.join(10)
        made[0]._SyncObj__thread.join(10)
        assert not made[0].tick_thread_alive()
        assert made[0]._isLeader()
    finally:
        stock_module.monotonicTime = kept

    before = threading.active_count()
    raft = ours().members["A"].raft
    assert raft._SyncObj__thread is None
    assert threading.active_count() == before


def catch_up(c: Driver, seed: int) -> bool:
    """Whether an old leader with an uncommitted tail has caught up ten seconds after it is back.

    Links keep their order, take 50 ms more or less, and the new leader goes on writing.
    """
    stock_module.random = rng = random.Random(seed)
    c.rng = random.Random(seed)
    assert c.elect("A", "BC")
    c.settle("A")
    c.isolate("A")
    for n in range(40 + seed):
        c.put("A", ("tail", n))
    assert c.elect("B", "C")
    c.settle("B", "BC")
    for n in range(40):
        c.put("B", n)
    c.settle("B", "BC")
    c.cut("B", "C")
    c.tick("B", ms=400)
    c.connect("B", "C")
    assert c.elect("C", "B")
    c.settle("C", "BC")
    c.connect_all()
    flying: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
    for now in range(0, 10_000, 10):
        for link, queue in sorted(c.queues.items()):
            way = flying.setdefault(link, [])
            while queue:
                due = now + 50 + rng.randrange(-20, 20)
                way.append((max(due, way[-1][0] if way else 0), queue.popleft()))
            while way and way[0][0] <= now:
                c.inject(*link, way.pop(0)[1])
        c.tick(ms=10)
        if c.leads("C") and now % 100 == 0:
            c.put("C", ("more", now))
    assert c.leads("C")
    return c.applied("A") > c.applied("C") - 20


def test_catching_up_over_slow_links_ends(stock, ours):
    """One-step resets race with the stream of the stock leader; the hardened one finds the common point at once."""
    assert not any(catch_up(stock(), seed) for seed in range(4))
    assert all(catch_up(ours(), seed) for seed in range(4))


def test_the_drivers_agree_where_nothing_goes_wrong(stock, ours):
    """Without faults both libraries give the same answers, so the schedules compare like with like."""

    def schedule(c: Driver) -> list[object]:
        assert c.elect("A", "BC")
        c.settle("A")
        tolds = [c.acquire("A", "s", "x"), c.acquire("A", "s", "y"), c.put("A", 7)]
        c.settle("A")
        return [t.calls for t in tolds] + [c.owner(i, "s") for i in "ABC"] + [c.history(i) for i in "ABC"]

    assert schedule(stock()) == schedule(ours())
