"""Reads as an embedder meets them: nothing is answered before the majority has confirmed that it is not too old."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_node import config_in, until

from raftstore.errors import Unavailable
from raftstore.node.node import Node
from raftstore.types import Reason, Session

Waiters = list[Callable[[bool], None]]


@asynccontextmanager
async def node_with_a_deaf_leader(directory: Path, *, own_thread: bool) -> AsyncIterator[tuple[Node, Waiters]]:
    """A node with session "s" whose questions to the leader are answered by the test alone."""
    async with Node(config_in(directory), "vpn-1", insecure=True, own_thread=own_thread) as node:
        await node.create("s")
        assert node._runtime is not None
        waiters: Waiters = []
        node._runtime.core.may_read_now = lambda: False  # type: ignore[method-assign]
        node._runtime.core.read = waiters.append  # type: ignore[method-assign]
        yield node, waiters


def on_the_loop(node: Node, work: Callable[[], None]) -> None:
    assert node._bridge is not None
    node._bridge.call(work)


@pytest.mark.plain
@pytest.mark.parametrize("own_thread", [True, False])
def test_a_linearizable_read_waits_for_the_majority_and_a_local_one_does_not(tmp_path: Path, own_thread: bool) -> None:
    """With the timeout of the configuration as with one of its own."""

    async def main() -> None:
        async with node_with_a_deaf_leader(tmp_path, own_thread=own_thread) as (node, waiters):
            assert (await node.get("s", consistency="local")).state_version == 1
            assert not waiters
            for timeout_ms in (None, 20_000):
                read = asyncio.create_task(node.get("s", timeout_ms=timeout_ms))
                await until(lambda: bool(waiters))
                await asyncio.sleep(0)
                assert not read.done()
                on_the_loop(node, lambda: waiters.pop()(True))
                assert (await read).state_version == 1

    asyncio.run(main())


@pytest.mark.plain
def test_a_read_whose_leader_is_gone_asks_the_next_one(tmp_path: Path) -> None:
    """An answer of the first that comes after all changes nothing."""

    async def main() -> None:
        async with node_with_a_deaf_leader(tmp_path, own_thread=True) as (node, waiters):
            read = asyncio.create_task(node.get("s"))
            await until(lambda: len(waiters) == 1)
            on_the_loop(node, lambda: waiters[0](False))
            await until(lambda: len(waiters) == 2)
            assert not read.done()
            on_the_loop(node, lambda: waiters[1](True))
            await read
            on_the_loop(node, lambda: waiters[0](True))

    asyncio.run(main())


@pytest.mark.plain
@pytest.mark.parametrize("answer", [None, False])
def test_a_read_that_no_majority_confirms_is_refused_in_time(tmp_path: Path, answer: bool | None) -> None:
    """Whether nobody answers at all, or every leader is gone at once."""

    async def main() -> None:
        async with node_with_a_deaf_leader(tmp_path, own_thread=True) as (node, waiters):
            read = asyncio.create_task(node.get("s", timeout_ms=100))
            while not read.done():
                if waiters and answer is not None:
                    on_the_loop(node, lambda: waiters.pop()(False))
                await asyncio.wait([read], timeout=0.005)
            with pytest.raises(Unavailable, match="no majority confirmed the read within 100 ms") as refused:
                await read
            assert refused.value.reason is Reason.NO_QUORUM

    asyncio.run(main())


@pytest.mark.plain
def test_what_waits_as_the_node_s_loop_ends_is_told_so(tmp_path: Path) -> None:
    """A read that was posted in the last instant, and work on that loop that is not done."""

    async def main() -> None:
        node = Node(config_in(tmp_path), "vpn-1", insecure=True)
        await node.start()
        assert node._bridge is not None and node._runtime is not None
        node._runtime.core.may_read_now = lambda: False  # type: ignore[method-assign]
        node._bridge.inbox.post = lambda task: None  # type: ignore[method-assign]  # posted, and never run

        async def never() -> Session:
            await asyncio.Event().wait()
            raise AssertionError

        callers = [asyncio.create_task(node.get("s")), asyncio.create_task(node._on_loop(never()))]
        await asyncio.sleep(0)
        await node.stop()
        for caller in callers:
            with pytest.raises(Unavailable) as refused:
                await caller
            assert refused.value.reason is Reason.NODE_STOPPING

    asyncio.run(main())


@pytest.mark.plain
def test_a_call_does_not_wait_for_ever_for_a_node_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how long it waited; a TimeoutError of the called function itself passes through."""
    monkeypatch.setattr("raftstore.node.bridge.CALL_WAIT_S", 0.05)

    async def main() -> None:
        def late() -> None:
            raise TimeoutError("its own")

        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:
            assert node._bridge is not None
            with pytest.raises(TimeoutError, match="its own"):
                node._bridge.call(late)
            post = node._bridge.inbox.post
            node._bridge.inbox.post = lambda task: None  # type: ignore[method-assign]
            with pytest.raises(Unavailable, match=r"has not answered for 0\.05 s"):
                node.status()
            node._bridge.inbox.post = post  # type: ignore[method-assign]

    asyncio.run(main())
