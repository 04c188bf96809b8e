"""A cluster of stock.py processes, so that a run can be pointed at it, and the caller that speaks their JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.cluster.cluster import POLL_S, Cluster
from jepsen_like.cluster.hosts import Hosts
from jepsen_like.workloads.base import Op, Outcome

CALL_TIMEOUT_S = 3.0
CHECKERS = ("dual_owner", "versions", "linearizable", "leaders", "quorumless", "availability")  # it leaves no trail


class StockProgram:
    """Stock PySyncObj as a program of a cluster."""

    def write(self, directory: Path, nodes: Sequence[str], hosts: Hosts) -> None:
        table = {node: {"peer": hosts.peer(node), "bind": hosts.bind(node)} for node in nodes}
        (directory / "cluster.conf").write_text(json.dumps(table))

    def command(self, directory: Path, node: str, hosts: Hosts) -> list[str]:
        table = json.loads((directory / "cluster.conf").read_text())
        given = {"node": node, "nodes": table, "dir": str(directory), "udp": hosts.udp(node)}
        return [sys.executable, "-m", "jepsen_like.cluster.stock", json.dumps(given)]

    def parameters(self) -> dict[str, object]:
        timing = {"election_timeout_max_ms": 800, "lease_ttl_ms": 2_000, "op_timeout_ms": 1_500}
        return {"strategy": "shared", "policy": "deny", **timing}


class StockCluster(Cluster):
    """As a cluster of raftstore nodes, as far as stock nodes can tell of themselves."""

    async def ask(self, node: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """One question, or None without an answer."""
        if not self.is_running(node) or self.is_paused(node):
            return None
        lines = Lines(self.endpoint(node))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await lines.ask(asked)
        except (OSError, TimeoutError, ValueError):
            return None
        finally:
            lines.close()

    async def status(self, node: str) -> dict[str, Any] | None:
        return await self.ask(node, {"f": "status"})

    async def owned_epoch(self, node: str, key: str) -> int | None:
        return (await self.ask(node, {"f": "owns", "key": key}) or {}).get("epoch")

    async def settled(self) -> None:
        with self.patience("the nodes to agree") as goes_on:
            while goes_on():
                statuses = await asyncio.gather(*(self.status(node) for node in self.nodes))
                if None not in statuses and len({s["applied_index"] for s in statuses if s is not None}) == 1:
                    return
                await asyncio.sleep(POLL_S)

    async def final(self, node: str) -> dict[str, Any]:
        return {"sessions": (await self.ask(node, {"f": "sessions"}) or {}).get("sessions", [])}

    def agree(self, finals: Mapping[str, Mapping[str, Any]]) -> bool:
        return True


class Lines:
    """One connection; one question at a time."""

    def __init__(self, endpoint: str) -> None:
        self._path = endpoint.removeprefix("unix:")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.was_sent = False

    async def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """OSError or ValueError without an answer; `was_sent` tells whether it may have been heard."""
        self.was_sent = False
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self.was_sent = True
        self._writer.write(json.dumps(asked).encode() + b"\n")
        line = await self._reader.readline()
        if not line:
            raise ConnectionResetError("closed without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class StockCaller:
    """Ops on stock nodes."""

    def __init__(self, endpoint: Callable[[str], str]) -> None:
        self._endpoint = endpoint
        self._lines: dict[str, Lines] = {}

    async def call(self, node: str, op: Op) -> Outcome:
        lines = self._lines.setdefault(node, Lines(self._endpoint(node)))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await lines.ask({"f": op.f, "key": op.key, "args": op.args})
        except (OSError, TimeoutError, ValueError) as problem:
            lines.close()
            is_open = lines.was_sent and not op.f.startswith("get")
            return Outcome("info" if is_open else "fail", None, type(problem).__name__)
        return Outcome(answer["type"], answer["value"], answer.get("error"))

    async def close(self) -> None:
        for lines in self._lines.values():
            with contextlib.suppress(OSError):
                lines.close()
