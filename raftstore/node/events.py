"""Audit events for those who follow them in this process: from memory while they are recent, else from the files."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from raftstore.node.audit import AuditTrail
from raftstore.node.replica import Replica
from raftstore.ownership import event_as_dict

EVENTS_AT_ONCE_MAX = 512


class EventStream:
    """Wakes followers when events were applied. The node's loop is its only user."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        self._arrived.set()

    async def next(self, after: int, replica: Replica, audit: AuditTrail) -> list[dict[str, Any]]:
        """Events with numbers above `after`, at most EVENTS_AT_ONCE_MAX; waits until there is one.

        What memory does not hold any more comes from the audit files, once it is durable there; a gap in them is
        one event of its own, "AuditGap".
        """
        while True:
            recent = replica.recent_events.after(after, EVENTS_AT_ONCE_MAX)
            if recent is not None:
                found = [event_as_dict(event) for event in recent]
            elif max(replica.machine.event_seq, audit.durable_number) > after:
                found = await self._loop.run_in_executor(
                    None, lambda: list(islice(audit.read(after), EVENTS_AT_ONCE_MAX))
                )
            else:
                found = []
            if found:
                return found
            self._arrived.clear()
            try:
                async with asyncio.timeout(1.0):  # wait_for would forget a cancellation that comes with the news
                    await self._arrived.wait()
            except TimeoutError:
                continue  # the files may have caught up meanwhile
