"""`Node` and `BlockingNode` as an embedder meets them: a cluster of one, without TLS, in a directory of its own."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from virtual_cluster import BINDING

from raftstore.config import ClusterConfig
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, StorageError, Unavailable
from raftstore.node.blocking import BlockingNode
from raftstore.node.node import Node
from raftstore.node.persistence import Persistence
from raftstore.node.proposals import Callback, Request, Ticket
from raftstore.node.runtime import Runtime
from raftstore.node.surroundings import Surroundings
from raftstore.storage.disk import OsDisk
from raftstore.types import OpId, Reason, Session, SessionState

PATIENCE_S = 20.0


def config_in(directory: Path) -> ClusterConfig:
    """A cluster of one on a free port of loopback, with quick elections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    timing = {"election_timeout_min_ms": 50, "election_timeout_max_ms": 100, "heartbeat_interval_ms": 10}
    node = {"id": "vpn-1", "peer": f"127.0.0.1:{port}", "api": f"unix:{directory}/api.sock"}
    data = {"cluster": "one", "timing": timing, "node": [node], "storage": {"disk_free_min_bytes": 0}}
    return ClusterConfig.from_dict(data, base_dir=directory)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


async def cancelled_create(node: Node) -> None:
    """A caller that leaves when its op is on its way, and before it can hear of it."""
    task = asyncio.get_running_loop().create_task(node.create("s", binding=BINDING))
    await asyncio.sleep(0)  # it has submitted, and waits
    for _ in range(2):
        node.status()  # comes back behind the op: after the second the op's own step is past
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_session_s_life_through_the_api(tmp_path: Path) -> None:
    """Create, reattach, renew, detach, terminate: versions grow by one, and `owns` follows."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:
            s = await node.create("s", binding=BINDING, ttl_ms=60_000)
            assert (s.state, s.state_version, s.epoch) == (SessionState.ATTACHED, 1, 1)
            assert node.owns("s", epoch=1) and node.owned_epoch("s") == 1
            s = await node.reattach("s", expected_version=1, binding=BINDING, nonce=2)
            s = await node.renew("s", expected_version=s.state_version, ttl_ms=60_000)
            with pytest.raises(Rejected) as stale:
                await node.reattach("s", expected_version=1, binding=BINDING)
            assert stale.value.reason is Reason.VERSION_MISMATCH
            assert stale.value.session is not None and stale.value.session.state_version == 3
            s = await node.detach("s", expected_version=3)
            assert s.state is SessionState.RECOVERING and not node.owns("s")
            assert await node.get("s") == s == await node.get("s", consistency="local")
            s = await node.terminate("s", expected_version=4)
            assert (s.state, s.state_version) == (SessionState.TERMINATED, 5)
            assert [x.session_id for x in await node.list_sessions(state="TERMINATED")] == ["s"]
            assert node.status()["ready"] and all(ok for _, ok, _ in node.ready() + node.alive())
            assert node.explain("s")["reason"] is Reason.SESSION_TERMINATED
            with pytest.raises(Rejected) as absent:
                await node.get("nobody")
            assert absent.value.reason is Reason.SESSION_NOT_FOUND

    asyncio.run(main())


def test_what_is_asked_wrongly_names_its_field(tmp_path: Path) -> None:
    """InvalidArgument from each method that has arguments of its own; nothing is proposed."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:
            asked = {
                "session_id": lambda: node.create("no spaces"),
                "consistency": lambda: node.get("s", consistency="eventual"),
                "limit": lambda: node.list_sessions(limit=0),
                "state": lambda: node.list_sessions(state="GONE"),
                "to": lambda: node.migrate("s", expected_version=1, to="vpn-9"),
                "timeout_ms": lambda: node.get("s", timeout_ms=0),
            }
            for field, ask in asked.items():
                with pytest.raises(InvalidArgument) as refused:
                    await ask()
                assert refused.value.field == field
            with pytest.raises(InvalidArgument):
                await node.transfer_leadership("vpn-9")
            assert await node.list_sessions() == []

    asyncio.run(main())


@pytest.mark.parametrize("own_thread", [True, False])
def test_a_binding_whose_caller_was_cancelled_is_detached_again(tmp_path: Path, own_thread: bool) -> None:
    """Nobody was told, so nobody may act: not owned, and released with reason LATE_COMMIT."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True, own_thread=own_thread) as node:
            await cancelled_create(node)
            found: list[Session] = []
            async with asyncio.timeout(PATIENCE_S):
                while not found or found[0].state is not SessionState.RECOVERING:
                    found = await node.list_sessions()
                    assert not node.owns("s")  # the node has heard by now that its caller left
            assert found[0].reason == "LATE_COMMIT" and found[0].state_version == 2

    asyncio.run(main())


def test_a_caller_that_left_between_the_answer_and_its_hearing_of_it_owns_nothing(tmp_path: Path) -> None:
    """The binding was granted with the answer: it is struck off at once, and detached."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True, own_thread=False) as node:
            runtime = node._runtime
            assert runtime is not None
            ticket = Ticket(runtime.requests.create("s", BINDING, None, None, None))
            runtime.submit(ticket)
            await until(lambda: ticket.answer is not None)
            assert node.owns("s", 1)
            runtime.caller_left(ticket)
            assert not node.owns("s")
            await until(lambda: runtime.machine.sessions["s"].state == SessionState.RECOVERING)

    asyncio.run(main())


@pytest.mark.plain
def test_a_stop_fences_before_it_says_goodbye(tmp_path: Path) -> None:
    """When the others hear "leave" they may take over at once: by then nothing is owned here."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True, own_thread=False) as node:
            await node.create("s", binding=BINDING)
            runtime, owned_then = node._runtime, []
            assert runtime is not None
            submit = runtime.core.submit

            def watch(request: Request, callback: Callback | None) -> int:
                if request.kind == "leave":
                    owned_then.append((runtime.owned.owns("s"), runtime.core.lease.is_held))
                return submit(request, callback)

            runtime.core.submit = watch  # type: ignore[method-assign]
            await node.stop()
            assert owned_then == [(False, False)]

    asyncio.run(main())


def test_a_late_commit_is_kept_when_the_embedder_confirms_it(tmp_path: Path) -> None:
    """The callback gets the op's id and the session, and its True makes the node own it."""

    async def main() -> None:
        loop, asked = asyncio.get_running_loop(), []
        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:

            def confirm(op_id: OpId, session: Session) -> bool:
                asked.append((asyncio.get_running_loop() is loop, op_id.node_id, session.session_id))
                return True

            node.on_late_commit(confirm)
            await cancelled_create(node)
            await until(lambda: asked == [(True, "vpn-1", "s")] and node.owns("s", 1))

    asyncio.run(main())


def test_callbacks_come_on_the_loop_that_started_the_node(tmp_path: Path) -> None:
    """Whatever thread the news came from; one that raises costs the others nothing."""

    async def main() -> None:
        loop, told = asyncio.get_running_loop(), []
        node = Node(config_in(tmp_path), "vpn-1", insecure=True)
        await node.start()
        node.on_fenced(lambda *_: 1 // 0)
        node.on_fenced(lambda *news: told.append((asyncio.get_running_loop() is loop, *news)))
        await node.create("s", binding=BINDING)
        await node.stop()
        await until(lambda: told == [(True, "s", 1, "NODE_STOPPING")])

    asyncio.run(main())


def test_a_node_starts_once_and_stops_as_often_as_one_likes(tmp_path: Path) -> None:
    """A second start is refused and disturbs nothing; after the stop everything is refused at once."""

    async def main() -> None:
        node = Node(config_in(tmp_path), "vpn-1", insecure=True)
        await node.stop()
        await node.start()
        with pytest.raises(Unavailable, match="started before"):
            await node.start()
        await node.create("s", binding=BINDING)
        assert node.owns("s")
        await asyncio.gather(node.stop(), node.stop())
        await node.stop()
        assert not node.owns("s") and node.owned_epoch("s") is None
        for ask in (node.create("t"), node.get("s"), node.start(), node.drain()):
            with pytest.raises(Unavailable) as refused:
                await ask
            assert refused.value.reason is Reason.NODE_STOPPING

    asyncio.run(main())


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """StorageError, and the first goes on; when it is gone, the directory is free, with all that was in it."""

    async def main() -> None:
        config = config_in(tmp_path)
        async with Node(config, "vpn-1", insecure=True) as first:
            await first.create("s", binding=BINDING)
            with pytest.raises(StorageError):
                await Node(config, "vpn-1", insecure=True).start()
            assert first.owns("s")
        async with Node(config, "vpn-1", insecure=True) as again:
            assert (await again.get("s")).state_version >= 1
            assert not again.owns("s")

    asyncio.run(main())


def test_audit_events_are_followed_from_any_number(tmp_path: Path) -> None:
    """In order, each once, from the beginning or from the middle."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:
            for name in ("a", "b"):
                await node.create(name, binding=BINDING)
            end = node.audit_end()
            for after in (0, end - 1):
                numbers = []
                async for event in node.events(after):
                    numbers.append(event["number"])
                    if event["number"] == end:
                        break
                assert numbers == list(range(after + 1, end + 1))

    asyncio.run(main())


def test_threads_share_a_blocking_node(tmp_path: Path) -> None:
    """Every method blocks until it is done, from any thread; start and stop as with `Node`."""
    with BlockingNode(config_in(tmp_path), "vpn-1", insecure=True) as node:
        made: list[Session] = []
        threads = [
            threading.Thread(target=lambda i=i: made.append(node.create(f"s{i}", binding=BINDING))) for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(made) == 8 and all(node.owns(s.session_id, s.epoch) for s in made)
        s = node.reattach("s0", expected_version=1, binding=BINDING)
        s = node.renew("s0", expected_version=s.state_version, ttl_ms=60_000)
        s = node.detach("s0", expected_version=s.state_version)
        assert node.get("s0") == s and node.explain("s0")["owned_here"] is False
        assert node.terminate("s0", expected_version=s.state_version).state is SessionState.TERMINATED
        assert len(node.list_sessions()) == 8 and node.status()["role"] == "leader"
        with pytest.raises(Rejected):
            node.failover("s1", expected_version=1)
    node.stop()
    assert not node.owns("s1")


def test_a_failed_start_leaves_the_directory_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kept the node from starting, the next try finds no lock of the last one."""

    def unreadable(*_: object) -> None:
        raise StorageError("cannot be restored")

    async def main() -> None:
        config = config_in(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Persistence, "_restore", unreadable)
            with pytest.raises(StorageError, match="cannot be restored"):
                await Node(config, "vpn-1", insecure=True).start()
        async with Node(config, "vpn-1", insecure=True) as node:
            assert node.status()["ready"]

    asyncio.run(main())


@pytest.mark.plain
def test_an_op_posted_as_the_loop_ends_is_answered(tmp_path: Path) -> None:
    """A caller that came in the last instant learns that the outcome is unknown, rather than wait for ever."""

    async def main() -> None:
        node = Node(config_in(tmp_path), "vpn-1", insecure=True)
        await node.start()
        assert node._bridge is not None
        node._bridge.inbox.post = lambda task: None  # type: ignore[method-assign]  # posted, and never run
        caller = asyncio.create_task(node.create("s"))
        await asyncio.sleep(0)
        await node.stop()
        with pytest.raises(OutcomeUnknown):
            await caller

    asyncio.run(main())


def test_a_later_step_of_a_procedure_never_ends_with_no_effect(tmp_path: Path) -> None:
    """It is proposed though callers are refused; of a node that has stopped the answer is unknown."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True, own_thread=False) as node:
            session = await node.create("s", binding=BINDING)
            runtime = node._runtime
            assert runtime is not None
            runtime.core.why_storage_refuses = lambda: "no space"
            runtime.core.ask_step()
            await asyncio.sleep(0)
            detach = runtime.requests.detach("s", session.state_version, "STEP", None)
            with pytest.raises(Unavailable):
                await runtime.execute(detach)
            done = await runtime.execute(detach, begun=True)
            assert done is not None and done.state is SessionState.RECOVERING
            runtime.core.close("stopped")
            with pytest.raises(OutcomeUnknown):
                await runtime.execute(runtime.requests.detach("s", done.state_version, "STEP", None), begun=True)

    asyncio.run(main())


class _DiskThatFails(OsDisk):
    """Every sync of a file fails from some moment on."""

    fails = False

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> Any:
        file = super().open(path, create=create, read_only=read_only)
        datasync = file.datasync

        def sync() -> None:
            if self.fails:
                raise OSError(errno.EIO, "made up")
            datasync()

        file.datasync = sync  # type: ignore[method-assign]
        return file


def test_a_disk_that_fails_during_a_stop_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    """What was acknowledged is durable already: the node ends, releases its directory, and says what happened."""

    async def main() -> None:
        disk = _DiskThatFails()
        node = Node(config_in(tmp_path), "vpn-1", insecure=True, surroundings=Surroundings(disk=lambda: disk))
        await node.start()
        await node.create("s")
        runtime = node._runtime
        assert runtime is not None
        runtime.core.close("stopped")  # nothing more is written but what the end itself writes
        disk.fails = True
        await node.stop()
        assert "STORAGE_FAILED" in [event["kind"] for event in runtime.security_events]
        disk.fails = False
        async with Node(node.config, "vpn-1", insecure=True) as again:
            assert (await again.get("s")).state_version == 1

    asyncio.run(main())


@pytest.mark.plain
def test_a_refusal_that_is_known_already_costs_the_node_s_loop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given where the caller is, counted, and lets the caller's other tasks run however often it is asked for."""

    async def main() -> None:
        async with Node(config_in(tmp_path), "vpn-1", insecure=True) as node:
            known = (Reason.NO_QUORUM, "cut off")
            assert node._bridge is not None and node._runtime is not None
            with monkeypatch.context() as cut:
                cut.setattr(Runtime, "known_refusal", known)
                cut.setattr(node._bridge.inbox, "post", None)
                turns: list[int] = []
                other = asyncio.create_task(turning(turns))
                for _ in range(3):
                    with pytest.raises(Unavailable, match="cut off") as refused:
                        await node.create("s", binding=BINDING)
                    assert refused.value.reason is Reason.NO_QUORUM
                other.cancel()
                assert len(turns) >= 2
            assert node._runtime.counters["refused:NO_QUORUM"] == 3
            assert (await node.create("s", binding=BINDING)).state_version == 1

    asyncio.run(main())


async def turning(turns: list[int]) -> None:
    """A task that counts how often it may run."""
    while True:
        turns.append(1)
        await asyncio.sleep(0)
