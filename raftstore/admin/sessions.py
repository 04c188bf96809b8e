"""The handlers of /v1/sessions: ops, reads, and what this node may say about its ownership."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from raftstore.admin import schema
from raftstore.admin.answers import answer, committed, session_json, with_preference
from raftstore.admin.node_like import NodeLike
from raftstore.admin.requests import body_of
from raftstore.errors import InvalidArgument, Rejected
from raftstore.types import Session

LIST_LIMIT_DEFAULT = 100

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_ID = r"{session_id:[^/]*}"  # an id may hold braces; an empty one is answered by name, not by 404


class SessionHandlers:
    """HTTP to node calls, one to one. `body_bytes_max` bounds what a caller may send."""

    def __init__(self, node: NodeLike, *, body_bytes_max: int) -> None:
        self._node = node
        self._body_bytes_max = body_bytes_max
        self._ops: dict[str, Callable[..., Awaitable[Session]]] = {
            "create": node.create,
            "reattach": node.reattach,
            "detach": node.detach,
            "renew": node.renew,
            "migrate": node.migrate,
            "resume": node.resume,
            "failover": node.failover,
            "terminate": node.terminate,
        }

    def routes(self) -> list[web.RouteDef]:
        ops = [web.post(f"/v1/sessions/{_ID}/{name}", self._op_handler(name)) for name in self._ops]
        return [
            *ops,
            web.get("/v1/sessions", self.list_sessions),
            web.get(f"/v1/sessions/{_ID}", self.get),
            web.get(f"/v1/sessions/{_ID}/owns", self.owns),
            web.get(f"/v1/sessions/{_ID}/explain", self.explain),
        ]

    def _op_handler(self, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        op, fields = self._ops[name], schema.OPS[name]

        async def handle(request: web.Request) -> web.Response:
            session_id = _session_id(request)
            arguments = schema.read_body(await body_of(request, self._body_bytes_max), fields)
            return await self._told(session_id, op(session_id, **arguments))

        return handle

    async def _told(self, session_id: str, work: Awaitable[Session]) -> web.Response:
        """What came of it. The mapping is asked afterwards: as it stands when the answer leaves."""
        try:
            session = await work
        except Rejected as outcome:
            outcome.preferred_owner = self._node.preferred_owner(session_id)
            raise
        return committed(session, self._node.preferred_owner(session_id))

    async def list_sessions(self, request: web.Request) -> web.Response:
        """This replica's view, a page at a time; `next` is the `after` of the next page."""
        query: dict[str, Any] = schema.read_query(list(request.query.items()), schema.SESSIONS_QUERY)
        limit = query.setdefault("limit", LIST_LIMIT_DEFAULT)
        found = await self._node.list_sessions(**query)
        following = found[-1].session_id if len(found) >= limit else None
        prefers = self._node.preferred_owner
        shown = [session_json(session, prefers(session.session_id)) for session in found]
        return answer({"sessions": shown, "next": following})

    async def get(self, request: web.Request) -> web.Response:
        session_id = _session_id(request)
        query = schema.read_query(list(request.query.items()), schema.SESSION_QUERY)
        work = self._node.get(session_id, consistency=query.get("consistency", "linearizable"))
        return await self._told(session_id, work)

    async def owns(self, request: web.Request) -> web.Response:
        """What `owns()` says now. Old when it arrives: a data path asks in its own process, or checks the epoch."""
        session_id = _session_id(request)
        query = schema.read_query(list(request.query.items()), schema.OWNS_QUERY)
        owns = self._node.owns(session_id, query.get("epoch"))
        return answer({"owns": owns, "epoch": self._node.owned_epoch(session_id)})

    async def explain(self, request: web.Request) -> web.Response:
        session_id = _session_id(request)
        return answer(with_preference(self._node.explain(session_id), self._node.preferred_owner(session_id)))


def _session_id(request: web.Request) -> str:
    """The id from the path as it was sent: "%2F" is part of the id, a broken escape is no id."""
    quoted = request.rel_url.raw_path.split("/")[3]
    if _BROKEN_ESCAPE.search(quoted):
        raise InvalidArgument("session_id", "a '%' that is no escape; write %25")
    value: str = schema.session_id("session_id", unquote(quoted, errors="replace"))
    return value
