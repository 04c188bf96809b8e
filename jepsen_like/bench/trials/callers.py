"""Callers that never give up: in the process of a node, each reattaches a session of its own whatever it is told.

For trials of outages and of long runs: they try all along, and count without growing themselves. What a caller is
told is one of: committed, refused by this node before any proposal, decided against, unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter, deque
from typing import Any

from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.targets.raftstore_embedded import BINDING
from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.node.node import Node
from raftstore.ports import SystemClock
from raftstore.types import Session

COMMITS_KEPT = 8_192  # of the newest commits: when each began and ended
ANEW_S = 0.002  # between tries at a session that could not be made or read


class Callers:
    """`pace_s` passes between one answer and the next try of a caller; with 0 it tries again at once."""

    def __init__(self, node: Node, pace_s: float) -> None:
        self._node = node
        self._pace_s = pace_s
        self._now_ns = SystemClock().now_ns  # the same clock in every process of this machine
        self._sessions: list[Session] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._recent: deque[tuple[int, int]] = deque(maxlen=COMMITS_KEPT)
        self._waiting: list[tuple[int, asyncio.Future[int]]] = []
        self._clear()

    def _clear(self) -> None:
        self._since_ns = self._now_ns()
        self._committed, self._refused = Histogram(), Histogram()
        self._outcomes: Counter[str] = Counter()

    async def prepare(self, count: int) -> None:
        """Returns when each of so many callers has its session."""
        self._sessions = await asyncio.gather(*(self._make() for _ in range(count)))

    def begin(self) -> None:
        """They start to call."""
        sessions, count = self._sessions, len(self._sessions)
        delays_s = (self._pace_s * number / count for number in range(count))  # or a slow pace would march in step
        self._tasks = [
            asyncio.create_task(self._caller(session, delay_s))
            for session, delay_s in zip(sessions, delays_s, strict=True)
        ]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        found = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for problem in found:
            if isinstance(problem, Exception):
                raise problem

    def take(self) -> dict[str, Any]:
        """What was counted since the last time."""
        found = {
            "seconds": (self._now_ns() - self._since_ns) / 1e9,
            "outcomes": dict(self._outcomes),
            "committed": self._committed.as_json(),
            "refused": self._refused.as_json(),
        }
        self._clear()
        return found

    async def first_commit(self, after_ns: int) -> int:
        """When the first op that was begun after that moment was answered as committed, in nanoseconds."""
        known = next((ended for begun, ended in self._recent if begun > after_ns), None)
        if known is not None:
            return known
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((after_ns, future))
        return await future

    async def _make(self) -> Session:
        while True:
            with contextlib.suppress(Unavailable, OutcomeUnknown):
                return await self._node.create(uuid.uuid4().hex, binding=BINDING)
            await asyncio.sleep(ANEW_S)

    async def _caller(self, session: Session, delay_s: float) -> None:
        clock, node = self._now_ns, self._node
        await asyncio.sleep(delay_s)
        while True:
            begun = clock()
            try:
                session = await node.reattach(
                    session.session_id, expected_version=session.state_version, binding=BINDING
                )
            except Unavailable as refusal:
                self._refused.record((clock() - begun,))
                self._outcomes[str(refusal.reason)] += 1
            except OutcomeUnknown as problem:
                self._outcomes[str(problem.reason)] += 1  # the next try tells, by the version
            except Rejected as problem:
                self._outcomes[str(problem.reason)] += 1
                session = await self._as_it_stands(problem.session)
            else:
                self._committed_op(begun, clock())
            if self._pace_s:
                await asyncio.sleep(self._pace_s)

    def _committed_op(self, begun: int, ended: int) -> None:
        self._committed.record((ended - begun,))
        self._outcomes["committed"] += 1
        self._recent.append((begun, ended))
        if self._waiting:
            for after_ns, future in [waiting for waiting in self._waiting if begun > waiting[0]]:
                self._waiting.remove((after_ns, future))
                if not future.done():
                    future.set_result(ended)

    async def _as_it_stands(self, session: Session | None) -> Session:
        """What a refusal told of the session, or a new one where it has been lost to another node."""
        if session is not None and session.owner == self._node.node_id:
            return session
        return await self._make()
