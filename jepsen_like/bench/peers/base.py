"""A peer: three nodes of some software, started in a directory, each with a process of callers beside or around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jepsen_like.bench.plan import Case
from jepsen_like.cluster.children import Child, dies_with_parent, kill_all, python_environment
from raftstore.cli.bench_process import ANSWER_TIMEOUT_S, BenchFailed, Process

NODES = ("n1", "n2", "n3")
POLL_S = 0.05
LEADER_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a peer can be measured here."""

    version: str | None  # None: it cannot
    missing: str = ""  # what brings it, for people


class Peer(Protocol):
    """One line of the comparison."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What its figures mean, in one sentence."""

    def presence(self) -> Presence: ...

    def supports(self, case: Case) -> bool: ...

    async def start(self, directory: Path) -> Cluster:
        """Three nodes with callers, ready, in an empty directory. Leaves nothing behind when it fails."""


class Cluster:
    """Running nodes. `servers`: nodes that are processes of their own; without them the hosts are the nodes."""

    def __init__(self, directory: Path, targets: Mapping[str, Mapping[str, Any]], ports: Collection[int] = ()) -> None:
        self.directory = directory
        self.hosts = {node: host(directory, node, given) for node, given in targets.items()}
        self.servers: dict[str, Child] = {}
        self.ports = ports  # of the nodes among themselves

    def serve(self, node: str, command: Sequence[str]) -> None:
        """Start a node that is a process of its own."""
        log = self.directory / f"{node}.log"
        self.servers[node] = Child(command, log=log, env=python_environment())

    async def start_hosts(self) -> None:
        for host in self.hosts.values():
            await host.start()
        await asyncio.gather(*(host.answer() for host in self.hosts.values()))

    async def stop(self) -> None:
        """All processes are gone on return."""
        for host in self.hosts.values():
            await host.kill()
        kill_all(list(self.servers.values()))

    async def ask(self, node: str, do: str, *, takes_s: float = 0.0, **arguments: Any) -> dict[str, Any]:
        """`takes_s`: how long it is to take by itself, beyond the usual patience."""
        answer = await self.hosts[node].ask(do, within_s=ANSWER_TIMEOUT_S + takes_s, **arguments)
        if "error" in answer:
            raise BenchFailed(f"{node} could not {do}: {answer['error']}")
        return answer

    async def leader(self) -> str:
        """The node that leads, once there is one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LEADER_WAIT_S
        while loop.time() < end:
            for node in self.hosts:
                found = (await self.ask(node, "leader"))["leader"]
                if found is not None:
                    return str(found)
            await asyncio.sleep(POLL_S)
        raise BenchFailed("no leader")

    async def syncs(self) -> int | None:
        """fsync and fdatasync of all nodes since their start; None where they cannot be known."""
        if self.servers:
            return None
        counted = await asyncio.gather(*(self.ask(node, "counters") for node in self.hosts))
        return sum(int(one["syncs"]) for one in counted)

    def pids(self) -> dict[str, int]:
        """By what they are: "n1" a node, "n1 callers" callers outside of it."""
        found = {node: child.pid for node, child in self.servers.items()}
        for node, host in self.hosts.items():
            if host.pid is not None:
                found[f"{node} callers" if self.servers else node] = host.pid
        return found


@contextlib.asynccontextmanager
async def starting(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Nodes are started inside, their callers on the way out; whatever fails, nothing is left running."""
    try:
        yield cluster
        await cluster.start_hosts()
    except BaseException:
        await cluster.stop()
        raise


def host(directory: Path, node: str, given: Mapping[str, Any]) -> Process:
    """A process of callers beside that node, not started yet. `given` names its target."""
    command = [*dies_with_parent(), sys.executable, "-m", "jepsen_like.bench.host", json.dumps(given)]
    return Process(f"{node}'s callers", command, directory / f"{node}-callers.log", python_environment())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
