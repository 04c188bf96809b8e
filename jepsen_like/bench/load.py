"""The callers of one process: each does one op after the other, as fast as it is answered.

Sessions are made beforehand and kept from one measurement to the next. A refusal is an outcome of its own; any other
failure is counted by name, and too many end the measurement: its figures would mean nothing.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.targets.base import DataPath, Refused, Target

RACERS = 8  # callers on one session
CREATES_AT_ONCE = 64
FAILURES_MAX = 1_000
FAILURE_PAUSE_S = 0.25  # of a caller that failed: an election must not become a thousand failures
OWNS_BATCH = 1_000  # calls per clock reading: the clock costs about as much as the call
MIXED = ("change", "read", "change", "read", "change", "read-local", "change", "read", "change", "read")

Op = Callable[[], Awaitable[None]]


class TooManyFailures(Exception):  # noqa: N818 - says what happened
    """More ops failed than a measurement can bear."""


class Load:
    """Callers on one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ids: list[str] = []
        self._versions: dict[str, Any] = {}
        self._refused = 0
        self._failures: Counter[str] = Counter()

    async def prepare(self, callers: int) -> None:
        """As many sessions as callers."""
        slots = asyncio.Semaphore(CREATES_AT_ONCE)

        async def make(session_id: str) -> None:
            async with slots:
                self._versions[session_id] = await self._target.create(session_id)
            self._ids.append(session_id)

        await asyncio.gather(*(make(uuid.uuid4().hex) for _ in range(callers - len(self._ids))))

    async def run(self, kind: str, callers: int, seconds: float) -> dict[str, Any]:
        """Counts, seconds, and the latencies of what succeeded."""
        self._refused, self._failures = 0, Counter()
        if kind == "owns":
            return self._owns(seconds)
        ops = [self._op(kind, number) for number in range(callers)]
        latencies: list[int] = []
        begun = time.perf_counter_ns()
        end = begun + int(seconds * 1e9)
        await asyncio.gather(*(self._caller(op, end, latencies) for op in ops))
        took_s = (time.perf_counter_ns() - begun) / 1e9
        return self._result(len(latencies), took_s, Histogram(latencies))

    def _result(self, ops: int, seconds: float, latency: Histogram) -> dict[str, Any]:
        return {
            "ops": ops,
            "refused": self._refused,
            "failures": dict(self._failures),
            "seconds": seconds,
            "latency": latency.as_json(),
        }

    async def _caller(self, op: Op, end: int, latencies: list[int]) -> None:
        clock = time.perf_counter_ns
        while (begun := clock()) < end:
            try:
                await op()
            except Refused:
                self._refused += 1
                continue
            except Exception as problem:  # a peer's client has errors of its own: each is counted, none is hidden
                self._failures[type(problem).__name__] += 1
                if self._failures.total() > FAILURES_MAX:
                    raise TooManyFailures(f"{dict(self._failures)}; the last: {problem}") from problem
                await asyncio.sleep(FAILURE_PAUSE_S)
                continue
            latencies.append(clock() - begun)

    def _op(self, kind: str, number: int) -> Op:
        """What caller `number` does."""
        if kind == "race":
            return self._racer(self._ids[number // RACERS])
        session_id = self._ids[number]
        if kind == "mixed":
            return self._mixed(session_id, number)
        return {
            "transition": lambda: self._change(session_id),
            "read": lambda: self._read(session_id),
            "read-local": lambda: self._read_local(session_id),
        }[kind]

    async def _change(self, session_id: str) -> None:
        try:
            self._versions[session_id] = await self._target.change(session_id, self._versions[session_id])
        except Exception:  # refused, or not known: either way the next one must know the version
            self._versions[session_id] = await self._target.read(session_id)
            raise

    async def _read(self, session_id: str) -> None:
        await self._target.read(session_id)

    async def _read_local(self, session_id: str) -> None:
        await self._target.read_local(session_id)

    def _racer(self, session_id: str) -> Op:
        version: Any = self._versions[session_id]

        async def op() -> None:
            nonlocal version
            try:
                version = await self._target.change(session_id, version)
            except Exception:
                version = self._versions[session_id] = await self._target.read(session_id)
                raise
            self._versions[session_id] = version

        return op

    def _mixed(self, session_id: str, number: int) -> Op:
        turn = number

        async def op() -> None:
            nonlocal turn
            turn += 1
            what = MIXED[turn % len(MIXED)]
            if what == "change":
                await self._change(session_id)
            elif what == "read":
                await self._read(session_id)
            else:
                await self._read_local(session_id)

        return op

    def _owns(self, seconds: float) -> dict[str, Any]:
        """One caller, without the event loop: the call does no I/O. Latencies are means of OWNS_BATCH calls."""
        if not isinstance(self._target, DataPath):
            raise ValueError("this peer answers over the network only: it has no owns()")
        session_id = self._ids[0]
        version, owns, clock = self._versions[session_id], self._target.owns, time.perf_counter_ns
        batches: list[int] = []
        first = begun = clock()
        end = begun + int(min(seconds, 0.2) * 1e9)  # short: a node on this very loop must go on leading
        while begun < end:
            for _ in range(OWNS_BATCH):
                owns(session_id, version)
            now = clock()
            batches.append((now - begun) // OWNS_BATCH)
            begun = now
        return self._result(len(batches) * OWNS_BATCH, (begun - first) / 1e9, Histogram(batches))
