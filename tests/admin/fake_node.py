"""A node for tests of what stands in front of nodes: keeps sessions in a dict, fails on request, counts its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from collections.abc import Mapping as MappingOf
from typing import Any

from raftstore.errors import InvalidArgument, Rejected, Unavailable
from raftstore.routing import Mapping
from raftstore.types import Binding, OpId, Reason, Session, SessionState

NOW_MS = 1_000_000


class FakeNode:
    def __init__(self, node_id: str = "vpn-1", *, leader: str | None = "vpn-1") -> None:
        self.node_id = node_id
        self.leader = leader
        self.sessions: dict[str, Session] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.failure: Exception | None = None  # raised by every op and read
        self.hold: asyncio.Event | None = None  # ops wait for it
        self.running = 0
        self.running_peak = 0
        self.running_max: int | None = None  # beyond it ops are refused, as a node does
        self.log: list[dict[str, Any]] = []
        self.log_changed = asyncio.Event()
        self.readers = 0
        self.drained = False
        self.isolated: list[str] | None = None
        self.outcomes: dict[OpId, dict[str, Any]] = {}
        self.is_ready = True
        self.extra_status: dict[str, Any] = {}
        self.sticky: dict[str, Any] | None = None  # what a sticky node's status says of its mapping
        self.elsewhere: dict[str, str] = {}  # why a session that is not here is none of a sticky node's
        self.places = Mapping.of(1, {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1})

    async def _op(self, op: str, session_id: str, arguments: dict[str, Any]) -> None:
        self.calls.append((op, session_id, {k: v for k, v in arguments.items() if v is not None}))
        if self.failure is not None:
            raise self.failure
        if self.running_max is not None and self.running >= self.running_max:
            raise Unavailable(Reason.OVERLOADED)
        self.running += 1
        self.running_peak = max(self.running_peak, self.running)
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.running -= 1

    async def _change(self, op: str, session_id: str, arguments: dict[str, Any], **changes: Any) -> Session:
        await self._op(op, session_id, arguments)
        before = self.sessions.get(session_id)
        if before is None:
            raise Rejected(Reason.SESSION_NOT_FOUND)
        if before.state_version != arguments["expected_version"]:
            raise Rejected(Reason.VERSION_MISMATCH, before)
        after = before._replace(state_version=before.state_version + 1, **changes)
        self.sessions[session_id] = after
        return after

    async def create(
        self,
        session_id: str,
        *,
        binding: Binding | None = None,
        ttl_ms: int | None = None,
        policy: str | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        arguments = {"binding": binding, "ttl_ms": ttl_ms, "policy": policy, "timeout_ms": timeout_ms}
        await self._op("create", session_id, arguments)
        if session_id in self.sessions:
            raise Rejected(Reason.SESSION_EXISTS, self.sessions[session_id])
        state = SessionState.RECOVERING if binding is None else SessionState.ATTACHED
        expires_at_ms = NOW_MS + (ttl_ms or 3_600_000)
        session = Session(session_id, state, self.node_id, 1, 1, binding, NOW_MS, expires_at_ms)
        self.sessions[session_id] = session
        return session

    async def reattach(self, session_id: str, **arguments: Any) -> Session:
        changes = {"state": SessionState.ATTACHED, "binding": arguments["binding"]}
        return await self._change("reattach", session_id, arguments, **changes)

    async def detach(self, session_id: str, **arguments: Any) -> Session:
        changes = {"state": SessionState.RECOVERING, "binding": None, "reattach_by_ms": NOW_MS + 120_000}
        return await self._change("detach", session_id, arguments, **changes)

    async def renew(self, session_id: str, **arguments: Any) -> Session:
        return await self._change("renew", session_id, arguments, expires_at_ms=NOW_MS + arguments["ttl_ms"])

    async def migrate(self, session_id: str, **arguments: Any) -> Session:
        if arguments["to"] == self.node_id:
            raise InvalidArgument("to", "is this node itself")
        changes = {"state": SessionState.FROZEN, "owner": arguments["to"], "epoch": 2, "binding": None}
        return await self._change("migrate", session_id, arguments, **changes)

    async def resume(self, session_id: str, **arguments: Any) -> Session:
        return await self._change("resume", session_id, arguments, state=SessionState.RECOVERING)

    async def failover(self, session_id: str, **arguments: Any) -> Session:
        return await self._change("failover", session_id, arguments, owner=self.node_id, epoch=2)

    async def terminate(self, session_id: str, **arguments: Any) -> Session:
        changes = {"state": SessionState.TERMINATED, "reason": arguments.get("reason", "POLICY")}
        return await self._change("terminate", session_id, arguments, **changes)

    async def get(self, session_id: str, *, consistency: str = "linearizable") -> Session:
        await self._op("get", session_id, {"consistency": consistency})
        if session_id not in self.sessions:
            raise Rejected(Reason.SESSION_NOT_FOUND)
        return self.sessions[session_id]

    def owns(self, session_id: str, epoch: int | None = None) -> bool:
        held = self.owned_epoch(session_id)
        return held is not None and epoch in (None, held)

    def owned_epoch(self, session_id: str) -> int | None:
        session = self.sessions.get(session_id)
        owned = session is not None and session.owner == self.node_id and session.state is SessionState.ATTACHED
        return session.epoch if owned and session is not None else None

    def preferred_owner(self, session_id: str) -> str | None:
        return self.places.owner(session_id)

    async def list_sessions(
        self,
        *,
        owner: str | None = None,
        state: SessionState | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Session]:
        found = [s for _, s in sorted(self.sessions.items()) if after is None or s.session_id > after]
        return [s for s in found if owner in (None, s.owner) and state in (None, s.state)][:limit]

    async def drain(self) -> dict[str, Any]:
        await self._op("drain", "", {})
        self.drained = True
        return {"moved": len(self.sessions), "failed": 0, "last_problem": None}

    def mapping(self) -> dict[str, Any]:
        """That of a sticky node once a test has given one."""
        if self.sticky is None:
            nodes = [n._asdict() for n in self.places.nodes]
            return {"node": self.node_id, "strategy": "shared", "epoch": 1, "nodes": nodes}
        return {"node": self.node_id, "strategy": "sticky", **self.sticky}

    async def change_mapping(
        self,
        nodes: MappingOf[str, int],
        *,
        draining: Collection[str] = (),
        lost: Collection[str] = (),
        epoch: int | None = None,
    ) -> dict[str, Any]:
        await self._op("change_mapping", "", {"nodes": nodes, "draining": draining, "lost": lost, "epoch": epoch})
        if self.sticky is None:
            raise InvalidArgument("strategy", "is shared")
        following = self.sticky["epoch"] + 1
        if epoch not in (None, following):
            raise InvalidArgument("epoch", f"the next is {following}")
        mapped = [{"node_id": n, "weight": w, "draining": n in draining} for n, w in sorted(nodes.items())]
        previous = {"epoch": self.sticky["epoch"], "nodes": self.sticky["nodes"]}
        changed = {"epoch": following, "nodes": mapped, "lost": list(lost), "previous": previous}
        self.sticky = self.sticky | changed | {"digest": f"{following:064x}"}
        return self.sticky

    async def transfer_leadership(self, to: str | None = None) -> str:
        await self._op("transfer", "", {"to": to})
        self.leader = to or "vpn-2"
        return self.leader

    def status(self) -> dict[str, Any]:
        return {
            "cluster": "test",
            "node": self.node_id,
            "incarnation": "00000000000000a1",
            "role": "leader" if self.leader == self.node_id else "follower",
            "leader": self.leader,
            "term": 7,
            "commit_index": 41,
            "applied_index": 41,
            "last_index": 42,
            "quorum": self.leader is not None,
            "lease_remaining_ms": 2500,
            "cluster_time_ms": NOW_MS,
            "sessions_owned": sum(s.owner == self.node_id for s in self.sessions.values()),
            "sessions_total": len(self.sessions),
            "chain_head": "ab" * 32,
            "chain_index": 41,
            "event_seq": len(self.log),
            "peers": [
                {"node": "vpn-2", "connected": True, "match_index": 41, "lag": 1, "last_contact_ms": 12},
                {"node": "vpn-3", "connected": False, "match_index": None, "lag": None, "last_contact_ms": None},
            ],
            "nodes": [
                {"node": "vpn-1", "live": True, "draining": self.drained, "left": False, "sessions": 1},
            ],
            "counters": {"ops:create:committed": 3, "ops:create:SESSION_EXISTS": 1, "fenced": 2, "pending_ops": 4},
            "histograms": {"commit_seconds": {"le": [0.001, 0.01], "counts": [5, 2, 1], "sum": 0.05}},
            "security_events": [],
            "stopped": None,
            "strategy": "shared" if self.sticky is None else "sticky",
            "mapping": self.sticky,
        } | self.extra_status

    def explain(self, session_id: str) -> dict[str, Any]:
        session = self.sessions.get(session_id)
        if session is None:
            refusal = {"reason": "SESSION_NOT_FOUND", "detail": ""} | self.elsewhere
            return {"session": None, "owned_since_index": None, "reattach_here": "would be refused"} | refusal
        return {"session": session.as_dict(), "owned_since_index": 17, "reattach_here": "OWNERSHIP_CONFLICT"}

    def outcome(self, op_id: OpId) -> dict[str, Any] | None:
        return self.outcomes.get(op_id)

    async def events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        self.readers += 1
        try:
            number = after
            while True:
                while number < len(self.log):
                    number += 1
                    yield self.log[number - 1]
                await self.log_changed.wait()
        finally:
            self.readers -= 1

    def add_event(self, **fields: Any) -> None:
        self.log.append({"number": len(self.log) + 1, "index": 40, "event": "Detached"} | fields)
        self.log_changed.set()
        self.log_changed = asyncio.Event()

    def ready(self) -> list[tuple[str, bool, str]]:
        return [("quorum", self.is_ready, "leader vpn-1" if self.is_ready else "no leader"), ("lease", True, "")]

    def alive(self) -> list[tuple[str, bool, str]]:
        return [("loop", True, "turns"), ("disk", True, "")]

    def isolate(self, peers: set[str]) -> None:
        self.isolated = sorted(peers)


def sticky_view(node_id: str, epoch: int, weights: MappingOf[str, int], **changes: Any) -> dict[str, Any]:
    """What a sticky node says of a mapping that is settled everywhere, but for `changes`."""
    peers = {n: {"connected": True, "epoch": epoch, "agrees": True, "settled": True} for n in weights if n != node_id}
    return {
        "epoch": epoch,
        "digest": f"{epoch:064x}",
        "nodes": [{"node_id": n, "weight": w, "draining": False} for n, w in weights.items()],
        "lost": [],
        "previous": None,
        "settled": True,
        "closed": True,
        "waits_for": [],
        "opens_in_ms": 0,
        "leaving": {},
        "taken": 0,
        "departed": 0,
        "peers": peers,
    } | changes
