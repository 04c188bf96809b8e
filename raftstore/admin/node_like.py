"""What the HTTP API needs of a node: the names that embedders use, and nothing of how a node works.

Every method is called on the node's own event loop. Ops return the session as of their own transition, or raise
Rejected, Unavailable, OutcomeUnknown or InvalidArgument.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any, Protocol

from raftstore.types import Binding, OpId, Session, SessionState

Check = tuple[str, bool, str]  # what was checked, whether it holds, in words


class NodeLike(Protocol):
    """A running node. `timeout_ms` is the op's deadline from now; None takes the configured default."""

    async def create(
        self,
        session_id: str,
        *,
        binding: Binding | None = None,
        ttl_ms: int | None = None,
        policy: str | None = None,
        timeout_ms: int | None = None,
    ) -> Session: ...

    async def reattach(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding,
        nonce: int | None = None,
        timeout_ms: int | None = None,
    ) -> Session: ...

    async def detach(
        self, session_id: str, *, expected_version: int, reason: str = "DETACHED", timeout_ms: int | None = None
    ) -> Session: ...

    async def renew(
        self, session_id: str, *, expected_version: int, ttl_ms: int, timeout_ms: int | None = None
    ) -> Session: ...

    async def migrate(
        self, session_id: str, *, expected_version: int, to: str, timeout_ms: int | None = None
    ) -> Session: ...

    async def resume(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session: ...

    async def failover(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session: ...

    async def terminate(
        self,
        session_id: str,
        *,
        expected_version: int,
        reason: str = "POLICY",
        operator: bool = False,
        timeout_ms: int | None = None,
    ) -> Session: ...

    async def get(self, session_id: str, *, consistency: str = "linearizable") -> Session:
        """Rejected(SESSION_NOT_FOUND) where there is none; Unavailable when "linearizable" cannot be had."""

    def owns(self, session_id: str, epoch: int | None = None) -> bool: ...

    def owned_epoch(self, session_id: str) -> int | None: ...

    def preferred_owner(self, session_id: str) -> str | None:
        """The node to which the mapping sends the session, whoever owns it now; None when no node takes sessions."""

    async def list_sessions(
        self,
        *,
        owner: str | None = None,
        state: SessionState | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Session]:
        """This replica's view, by session id in ascending order."""

    async def drain(self) -> Mapping[str, Any]:
        """Take no new sessions and move all away. Returns when that is done: how many moved, how many failed."""

    def mapping(self) -> dict[str, Any]:
        """The mapping of sessions to nodes, and in the sticky strategy how far it is settled."""

    async def change_mapping(
        self,
        nodes: Mapping[str, int],
        *,
        draining: Collection[str] = (),
        lost: Collection[str] = (),
        epoch: int | None = None,
    ) -> Mapping[str, Any]:
        """Adopt a mapping with the next epoch. Returns, as `mapping` does, when the change is in the node's log."""

    async def transfer_leadership(self, to: str | None = None) -> str:
        """Hand leadership to `to`, or to the most caught-up member; its id. Returns when it leads."""

    def status(self) -> dict[str, Any]: ...

    def explain(self, session_id: str) -> dict[str, Any]: ...

    def outcome(self, op_id: OpId) -> dict[str, Any] | None:
        """{"outcome": "committed"|"rejected"|"undecided", "reason", "session"}; None when this node never knew it."""

    def events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Audit events numbered above `after`, in order; goes on for ever."""

    def ready(self) -> Iterable[Check]: ...

    def alive(self) -> Iterable[Check]: ...

    def isolate(self, peers: set[str]) -> None:
        """Cut the links to these members and no others: faults on demand, for demonstrations and tests."""
