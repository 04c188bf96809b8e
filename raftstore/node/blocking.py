"""The same node for threads: each method blocks until it is done. Built on `Node`, adds no behaviour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, Self, TypeVar

from raftstore.config import ClusterConfig
from raftstore.node.dispatch import AssignedCallback, FencedCallback
from raftstore.node.node import START_TIMEOUT_MS, Node
from raftstore.types import Binding, OpId, Session, SessionState

T = TypeVar("T")


class BlockingNode:
    """`Node` without an event loop of the caller's; any thread may call. Callbacks come on a thread of their own."""

    def __init__(self, config: ClusterConfig, node_id: str, *, insecure: bool = False) -> None:
        self._node = Node(config, node_id, insecure=insecure)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"raftstore-{node_id}-calls", daemon=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self, *, wait_ms: int | None = START_TIMEOUT_MS) -> None:
        """See Node.start."""
        self._thread.start()
        try:
            self._run(self._node.start(wait_ms=wait_ms))
        except BaseException:
            self._end()
            raise

    def stop(self, *, drain: bool = False) -> None:
        """See Node.stop."""
        if self._thread.is_alive():
            self._run(self._node.stop(drain=drain))
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def create(
        self,
        session_id: str,
        *,
        binding: Binding | None = None,
        ttl_ms: int | None = None,
        policy: str | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """See Node.create."""
        work = self._node.create(session_id, binding=binding, ttl_ms=ttl_ms, policy=policy, timeout_ms=timeout_ms)
        return self._run(work)

    def reattach(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding,
        nonce: int | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """See Node.reattach."""
        work = self._node.reattach(
            session_id, expected_version=expected_version, binding=binding, nonce=nonce, timeout_ms=timeout_ms
        )
        return self._run(work)

    def detach(
        self, session_id: str, *, expected_version: int, reason: str = "DETACHED", timeout_ms: int | None = None
    ) -> Session:
        """See Node.detach."""
        work = self._node.detach(session_id, expected_version=expected_version, reason=reason, timeout_ms=timeout_ms)
        return self._run(work)

    def renew(
        self, session_id: str, *, expected_version: int, ttl_ms: int | None = None, timeout_ms: int | None = None
    ) -> Session:
        """See Node.renew."""
        work = self._node.renew(session_id, expected_version=expected_version, ttl_ms=ttl_ms, timeout_ms=timeout_ms)
        return self._run(work)

    def migrate(self, session_id: str, *, expected_version: int, to: str, timeout_ms: int | None = None) -> Session:
        """See Node.migrate."""
        work = self._node.migrate(session_id, expected_version=expected_version, to=to, timeout_ms=timeout_ms)
        return self._run(work)

    def resume(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """See Node.resume."""
        work = self._node.resume(session_id, expected_version=expected_version, binding=binding, timeout_ms=timeout_ms)
        return self._run(work)

    def failover(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """See Node.failover."""
        work = self._node.failover(
            session_id, expected_version=expected_version, binding=binding, timeout_ms=timeout_ms
        )
        return self._run(work)

    def terminate(
        self,
        session_id: str,
        *,
        expected_version: int,
        reason: str = "POLICY",
        operator: bool = False,
        timeout_ms: int | None = None,
    ) -> Session:
        """See Node.terminate."""
        work = self._node.terminate(
            session_id, expected_version=expected_version, reason=reason, operator=operator, timeout_ms=timeout_ms
        )
        return self._run(work)

    def get(self, session_id: str, *, consistency: str = "linearizable", timeout_ms: int | None = None) -> Session:
        """See Node.get."""
        return self._run(self._node.get(session_id, consistency=consistency, timeout_ms=timeout_ms))

    def list_sessions(
        self,
        *,
        owner: str | None = None,
        state: SessionState | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Session]:
        """See Node.list_sessions."""
        return self._run(self._node.list_sessions(owner=owner, state=state, limit=limit, after=after))

    def owns(self, session_id: str, epoch: int | None = None) -> bool:
        """See Node.owns: memory only, per packet."""
        return self._node.owns(session_id, epoch)

    def preferred_owner(self, session_id: str) -> str | None:
        """See Node.preferred_owner: memory only."""
        return self._node.preferred_owner(session_id)

    def drain(self) -> Mapping[str, Any]:
        """See Node.drain."""
        return self._run(self._node.drain())

    def mapping(self) -> dict[str, Any]:
        """See Node.mapping."""
        return self._node.mapping()

    def change_mapping(
        self,
        nodes: Mapping[str, int],
        *,
        draining: Collection[str] = (),
        lost: Collection[str] = (),
        epoch: int | None = None,
    ) -> Mapping[str, Any]:
        """See Node.change_mapping."""
        return self._run(self._node.change_mapping(nodes, draining=draining, lost=lost, epoch=epoch))

    def transfer_leadership(self, to: str | None = None) -> str:
        """See Node.transfer_leadership."""
        return self._run(self._node.transfer_leadership(to))

    def status(self) -> dict[str, Any]:
        """See Node.status."""
        return self._node.status()

    def explain(self, session_id: str) -> dict[str, Any]:
        """See Node.explain."""
        return self._node.explain(session_id)

    def outcome(self, op_id: OpId) -> dict[str, Any] | None:
        """See Node.outcome."""
        return self._node.outcome(op_id)

    def on_fenced(self, callback: FencedCallback) -> None:
        """See Node.on_fenced; called on this facade's own thread."""
        self._node.on_fenced(callback)

    def on_assigned(self, callback: AssignedCallback) -> None:
        """See Node.on_assigned; called on this facade's own thread."""
        self._node.on_assigned(callback)
