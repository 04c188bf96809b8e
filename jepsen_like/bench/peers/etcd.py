"""etcd, three nodes, every sync on as by default, no TLS anywhere: that spares it what raftstore pays.

With two clients: aetcd, which a Python user would take, and a client on the bare wire, which costs next to nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from jepsen_like.bench.peers.base import NODES, POLL_S, Cluster, Presence, starting
from jepsen_like.bench.plan import Case
from raftstore.cli.bench_process import BenchFailed
from raftstore.cli.temp_cluster import free_ports

HOW_TO_GET = "apt-get install etcd-server"
CLIENT_HOW_TO_GET = "pip install aetcd"
READY_WAIT_S = 30.0
ASK_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
SYNCS = ("etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count")


@dataclass(frozen=True)
class Etcd:
    """`target` is the client."""

    name: str
    about: str
    target: str

    def presence(self) -> Presence:
        program = shutil.which("etcd")
        if program is None:
            return Presence(None, HOW_TO_GET)
        if self.target == "etcd_aetcd" and importlib.util.find_spec("aetcd") is None:
            return Presence(None, CLIENT_HOW_TO_GET)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        return Presence(told.partition("\n")[0].rpartition(" ")[2] or "unknown")

    def supports(self, case: Case) -> bool:
        return case.kind != "owns"

    async def start(self, directory: Path) -> Cluster:
        ports = free_ports(2 * len(NODES))
        clients, peers = dict(zip(NODES, ports, strict=False)), dict(zip(NODES, ports[len(NODES) :], strict=True))
        given = {node: {"target": self.target, "node": node, "port": clients[node]} for node in NODES}
        cluster = EtcdCluster(directory, given, list(peers.values()))
        cluster.clients = clients
        async with starting(cluster):
            for node in NODES:
                cluster.serve(node, command(node, clients[node], peers, directory))
            await asyncio.gather(*(cluster.ready(node) for node in NODES))
        return cluster


def command(node: str, port: int, peers: Mapping[str, int], directory: Path) -> list[str]:
    mine, client = f"http://127.0.0.1:{peers[node]}", f"http://127.0.0.1:{port}"
    everybody = ",".join(f"{other}=http://127.0.0.1:{at}" for other, at in peers.items())
    options = {
        "name": node,
        "data-dir": str(directory / node),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": mine,
        "initial-advertise-peer-urls": mine,
        "initial-cluster": everybody,
        "initial-cluster-state": "new",
        "initial-cluster-token": directory.name,
        "log-level": "error",
    }
    return ["etcd", *(part for name, value in options.items() for part in (f"--{name}", value))]


class EtcdCluster(Cluster):
    """Counts syncs as etcd does: of the log, and commits of its database."""

    clients: Mapping[str, int]

    async def ready(self, node: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_WAIT_S
        while loop.time() < end and self.servers[node].is_running:
            if '"true"' in (await self._ask_http(node, "health") or ""):
                return
            await asyncio.sleep(POLL_S)
        said = (self.directory / f"{node}.log").read_text(errors="replace")[-1_500:]
        raise BenchFailed(f"etcd {node} did not start:\n{said}")

    async def _ask_http(self, node: str, what: str) -> str | None:
        try:
            async with (
                aiohttp.ClientSession(timeout=ASK_TIMEOUT) as http,
                http.get(f"http://127.0.0.1:{self.clients[node]}/{what}") as answer,
            ):
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def syncs(self) -> int | None:
        told = await asyncio.gather(*(self._ask_http(node, "metrics") for node in self.servers))
        return None if None in told else sum(syncs_in(text or "") for text in told)


def syncs_in(metrics: str) -> int:
    """From etcd's metrics: both counts added."""
    lines = (line.split() for line in metrics.splitlines())
    return sum(int(float(line[1])) for line in lines if len(line) == 2 and line[0] in SYNCS)
