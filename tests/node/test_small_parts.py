"""Reads that wait for their index, the watchdog, and the bridge between loops."""

import asyncio
import threading
from typing import Any

import pytest
from node_parts import MS, FakeClock

from raftstore.node import read_requests
from raftstore.node.bridge import Inbox, Outlet
from raftstore.node.read_requests import ReadRequests
from raftstore.node.watchdog import Watchdog

# --- linearizable reads


class Readers:
    """Readers by name, and what each was told."""

    def __init__(self) -> None:
        self.it = ReadRequests(7)
        self.told: list[tuple[str, bool]] = []

    def add(self, name: str) -> None:
        self.it.add(lambda good: self.told.append((name, good)))


def test_reads_that_arrive_together_share_one_request() -> None:
    """Those that come after it was sent need another: its index may be older than they are."""
    readers = Readers()
    readers.add("a"), readers.add("b")
    first = readers.it.ask()
    readers.add("c")
    assert readers.it.waits_to_ask
    second = readers.it.ask()
    readers.it.answered(first, 5, applied=5)
    assert readers.told == [("a", True), ("b", True)]
    readers.it.answered(second, None, applied=5)
    assert readers.told[2:] == [("c", False)]


def test_a_read_waits_until_its_index_is_applied() -> None:
    """Not one entry earlier."""
    readers = Readers()
    for name, index in (("late", 9), ("soon", 7)):
        readers.add(name)
        readers.it.answered(readers.it.ask(), index, applied=5)
    readers.it.applied(6)
    assert readers.told == []
    readers.it.applied(7)
    assert readers.told == [("soon", True)]
    readers.it.applied(100)
    assert readers.told == [("soon", True), ("late", True)]


def test_an_answer_to_a_former_process_is_no_answer() -> None:
    """Its number fits no read of this process, however late it comes; an index of before would make the read stale."""
    former = ReadRequests(11)
    readers = Readers()
    readers.add("a")
    asked = readers.it.ask()
    for _ in range(3):
        readers.it.answered(former.ask(), 5, applied=5)
    assert readers.told == []
    readers.it.answered(asked, 5, applied=5)
    assert readers.told == [("a", True)]
    assert asked < 1 << 64


def test_an_answer_counts_once_and_only_for_what_was_asked() -> None:
    """A number that was never given, was answered, or belongs to a lost leader answers nobody."""
    readers = Readers()
    readers.add("a")
    number = readers.it.ask()
    readers.it.answered(number + 1, 1, applied=5)
    assert readers.told == []
    readers.it.leader_changed()
    assert readers.told == [("a", False)]
    readers.it.answered(number, 1, applied=5)
    assert len(readers.told) == 1


def test_a_confirmed_index_outlives_its_leader() -> None:
    """What was confirmed stays confirmed; only unanswered requests fail."""
    readers = Readers()
    readers.add("a")
    readers.it.answered(readers.it.ask(), 9, applied=5)
    readers.it.leader_changed()
    readers.it.applied(9)
    assert readers.told == [("a", True)]


def test_readers_are_bounded_and_all_fail_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh, asked and waiting ones count alike, and each is answered once."""
    monkeypatch.setattr(read_requests, "READS_WAITING_MAX", 3)
    readers = Readers()
    readers.add("applied")
    readers.it.answered(readers.it.ask(), 9, applied=5)
    readers.add("asked")
    readers.it.ask()
    assert not readers.it.is_full
    readers.add("fresh")
    assert readers.it.is_full
    readers.it.fail_all()
    assert sorted(readers.told) == [("applied", False), ("asked", False), ("fresh", False)]
    assert not readers.it.is_full


# --- the watchdog


def test_the_watchdog_tells_of_each_stall_once() -> None:
    """Silent up to the bound, once beyond it, and again only for another stall."""
    clock, stalls = FakeClock(), []
    pulse_ns = clock.ns
    watchdog = Watchdog(clock=clock, stall_max_ms=100, last_pulse_ns=lambda: pulse_ns, on_stall=stalls.append)
    clock.pass_ms(100)
    watchdog.look()
    assert stalls == []
    clock.pass_ms(1)
    watchdog.look()
    clock.pass_ms(500)
    watchdog.look()
    assert stalls == [101]
    pulse_ns = clock.ns
    watchdog.look()
    clock.ns += 101 * MS
    watchdog.look()
    assert stalls == [101, 101]


def test_the_watchdog_looks_from_a_thread_of_its_own() -> None:
    """It runs while the loop's thread stands still, and ends when told."""
    told = threading.Event()
    watchdog = Watchdog(
        clock=FakeClock(), stall_max_ms=4, last_pulse_ns=lambda: 0, on_stall=lambda stalled_ms: told.set()
    )
    watchdog.start()
    assert told.wait(10)
    watchdog.stop()
    watchdog._thread.join(10)
    assert not watchdog._thread.is_alive()


# --- the bridge


class CountingLoop:
    """A loop that runs what it was given when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.wakes = 0
        self.closed = False

    def call_soon_threadsafe(self, callback: Any, *args: Any) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.wakes += 1
        self.waiting.append((callback, args))

    call_soon = call_soon_threadsafe

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for callback, args in waiting:
            callback(*args)


def test_requests_cross_together_and_in_order() -> None:
    """One wake-up for all that gathered, one word at their end, and another for what comes after."""
    loop: Any = CountingLoop()
    done: list[int] = []
    inbox = Inbox(loop, lambda: done.append(-1))
    for i in range(3):
        inbox.post(lambda i=i: done.append(i))
    assert loop.wakes == 1 and done == []
    loop.run()
    inbox.post(lambda: done.append(3))
    loop.run()
    assert done == [0, 1, 2, -1, 3, -1] and loop.wakes == 2


def test_a_request_that_raises_does_not_hold_up_the_others() -> None:
    """The loop hears of the error; what was behind it still runs."""
    loop: Any = CountingLoop()
    done: list[str] = []
    inbox = Inbox(loop, lambda: done.append("end"))
    inbox.post(lambda: 1 // 0)
    inbox.post(lambda: done.append("behind"))
    with pytest.raises(ZeroDivisionError):
        loop.run()
    loop.run()
    assert done == ["end", "behind", "end"]


def test_everyone_hears_that_the_node_s_loop_is_closed() -> None:
    """Not only the first: nobody is left waiting for a loop that never runs again."""
    loop: Any = CountingLoop()
    loop.closed = True
    inbox = Inbox(loop, lambda: None)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            inbox.post(lambda: None)


def test_answers_cross_together_and_skip_who_has_left() -> None:
    """One wake-up of the caller's loop for a batch; a cancelled future is passed over."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        node_loop: Any = CountingLoop()
        caller_loop: Any = CountingLoop()
        outlet = Outlet(node_loop, caller_loop)
        waits, left = loop.create_future(), loop.create_future()
        left.cancel()
        outlet.answer(left, 1)
        outlet.answer(waits, 2)
        node_loop.run()
        assert not waits.done() and caller_loop.wakes == 1
        caller_loop.run()
        assert await waits == 2

    asyncio.run(main())


def test_a_caller_s_loop_that_was_closed_costs_the_node_nothing() -> None:
    """Its answers are dropped, and the next batch for it as well."""

    async def main() -> None:
        node_loop: Any = CountingLoop()
        caller_loop: Any = CountingLoop()
        caller_loop.closed = True
        outlet = Outlet(node_loop, caller_loop)
        for _ in range(2):
            outlet.answer(asyncio.get_running_loop().create_future(), 1)
            node_loop.run()

    asyncio.run(main())
