"""Real node processes for the demo: their files in a temporary place, their start, faults and end.

Nothing is shared with the processes but their configuration file, their API sockets and signals; what the demo shows
is what any operator could do.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from raftstore.cli.temp_cluster import temporary_directory, write_cluster
from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.errors import RaftstoreError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 6.0
POLL_S = 0.02
LEASE_TTL_MS = 2_000
SETTINGS = """\
strategy = "{strategy}"
partition_policy = "{policy}"

[timing]
lease_ttl_ms = {lease_ttl_ms}

[storage]
disk_free_min_bytes = 16777216
wal_segment_bytes = 8388608
"""


class DemoFailed(RaftstoreError):  # noqa: N818 - says what happened
    """The demo could not go on; the message says what was seen."""


class DemoCluster:
    """Three processes in a temporary directory. `async with` starts them and leaves nothing behind."""

    def __init__(
        self, size: int = 3, *, strategy: str = "shared", policy: str = "deny", lease_ttl_ms: int = LEASE_TTL_MS
    ) -> None:
        self._settings = SETTINGS.format(strategy=strategy, policy=policy, lease_ttl_ms=lease_ttl_ms)
        self.node_ids = [f"vpn-{i}" for i in range(1, size + 1)]
        self.directory = Path()
        self.clients: dict[str, Client] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> DemoCluster:
        self.directory = temporary_directory()
        try:
            self.config = write_cluster(self.directory, "demo", self.node_ids, self._settings)
            for node_id in self.node_ids:
                self.clients[node_id] = Client(f"unix:{self.directory}/run/{node_id}.sock", timeout_s=8)
                self.start(node_id)
            await asyncio.gather(*(self.wait_ready(n) for n in self.node_ids))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for client in self.clients.values():
            await client.close()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes.values():
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- processes -----------------------------------------------------------------------------------------------
    def start(self, node_id: str) -> None:
        log = (self.directory / f"{node_id}.log").open("ab")
        arguments = ["run", "--config", str(self.directory / "cluster.conf"), "--node", node_id, "--debug-faults"]
        with log:
            self._processes[node_id] = subprocess.Popen(
                [sys.executable, "-m", "raftstore", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the demo ends the demo, which ends them
            )

    def kill(self, node_id: str) -> None:
        """kill -9: no goodbye, nothing flushed."""
        process = self._processes[node_id]
        process.kill()
        process.wait()

    def pid(self, node_id: str) -> int:
        return self._processes[node_id].pid

    async def wait_ready(self, node_id: str) -> None:
        """Returns once the node serves. DemoFailed with the end of its log otherwise."""
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            if self._processes[node_id].poll() is not None:
                raise DemoFailed(f"{node_id} ended at its start:\n{self._log_end(node_id)}")
            with contextlib.suppress(Unreachable, NoAnswer):
                status = await self.clients[node_id].status()
                if status["ready"]:
                    return
            await asyncio.sleep(POLL_S)
        raise DemoFailed(f"{node_id} was not ready after {START_TIMEOUT_S:g} s:\n{self._log_end(node_id)}")

    def _log_end(self, node_id: str) -> str:
        path = self.directory / f"{node_id}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(no log)"

    # --- views ---------------------------------------------------------------------------------------------------
    def alive(self) -> list[str]:
        return [n for n in self.node_ids if self._processes[n].poll() is None]

    async def statuses(self) -> dict[str, dict[str, object]]:
        """Status of every node that answers."""
        found = {}
        for node_id in self.alive():
            with contextlib.suppress(RaftstoreError):
                found[node_id] = await self.clients[node_id].status()
        return found

    async def leader(self) -> str:
        """The node that a majority follows, once there is one."""
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            for status in (await self.statuses()).values():
                if status["role"] == "leader" and status["quorum"]:
                    return str(status["node"])
            await asyncio.sleep(POLL_S)
        raise DemoFailed(f"no leader after {START_TIMEOUT_S:g} s")

    async def events_of(self, node_id: str, session_id: str) -> list[dict[str, object]]:
        """The audit events of a session, as that node tells them."""
        return [e async for e in self._events(node_id) if e.get("session_id") == session_id]

    async def _events(self, node_id: str) -> AsyncIterator[dict[str, object]]:
        async for event in self.clients[node_id].events(after=0, follow=False):
            yield event
