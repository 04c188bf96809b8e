"""`raftstore demo`: what it refuses to start, what it notices, and how it says that a promise was broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from raftstore.cli import demo as command
from raftstore.cli.demo_callers import Caller, Load
from raftstore.cli.demo_cluster import DemoFailed
from raftstore.cli.demo_mapping import _found
from raftstore.cli.demo_stage import Promises, Stage, Watcher
from raftstore.cli.demo_sticky_stage import SHOWN, Held, StickyStage, shown, weights_text
from raftstore.cli.main import main
from raftstore.client import Unreachable
from raftstore.errors import Rejected
from raftstore.routing import Mapping, MappingNode, moved
from raftstore.types import Binding, Reason, Session, SessionState

NODES = ("vpn-1", "vpn-2", "vpn-3")
EVEN = Mapping.of(1, dict.fromkeys(NODES, 1))
HEAVY = Mapping.of(2, {"vpn-1": 1, "vpn-2": 1, "vpn-3": 5})
WAIT_S = 5.0


def session(session_id: str, owner: str, version: int = 1, epoch: int = 1, bound: bool = True) -> Session:
    binding = Binding("t1", "udp", "198.51.100.7:1") if bound else None
    state = SessionState.ATTACHED if bound else SessionState.RECOVERING
    return Session(session_id, state, owner, epoch, version, binding, 0, 1_000)


# --- the command -----------------------------------------------------------------------------------------------------
def test_policy_without_meaning() -> None:
    """The terminate policy with the sticky strategy is refused in one line that says why, before anything starts."""
    result = CliRunner().invoke(main, ["demo", "--strategy", "sticky", "--policy", "terminate"])
    assert result.exit_code == 2
    assert "no meaning with --strategy sticky" in result.output
    assert "starting" not in result.output


def test_help_teaches() -> None:
    """The help names every form of the demo and what the exit status means."""
    result = CliRunner().invoke(main, ["demo", "--help"])
    assert result.exit_code == 0
    for words in ("--policy terminate", "--strategy sticky", "Exit status 0", "[shared|sticky]"):
        assert words in result.output


@pytest.mark.parametrize(("kept", "status"), [(True, 0), (False, 1)])
def test_exit_status(monkeypatch: pytest.MonkeyPatch, kept: bool, status: int) -> None:
    """One broken promise among kept ones makes the exit status 1, and the table says which."""

    async def run(_console: Console, strategy: str, policy: str) -> Promises:
        assert (strategy, policy) == ("sticky", "deny")
        promises = Promises()
        promises.note("first", True, "seen")
        promises.note("second", kept, "seen too")
        return promises

    monkeypatch.setattr(command, "_run", run)
    result = CliRunner().invoke(main, ["demo", "--strategy", "sticky"])
    assert result.exit_code == status
    assert ("NO" in result.output) is not kept


def test_failed_scene() -> None:
    """A scene that cannot go on is a broken promise beside those that were noted before it."""

    class Failing(Stage):
        def scenes(self) -> Any:
            return (self.good, self.bad, self.never)

        async def good(self) -> None:
            self.promises.note("good", True, "seen")

        async def bad(self) -> None:
            raise DemoFailed("waited in vain")

        async def never(self) -> None:
            raise AssertionError("a scene after the failed one")

    stage = Failing(FakeCluster({}), str, str)  # type: ignore[arg-type]
    promises = asyncio.run(stage.run())
    assert not promises.all_kept
    assert [(kept, evidence) for _, kept, evidence in promises.rows[:2]] == [(True, "seen"), (False, "waited in vain")]


# --- the watcher -----------------------------------------------------------------------------------------------------
class FakeCluster:
    """Nodes that answer from a script: what each owns, as (session, epoch)."""

    def __init__(self, owned: dict[str, Callable[[], int | None]]) -> None:
        self._owned = owned
        self.clients = {node_id: self._Client(answer) for node_id, answer in owned.items()}

    def alive(self) -> list[str]:
        return list(self._owned)

    class _Client:
        def __init__(self, answer: Callable[[], int | None]) -> None:
            self._answer = answer

        async def owned_epoch(self, _session_id: str) -> int | None:
            return self._answer()


def answers(*values: int | None) -> Callable[[], int | None]:
    """Each value once, then the last for ever."""
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("first", "second", "seen"),
    [
        (answers(1), answers(2), True),
        (answers(1, None), answers(2), False),  # it was handed over between the two questions
        (answers(1), answers(None), False),
    ],
)
def test_watcher(first: Callable[[], int | None], second: Callable[[], int | None], seen: bool) -> None:
    """Two owners at one moment are noticed; a session that changed hands between two questions is no such thing."""
    watcher = Watcher(FakeCluster({"vpn-1": first, "vpn-2": second}))  # type: ignore[arg-type]
    asyncio.run(watcher._look("alice"))
    assert bool(watcher.overlaps) is seen
    assert watcher.checks == 1


def test_watcher_lanes() -> None:
    """Each watched session has its turn, whatever the number of lanes; one that is left is asked for no more."""
    asked: set[str] = set()
    all_asked = asyncio.Event()
    watcher = Watcher(FakeCluster({"vpn-1": answers(None)}))  # type: ignore[arg-type]

    async def look(session_id: str) -> None:
        asked.add(session_id)
        if len(asked) == 5:
            all_asked.set()

    async def work() -> None:
        watching = asyncio.create_task(watcher.run(lanes=2))
        async with asyncio.timeout(WAIT_S):
            await all_asked.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    watcher._look = look  # type: ignore[method-assign]
    watcher.watch("left")
    watcher.watch_only(["a", "b", "c", "d", "e"])
    asyncio.run(work())
    assert asked == {"a", "b", "c", "d", "e"}


# --- what is compared ------------------------------------------------------------------------------------------------
class Compared(StickyStage):
    """A stage without nodes: sixty sessions as they were under the even mapping."""

    def __init__(self) -> None:
        self.mapping = EVEN
        ids = [f"session-{i}" for i in range(60)]
        self.sessions = {sid: session(sid, EVEN.owner(sid) or "") for sid in ids}

    def scenes(self) -> Any:
        return ()

    def after(self, new: Mapping) -> dict[str, list[Held]]:
        """All as it must be after a change to that mapping."""
        found = {sid: [Held(before.owner, before)] for sid, before in self.sessions.items()}
        for sid, _, target in moved(self.mapping, new, self.sessions):
            assert target is not None
            found[sid] = [Held(target, session(sid, target, version=4, epoch=2, bound=False))]
        return found


def altered(held: Held, **changes: Any) -> Held:
    return held._replace(session=held.session._replace(**changes))


def test_right_change() -> None:
    """A change in which exactly the right sessions moved, each one epoch on, has nothing wrong."""
    stage = Compared()
    assert any(True for _ in moved(EVEN, HEAVY, stage.sessions))
    assert stage._wrong(stage.after(HEAVY), HEAVY) == []
    assert stage._wrong(stage.after(EVEN), EVEN) == []


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda held: [],
        lambda held: [held, held._replace(node="vpn-9")],
        lambda held: [held._replace(node="vpn-9")],
        lambda held: [altered(held, owner="vpn-9")],
        lambda held: [altered(held, epoch=held.session.epoch + 1)],
        lambda held: [altered(held, epoch=held.session.epoch - 1)],
        lambda held: [altered(held, state_version=held.session.state_version + 1)],
        lambda held: [altered(held, state_version=held.session.state_version - 1)],
    ],
    ids=["lost", "twice", "elsewhere", "owner", "epoch+1", "epoch-1", "version+1", "version-1"],
)
def test_wrong_change(moves: bool, change: Callable[[Held], list[Held]]) -> None:
    """Whatever is not as it must be with one session, one that moves or one that stays, is told."""
    stage = Compared()
    moving = {sid for sid, *_ in moved(EVEN, HEAVY, stage.sessions)}
    session_id = next(sid for sid in stage.sessions if (sid in moving) is moves)
    after = stage.after(HEAVY)
    after[session_id] = change(after[session_id][0])
    problems = stage._wrong(after, HEAVY)
    assert len(problems) == 1
    assert problems[0].startswith(f"{session_id}:")


def test_unmoved_and_unknown() -> None:
    """A session that stayed where it was, one whose lifetime changed, and one that nobody created are told."""
    stage = Compared()
    first = next(sid for sid, *_ in moved(EVEN, HEAVY, stage.sessions))
    still = next(sid for sid in stage.sessions if EVEN.owner(sid) == HEAVY.owner(sid))
    after = stage.after(HEAVY)
    after[first] = stage.after(EVEN)[first]
    after[still] = [altered(after[still][0], expires_at_ms=2_000)]
    after["stranger"] = [Held("vpn-1", session("stranger", "vpn-1"))]
    told = {problem.split(":")[0] for problem in stage._wrong(after, HEAVY)}
    assert told == {first, still, "stranger"}


def test_allowances() -> None:
    """Used sessions may have gone on, released ones be a version on, but only where that was to be expected."""
    stage = Compared()
    used, released = (next(sid for sid, s in stage.sessions.items() if s.owner == n) for n in ("vpn-2", "vpn-1"))
    after = stage.after(EVEN)
    after[used] = [altered(after[used][0], state_version=40)]
    after[released] = [altered(after[released][0], state_version=2, binding=None, state=SessionState.RECOVERING)]
    assert len(stage._wrong(after, EVEN)) == 2
    assert stage._wrong(after, EVEN, busy=[used], restarted=["vpn-1"]) == []
    assert len(stage._wrong(after, EVEN, busy=[used], restarted=["vpn-3"])) == 1
    after[used] = [altered(after[used][0], epoch=2)]
    assert len(stage._wrong(after, EVEN, busy=[used], restarted=["vpn-1"])) == 1


def test_found_after_conflict() -> None:
    """After a conflict a session counts as found in one log, at its node, and no older than before."""
    owner = EVEN.owner("alice") or ""
    before = session("alice", owner, version=5, epoch=3)
    other = next(n for n in NODES if n != owner)
    assert _found({"alice": [Held(owner, before)]}, "alice", before, EVEN)
    for copies in (
        [],
        [Held(owner, before), Held(other, before)],
        [Held(other, before)],
        [Held(owner, before._replace(owner=other))],
        [Held(owner, before._replace(epoch=2))],
        [Held(owner, before._replace(state_version=4))],
    ):
        assert not _found({"alice": copies}, "alice", before, EVEN)


def test_texts() -> None:
    """A table cell shows the first problems and how many more there are, and mappings in one line."""
    assert shown([]) == ""
    assert shown(["a"]) == "; a"
    assert shown([str(i) for i in range(SHOWN + 2)]).endswith("and 2 more")
    mapping = Mapping(3, (MappingNode("vpn-1", 1), MappingNode("vpn-2", 2, True)))
    assert weights_text(mapping) == "vpn-1=1 vpn-2=2,draining"


# --- callers ---------------------------------------------------------------------------------------------------------
class MovingSession:
    """A session that moved from vpn-1 to vpn-2, and nodes that answer accordingly; vpn-3 is dead."""

    def __init__(self) -> None:
        self.session = session("alice", "vpn-2", version=4, epoch=2, bound=False)
        self.asked: list[str] = []
        self.is_used = asyncio.Event()  # reattached more than once

    def at(self, node_id: str) -> Any:
        world = self

        class Client:
            async def reattach(self, session_id: str, *, expected_version: int, binding: Binding) -> Session:
                world.asked.append(node_id)
                if node_id == "vpn-3":
                    raise Unreachable("unix:vpn-3.sock", "refused")
                if node_id != "vpn-2":
                    raise Rejected(Reason.OWNERSHIP_CONFLICT, owner="vpn-2")
                now = world.session
                if expected_version != now.state_version:
                    raise Rejected(Reason.VERSION_MISMATCH, now)
                if now.binding is not None:
                    world.is_used.set()
                world.session = now._replace(state_version=now.state_version + 1, binding=binding)
                return world.session

        return Client()


def test_caller_follows() -> None:
    """A caller whose node is dead asks the next, goes where it is sent, and takes the version it is shown."""
    world = MovingSession()
    caller = Caller(
        {node_id: world.at(node_id) for node_id in NODES},
        session("alice", "vpn-3"),
        lambda: Binding("t2", "udp", "198.51.100.7:2"),
    )

    async def work() -> None:
        async with Load([caller]), asyncio.timeout(WAIT_S):
            await world.is_used.wait()

    asyncio.run(work())
    assert caller.accepted == 2
    assert world.asked[:5] == ["vpn-3", "vpn-1", "vpn-2", "vpn-2", "vpn-2"]
    assert caller.session == world.session
    assert caller.redirects == 1
    assert caller.longest_wait_ms > 0


def test_load_tells_of_bugs() -> None:
    """An exception in a caller that is no outcome comes out where the load ends."""

    class Broken:
        async def reattach(self, session_id: str, *, expected_version: int, binding: Binding) -> Session:
            raise LookupError(session_id)

    caller = Caller({"vpn-1": Broken()}, session("alice", "vpn-1"), lambda: Binding("t", "udp", "a"))  # type: ignore[dict-item]

    async def work() -> None:
        async with Load([caller]):
            await asyncio.sleep(0)

    with pytest.raises(LookupError, match="alice"):
        asyncio.run(work())
