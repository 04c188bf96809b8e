"""The handlers about the node itself: status, health, drain, mapping, leadership, ops, faults on demand."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from raftstore.admin import schema
from raftstore.admin.answers import answer, with_preference
from raftstore.admin.node_like import Check, NodeLike
from raftstore.admin.requests import body_of


class NodeHandlers:
    """HTTP to node calls. `debug_faults` adds the one that cuts links; without it the path does not exist."""

    def __init__(self, node: NodeLike, *, body_bytes_max: int, debug_faults: bool) -> None:
        self._node = node
        self._body_bytes_max = body_bytes_max
        self._debug_faults = debug_faults

    def routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/v1/status", self.status),
            web.get("/v1/ops/{op_id}", self.outcome),
            web.post("/v1/node/drain", self.drain),
            web.get("/v1/mapping", self.mapping),
            web.post("/v1/mapping", self.change_mapping),
            web.post("/v1/leader/transfer", self.transfer),
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
        ]
        if self._debug_faults:
            routes.append(web.post("/v1/debug/isolate", self.isolate))
        return routes

    async def status(self, request: web.Request) -> web.Response:
        schema.read_query(list(request.query.items()), schema.NOTHING)
        return answer(self._node.status())

    async def outcome(self, request: web.Request) -> web.Response:
        """What became of an op whose answer was "unknown". 404: this node never knew it, or has forgotten it."""
        op_id = schema.op_id("op_id", request.match_info["op_id"])
        found = self._node.outcome(op_id)
        if found is None:
            return answer({"outcome": "not known here", "op_id": str(op_id)}, 404)
        session = found.get("session")
        if session is not None:
            found = with_preference(found, self._node.preferred_owner(session["session_id"]))
        return answer({"op_id": str(op_id)} | found)

    async def drain(self, request: web.Request) -> web.Response:
        schema.read_body(await body_of(request, self._body_bytes_max), schema.NOTHING)
        progress = await self._node.drain()
        return answer({"outcome": "drained"} | dict(progress))

    async def mapping(self, request: web.Request) -> web.Response:
        schema.read_query(list(request.query.items()), schema.NOTHING)
        return answer(self._node.mapping())

    async def change_mapping(self, request: web.Request) -> web.Response:
        """Answers when the change is in this node's log; how far it has come after that is what GET tells."""
        body = schema.read_body(await body_of(request, self._body_bytes_max), schema.MAPPING_CHANGE)
        return answer({"outcome": "adopted"} | dict(await self._node.change_mapping(**body)))

    async def transfer(self, request: web.Request) -> web.Response:
        body = schema.read_body(await body_of(request, self._body_bytes_max), schema.LEADER_TRANSFER)
        return answer({"outcome": "transferred", "leader": await self._node.transfer_leadership(**body)})

    async def isolate(self, request: web.Request) -> web.Response:
        body = schema.read_body(await body_of(request, self._body_bytes_max), schema.ISOLATE)
        self._node.isolate(set(body["peers"]))
        return answer({"outcome": "isolated", "peers": body["peers"]})

    async def livez(self, request: web.Request) -> web.Response:
        """The loop turns (it answers this) and the disk answers. Never depends on a quorum: a restart mends none."""
        return _health(request, self._node.alive())

    async def readyz(self, request: web.Request) -> web.Response:
        """Whether ops sent here can succeed now: quorum, lease, caught up, not stopping."""
        return _health(request, self._node.ready())


def _health(request: web.Request, checks: Iterable[Check]) -> web.Response:
    query = schema.read_query(list(request.query.items()), schema.READYZ_QUERY)
    found = list(checks)
    good = all(ok for _, ok, _ in found)
    lines = ["ok" if good else "not ok"]
    if query.get("verbose", False) or not good:
        lines = [f"[{'+' if ok else '-'}]{name} {detail}".rstrip() for name, ok, detail in found] + lines
    return web.Response(text="\n".join(lines) + "\n", status=200 if good else 503)
