"""raftstore embedded, with what trials ask of it: callers that never give up, takeovers, what the node says of itself.

Moments are nanoseconds of CLOCK_BOOTTIME, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.targets.raftstore_embedded import BINDING, Embedded
from jepsen_like.bench.trials.callers import Callers
from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.ports import SystemClock

AGAIN_S = 0.002  # between tries to take a session over
QUEUES = ("pending_ops", "audit_backlog", "storage_backlog_bytes")


class Trials(Embedded):
    """Each method with plain arguments and a JSON answer is a request to the process."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._callers: Callers | None = None
        self._now_ns = SystemClock().now_ns

    async def view(self) -> dict[str, Any]:
        status = self._node.status()
        found = {name: status[name] for name in ("ready", "quorum", "leader", "role", "term")}
        return {**found, "connected": sum(row["connected"] for row in status["peers"])}

    async def queues(self) -> dict[str, Any]:
        """How much waits in this node, by the name of the queue."""
        status = self._node.status()
        found = {name: int(status["counters"][name]) for name in QUEUES}
        found["entries_not_applied"] = status["last_index"] - status["applied_index"]
        found["link_bytes"] = sum(row["queued_bytes"] or 0 for row in status["peers"])
        return found

    # ---- callers
    async def gather(self, callers: int, pace_s: float) -> dict[str, Any]:
        """Callers with a session each, that wait for `begin`."""
        self._callers = Callers(self._node, pace_s)
        await self._callers.prepare(callers)
        return {}

    async def begin(self) -> dict[str, Any]:
        self._trying().begin()
        return {}

    async def take(self) -> dict[str, Any]:
        return self._trying().take()

    async def first_commit(self, after_ns: int) -> dict[str, Any]:
        return {"at_ns": await self._trying().first_commit(after_ns)}

    async def end(self) -> dict[str, Any]:
        await self._trying().end()
        return {}

    def _trying(self) -> Callers:
        if self._callers is None:
            raise ValueError("nobody calls here")
        return self._callers

    # ---- sessions that change their owner
    async def own(self, sessions: int) -> dict[str, Any]:
        """New sessions of this node: ids and versions."""
        made = await asyncio.gather(*(self.create(uuid.uuid4().hex) for _ in range(sessions)))
        return {"sessions": [(session.session_id, session.state_version) for session in made]}

    async def take_over(self, session_id: str, version: int, owner: str) -> dict[str, Any]:
        """Try until the failover is accepted; when that was, and from when on the rules allowed it."""
        told: Counter[str] = Counter()
        while True:
            try:
                await self._node.failover(session_id, expected_version=version, binding=BINDING)
                break
            except (Rejected, Unavailable) as refusal:
                told[str(refusal.reason)] += 1
            except OutcomeUnknown as problem:
                told[str(problem.reason)] += 1
                if self._node.owned_epoch(session_id) is not None:
                    break
            await asyncio.sleep(AGAIN_S)
        return {"accepted_ns": self._now_ns(), "allowed_ns": self._lapse_ns(owner), "refused": dict(told)}

    def _lapse_ns(self, owner: str) -> int:
        """When the lease of `owner`, as committed, lapses by this node's reckoning of cluster time.

        An older process of that node cannot hold it up: its lease was the earlier one.
        """
        now_ns, status = self._now_ns(), self._node.status()
        lease_until_ms = next(row["lease_until_ms"] for row in status["nodes"] if row["node"] == owner)
        return int(now_ns + (lease_until_ms - status["cluster_time_ms"]) * 1_000_000)


def target(given: Mapping[str, Any]) -> Trials:
    return Trials(given)
