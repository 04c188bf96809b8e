"""Stock PySyncObj as a gateway would embed it, tuned: the tick, the batches and the queue as its documentation allows.

It writes a journal and never syncs it. Its own thread does all the work; answers cross to the callers' event loop many
at a time. It has no linearizable read: a read goes through the log, which is the one way that its users have.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

from jepsen_like.bench.targets.base import Refused, state_of

POLL_S = 0.02
BATCH_BYTES = 1 << 20


class StockFailed(Exception):  # noqa: N818 - says what happened
    """The library gave up on a command."""


class Sessions(SyncObj):  # type: ignore[misc]  # the library ships no types
    """Versions and states by session id."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.sessions: dict[str, tuple[int, bytes]] = {}
        conf = SyncObjConf(
            journalFile=given["journal"],
            autoTickPeriod=0.002,
            appendEntriesPeriod=0.002,
            appendEntriesBatchSizeBytes=BATCH_BYTES,
            sendBufferSize=BATCH_BYTES,
            recvBufferSize=BATCH_BYTES,
            connectionRetryTime=0.1,
            logCompactionMinEntries=1_000_000,  # its compaction forks; a measurement should not meet one by chance
            logCompactionMinTime=3_600,
        )
        super().__init__(given["address"], given["others"], conf)

    @replicated  # type: ignore[untyped-decorator]
    def change(self, key: str, expected: int, state: bytes) -> int:
        """The new version, or 0 when it was not the expected one."""
        version = self.sessions.get(key, (0, b""))[0]
        if version != expected:
            return 0
        self.sessions[key] = (version + 1, state)
        return version + 1

    @replicated  # type: ignore[untyped-decorator]
    def look(self, key: str) -> int:
        return self.sessions.get(key, (0, b""))[0]


class Stock:
    """Commands from the callers' loop, answers from the library's thread."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[asyncio.Future[int], int, Any]] = deque()
        self._is_woken = False

    async def open(self) -> None:
        self._objects = Sessions(self._given)
        while not self._objects.isReady() or await self.leader() is None:  # noqa: ASYNC110 - it has no such event
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        self._objects.destroy()

    async def create(self, session_id: str) -> int:
        return await self.change(session_id, 0)

    async def change(self, session_id: str, version: int) -> int:
        found = await self._call(self._objects.change, session_id, version, state_of(version + 1))
        if found == 0:
            raise Refused(session_id)
        return found

    async def read(self, session_id: str) -> int:
        return await self._call(self._objects.look, session_id)

    async def read_local(self, session_id: str) -> int:
        version: int = self._objects.sessions.get(session_id, (0, b""))[0]
        return version

    async def leader(self) -> str | None:
        found = self._objects.getStatus()["leader"]
        names: Mapping[str, str] = self._given["names"]
        return None if found is None else names[str(found)]

    def counters(self) -> Mapping[str, int]:
        return {}

    async def _call(self, method: Callable[..., None], *arguments: Any) -> int:
        future: asyncio.Future[int] = self._loop.create_future()

        def answered(result: Any, problem: int) -> None:  # on the library's thread
            self._answers.append((future, problem, result))
            if not self._is_woken:
                self._is_woken = True
                self._loop.call_soon_threadsafe(self._deliver)

        method(*arguments, callback=answered)
        return await future

    def _deliver(self) -> None:
        self._is_woken = False  # before the queue is read: whoever appends from here on wakes us again
        while self._answers:
            future, problem, result = self._answers.popleft()
            if future.done():
                continue
            if problem == FAIL_REASON.SUCCESS:
                future.set_result(result)
            else:
                future.set_exception(StockFailed(str(problem)))


def target(given: Mapping[str, Any]) -> Stock:
    return Stock(given)
