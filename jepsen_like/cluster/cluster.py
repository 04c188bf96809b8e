"""A cluster of real processes on hosts that can be cut apart: files, start, end, faults, and what is left of it.

The room that nemeses and workloads work in. Every change of who can reach whom, and of who runs, is told to
`on_change`, so that the history knows which nodes lack a majority. Closing it heals nothing and spares nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.cluster.children import Child, kill_all, python_environment
from jepsen_like.cluster.disks import DiskError, PowerDisks
from jepsen_like.cluster.hosts import Hosts, Pair
from jepsen_like.cluster.programs import Program
from jepsen_like.cluster.proxy import Shape
from jepsen_like.cluster.shim import Shim, ShimError, compile_shim
from raftstore.client import Client
from raftstore.errors import RaftstoreError

READY_WAIT_S = 40.0
STOP_WAIT_S = 15.0
POLL_S = 0.05
RUN_S, HALT_S = 0.02, 0.08  # of a starving process: a fifth of a processor
CALL_TIMEOUT_S = 4.0
LOG_SHOWN_CHARS = 1_500
REFUSAL_CHARS = 600
REFUSAL = "move the data directory aside"  # what a node says that will not start on damaged files


class ClusterError(Exception):
    """The cluster does not do what the run needs; the message says what was seen."""


class Cluster:
    """`program` on `hosts`, one process per node, everything below `directory` (a short path: it holds sockets)."""

    def __init__(self, program: Program, nodes: Sequence[str], hosts: Hosts, directory: Path) -> None:
        self.program = program
        self.nodes = list(nodes)
        self.hosts = hosts
        self.directory = directory
        self.cuts: frozenset[Pair] = frozenset()
        self.shims: dict[str, Shim] = {}
        self.unavailable = dict(hosts.unavailable)
        self.on_change: Callable[[], None] = lambda: None
        self._children: dict[str, Child] = {}
        self._starving: dict[str, asyncio.Task[None]] = {}
        self._onlookers: dict[str, Client] = {}
        self.lost_disks: set[str] = set()  # wiped or damaged since, and not yet caught up
        self.is_sticky = program.parameters().get("strategy") == "sticky"  # a log of its own for every node
        self.may_end: set[str] = set()  # nodes whose disk has failed: they stop for good, as they should
        self.ended: list[str] = []  # processes that ended and were not told to
        self.damaged: set[str] = set()  # nodes whose files were damaged: each may refuse to start, now or later
        self.refused: dict[str, str] = {}  # those that did, since they were last started, with what they said
        self.rebuilding: set[str] = set()  # those that were emptied for it, until they serve
        self.on_rebuild: Callable[[str, str, str], None] = lambda f, node, why: None  # f: "fault" when emptied, "heal"
        self.disks: PowerDisks | None = None
        self.without_power: set[str] = set()
        self.changing: set[str] = set()  # nodes that one nemesis has taken for itself

    async def open(self, *, can_lose_power: bool = False) -> None:
        """Write the files, start all nodes, wait until all serve. ClusterError when they do not.

        `can_lose_power`: each node on a disk of its own that can, where this machine has such.
        """
        (self.directory / "run").mkdir(mode=0o700)
        (self.directory / "data").mkdir()
        self.program.write(self.directory, self.nodes, self.hosts)
        self._make_shims()
        if can_lose_power:
            try:
                self.disks = PowerDisks(self.directory, {node: self.data_dir(node) for node in self.nodes})
            except DiskError as problem:
                self.unavailable["power"] = str(problem)
        await self.hosts.start(self.pids)
        for node in self.nodes:
            self.start(node)
        await self.wait_ready(self.nodes)

    def _make_shims(self) -> None:
        try:
            library = compile_shim(self.directory)
        except ShimError as problem:
            self.unavailable["clock"] = self.unavailable["disk errors"] = str(problem)
            return
        for node in self.nodes:
            page = self.directory / f"{node}.page"
            self.shims[node] = Shim(library, page, self.data_dir(node))

    async def close(self) -> None:
        """Nothing of it is left but `directory`."""
        await self.feed()
        kill_all(list(self._children.values()))
        for client in self._onlookers.values():
            await client.close()
        await self.hosts.close()
        if self.disks is not None:
            self.disks.close()
        for shim in self.shims.values():
            shim.close()

    # -- processes ---------------------------------------------------------------------------------------------------

    def data_dir(self, node: str) -> Path:
        return self.directory / "data" / node

    def pids(self) -> dict[str, int]:
        return {node: child.pid for node, child in self._children.items() if child.is_running}

    def is_running(self, node: str) -> bool:
        child = self._children.get(node)
        return child is not None and child.is_running

    def is_paused(self, node: str) -> bool:
        return self.is_running(node) and self._children[node].is_paused

    def start_all(self) -> None:
        """Start every node that no nemesis has taken for itself."""
        for node in self.nodes:
            if node not in self.changing:
                self.start(node)

    def start(self, node: str) -> None:
        """Start the node's process unless it runs, or has no power; does not wait for it."""
        if self.is_running(node) or node in self.without_power:
            return
        self.note_ends()
        self.refused.pop(node, None)
        shim = self.shims.get(node)
        environment = python_environment() | ({} if shim is None else shim.environment())
        self._children[node] = Child(
            self.program.command(self.directory, node, self.hosts),
            log=self.directory / f"{node}.log",
            env=environment,
            namespace=self.hosts.namespace(node),
        )
        self.on_change()

    def note_ends(self) -> None:
        """Which nodes have ended by themselves since they were started."""
        for node, child in list(self._children.items()):
            if child.is_running:
                continue
            del self._children[node]
            if child.is_told_to_end:
                continue
            said = self.log_end(node)[-REFUSAL_CHARS:]
            if node in self.damaged and REFUSAL in said:
                self.refused[node] = said
            elif node not in self.may_end:
                self.ended.append(f"{node} ended with status {child.status}: {said}")

    def kill(self, node: str) -> None:
        """kill -9: no goodbye, nothing flushed."""
        self.note_ends()
        if node in self._children:
            self._children[node].kill()
            self.on_change()

    def pause(self, node: str) -> None:
        self._children[node].pause()
        self.on_change()

    def resume(self, node: str) -> None:
        self._children[node].resume()
        self.on_change()

    def starve(self, node: str) -> None:
        """Until `feed`, the node's process runs for RUN_S out of every RUN_S + HALT_S, as under a tight quota."""

        async def starving() -> None:
            while True:
                for number, seconds in ((signal.SIGSTOP, HALT_S), (signal.SIGCONT, RUN_S)):
                    child = self._children.get(node)
                    if child is not None and not child.is_paused:
                        child.signal(number)
                    await asyncio.sleep(seconds)

        if node not in self._starving:
            self._starving[node] = asyncio.create_task(starving())

    async def feed(self) -> None:
        """All nodes have all the time that they want."""
        for node, task in self._starving.items():
            task.cancel()
            child = self._children.get(node)
            if child is not None and not child.is_paused:
                child.signal(signal.SIGCONT)
        await asyncio.gather(*self._starving.values(), return_exceptions=True)
        self._starving.clear()

    async def stop(self, node: str) -> int | None:
        """SIGTERM, and wait; killed when it does not end. The exit status."""
        self.note_ends()
        child = self._children.get(node)
        if child is None:
            return None
        child.resume()
        child.terminate()
        deadline = time.monotonic() + STOP_WAIT_S
        while child.is_running and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sends no event
            await asyncio.sleep(POLL_S)
        if child.is_running:
            child.kill()
        self.on_change()
        return child.status

    def wipe(self, node: str) -> None:
        """The disk of a node that does not run is lost."""
        if self.is_running(node):
            raise ClusterError(f"{node} runs: its disk is not taken from under it")
        self.note_ends()
        self.lost_disks.add(node)
        self.damaged.discard(node)
        self.refused.pop(node, None)
        shutil.rmtree(self.data_dir(node), ignore_errors=True)

    def refuses(self, node: str) -> str | None:
        """What a node with damaged files said when it ended by itself; None when it runs, or somebody ended it."""
        self.note_ends()
        return self.refused.get(node)

    def rebuild(self, node: str) -> None:
        """What an operator does with a node that refuses its files: an empty disk, and a new process."""
        why = self.refused[node]
        self.wipe(node)
        self.rebuilding.add(node)
        self.on_rebuild("fault", node, why)
        self.start(node)

    def note_serving(self, node: str) -> None:
        """The node serves: what was lost with its disk is replaced."""
        self.lost_disks.discard(node)
        if node in self.rebuilding:
            self.rebuilding.discard(node)
            self.on_rebuild("heal", node, "")

    def log_end(self, node: str) -> str:
        path = self.directory / f"{node}.log"
        return path.read_text(errors="replace")[-LOG_SHOWN_CHARS:] if path.exists() else "(no log)"

    # -- the network -------------------------------------------------------------------------------------------------

    async def cut(self, pairs: Collection[Pair]) -> None:
        """Exactly these directed pairs are cut from now on; empty: none."""
        wanted = frozenset(pairs)
        self.cuts &= wanted  # who gains a majority is told before, who loses it after
        self.on_change()
        await self.hosts.cut(pairs)
        self.cuts = wanted
        self.on_change()

    async def shape(self, shape: Shape) -> None:
        await self.hosts.shape(shape)

    def with_quorum(self) -> dict[str, bool]:
        """Whether each node can, both ways, reach a node (or is one) that reaches a majority."""
        live = {node for node in self.nodes if self.is_running(node) and not self.is_paused(node)}
        reached = {node: self._reached(node, live) for node in live}
        leads = {node for node in live if 2 * len(reached[node]) > len(self.nodes)}
        return {node: node in live and bool(reached[node] & leads) for node in self.nodes}

    def _reached(self, node: str, live: set[str]) -> set[str]:
        return {n for n in live if (node, n) not in self.cuts and (n, node) not in self.cuts}

    # -- what nodes say ----------------------------------------------------------------------------------------------

    def endpoint(self, node: str) -> str:
        return f"unix:{self.directory}/run/{node}.sock"

    @contextlib.contextmanager
    def patience(self, what: str) -> Iterator[Callable[[], bool]]:
        """A condition for a loop that waits; ClusterError, with the ends of the logs, when the time is up."""
        deadline = time.monotonic() + READY_WAIT_S

        def goes_on() -> bool:
            if time.monotonic() < deadline:
                return True
            raise ClusterError(f"{what}: not within {READY_WAIT_S:g} s\n" + "\n".join(map(self.log_end, self.nodes)))

        yield goes_on

    async def status(self, node: str) -> dict[str, Any] | None:
        """What a node says of itself, or None while it does not answer."""
        if not self.is_running(node) or self.is_paused(node):
            return None
        async with Client(self.endpoint(node), timeout_s=CALL_TIMEOUT_S) as client:
            with contextlib.suppress(RaftstoreError):
                return await client.status()
        return None

    async def owned_epoch(self, node: str, key: str) -> int | None:
        """The epoch under which the node owns the session now; None when it does not, or does not answer."""
        client = self._onlookers.get(node)
        if client is None:
            client = self._onlookers[node] = Client(self.endpoint(node), timeout_s=CALL_TIMEOUT_S)
        try:
            return await client.owned_epoch(key)
        except RaftstoreError:
            return None

    async def wait_ready(self, nodes: Sequence[str]) -> None:
        """Returns once all these serve."""
        with self.patience(f"{', '.join(nodes)} to serve") as goes_on:
            for node in nodes:
                while goes_on():
                    status = await self.status(node)
                    if status is not None and status.get("ready"):
                        self.note_serving(node)
                        break
                    if not self.is_running(node):
                        raise ClusterError(f"{node} ended:\n{self.log_end(node)}")
                    await asyncio.sleep(POLL_S)

    async def leader(self) -> str | None:
        """The node that says it leads a majority, if one does."""
        for status in await asyncio.gather(*(self.status(node) for node in self.nodes)):
            if status is not None and status.get("role") == "leader" and status.get("quorum"):
                return str(status["node"])
        return None

    async def settled(self) -> None:
        """Returns once all nodes have applied the same, and have their audit events on disk."""
        with self.patience("the nodes to agree") as goes_on:
            while goes_on():
                statuses = await asyncio.gather(*(self.status(node) for node in self.nodes))
                found = {(s["chain_index"], s["chain_head"], s["event_seq"]) for s in statuses if s is not None}
                alike = None not in statuses and (len(found) == 1 or self.is_sticky)
                if alike and all(s is not None and s["applied_index"] == s["commit_index"] for s in statuses):
                    return
                await asyncio.sleep(POLL_S)

    async def final(self, node: str) -> dict[str, Any]:
        """The last state of a node: its sessions, its audit trail, its chain."""
        async with Client(self.endpoint(node), timeout_s=CALL_TIMEOUT_S) as client:
            status = await client.status()
            sessions: list[dict[str, Any]] = []
            while page := await client.list_sessions(limit=1_000, after=_last_id(sessions)):
                sessions += [session.as_dict() for session in page]
        return {
            "sessions": sessions,
            "events": audit_lines(self.data_dir(node) / "audit"),
            "head": status["chain_head"],
            "index": status["chain_index"],
        }

    def agree(self, finals: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether last states were taken at the same point of the log, with all audit events on disk."""
        return self.is_sticky or len({(final["head"], _last_number(final["events"])) for final in finals.values()}) == 1


def _last_number(lines: Sequence[Mapping[str, Any]]) -> int:
    last = lines[-1] if lines else {}
    return int(last.get("to", last.get("number", 0)))


def _last_id(sessions: Sequence[dict[str, Any]]) -> str | None:
    return sessions[-1]["session_id"] if sessions else None


def audit_lines(directory: Path) -> list[dict[str, Any]]:
    """All whole lines of a node's audit files, oldest first."""
    lines: list[dict[str, Any]] = []
    for path in sorted(directory.glob("audit-*.jsonl")):
        columns: list[str] = []
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                found = json.loads(line)
                if isinstance(found, list):  # an event; the header has said what its columns are
                    found = dict(zip(columns, found, strict=False))
                lines.append(found)
                columns = found.get("columns", columns)
    return lines
