"""An asyncio client of one node's HTTP API: methods and outcomes as on the node itself.

Knows the three forms of an endpoint. Sends each op once and never again by itself: after NoAnswer or OutcomeUnknown the
caller decides; every op names the version it expects, so a second try is safe. Leaves choosing among nodes to others.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from raftstore.client.problems import NoAnswer, RequestFailed, Unreachable
from raftstore.client.reading import Placed, node_from, placed_from, raise_outcome
from raftstore.errors import InvalidArgument
from raftstore.types import Binding, OpId, Session, SessionState

TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
CALLS_AT_ONCE_MAX = 256  # each on a connection of its own; more wait, first come first served
ANSWER_BYTES_MAX = 4 << 20  # the longest page of sessions is about 0.5 MiB
LINE_BYTES_MAX = 1 << 20  # one audit event
ANSWER_MARGIN_S = 1.0  # the node says "unknown" with an op id when its own time is up: wait that much longer for it


class Client:
    """`async with Client("unix:run/vpn-1.sock") as node: await node.create(...)`.

    `endpoint`: "unix:PATH", "http://127.0.0.1:port", or "https://host:port" with `tls`, a client context that holds a
    certificate of the cluster's CA. `timeout_s` bounds every call but `events`, the wait for its turn included (at most
    CALLS_AT_ONCE_MAX are under way; followers of events do not count). Raises Unreachable (not sent),
    NoAnswer (sent, nothing known), RequestFailed (not a node's answer), and what the node raises.
    """

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._timeout_s = timeout_s
        self._socket_path, self._base = _parse(endpoint, tls)
        self._http: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # ---- sessions

    async def create(
        self,
        session_id: str,
        *,
        binding: Binding | None = None,
        ttl_ms: int | None = None,
        policy: str | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        arguments = {"binding": binding, "ttl_ms": ttl_ms, "policy": policy}
        return await self._op("create", session_id, timeout_ms=timeout_ms, **arguments)

    async def reattach(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding,
        nonce: int | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        arguments = {"expected_version": expected_version, "binding": binding, "nonce": nonce}
        return await self._op("reattach", session_id, timeout_ms=timeout_ms, **arguments)

    async def detach(
        self, session_id: str, *, expected_version: int, reason: str = "DETACHED", timeout_ms: int | None = None
    ) -> Session:
        return await self._op(
            "detach", session_id, expected_version=expected_version, reason=reason, timeout_ms=timeout_ms
        )

    async def renew(
        self, session_id: str, *, expected_version: int, ttl_ms: int, timeout_ms: int | None = None
    ) -> Session:
        return await self._op(
            "renew", session_id, expected_version=expected_version, ttl_ms=ttl_ms, timeout_ms=timeout_ms
        )

    async def migrate(
        self, session_id: str, *, expected_version: int, to: str, timeout_ms: int | None = None
    ) -> Session:
        return await self._op("migrate", session_id, expected_version=expected_version, to=to, timeout_ms=timeout_ms)

    async def resume(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        return await self._op(
            "resume", session_id, expected_version=expected_version, binding=binding, timeout_ms=timeout_ms
        )

    async def failover(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        return await self._op(
            "failover", session_id, expected_version=expected_version, binding=binding, timeout_ms=timeout_ms
        )

    async def terminate(
        self,
        session_id: str,
        *,
        expected_version: int,
        reason: str = "POLICY",
        operator: bool = False,
        timeout_ms: int | None = None,
    ) -> Session:
        arguments = {"expected_version": expected_version, "reason": reason, "operator": operator}
        return await self._op("terminate", session_id, timeout_ms=timeout_ms, **arguments)

    async def op(self, name: str, session_id: str, **arguments: Any) -> Placed:
        """One of the ops above by its name, with its arguments: the session, and the node that should have it."""
        body = {k: v._asdict() if isinstance(v, Binding) else v for k, v in arguments.items() if v is not None}
        return self._placed(await self._json("POST", _of(session_id, f"/{name}"), body))

    async def look(self, session_id: str, consistency: str = "linearizable") -> Placed:
        """As `get`, with the node that should have it."""
        return self._placed(await self._json("GET", _of(session_id), query={"consistency": consistency}))

    async def get(self, session_id: str, consistency: str = "linearizable") -> Session:
        return (await self.look(session_id, consistency)).session

    async def owns(self, session_id: str, epoch: int | None = None) -> bool:
        """What the node's `owns` said: already old when it arrives."""
        query = {} if epoch is None else {"epoch": str(epoch)}
        return bool((await self._json("GET", _of(session_id, "/owns"), query=query))["owns"])

    async def owned_epoch(self, session_id: str) -> int | None:
        epoch = (await self._json("GET", _of(session_id, "/owns")))["epoch"]
        return epoch if isinstance(epoch, int) else None

    async def explain(self, session_id: str) -> dict[str, Any]:
        return await self._json("GET", _of(session_id, "/explain"))

    async def preferred_owner(self, session_id: str) -> str | None:
        """The node to which the asked node's mapping sends the session, be there such a session or not."""
        found = await self.explain(session_id)
        try:
            shown = found["session"]
            return node_from((found if shown is None else shown)["preferred_owner"])
        except (KeyError, TypeError):
            raise RequestFailed(self.endpoint, 200, "the answer names no preferred owner") from None

    async def list_sessions(
        self,
        owner: str | None = None,
        state: SessionState | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Session]:
        return [placed.session for placed in await self.list_placed(owner, state, limit, after)]

    async def list_placed(
        self,
        owner: str | None = None,
        state: SessionState | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Placed]:
        """As `list_sessions`, each with the node that should have it."""
        given = {"owner": owner, "state": None if state is None else state.name, "limit": str(limit), "after": after}
        query = {k: v for k, v in given.items() if v is not None}
        body = await self._json("GET", "/v1/sessions", query=query)
        try:
            return [placed_from(item) for item in body["sessions"]]
        except (KeyError, TypeError, ValueError):
            raise RequestFailed(self.endpoint, 200, "the answer holds no sessions") from None

    # ---- node

    async def status(self) -> dict[str, Any]:
        return await self._json("GET", "/v1/status")

    async def drain(self) -> dict[str, Any]:
        return await self._json("POST", "/v1/node/drain", {})

    async def mapping(self) -> dict[str, Any]:
        """The node's mapping of sessions to nodes, and in the sticky strategy how far it is settled."""
        return await self._json("GET", "/v1/mapping")

    async def change_mapping(
        self,
        nodes: Mapping[str, int],
        *,
        draining: Collection[str] = (),
        lost: Collection[str] = (),
        epoch: int | None = None,
    ) -> dict[str, Any]:
        """As the node's own: returns when the change is in its log; `mapping` tells how far it has come."""
        body = {"nodes": dict(nodes), "draining": list(draining), "lost": list(lost), "epoch": epoch}
        return await self._json("POST", "/v1/mapping", body)

    async def transfer_leadership(self, to: str | None = None) -> dict[str, Any]:
        return await self._json("POST", "/v1/leader/transfer", {} if to is None else {"to": to})

    async def outcome(self, op_id: OpId) -> dict[str, Any] | None:
        """What became of an op that was answered "unknown"; None when this node does not know it."""
        status, body = await self._call("GET", f"/v1/ops/{op_id}")
        if status == 404 and body.get("outcome") == "not known here":
            return None
        return self._good(status, body)

    async def isolate(self, peers: Sequence[str]) -> dict[str, Any]:
        """Cut the node's links to these members; only where the node was started with --debug-faults."""
        return await self._json("POST", "/v1/debug/isolate", {"peers": list(peers)})

    async def events(self, after: int = 0, *, follow: bool = True) -> AsyncIterator[dict[str, Any]]:
        """Audit events above `after`; with `follow` for as long as the caller iterates and the node lives."""
        query = {"after": str(after), "follow": "1" if follow else "0"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session_for_http().get(
                self._url("/v1/audit", query), timeout=timeout, read_bufsize=LINE_BYTES_MAX
            ) as response:
                if response.status != 200:
                    self._good(response.status, _object(await response.content.read(ANSWER_BYTES_MAX)))
                async for line in response.content:
                    yield _object(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise self._problem(problem) from None

    # ---- transport

    async def _op(self, name: str, session_id: str, **arguments: Any) -> Session:
        return (await self.op(name, session_id, **arguments)).session

    async def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        return self._good(*await self._call(method, path, body, query))

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        total_s = self._timeout_s
        if body is not None and isinstance(body.get("timeout_ms"), int):
            total_s = max(total_s, body["timeout_ms"] / 1000 + ANSWER_MARGIN_S)
        async with self._turn(total_s) as left_s:
            timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=min(CONNECT_TIMEOUT_S, left_s))
            try:
                async with self._session_for_http().request(
                    method, self._url(path, query), json=body, timeout=timeout, allow_redirects=False
                ) as response:
                    raw = await response.content.read(ANSWER_BYTES_MAX)
                    while not response.content.at_eof() and len(raw) < ANSWER_BYTES_MAX:
                        raw += await response.content.read(ANSWER_BYTES_MAX - len(raw))
                    status = response.status
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                raise self._problem(problem, changes=method == "POST") from None
        try:
            return status, _object(raw)
        except ValueError:
            raise RequestFailed(self.endpoint, status, "the answer is no JSON object") from None

    @asynccontextmanager
    async def _turn(self, total_s: float) -> AsyncIterator[float]:
        """One of CALLS_AT_ONCE_MAX calls, and the seconds that are left for it. Unreachable when none are.

        The connector's own bound would not do: it is not fair, and a caller that comes back at once starves the others.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + total_s
        try:
            async with asyncio.timeout(total_s):
                await self._turns.acquire()
        except TimeoutError:
            detail = f"{CALLS_AT_ONCE_MAX} other calls were under way for {total_s:g} s (CALLS_AT_ONCE_MAX)"
            raise Unreachable(self.endpoint, detail) from None
        try:
            yield max(until - loop.time(), 0.001)
        finally:
            self._turns.release()

    def _good(self, status: int, body: dict[str, Any]) -> dict[str, Any]:
        if status != 200:
            raise_outcome(self.endpoint, status, body)
        return body

    def _placed(self, body: dict[str, Any]) -> Placed:
        try:
            return placed_from(body["session"])
        except (KeyError, TypeError, ValueError):
            raise RequestFailed(self.endpoint, 200, "the answer holds no session") from None

    def _session_for_http(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector: aiohttp.BaseConnector
            if self._socket_path is not None:
                connector = aiohttp.UnixConnector(self._socket_path, limit=0)  # none: see _turn
            else:
                connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else False, limit=0)
            self._http = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._http

    def _url(self, path: str, query: dict[str, str] | None = None) -> URL:
        url = URL(self._base + path, encoded=True)  # a session id may hold "/" and "..": already quoted
        return url.update_query(query) if query else url

    def _problem(self, problem: Exception, *, changes: bool = False) -> Exception:
        match problem:
            case InvalidArgument():
                return problem
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return Unreachable(self.endpoint, f"TLS refused: {problem}")
            case aiohttp.ClientConnectorError():
                return Unreachable(self.endpoint, problem.os_error.strerror or str(problem.os_error))
            case aiohttp.ConnectionTimeoutError():
                return Unreachable(self.endpoint, f"no connection within {CONNECT_TIMEOUT_S:g} s")
            case TimeoutError():
                return NoAnswer(self.endpoint, "no answer in time", may_have_happened=changes)
            case ValueError():
                return RequestFailed(self.endpoint, 200, "a line of the answer is no JSON object")
            case _:
                detail = f"the connection broke: {str(problem) or type(problem).__name__}"
                return NoAnswer(self.endpoint, detail, may_have_happened=changes)


def _of(session_id: str, rest: str = "") -> str:
    if session_id in (".", ".."):
        quoted = session_id.replace(".", "%2E")
    else:
        quoted = quote(session_id, safe="")
    return f"/v1/sessions/{quoted}{rest}"


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _parse(endpoint: str, tls: ssl.SSLContext | None) -> tuple[str | None, str]:
    if endpoint.startswith("unix:") and len(endpoint) > 5:
        return endpoint[5:], "http://raftstore"
    if endpoint.startswith("https://") and tls is not None:
        return None, endpoint.rstrip("/")
    if endpoint.startswith("http://"):
        return None, endpoint.rstrip("/")
    problem = "https needs a TLS context" if endpoint.startswith("https://") else "not unix:PATH, https:// or http://"
    raise InvalidArgument("endpoint", problem)
