"""What takes more than one op: controlled migration, drain, and leaving the cluster (ownership model, section 3).

Each step is a committed transition of its own, so an interruption anywhere leaves a state that the next step, the
sweep or an operator can take up: a frozen session thaws after `freeze_timeout_ms`, a transferred one belongs to its
target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from raftstore.errors import RaftstoreError, Rejected, Unavailable
from raftstore.node.proposals import Request
from raftstore.node.requests import DRAIN, MIGRATION, Requests
from raftstore.ownership import Machine, MappedNode, SessionRecord
from raftstore.types import Reason, Session, SessionState

if TYPE_CHECKING:
    from raftstore.node.sticky.keeper import Sticky

ChangeMapping = Callable[[Collection[MappedNode], Collection[str], int | None], Awaitable[dict[str, Any]]]

DRAIN_CONCURRENCY = 1_024  # sessions on their way at once: callers' ops find room beside them
LOOKS_AT_ONCE = 2_048  # sessions, until callers' ops get their turn
DRAIN_WAIT_MS = 60_000  # for the nodes that take the sessions of a sticky node
DRAIN_POLL_MS = 20
MOVABLE = (SessionState.ATTACHED, SessionState.RECOVERING)


class Executor(Protocol):
    """Where procedures run: one node, on its own loop."""

    node_id: str
    requests: Requests

    @property
    def machine(self) -> Machine: ...

    def execute(self, request: Request, *, begun: bool = False) -> Awaitable[Session | None]:
        """One op to its end: Rejected, Unavailable or OutcomeUnknown otherwise; never Unavailable when `begun`."""

    def is_node_live(self, node_id: str) -> bool:
        """Whether that node may be given sessions: joined, lease not lapsed, neither draining nor gone."""


async def migrate(
    node: Executor, session_id: str, version: int, to: str, reason: str, timeout_ms: int | None
) -> Session:
    """Freeze, then transfer. The target resumes. Thawed again when the transfer is refused.

    Unavailable (no effect, ever) is an answer to the freeze alone: once that is committed, an interruption is
    OutcomeUnknown.
    """
    requests = node.requests
    frozen = await node.execute(requests.freeze(session_id, version, reason, to, timeout_ms))
    assert frozen is not None  # a committed freeze has a session
    try:
        moved = await node.execute(requests.transfer(session_id, frozen.state_version, timeout_ms), begun=True)
    except Rejected as refusal:
        session = await node.execute(requests.thaw(session_id, frozen.state_version, timeout_ms), begun=True)
        raise Rejected(refusal.reason, session, owner=refusal.owner, detail=refusal.detail) from None
    assert moved is not None
    return moved


class Drain:
    """Hands every session of this node to the others. `progress` is shown by the node's status."""

    def __init__(self, node: Executor) -> None:
        self._node = node
        self.moved = 0
        self.failed = 0
        self.remaining = 0
        self.is_running = False
        self.last_problem: str | None = None

    def progress(self) -> dict[str, int | bool | str | None]:
        return {
            "running": self.is_running,
            "moved": self.moved,
            "failed": self.failed,
            "remaining": self.remaining,
            "last_problem": self.last_problem,
        }

    async def run(self, on_progress: Callable[[], None] = lambda: None) -> dict[str, int | bool | str | None]:
        """Mark the node draining, then move its sessions to live nodes in turn. Rejected when there is no target."""
        node = self._node
        if not list(self._targets()):
            raise Rejected(Reason.NODE_NOT_LIVE)
        if self.is_running:
            raise Rejected(Reason.NODE_DRAINING)
        self.is_running = True
        try:
            await node.execute(node.requests.drain(None))
            self.moved = self.failed = 0
            mine = await self._mine()
            self.remaining = len(mine)
            queue = iter(mine)
            await asyncio.gather(*(self._worker(queue, on_progress) for _ in range(min(DRAIN_CONCURRENCY, len(mine)))))
        finally:
            self.is_running = False
        return self.progress()

    def _targets(self) -> Iterator[str]:
        machine = self._node.machine
        return (n for n in sorted(machine.nodes) if n != self._node.node_id and self._node.is_node_live(n))

    async def _mine(self) -> list[str]:
        """Ids of this node's sessions, some at a time: there may be millions, and callers wait beside."""
        node = self._node
        may_be_mine = node.machine.sessions.may_be_owned_by(node.node_id)
        mine: list[str] = []
        ids = node.machine.sessions.keys()
        for begin in range(0, len(ids), LOOKS_AT_ONCE):
            mine += [s for s in ids[begin : begin + LOOKS_AT_ONCE] if may_be_mine(s) and self._movable(s) is not None]
            await asyncio.sleep(0)
        return mine

    def _movable(self, session_id: str) -> SessionRecord | None:
        record = self._node.machine.sessions.get(session_id)
        return record if record is not None and record.owner == self._node.node_id and record.state in MOVABLE else None

    async def _worker(self, queue: Iterator[str], on_progress: Callable[[], None]) -> None:
        for session_id in queue:
            record = self._movable(session_id)  # as it stands when its turn comes
            if record is not None:
                await self._hand_over(record)
            self.remaining -= 1
            on_progress()

    async def _hand_over(self, record: SessionRecord) -> None:
        targets = list(self._targets())
        try:
            if not targets:
                raise Rejected(Reason.NODE_NOT_LIVE)
            target = targets[(self.moved + self.failed) % len(targets)]
            await self._move(record, target)
            self.moved += 1
        except RaftstoreError as problem:
            self.failed += 1
            self.last_problem = f"{record.session_id}: {problem}"

    async def _move(self, record: SessionRecord, target: str) -> None:
        try:
            await migrate(self._node, record.session_id, record.state_version, target, DRAIN, None)
        except Rejected as refusal:
            current = refusal.session
            if refusal.reason is Reason.VERSION_MISMATCH and current is not None and current.state in MOVABLE:
                # its user was quicker: once more with the version that stands now
                await migrate(self._node, record.session_id, current.state_version, target, DRAIN, None)
            elif refusal.reason not in (Reason.SESSION_EXPIRED, Reason.SESSION_TERMINATED):
                raise


async def drain_sticky(sticky: Sticky, change: ChangeMapping) -> dict[str, int | bool | str | None]:
    """Draining where a mapping places sessions: a change that marks this node, and the moves that follow from it.

    Returns when no session is left to give, or after DRAIN_WAIT_MS with the number of those that still are: a node
    that is down takes its sessions when it is back.
    """
    placement = sticky.machine.placement
    if placement is None:
        raise Unavailable(Reason.MAPPING_UNSETTLED, f"{sticky.node_id} has no mapping yet that could be changed")
    if not any(node.node_id == sticky.node_id and node.draining for node in placement.mapping.nodes):
        nodes = [n._replace(draining=n.draining or n.node_id == sticky.node_id) for n in placement.mapping.nodes]
        await change(nodes, (), None)
    before = len(sticky.machine.departed)
    waited_ms = 0
    while (left := sticky.left()) is None or left:
        if waited_ms >= DRAIN_WAIT_MS:
            break
        await asyncio.sleep(DRAIN_POLL_MS / 1_000)
        waited_ms += DRAIN_POLL_MS
    remaining = sum((left or {}).values())
    problem = f"waiting for {', '.join(left)}" if left else None
    moved = len(sticky.machine.departed) - before
    return {"running": remaining > 0, "moved": moved, "failed": 0, "remaining": remaining, "last_problem": problem}


async def leave(node: Executor, timeout_ms: int) -> bool:
    """Say goodbye, so that the others need not wait for the lease to lapse. The caller has fenced itself before."""
    try:
        await node.execute(node.requests.leave(timeout_ms))
    except RaftstoreError:
        return False  # they will see the lease lapse
    return True


__all__ = ["DRAIN", "MIGRATION", "Drain", "Executor", "drain_sticky", "leave", "migrate"]
