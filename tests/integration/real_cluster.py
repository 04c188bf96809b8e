"""A cluster of real processes with real certificates, and what can be done to it from outside.

Knows how to write its files, start, kill, freeze, stop and wipe nodes, and how to wait for what they say of themselves.
Shares nothing with the processes but their configuration file, their API sockets, their files and signals. Leaves
nothing running and nothing on disk, whatever a test does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
from real_waiting import LOG_SHOWN_CHARS, WAIT_S, until

import raftstore
from raftstore.cli.temp_cluster import free_ports
from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.config import ClusterConfig
from raftstore.node.audit_lines import list_files, parse_line
from raftstore.node.audit_verify import VerifyReport, compare, verify_files
from raftstore.transport.certs import create_ca, issue_node

STOP_TIMEOUT_S = 15.0
CALL_TIMEOUT_S = 8.0
LEASE_TTL_MS = 2_000

CONFIG = """\
cluster = "{name}"
strategy = "{strategy}"
partition_policy = "{partition_policy}"
[timing]
lease_ttl_ms = {lease_ttl_ms}
[sessions]
ttl_default_ms = {ttl_default_ms}
ttl_max_ms = {ttl_max_ms}
[limits]
pending_ops_max = {pending_ops_max}
[storage]
disk_free_min_bytes = {disk_free_min_bytes}
wal_segment_bytes = 4194304
"""
NODE = '[[node]]\nid = "{id}"\npeer = "127.0.0.1:{port}"\napi = "unix:run/{id}.sock"\nweight = {weight}\n'


class RealCluster:
    """`with RealCluster() as cluster:` starts `size` nodes and waits until all serve."""

    def __init__(
        self,
        size: int = 3,
        *,
        name: str = "itest",
        started: bool = True,
        pending_ops_max: int = 8_192,
        disk_free_min_bytes: int = 0,
        strategy: str = "shared",
    ) -> None:
        self.name = name
        self.node_ids = [f"vpn-{i}" for i in range(1, size + 1)]
        self.directory = Path(tempfile.mkdtemp(prefix="raftstore-test-", dir="/tmp"))  # short, for the sockets
        self._started = started
        self._settings: dict[str, Any] = {
            "pending_ops_max": pending_ops_max,
            "disk_free_min_bytes": disk_free_min_bytes,
            "strategy": strategy,
            "partition_policy": "deny",
            "ttl_default_ms": 3_600_000,
            "ttl_max_ms": 604_800_000,
        }
        self._weights: dict[str, int] = {}  # of nodes with another than 1
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()

    def __enter__(self) -> Self:
        try:
            if self._started:
                self.start(*self.node_ids)
                self.wait_ready(*self.node_ids)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing of it is left: processes are killed, files removed."""
        for process in self._processes.values():
            process.kill()  # ends a frozen process too
        for process in self._processes.values():
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- files ---------------------------------------------------------------------------------------------------
    @property
    def config_path(self) -> Path:
        return self.directory / "cluster.conf"

    def _write_files(self) -> None:
        self._ca = create_ca(self.name)
        self._ca.write(self.directory / "ca.pem", self.directory / "ca.key")
        self._issue(*self.node_ids)
        self._ports = dict(zip(self.node_ids, free_ports(len(self.node_ids)), strict=True))
        self.write_config("cluster.conf")
        self.config = ClusterConfig.load(self.config_path)

    def _issue(self, *node_ids: str) -> None:
        for node_id in node_ids:
            issued = issue_node(self._ca, self.name, node_id, hosts=["127.0.0.1"])
            issued.write(self.directory / f"{node_id}.pem", self.directory / f"{node_id}.key")

    def add_node(self, node_id: str, weight: int = 1) -> None:
        """One node more in cluster.conf, with a certificate; nobody has read it yet."""
        self._issue(node_id)
        self.node_ids.append(node_id)
        self._ports[node_id] = free_ports(1)[0]
        self._weights[node_id] = weight
        self.reconfigure()

    def reconfigure(self, **changed: Any) -> None:
        """Change settings in cluster.conf itself; nodes read it when they start."""
        self._settings.update(changed)
        self.config = ClusterConfig.load(self.write_config("cluster.conf"))

    def write_config(self, file_name: str, *, weights: dict[str, int] | None = None, **changed: Any) -> Path:
        """The cluster's configuration with some settings changed, as another file beside it."""
        settings = {"name": self.name, "lease_ttl_ms": LEASE_TTL_MS, **self._settings, **changed}
        weight = {**self._weights, **(weights or {})}
        nodes = "".join(NODE.format(id=i, port=p, weight=weight.get(i, 1)) for i, p in self._ports.items())
        path = self.directory / file_name
        path.write_text(CONFIG.format(**settings) + nodes)
        return path

    def data_dir(self, node_id: str) -> Path:
        return self.config.node(node_id).data_dir

    def wipe(self, node_id: str) -> None:
        """The disk of a node is lost."""
        shutil.rmtree(self.data_dir(node_id))

    def log(self, node_id: str) -> str:
        path = self.directory / f"{node_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- processes -------------------------------------------------------------------------------------------------
    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "raftstore", *arguments]

    def _environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        here = str(Path(raftstore.__file__).parents[1])
        return {**os.environ, "PYTHONPATH": here, "COLUMNS": "200", **(extra or {})}

    def start(self, *node_ids: str, config: Path | None = None, env: dict[str, str] | None = None) -> None:
        """Start processes; does not wait for them."""
        for node_id in node_ids:
            arguments = ["run", "--config", str(config or self.config_path), "--node", node_id, "--debug-faults"]
            with (self.directory / f"{node_id}.log").open("ab") as log:
                self._processes[node_id] = subprocess.Popen(
                    self.command(*arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=self._environment(env),
                )

    def pid(self, node_id: str) -> int:
        return self._processes[node_id].pid

    def kill(self, *node_ids: str) -> None:
        """kill -9, all at once: no goodbye, nothing flushed."""
        for node_id in node_ids:
            self._processes[node_id].kill()
        for node_id in node_ids:
            self._processes[node_id].wait()

    def freeze(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self._processes[node_id].send_signal(signal.SIGSTOP)

    def thaw(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self._processes[node_id].send_signal(signal.SIGCONT)

    def stop(self, node_id: str) -> int:
        """SIGTERM; the exit status."""
        self._processes[node_id].terminate()
        return self.wait_exit(node_id)

    def wait_exit(self, node_id: str) -> int:
        return self._processes[node_id].wait(STOP_TIMEOUT_S)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`raftstore ARGUMENTS`, to its end."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            env=self._environment(),
        )

    async def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`raftstore ARGUMENTS` with this cluster's configuration, while the test goes on."""
        return await asyncio.to_thread(self.run, *arguments, "--config", str(self.config_path))

    def refused_start(self, node_id: str, config: Path | None = None) -> str:
        """Start a node that must not start: exit status 1 and one line, which is returned."""
        done = self.run("run", "--node", node_id, "--config", str(config or self.config_path))
        said = [line for line in done.stderr.splitlines() if line.startswith("raftstore: ")]
        assert done.returncode == 1 and len(said) == 1, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return said[0]

    def heal(self) -> None:
        """As it was at first, whatever a test that failed has left: every node runs, connected, and serves."""
        for node_id, process in self._processes.items():
            process.send_signal(signal.SIGCONT)  # nothing to one that has ended
            if process.poll() is not None:
                self.start(node_id)
        asyncio.run(self._heal_links())

    async def _heal_links(self) -> None:
        async with self.connect() as clients:
            for node_id in self.node_ids:
                await until(f"{node_id} answers", clients[node_id].status, told=lambda n=node_id: self.log(n))
                await clients[node_id].isolate([])
            for node_id in self.node_ids:
                await self.ready(clients[node_id], node_id)

    # --- waiting -----------------------------------------------------------------------------------------------------
    def wait_ready(self, *node_ids: str) -> None:
        asyncio.run(self._wait_ready(node_ids))

    async def _wait_ready(self, node_ids: tuple[str, ...]) -> None:
        async with self.connect() as clients:
            for node_id in node_ids:
                await self.ready(clients[node_id], node_id)

    async def ready(self, client: Client, node_id: str) -> dict[str, Any]:
        """The status of a node once it serves."""

        async def serves() -> dict[str, Any] | None:
            if self._processes[node_id].poll() is not None:
                raise AssertionError(f"{node_id} ended:\n{self.log(node_id)[-LOG_SHOWN_CHARS:]}")
            status = await client.status()
            return status if status["ready"] else None

        status: dict[str, Any] = await until(f"{node_id} serves", serves, told=lambda: self.log(node_id))
        return status

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[dict[str, Client]]:
        """A client per node, closed afterwards."""
        clients = {n: Client(f"unix:{self.directory}/run/{n}.sock", timeout_s=CALL_TIMEOUT_S) for n in self.node_ids}
        try:
            yield clients
        finally:
            for client in clients.values():
                await client.close()

    async def leader(self, clients: dict[str, Client], among: list[str] | None = None) -> str:
        """The node that says it leads a majority, once one of `among` does (default: all)."""

        async def found() -> str | None:
            for node_id in among or self.node_ids:
                with contextlib.suppress(Unreachable, NoAnswer):
                    status = await clients[node_id].status()
                    if status["role"] == "leader" and status["ready"]:
                        return node_id
            return None

        leader: str = await until("a leader", found)
        return leader

    # --- audit ----------------------------------------------------------------------------------------------------
    def audit_reports(self, *node_ids: str) -> list[VerifyReport]:
        return [verify_files(list_files(self.config.node(n).audit_dir)) for n in node_ids or self.node_ids]

    async def audit_settled(self, *node_ids: str) -> list[VerifyReport]:
        """The verified files of the nodes once all hold the same last event; no problem in them, no difference."""

        async def settled() -> list[VerifyReport] | None:
            reports = await asyncio.to_thread(self.audit_reports, *node_ids)
            return reports if len({r.last for r in reports}) == 1 and not any(r.unfinished for r in reports) else None

        reports: list[VerifyReport] = await until("the audit files reach the same event", settled)
        assert [r.problems for r in reports] == [[]] * len(reports)
        assert compare(reports) == []
        return reports

    def audit_events(self, node_id: str, session_id: str) -> list[dict[str, Any]]:
        """The events of a session, from a node's files."""
        lines = (line for path in list_files(self.config.node(node_id).audit_dir) for line in _lines(path))
        return [event for event in lines if event.get("session_id") == session_id]

    def audit_history(self, node_id: str, session_id: str) -> list[tuple[str, int, int]]:
        """(owner, epoch, version) after each transition of a session, from a node's files; refusals left out."""
        events = self.audit_events(node_id, session_id)
        return [(e["owner"], e["epoch"], e["state_version"]) for e in events if e["event"] != "Refused"]

    # --- raw requests ---------------------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def http(self, node_id: str, connections: int = 0) -> AsyncIterator[aiohttp.ClientSession]:
        """Plain HTTP to a node's socket, for what the client would not send."""
        connector = aiohttp.UnixConnector(f"{self.directory}/run/{node_id}.sock", limit=connections)
        async with aiohttp.ClientSession("http://node", connector=connector) as http:
            yield http

    def ask_ahead(
        self, node_id: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Callable[[], tuple[int, dict[str, Any]]]:
        """Put a request into a node's socket, even one that is frozen; the result waits for status and answer."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(WAIT_S)
        sock.connect(f"{self.directory}/run/{node_id}.sock")
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)

        def answer() -> tuple[int, dict[str, Any]]:
            with sock, sock.makefile("rb") as reader:
                said, _, answered = reader.read().partition(b"\r\n\r\n")
            return int(said.split()[1]), json.loads(answered)

        return answer


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        fields = parse_line(line)
        if fields is not None:
            yield fields
