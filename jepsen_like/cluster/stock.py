"""The same sessions on stock PySyncObj, used as its documentation shows: a replicated dictionary, asked locally.

What a user of the library would write first: `@replicated` methods, `sync=True`, a journal file; a node owns what its
own copy of the dictionary says; a node takes over a session when it sees no connection to its owner. No lease, no
fencing. It is here so that a run can be pointed at it: the checkers must find what is wrong with it.

A process per node: ops as JSON lines on a Unix socket, packets on UDP as the gateway answers them.
Run as `python -m jepsen_like.cluster.stock '{"node": "n1", "nodes": {"n1": {...}}, "dir": "..."}'`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from pysyncobj import SyncObj, SyncObjConf, SyncObjException, replicated

CALL_TIMEOUT_S = 1.5
LINE_BYTES_MAX = 65_536
CALLS_MAX = 64  # threads that wait for the library; a call beyond waits for one
LIVE = ("ATTACHED", "RECOVERING")

Answer = dict[str, Any]


class Sessions(SyncObj):  # type: ignore[misc]  # the library ships no types
    """A dictionary of sessions. The replicated methods run on every node, in the order of the log."""

    def __init__(self, node: str, nodes: Mapping[str, Mapping[str, str]], journal: Path) -> None:
        others = [nodes[other]["peer"] for other in sorted(nodes) if other != node]
        conf = SyncObjConf(
            journalFile=str(journal),
            bindAddress=nodes[node]["bind"],
            connectionRetryTime=0.5,
            connectionTimeout=2.0,
            raftMinTimeout=0.4,
            raftMaxTimeout=0.8,
        )
        self.sessions: dict[str, Answer] = {}
        super().__init__(nodes[node]["peer"], others, conf)

    @replicated  # type: ignore[untyped-decorator]
    def create(self, key: str, node: str, binding: str | None) -> Answer:
        if key in self.sessions:
            return {"reason": "SESSION_EXISTS", "session": dict(self.sessions[key])}
        self.sessions[key] = session = {
            "session_id": key,
            "state": "RECOVERING" if binding is None else "ATTACHED",
            "owner": node,
            "epoch": 1,
            "state_version": 1,
            "binding": binding,
        }
        return {"session": dict(session)}

    @replicated  # type: ignore[untyped-decorator]
    def change(self, f: str, key: str, node: str, expected: int, binding: str | None) -> Answer:
        session = self.sessions.get(key)
        if session is None:
            return {"reason": "SESSION_NOT_FOUND", "session": None}
        reason = refusal(f, session, node, expected)
        if reason is not None:
            return {"reason": reason, "session": dict(session)}
        session["state_version"] += 1
        if f == "failover":
            session["owner"] = node
            session["epoch"] += 1
        if f == "terminate":
            session["state"], session["binding"] = "TERMINATED", None
        elif f != "renew":
            session["binding"] = None if f == "detach" else binding
            session["state"] = "RECOVERING" if session["binding"] is None else "ATTACHED"
        return {"session": dict(session)}


def refusal(f: str, session: Mapping[str, Any], node: str, expected: int) -> str | None:
    """Why an op is refused; None when it is not."""
    if session["state"] == "TERMINATED":
        return "SESSION_TERMINATED"
    if session["state_version"] != expected:
        return "VERSION_MISMATCH"
    if (f == "failover") == (session["owner"] == node):
        return "INVALID_TRANSITION" if f == "failover" else "OWNERSHIP_CONFLICT"
    if f == "detach" and session["state"] != "ATTACHED":
        return "INVALID_TRANSITION"
    return None


class StockNode:
    """The library in its own thread, a socket for ops and one for packets."""

    def __init__(self, node: str, nodes: Mapping[str, Mapping[str, str]], journal: Path) -> None:
        self.node = node
        self._nodes = nodes
        self._objects = Sessions(node, nodes, journal)
        self._calls = asyncio.Semaphore(CALLS_MAX)

    def owned_epoch(self, key: str) -> int | None:
        session = self._objects.sessions.get(key)
        is_mine = session is not None and session["owner"] == self.node and session["state"] == "ATTACHED"
        return session["epoch"] if session is not None and is_mine else None

    def status(self) -> Answer:
        found = self._objects.getStatus()
        leader = found["leader"]
        return {
            "node": self.node,
            "role": "leader" if leader == found["self"] else "follower",
            "term": found["raft_term"],
            "quorum": leader is not None,
            "ready": leader is not None and self._objects.isReady(),
            "applied_index": found["last_applied"],
        }

    def _is_connected(self, node: str) -> bool:
        peer = self._nodes[node]["peer"]
        return any(str(other) == peer and self._objects.isNodeConnected(other) for other in self._objects.otherNodes)

    async def answer(self, asked: Mapping[str, Any]) -> Answer:
        f, key = asked["f"], asked.get("key", "")
        if f == "status":
            return self.status()
        if f == "owns":
            return {"epoch": self.owned_epoch(key)}
        if f == "sessions":
            return {"sessions": [dict(session) for session in self._objects.sessions.values()]}
        if f in ("get", "get-local"):
            session = self._objects.sessions.get(key)
            return _fail("SESSION_NOT_FOUND") if session is None else {"type": "ok", "value": dict(session)}
        return await self._change(f, key, asked.get("args", {}))

    async def _change(self, f: str, key: str, args: Mapping[str, Any]) -> Answer:
        if f not in ("create", "reattach", "detach", "renew", "failover", "terminate"):
            return _fail("INVALID_TRANSITION")
        known = self._objects.sessions.get(key)
        if f == "failover" and known is not None and known["owner"] != self.node and self._is_connected(known["owner"]):
            return _fail("OWNER_STILL_LIVE")
        if f == "create":
            call: Callable[[], Any] = partial(self._objects.create, key, self.node, args.get("binding"), **_SYNC)
        else:
            given = (f, key, self.node, args.get("expected_version", 0), args.get("binding"))
            call = partial(self._objects.change, *given, **_SYNC)
        async with self._calls:
            try:
                result = await asyncio.to_thread(call)
            except SyncObjException as problem:
                return {"type": "info", "value": None, "error": str(problem.errorCode)}
        reason = result.get("reason")
        if reason is None:
            return {"type": "ok", "value": result["session"]}
        return {"type": "fail", "value": {"reason": reason, "session": result["session"]}, "error": reason}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(await self.answer(json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()


_SYNC = {"sync": True, "timeout": CALL_TIMEOUT_S}


def _fail(reason: str) -> Answer:
    return {"type": "fail", "value": {"reason": reason, "session": None}, "error": reason}


class DataPath(asyncio.DatagramProtocol):
    """As the gateway's."""

    def __init__(self, node: StockNode) -> None:
        self._node = node

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        number, _, key = data.decode("ascii", "replace").partition(" ")
        epoch = self._node.owned_epoch(key)
        if epoch is not None:
            self._transport.sendto(f"{number} {self._node.node} {epoch} {key}".encode(), address)


async def run(given: Mapping[str, Any]) -> None:
    """Until the process is killed."""
    node = given["node"]
    directory = Path(given["dir"])
    (directory / "data" / node).mkdir(parents=True, exist_ok=True)
    socket_path = directory / "run" / f"{node}.sock"
    socket_path.unlink(missing_ok=True)
    stock = StockNode(node, given["nodes"], directory / "data" / node / "journal")
    host, port = given["udp"]
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: DataPath(stock), local_addr=(host, port))
    server = await asyncio.start_unix_server(stock.serve, str(socket_path), limit=LINE_BYTES_MAX)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
