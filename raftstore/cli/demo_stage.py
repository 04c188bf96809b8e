"""What every demo stands on: the promises it notes, the watcher that asks all nodes who owns what, common helpers.

Scenes are methods that tell what they do, measure, and note promises as kept or broken from what they saw; nothing is
assumed. The watcher asks every node, all the while, which sessions it owns.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raftstore.cli.demo_cluster import LEASE_TTL_MS, POLL_S, DemoCluster, DemoFailed
from raftstore.client import NoAnswer, Unreachable
from raftstore.errors import RaftstoreError, Rejected, Unavailable
from raftstore.types import Binding, Session

WAIT_S = 15.0

Scene = Callable[[], Awaitable[None]]
Voice = Callable[[str], None]  # prints a line for people


@dataclass
class Promises:
    """What was promised, and whether the demo saw it kept."""

    rows: list[tuple[str, bool, str]] = field(default_factory=list)

    def note(self, promise: str, kept: bool, evidence: str) -> None:
        self.rows.append((promise, kept, evidence))

    @property
    def all_kept(self) -> bool:
        return all(kept for _, kept, _ in self.rows)


class Watcher:
    """Asks all nodes in turn who owns the watched sessions, for as long as the demo runs.

    Two owners are proven when one node says yes, then another says yes, then the first still says yes under its old
    epoch: both owned the session at the moment of the second answer.
    """

    def __init__(self, cluster: DemoCluster) -> None:
        self._cluster = cluster
        self._sessions: list[str] = []
        self.checks = 0
        self.overlaps: list[str] = []

    def watch(self, session_id: str) -> None:
        self._sessions.append(session_id)

    def watch_only(self, session_ids: Iterable[str]) -> None:
        """Leave the others, so that these are looked at more often."""
        self._sessions = list(session_ids)

    async def run(self, lanes: int = 1) -> None:
        """Ask for ever. With more lanes each session has its turn more often."""
        await asyncio.gather(*(self._patrol(lane, lanes) for lane in range(lanes)))

    async def _patrol(self, first: int, step: int) -> None:
        while True:
            for session_id in self._sessions[first::step]:
                await self._look(session_id)
            await asyncio.sleep(POLL_S)

    async def _look(self, session_id: str) -> None:
        owners: list[tuple[str, int]] = []
        for node_id in self._cluster.alive():
            epoch = await self._owned_epoch(node_id, session_id)
            if epoch is not None:
                owners.append((node_id, epoch))
        self.checks += 1
        if len(owners) > 1 and await self._owned_epoch(owners[0][0], session_id) == owners[0][1]:
            self.overlaps.append(f"{session_id}: {owners}")

    async def _owned_epoch(self, node_id: str, session_id: str) -> int | None:
        with contextlib.suppress(RaftstoreError):
            return await self._cluster.clients[node_id].owned_epoch(session_id)
        return None


class Stage(ABC):
    """Where scenes are played, one after the other."""

    lease_ttl_ms = LEASE_TTL_MS
    watch_lanes = 1  # how many sessions the watcher asks for at a time

    def __init__(self, cluster: DemoCluster, say: Voice, title: Voice) -> None:
        self.cluster = cluster
        self.clients = cluster.clients
        self.say = say
        self.title = title
        self.promises = Promises()
        self.watcher = Watcher(cluster)
        self._ports = 40_000

    @abstractmethod
    def scenes(self) -> Sequence[Scene]:
        """What is shown, in order."""

    async def run(self) -> Promises:
        watching = asyncio.create_task(self.watcher.run(self.watch_lanes))
        try:
            for scene in self.scenes():
                await scene()
        except RaftstoreError as problem:
            self.promises.note("the demo comes to its end", False, str(problem))
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        self.promises.note(
            "never two: no session had two owners at once",
            not self.watcher.overlaps and self.watcher.checks > 0,
            f"{self.watcher.checks} rounds of asking every node" + "".join(f"; {o}" for o in self.watcher.overlaps),
        )
        return self.promises

    # --- helpers -------------------------------------------------------------------------------------------------
    def _binding(self) -> Binding:
        self._ports += 1
        return Binding(f"t{self._ports}", "udp", f"198.51.100.7:{self._ports}")

    async def _until(self, what: str, check: Callable[[], Awaitable[Any]], poll_s: float = POLL_S) -> Any:
        """The first true answer of `check`, asked again and again; DemoFailed when it does not come."""
        for _ in range(int(WAIT_S / poll_s)):
            with contextlib.suppress(Unreachable, NoAnswer, Unavailable):
                found = await check()
                if found:
                    return found
            await asyncio.sleep(poll_s)
        raise DemoFailed(f"waited {WAIT_S:g} s in vain: {what}")

    async def _attached(
        self, node_id: str, session_id: str, ttl_ms: int | None = None, policy: str | None = None
    ) -> Session:
        async def once() -> Session:
            client = self.clients[node_id]
            return await client.create(session_id, binding=self._binding(), ttl_ms=ttl_ms, policy=policy)

        session: Session = await self._until(f"{node_id} creates {session_id}", once)
        self.watcher.watch(session_id)
        return session

    async def _rejected(self, work: Awaitable[Session]) -> str:
        try:
            session = await work
        except Rejected as refusal:
            return str(refusal.reason)
        return f"accepted at version {session.state_version}"
