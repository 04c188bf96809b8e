"""The parts of the simulator, each alone: a tool that lies finds nothing."""

from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import Any

import pytest

from jepsen_like.sim.clock import SimClock
from jepsen_like.sim.disk import SimDisk
from jepsen_like.sim.loop import SimLoop
from jepsen_like.sim.network import Network
from jepsen_like.sim.plan import FAULT_KINDS, FOUNDING, draw
from jepsen_like.sim.scheduler import MS, Life, Scheduler, Spinning
from jepsen_like.sim.shrink import shrink
from jepsen_like.sim.watch import Held, Promise, Tracker
from raftstore.node.owned import EPOCH_BITS


def make_loop() -> tuple[Scheduler, SimLoop, list[str]]:
    scheduler, errors = Scheduler(), list[str]()
    return scheduler, SimLoop(scheduler, Life(), errors.append), errors


def test_a_loop_runs_coroutines_on_virtual_time() -> None:
    """Sleeping an hour takes no time, and happens in order."""
    scheduler, loop, errors = make_loop()
    seen: list[tuple[str, int]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, scheduler.now // (1_000 * MS)))

    async def both() -> None:
        await asyncio.gather(loop.create_task(sleeper("late", 3600)), loop.create_task(sleeper("early", 1)))

    loop.run(loop.create_task, both())
    scheduler.run_until(4_000 * 1_000 * MS)
    assert seen == [("early", 1), ("late", 3600)]
    assert errors == []


def test_who_never_waits_is_stopped() -> None:
    """A process that does one thing after the other at one instant would let no time pass any more."""
    scheduler, loop, _ = make_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(Spinning, match="events at"):
        scheduler.run_until(MS)


def test_a_wait_ends_at_its_timeout() -> None:
    """asyncio's own time-outs work on the loop."""
    scheduler, loop, _ = make_loop()
    ended: list[float] = []

    async def waits() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 2.5)
        ended.append(loop.time())

    loop.run(loop.create_task, waits())
    scheduler.run_until(10_000 * MS)
    assert ended == [pytest.approx(2.5, abs=0.001)]


def test_a_thread_takes_the_time_of_its_disk() -> None:
    """Work in an executor is told when the syncs that it did are through, not before."""
    scheduler, loop, _ = make_loop()
    disk = SimDisk(Random(1))
    disk.sync_min_ns = disk.sync_max_ns = 700 * MS
    loop.on_thread_begin, loop.thread_now = disk.begin, lambda: disk.cursor
    told: list[int] = []

    def work() -> None:
        loop.call_soon_threadsafe(lambda: told.append(scheduler.now))
        disk.open("/f", create=True).datasync()
        loop.call_soon_threadsafe(lambda: told.append(scheduler.now))

    async def works() -> None:
        await loop.run_in_executor(None, work)
        told.append(scheduler.now)

    loop.run(loop.create_task, works())
    scheduler.run_until(2_000 * MS)
    assert told[0] < MS
    assert min(told[1:]) >= 700 * MS
    assert len(told) == 3


def test_nothing_of_a_dead_process_happens() -> None:
    """What a process had planned dies with it, whatever it was waiting for."""
    scheduler, loop, errors = make_loop()
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("woke up")
        finally:
            await asyncio.sleep(1)

    loop.run(loop.create_task, stubborn())
    scheduler.at(500 * MS, loop.die)
    scheduler.run_until(5_000 * MS)
    assert seen == []
    assert errors == []


def test_a_paused_process_goes_on_in_order() -> None:
    """A pause delays everything and reorders nothing; a stalled loop lets threads run."""
    scheduler, life = Scheduler(), Life()
    seen: list[str] = []
    for name, when, on_loop in (("a", 10, True), ("thread", 20, False), ("b", 30, True)):
        scheduler.at(when, seen.append, name, life=life, on_loop=on_loop)
    life.stalled_until = 100
    scheduler.run_until(50)
    assert seen == ["thread"]
    scheduler.run_until(200)
    assert seen == ["thread", "a", "b"]


def written(disk: SimDisk, at: int, *, sync: bool) -> Any:
    disk.begin(at)
    file = disk.open("/f", create=True)
    file.pwrite(b"old", 0)
    file.datasync()
    disk.sync_dir("/")
    if sync:
        file.pwrite(b"new", 0)
        file.datasync()
    return file


def test_a_power_loss_before_the_sync_is_through_may_lose_it() -> None:
    """A sync counts from the instant at which it is through."""
    disk = SimDisk(Random(1))
    disk.sync_min_ns = disk.sync_max_ns = 10
    written(disk, 0, sync=True)  # through at 10, 20 (the name) and 30
    disk.lose_power(25, 0.0)
    assert disk.open("/f").pread(3, 0) == b"old"


def test_a_power_loss_afterwards_keeps_it() -> None:
    """What was synced survives."""
    disk = SimDisk(Random(1))
    disk.sync_min_ns = disk.sync_max_ns = 10
    written(disk, 0, sync=True)
    disk.lose_power(30, 0.0)
    assert disk.open("/f").pread(3, 0) == b"new"


def test_what_came_after_the_crash_never_was() -> None:
    """A thread that runs ahead of the world has not done what lies behind the crash."""
    disk = SimDisk(Random(1))
    disk.sync_min_ns = disk.sync_max_ns = 10
    written(disk, 0, sync=True)
    disk.kill(15)  # the second write was made at 20
    assert disk.open("/f").pread(3, 0) == b"old"


def test_an_unsynced_name_may_be_lost() -> None:
    """A file whose directory was not synced is gone, whatever was synced of it."""
    disk = SimDisk(Random(1))
    disk.begin(0)
    file = disk.open("/f", create=True)
    file.pwrite(b"x", 0)
    file.datasync()
    disk.lose_power(10**12, 0.0)
    assert not disk.exists("/f")


def test_a_disk_fails_when_told_and_when_full() -> None:
    """The chosen call raises, and so does a write beyond the capacity."""
    disk = SimDisk(Random(1))
    file = disk.open("/f", create=True)
    disk.fail_in["sync"] = 0
    with pytest.raises(OSError, match="input/output"):
        file.datasync()
    disk.capacity_bytes = 2
    with pytest.raises(OSError) as full:
        file.pwrite(b"abc", 0)
    assert full.value.errno == errno.ENOSPC


def test_cuts_overlap() -> None:
    """A pair that two cuts hold apart is apart until both have ended."""
    network = Network(Scheduler(), Random(1), ("a", "b"))
    first, second = network.block([("a", "b")]), network.block([("a", "b")])
    first()
    assert network.is_blocked("a", "b")
    second()
    assert not network.is_blocked("a", "b")


def test_a_clock_converts_both_ways() -> None:
    """The instant at which a drifting clock shows a time is the first one at which it does."""
    scheduler = Scheduler()
    clock = SimClock(scheduler, 5_000, 50_000)
    scheduler.now = 1_000_000
    clock.drift(-50_000)
    for local in range(clock.now_ns(), clock.now_ns() + 5_000, 7):
        when = clock.world_ns(local)
        scheduler.now, before = when, scheduler.now
        assert clock.now_ns() >= local
        scheduler.now = when - 1
        assert clock.now_ns() < local or when - 1 < before
        scheduler.now = before


class FakeOwned:
    """The list of a node, as far as the tracker reads it."""

    def __init__(self) -> None:
        self._held: Any = {}
        self._own_until_ns = 0
        self._giving_up: dict[str, int] = {}


def test_two_owners_are_seen_at_once() -> None:
    """The second claim within the first one's interval is a violation; after its end it is none."""
    scheduler, found = Scheduler(), list[str]()
    promise = Promise(scheduler, lambda *_, **__: None, lambda kind, detail: found.append(kind))
    lists = [FakeOwned(), FakeOwned()]
    clock = SimClock(scheduler, 0, 0)
    trackers = [Tracker(promise, f"p{i}", f"n{i}", clock, owned) for i, owned in enumerate(lists)]
    lists[0]._held["s"] = 10**12 << EPOCH_BITS | 1
    lists[0]._own_until_ns = 100
    trackers[0].look()
    scheduler.now = 100
    lists[1]._held["s"] = 10**12 << EPOCH_BITS | 2
    lists[1]._own_until_ns = 300
    trackers[1].look()
    assert found == []
    lists[0]._own_until_ns = 200
    trackers[0].look()
    assert found == ["dual_owner"]


def test_the_watched_list_notes_every_change() -> None:
    """Whatever the node does to its list is seen."""
    held = Held({})
    for change in (lambda: held.__setitem__("a", 1), lambda: held.pop("a", None), held.clear):
        held.is_changed = False
        change()
        assert held.is_changed


def test_plans_use_every_kind_of_fault() -> None:
    """Over some seeds nothing is left out, and no seed has everything."""
    kinds = [set(draw(seed, workload=workload).fault_kinds) for seed in range(120) for workload in ("mix", "sticky")]
    assert set().union(*kinds) == {*FAULT_KINDS, FOUNDING}
    assert all(len(some) < len(FAULT_KINDS) for some in kinds)


def test_a_plan_shrinks_to_what_matters() -> None:
    """Of all faults and ops the ones that make it fail are left."""
    plan = draw(12)
    needed, op = plan.faults[len(plan.faults) // 2], plan.ops[17]
    smaller = shrink(plan, lambda tried: needed in tried.faults and op in tried.ops)
    assert smaller.faults == (needed,)
    assert smaller.ops == (op,)
