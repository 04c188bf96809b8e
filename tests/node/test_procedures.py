"""Controlled migration, drain and goodbye: every step a transition of its own, and none that leads nowhere."""

import asyncio

import pytest
from node_parts import INCARNATION, ME, REQUESTS, ReplicaRig
from virtual_cluster import BINDING

from raftstore.errors import Rejected
from raftstore.node.answers import result_or_raise
from raftstore.node.procedures import MIGRATION, Drain, leave, migrate
from raftstore.node.proposals import Request
from raftstore.node.requests import Requests
from raftstore.ownership import Machine, commands
from raftstore.types import OpId, Reason, Session, SessionState


class OneNode:
    """Where procedures run here: each op is an entry of its own; `between` runs before an op of that kind."""

    node_id = ME

    def __init__(self) -> None:
        self.rig = ReplicaRig()
        self.requests: Requests = REQUESTS
        self.kinds: list[str] = []
        self.begun: list[str] = []
        self.dead: set[str] = set()
        self.before: dict[str, list[tuple[object, ...]]] = {}

    @property
    def machine(self) -> Machine:
        return self.rig.replica.machine

    async def execute(self, request: Request, *, begun: bool = False) -> Session | None:
        self.kinds.append(request.kind)
        if begun:
            self.begun.append(request.kind)
        for node_id, build, *args in self.before.pop(request.kind, []):
            self.rig.by(node_id, build, *args)  # type: ignore[arg-type]
        return result_or_raise(self.rig.do(request), OpId(ME, INCARNATION, 0))

    def is_node_live(self, node_id: str) -> bool:
        return node_id not in self.dead

    def create(self, *names: str) -> None:
        for name in names:
            assert self.rig.do(REQUESTS.create(name, BINDING, None, None, None)).reason is None


def test_a_migration_is_a_freeze_and_a_transfer() -> None:
    """Two transitions here, each one version; the target owns it, frozen, under the next epoch."""
    node = OneNode()
    node.create("s")
    moved = asyncio.run(migrate(node, "s", 1, "vpn-2", MIGRATION, None))
    assert node.kinds == ["freeze", "transfer"]
    assert node.begun == ["transfer"]  # no effect at all is an answer to the freeze alone
    assert (moved.owner, moved.epoch, moved.state_version, moved.state) == ("vpn-2", 2, 3, SessionState.FROZEN)
    assert not node.rig.owned.owns("s")


def test_a_refused_transfer_leaves_the_session_thawed_here() -> None:
    """The target began to drain in between: the caller hears why, with the session as it stands."""
    node = OneNode()
    node.create("s")
    node.before["transfer"] = [("vpn-2", commands.drain)]
    with pytest.raises(Rejected) as refused:
        asyncio.run(migrate(node, "s", 1, "vpn-2", MIGRATION, None))
    assert refused.value.reason is Reason.NODE_DRAINING
    assert node.begun == ["transfer", "thaw"]
    assert refused.value.session is not None and refused.value.session.state is SessionState.RECOVERING
    assert node.rig.record("s").state == SessionState.RECOVERING and node.rig.record("s").owner == ME


def test_a_refused_freeze_changes_nothing() -> None:
    """No transfer is tried; the session is bound as before, though given up here."""
    node = OneNode()
    node.create("s")
    with pytest.raises(Rejected):
        asyncio.run(migrate(node, "s", 7, "vpn-2", MIGRATION, None))
    assert node.kinds == ["freeze"] and node.rig.record("s").state_version == 1


def test_a_drain_moves_every_session_to_the_live_nodes_in_turn() -> None:
    """The node is marked first, so that nothing new comes; progress counts what moved."""
    node = OneNode()
    node.create("a", "b", "c", "d")
    seen: list[int] = []
    drain = Drain(node)
    progress = asyncio.run(drain.run(lambda: seen.append(drain.remaining)))
    assert node.kinds[0] == "drain"
    assert (progress["moved"], progress["failed"], progress["remaining"]) == (4, 0, 0) and seen == [3, 2, 1, 0]
    assert [node.rig.record(s).owner for s in "abcd"].count("vpn-2") == 2


def test_a_drain_follows_a_session_whose_user_was_quicker() -> None:
    """A version that moved on meanwhile is no reason to leave the session behind."""
    node = OneNode()
    node.create("s")
    drain = Drain(node)
    record = drain._movable("s")
    assert record is not None
    assert node.rig.do(REQUESTS.reattach("s", 1, BINDING, None, None)).reason is None
    asyncio.run(drain._move(record, "vpn-3"))
    assert node.rig.record("s").owner == "vpn-3"


def test_a_drain_needs_somewhere_to_go() -> None:
    """Without a live target nothing is marked and nothing moves."""
    node = OneNode()
    node.create("s")
    node.dead = {"vpn-2", "vpn-3"}
    with pytest.raises(Rejected) as refused:
        asyncio.run(Drain(node).run())
    assert refused.value.reason is Reason.NODE_NOT_LIVE and node.kinds == []


def test_what_a_drain_could_not_move_is_counted_and_named() -> None:
    """The others go on; the last problem can be read from the progress."""
    node = OneNode()
    node.create("a", "b")
    node.before["freeze"] = [("vpn-2", commands.drain)]
    progress = asyncio.run(Drain(node).run())
    assert progress["failed"] == 1 and progress["moved"] == 1
    assert progress["last_problem"] == "a: NODE_DRAINING"


def test_a_goodbye_that_is_refused_is_no_error() -> None:
    """The others will see the lease lapse."""
    node = OneNode()
    assert asyncio.run(leave(node, 100))
    assert not asyncio.run(leave(node, 100))
