"""Who is cancelled in the very moment in which what it waited for arrives is cancelled all the same.

`asyncio.wait_for` forgets such a cancellation: whoever stops something would then wait for it for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from raftstore.cli.bench_process import Process
from raftstore.node.bridge import Bridge
from raftstore.node.events import EventStream
from raftstore.node.recent_events import RecentEvents
from raftstore.transport.dialer import Dialer
from raftstore.transport.ports import LinkLimits

TURNS = range(8)  # of the loop, between the news and the cancellation
Waiting = tuple[Coroutine[Any, Any, object], Callable[[], object]]  # what waits, and what ends its waiting


def an_answer() -> Waiting:
    """Of a child process."""
    process = Process("child", [], None)  # type: ignore[arg-type]  # its log is read only where no answer came
    stdout = asyncio.StreamReader()
    process._process = SimpleNamespace(stdout=stdout)  # type: ignore[assignment]
    return process.answer(), lambda: stdout.feed_data(b"{}\n")


def news() -> Waiting:
    """For whoever follows the audit events."""
    stream = EventStream(asyncio.get_running_loop())
    nothing: Any = SimpleNamespace(recent_events=RecentEvents(), machine=SimpleNamespace(event_seq=0), durable_number=0)
    return stream.next(0, nothing, nothing), stream.wake


def a_read() -> Waiting:
    """Or an op: of a caller, answered on the node's loop."""
    delivers: list[Callable[[object], object]] = []
    bridge = Bridge(asyncio.get_running_loop(), None, lambda: None)
    return bridge.ask(delivers.append, None), lambda: delivers[0](None)


@pytest.mark.parametrize("make", [an_answer, news, a_read])
@pytest.mark.parametrize("turns", TURNS)
def test_a_cancellation_that_comes_with_the_news_counts(make: Callable[[], Waiting], turns: int) -> None:
    """However few turns of the loop lie between the two, unless all was over before."""

    async def main() -> None:
        work, end = make()
        task = asyncio.ensure_future(work)
        for _ in TURNS:
            await asyncio.sleep(0)
        end()
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            async with asyncio.timeout(5):
                await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("turns", TURNS)
def test_a_dialer_that_is_woken_and_closed_at_once_ends(turns: int) -> None:
    """Its node could not stop otherwise."""

    async def main() -> None:
        async def resolve(_address: object) -> object:
            raise OSError("no such name")

        anything: Any = SimpleNamespace(resolve=resolve, add=lambda *_: None, say=lambda *_: None)
        dialer = Dialer(
            "n2",
            anything,
            lambda _: None,
            now_ns=lambda: 0,
            resolver=anything,
            contexts=None,
            limits=LinkLimits(),
            counters=anything,
            notices=anything,
            rng=random.Random(1),
        )
        dialer.start()
        for _ in TURNS:
            await asyncio.sleep(0)
        dialer.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(dialer.close())
        ended, _ = await asyncio.wait([closing], timeout=5)
        assert ended

    asyncio.run(main())
