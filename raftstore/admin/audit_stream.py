"""GET /v1/audit: audit events as JSON lines, to the present or for as long as the caller stays.

Events are pulled from the node one by one as the caller's connection takes them, so a slow reader costs a bounded
write buffer and a place among the followers, never memory. A reader that takes nothing for a while is cut off; it can
go on after the last number it has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from raftstore.admin import schema
from raftstore.admin.answers import unavailable
from raftstore.admin.node_like import NodeLike
from raftstore.types import Reason

READERS_MAX = 32  # streams at once; one more is OVERLOADED
READER_STALL_MAX_S = 30.0  # a write that the caller does not take for so long ends the stream
POLL_S = 0.5  # how soon a hung-up caller or a stop of the server is noticed while no events come
QUIET_MAX_S = 5.0  # without `follow`: events that are counted but not yet on disk are waited for so long


class AuditStream:
    """The handler, and the bound on how many of them run."""

    def __init__(self, node: NodeLike) -> None:
        self._node = node
        self._readers = 0
        self._stopping = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/audit", self.stream, allow_head=False)]

    def stop(self) -> None:
        """End every stream soon: the server closes."""
        self._stopping = True

    async def stream(self, request: web.Request) -> web.StreamResponse:
        query = schema.read_query(list(request.query.items()), schema.AUDIT_QUERY)
        if self._readers >= READERS_MAX:
            return unavailable(Reason.OVERLOADED, f"{READERS_MAX} audit streams are open")
        after, follow = query.get("after", 0), query.get("follow", False)
        last = None if follow else self._node.status()["event_seq"]
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"})
        self._readers += 1
        try:
            await response.prepare(request)
            if last is None or after < last:
                await self._copy(request, response, self._node.events(after), last)
        except (ConnectionError, TimeoutError):
            response.force_close()  # the caller left, or takes nothing: it knows how far it came
        finally:
            self._readers -= 1
        return response

    async def _copy(
        self,
        request: web.Request,
        response: web.StreamResponse,
        events: AsyncIterator[dict[str, Any]],
        last: int | None,
    ) -> None:
        while True:
            event = await self._next(request, events, None if last is None else QUIET_MAX_S)
            if event is None:
                return
            line = json.dumps(event, separators=(",", ":")) + "\n"
            async with asyncio.timeout(READER_STALL_MAX_S):
                await response.write(line.encode())
            if last is not None and _number(event) >= last:
                return

    async def _next(
        self, request: web.Request, events: AsyncIterator[dict[str, Any]], quiet_max_s: float | None
    ) -> dict[str, Any] | None:
        """The next event, or None when the stream is over, by whichever side."""
        coming = asyncio.ensure_future(_pull(events))
        waited_s = 0.0
        try:
            while not coming.done():
                await asyncio.wait({coming}, timeout=POLL_S)
                waited_s += POLL_S
                gone = request.transport is None or request.transport.is_closing()
                if not coming.done() and (
                    gone or self._stopping or (quiet_max_s is not None and waited_s > quiet_max_s)
                ):
                    return None
            return coming.result()
        finally:
            coming.cancel()


async def _pull(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


def _number(event: dict[str, Any]) -> int:
    """The event's number; that of a gap is its last."""
    number = event.get("number")
    return number if isinstance(number, int) else 0
