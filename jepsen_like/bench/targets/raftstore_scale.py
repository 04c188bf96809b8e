"""raftstore embedded, for the trial of very many sessions: fills, walks over all its sessions, watches its own loop.

What the callers keep is four bytes per session (its version), in memory that is taken before the first measurement, so
what the process grows by is the node's. The garbage collector is calm, as in `raftstore run`.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future as ThreadFuture
from typing import Any, TypeVar

from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.targets.raftstore_embedded import Embedded
from raftstore.config import ClusterConfig
from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.node.collector import calm_collector
from raftstore.node.node import Node
from raftstore.node.surroundings import Surroundings
from raftstore.storage.values import SnapshotInfo
from raftstore.storage.worker import StorageWorker
from raftstore.types import Binding

PROBE_S = 0.002  # how often the node's loop is asked to turn
RETRY_S = 0.005
ID_LENGTH = 32
BINDING = Binding("t" + "0" * (ID_LENGTH - 1), "udp", "198.51.100.7:51820")
TTL_MS = 360_000_000  # longer than any trial
START_WAIT_MS = 120_000

T = TypeVar("T")


class Pulse:
    """How late the node's loop turns, by whether a snapshot was being written. On that loop, but for reading."""

    def __init__(self) -> None:
        self.is_writing = False  # a snapshot
        self.begun = 0  # snapshots so far
        self.snapshot_ns: list[int] = []  # how long each took that began and ended under this watch
        self.worst_ns = {"quiet": 0, "snapshot": 0}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._was = (False, 0)
        self._begun_before = 0  # snapshots that began before this watch

    def begin(self) -> None:
        """From here on, until taken: while it is not asked for it costs nothing."""
        self._loop = asyncio.get_running_loop()
        self._begun_before = self.begun
        self.snapshot_ns = []
        self._again()

    def snapshot_begins(self) -> Callable[[bool], None]:
        """To be called when that one has ended, with whether it was written."""
        begun_ns = time.perf_counter_ns()
        self.is_writing = True
        self.begun += 1
        number = self.begun

        def ended(is_written: bool) -> None:
            self.is_writing = False
            if is_written and number > self._begun_before and self._timer is not None:
                self.snapshot_ns.append(time.perf_counter_ns() - begun_ns)

        return ended

    def _again(self) -> None:
        assert self._loop is not None
        self._was = (self.is_writing, self.begun)
        self._due_ns = time.perf_counter_ns() + int(PROBE_S * 1e9)
        self._timer = self._loop.call_later(PROBE_S, self._turned)

    def _turned(self) -> None:
        late_ns = time.perf_counter_ns() - self._due_ns
        during = "snapshot" if self._was != (False, self.begun) else "quiet"
        self.worst_ns[during] = max(self.worst_ns[during], late_ns)
        self._again()

    def take(self) -> dict[str, Any]:
        """What was seen since the beginning, in milliseconds. The end of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        found = {
            "worst_ms": {name: worst / 1e6 for name, worst in self.worst_ns.items()},
            "snapshot_ms": [took / 1e6 for took in self.snapshot_ns],
        }
        self.worst_ns = dict.fromkeys(self.worst_ns, 0)
        return found


class WatchedWorker(StorageWorker):
    """The production worker; tells a pulse when snapshots begin and end, and brings it to the node's loop."""

    pulse: Pulse

    async def on_its_loop(self, task: Callable[[], T]) -> T:
        """What it returns there."""
        done: ThreadFuture[T] = ThreadFuture()
        self._post(lambda: done.set_result(task()))
        return await asyncio.wrap_future(done)

    def write_snapshot(
        self, index: int, term: int, chunks: Iterable[bytes], done: Callable[[SnapshotInfo | Exception], None]
    ) -> None:
        ended = self.pulse.snapshot_begins()

        def told(info: SnapshotInfo | Exception) -> None:
            ended(isinstance(info, SnapshotInfo))
            done(info)

        super().write_snapshot(index, term, chunks, told)


class Scale(Embedded):
    """Each method with plain arguments and a JSON answer is a request. Session `i` of this node is `id_of(i)`."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._pulse = Pulse()
        self._name = str(given["node"])
        self._worker: WatchedWorker | None = None
        surroundings = Surroundings(storage_worker=self._watched_worker)
        self._node = Node(ClusterConfig.load(given["config"]), self._name, surroundings=surroundings)
        self._versions = array("I")
        self._told: Counter[str] = Counter()

    def _watched_worker(self, *args: Any, **kwargs: Any) -> WatchedWorker:
        made = self._worker = WatchedWorker(*args, **kwargs)
        made.pulse = self._pulse
        return made

    async def open(self) -> None:
        calm_collector()
        await self._node.start(wait_ms=START_WAIT_MS)

    def id_of(self, number: int) -> str:
        return f"{self._name}{number:0>{ID_LENGTH - len(self._name)}}"

    # ---- what the trial asks
    async def view(self) -> dict[str, Any]:
        status = self._node.status()
        found = {name: status[name] for name in ("ready", "leader", "role", "sessions_total")}
        found["connected"] = sum(row["connected"] for row in status["peers"])
        found["audit_backlog"] = status["counters"]["audit_backlog"]
        found["snapshots_watched"] = len(self._pulse.snapshot_ns)
        return {**found, "owned": {row["node"]: row["sessions"] for row in status["nodes"]}}

    async def room(self, sessions: int) -> dict[str, Any]:
        """Make room for the versions of so many sessions."""
        self._versions = array("I", [1]) * sessions
        return {}

    async def watch(self) -> dict[str, Any]:
        """From now on."""
        assert self._worker is not None
        await self._worker.on_its_loop(self._pulse.begin)
        return {}

    async def watched(self) -> dict[str, Any]:
        """What was seen since then."""
        assert self._worker is not None
        return await self._worker.on_its_loop(self._pulse.take)

    async def drain(self) -> dict[str, Any]:
        begun_ns = time.perf_counter_ns()
        found = await self._node.drain()
        return {**found, "seconds": (time.perf_counter_ns() - begun_ns) / 1e9}

    async def fill(self, first: int, last: int, callers: int, due_after_ms: int | None = None) -> dict[str, Any]:
        """Make sessions `first` to `last`; with `due_after_ms`, so that the TTL of all ends so long after now."""
        begun_ns = time.perf_counter_ns()
        numbers = iter(range(first, last))
        self._told = Counter()

        async def caller() -> None:
            for number in numbers:
                passed_ms = (time.perf_counter_ns() - begun_ns) // 1_000_000
                ttl_ms = TTL_MS if due_after_ms is None else max(1, due_after_ms - passed_ms)
                while not await self._make(number, ttl_ms):
                    pass

        await asyncio.gather(*(caller() for _ in range(callers)))
        return {"seconds": (time.perf_counter_ns() - begun_ns) / 1e9, "told": dict(self._told)}

    async def _make(self, number: int, ttl_ms: int) -> bool:
        try:
            await self._node.create(self.id_of(number), binding=BINDING, ttl_ms=ttl_ms)
        except (Unavailable, OutcomeUnknown) as problem:
            self._told[str(problem.reason)] += 1
            await asyncio.sleep(RETRY_S)
            return False
        except Rejected as refusal:  # an earlier try whose outcome was unknown
            self._told[str(refusal.reason)] += 1
            return refusal.session is not None
        return True

    async def walk(self, first: int, last: int, callers: int, seconds: float, one_each: bool = False) -> dict[str, Any]:
        """Callers reattach sessions `first` to `last` over and over, each caller its own part of them.

        With `one_each` every caller has one session; these lie evenly among the others.
        """
        self._told = Counter()
        latencies: dict[str, list[int]] = {"quiet": [], "snapshot": []}
        clock, pulse = time.perf_counter_ns, self._pulse
        begun_ns = clock()
        end_ns = begun_ns + int(seconds * 1e9)

        callers = min(callers, last - first)
        stride = (last - first) // callers if one_each else 1

        async def caller(start: int) -> None:
            number = start
            while (began_ns := clock()) < end_ns:
                was = pulse.is_writing
                if await self._again(number):
                    latencies["snapshot" if was or pulse.is_writing else "quiet"].append(clock() - began_ns)
                if not one_each:
                    number += callers
                    if number >= last:
                        number = start

        await asyncio.gather(*(caller(first + turn * stride) for turn in range(callers)))
        return {
            "ops": sum(map(len, latencies.values())),
            "seconds": (clock() - begun_ns) / 1e9,
            "told": dict(self._told),
            "latency": {name: Histogram(found).as_json() for name, found in latencies.items()},
        }

    async def _again(self, number: int) -> bool:
        session_id, version = self.id_of(number), self._versions[number]
        try:
            found = await self._node.reattach(session_id, expected_version=version, binding=BINDING)
        except Rejected as refusal:
            self._told[str(refusal.reason)] += 1
            if refusal.session is not None:
                self._versions[number] = refusal.session.state_version
            return False
        except (Unavailable, OutcomeUnknown) as problem:
            self._told[str(problem.reason)] += 1
            await asyncio.sleep(RETRY_S)
            return False
        self._versions[number] = found.state_version
        return True


def target(given: Mapping[str, Any]) -> Scale:
    return Scale(given)
