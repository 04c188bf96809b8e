"""The HTTP API of one node: routes, bounds on connections and time, who may call.

Runs on the node's own event loop. A Unix socket is guarded by its mode, TCP by client certificates of the cluster's CA;
plain TCP is for loopback only and answers no browser, so that a web page cannot steer a node. Callers that hang up do
no harm: their op goes on and is bounded by the node. Leaves admission (OVERLOADED) and every decision to the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import Self, cast

from aiohttp import web

from raftstore.admin.answers import Handler, answer, invalid, outcomes
from raftstore.admin.audit_stream import AuditStream
from raftstore.admin.listening import BACKLOG, listen_tcp, listen_unix, remove_unix
from raftstore.admin.metrics import ApiMetrics
from raftstore.admin.node_like import NodeLike
from raftstore.admin.nodes import NodeHandlers
from raftstore.admin.refusal import Refusal
from raftstore.admin.sessions import SessionHandlers
from raftstore.config import Address, ApiEndpoint
from raftstore.errors import TransportError

SHUTDOWN_TIMEOUT_S = 3.0  # requests in progress when the server stops; then they are cut off
IDLE_SWEEP_S = 30.0  # a connection without a request for one to two of these is closed
TLS_HANDSHAKE_TIMEOUT_S = 5.0
REFUSED_MAX = 16_384  # callers being refused at once; more are cut off unheard
REQUEST_HEAD_BYTES_MAX = 8_190
CONNECTIONS_MAX = 1_024
BODY_BYTES_MAX = 65_536


class AdminServer:
    """`async with AdminServer(node, endpoint): ...` serves until the block ends.

    `tls` is needed for a "tcp" endpoint: a server context that demands client certificates. TransportError when the
    endpoint cannot be had.
    """

    def __init__(
        self,
        node: NodeLike,
        endpoint: ApiEndpoint,
        *,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
        refused_max: int = REFUSED_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
        debug_faults: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._tls = _checked_tls(endpoint, tls)
        self._connections_max = connections_max
        self._refused_max = refused_max
        self._metrics = ApiMetrics(node.status)
        self._audit = AuditStream(node)
        self._app = web.Application(middlewares=[self._count, self._guard, outcomes])
        self._app.add_routes(
            [
                *SessionHandlers(node, body_bytes_max=body_bytes_max).routes(),
                *NodeHandlers(node, body_bytes_max=body_bytes_max, debug_faults=debug_faults).routes(),
                *self._audit.routes(),
                web.get("/metrics", self._metrics_page),
            ]
        )
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            auto_decompress=False,  # a small compressed body can be a large one
            max_line_size=REQUEST_HEAD_BYTES_MAX,
            max_field_size=REQUEST_HEAD_BYTES_MAX,
        )
        self._servers: list[asyncio.Server] = []
        self._inode = 0
        self._refused: set[Refusal] = set()
        self._busy: set[asyncio.BaseProtocol] = set()
        self._idle: set[asyncio.BaseProtocol] = set()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[Address]:
        """Where it listens on TCP; empty for a Unix socket."""
        names = [sock.getsockname() for server in self._servers for sock in server.sockets]
        return [Address(name[0], name[1]) for name in names if isinstance(name, tuple)]

    @property
    def connections(self) -> int:
        return len(self._protocols())

    async def start(self) -> None:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        if self._endpoint.path is not None:
            sock = listen_unix(self._endpoint.path)
            self._inode = self._endpoint.path.lstat().st_ino
            self._servers.append(await loop.create_unix_server(self._new_connection, sock=sock, backlog=BACKLOG))
        else:
            assert self._endpoint.address is not None
            timeout_s = TLS_HANDSHAKE_TIMEOUT_S if self._tls is not None else None
            for sock in await loop.run_in_executor(None, listen_tcp, *self._endpoint.address):
                server = await loop.create_server(
                    self._new_connection, sock=sock, backlog=BACKLOG, ssl=self._tls, ssl_handshake_timeout=timeout_s
                )
                self._servers.append(server)
        self._sweeper = asyncio.create_task(self._sweep_idle())

    async def stop(self) -> None:
        """Stop listening, let requests in progress end, close. Safe to call twice."""
        self._audit.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        for server in self._servers:
            server.close()
        if self._servers and self._endpoint.path is not None:
            remove_unix(self._endpoint.path, self._inode)
        self._servers.clear()
        for refusal in list(self._refused):
            refusal.close()
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # ---- connections

    def _protocols(self) -> list[asyncio.BaseProtocol]:
        server = self._runner.server
        return [] if server is None else cast("list[asyncio.BaseProtocol]", server.connections)

    def _new_connection(self) -> asyncio.BaseProtocol:
        if self._runner.server is None or self.connections >= self._connections_max:
            self._metrics.connection_refused()
            return Refusal(self._refused, refused_max=self._refused_max)
        return self._runner.server()

    async def _sweep_idle(self) -> None:
        """Connections that ask nothing must not use up the places of those that do."""
        while True:
            await asyncio.sleep(IDLE_SWEEP_S)
            self.close_idle()

    def close_idle(self) -> None:
        """Close what was already idle at the previous call and has asked nothing since."""
        idle = {protocol for protocol in self._protocols() if protocol not in self._busy}
        for protocol in idle & self._idle:
            cast("web.RequestHandler", protocol).force_close()
        self._idle = idle

    # ---- around every request

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun_ns = time.monotonic_ns()
        protocol = request.protocol
        self._idle.discard(protocol)
        self._busy.add(protocol)
        try:
            response = await handler(request)
        finally:
            self._busy.discard(protocol)
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        self._metrics.request_answered(route, response.status, (time.monotonic_ns() - begun_ns) / 1e9)
        return response

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._endpoint.kind == "tcp-insecure":
            if "Origin" in request.headers:
                return invalid("Origin", "browsers are not served here", 403)
            if not _is_loopback_host(request.host):
                return invalid("Host", "must name the loopback address", 403)
        return await handler(request)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        try:
            page = self._metrics.page()
        except (KeyError, TypeError, ValueError) as problem:
            return answer({"outcome": "error", "problem": f"status cannot be shown: {problem!r}"}, 500)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _checked_tls(endpoint: ApiEndpoint, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if endpoint.kind != "tcp":
        return None
    if tls is None or tls.verify_mode != ssl.CERT_REQUIRED:
        raise TransportError(f"API address {endpoint}: needs a TLS context that demands client certificates")
    return tls


def _is_loopback_host(host: str) -> bool:
    try:
        return Address.parse(host if not host.endswith("]") and host.count(":") else f"{host}:80").is_loopback()
    except ValueError:
        return False
