"""The load of a run: workers that do ops, and onlookers that ask nodes about leaders, quorum and ownership.

All are tasks of one loop, outside the faulty network: they reach every node at any time. Each draws from a source of
chance of its own, so that one that is held up does not change what the others do.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.recorder import Recorder
from jepsen_like.workloads.base import Book, Caller, Op, Workload

WATCH_EVERY_S = 0.25
PACKETS_UNANSWERED_MAX = 20_000  # remembered; an answer to an older one tells nothing


class Load:
    """`stop` ends the workers after the op that each is doing."""

    def __init__(
        self, cluster: Cluster, workload: Workload, recorder: Recorder, caller: Callable[[], Caller], seed: int
    ) -> None:
        self._cluster = cluster
        self._workload = workload
        self._recorder = recorder
        self._caller = caller
        self._seed = seed
        self._processes = 0
        self._stopping = asyncio.Event()
        self.book = Book(workload.sessions)

    def stop(self) -> None:
        self._stopping.set()

    def new_process(self) -> int:
        self._processes += 1
        return self._processes - 1

    # -- ops ---------------------------------------------------------------------------------------------------------

    async def work(self, number: int, node: str, rate: float) -> None:
        """One worker at one node: `rate` ops per second on average, one at a time."""
        rng = random.Random(f"{self._seed}:worker:{number}")
        caller = self._caller()
        process = self.new_process()
        try:
            while await self._pause(rng.expovariate(rate)):
                op = self._workload.next_op(rng, node, self._cluster.nodes, self.book)
                if op is not None:
                    process = await self.do(caller, process, node, op)
        finally:
            await caller.close()

    async def _pause(self, seconds: float) -> bool:
        """False once it is time to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return not self._stopping.is_set()

    async def do(self, caller: Caller, process: int, node: str, op: Op) -> int:
        """One op, recorded; the process to go on with."""
        record = self._recorder.op
        record("invoke", process, op.f, op.key, op.args, node)
        self.book.count(op.key)
        try:
            outcome = await caller.call(node, op)
        except asyncio.CancelledError:
            record("info", process, op.f, op.key, None, node, error="CANCELLED")
            raise
        more = dict(outcome.more)
        if outcome.error is not None:
            more["error"] = outcome.error
        record(outcome.type, process, op.f, op.key, outcome.value, node, **more)
        value = outcome.value
        self.book.learn(value if outcome.type == "ok" else (value or {}).get("session"))
        return self.new_process() if outcome.type == "info" else process

    # -- onlookers ---------------------------------------------------------------------------------------------------

    async def watch(self, node: str) -> None:
        """What role the node says it has, whenever that changes."""
        before: Any = None
        while await self._pause(WATCH_EVERY_S):
            status = await self._cluster.status(node)
            if status is None:
                continue
            role = {"term": status["term"], "role": status["role"]}
            if role != before:
                self._recorder.event("observer", "role", role, node=node)
                before = role

    async def probe(self, node: str, every_s: float) -> None:
        """Ask the node, session after session, whether it owns it; a yes is recorded with when it was asked."""
        turn = 0
        while await self._pause(every_s):
            key = self.book.keys[turn % len(self.book.keys)]
            turn += 1
            asked_ns = self._recorder.now_ns()
            epoch = await self._cluster.owned_epoch(node, key)
            if epoch is not None:
                value = {"owns": True, "epoch": epoch, "asked": asked_ns}
                self._recorder.event("dataplane", "owns", value, kind="ok", key=key, node=node)

    async def send_packets(self, every_s: float) -> None:
        """Packets of every session to every node; who answers, acts for the session."""
        loop = asyncio.get_running_loop()
        with self._cluster.hosts.client_socket() as sock:
            sock.setblocking(False)
            sock.bind(("", 0))
            resource = Resource(self._recorder)
            transport, _ = await loop.create_datagram_endpoint(lambda: resource, sock=sock)
            try:
                while await self._pause(every_s):
                    for key in list(self.book.keys):
                        for node in self._cluster.nodes:
                            packet = resource.ask(key)
                            transport.sendto(packet, self._cluster.hosts.udp(node))
            finally:
                transport.close()


class Resource(asyncio.DatagramProtocol):
    """What lies behind the gateways: it numbers its packets, and takes note of who answers with which epoch."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._asked_ns: dict[int, int] = {}
        self._number = 0
        self.answers = 0

    def ask(self, key: str) -> bytes:
        self._number += 1
        self._asked_ns[self._number] = self._recorder.now_ns()
        if len(self._asked_ns) > PACKETS_UNANSWERED_MAX:
            del self._asked_ns[next(iter(self._asked_ns))]
        return f"{self._number} {key}".encode()

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        number, node, epoch, key = data.decode("ascii").split(" ", 3)
        asked_ns = self._asked_ns.pop(int(number), None)
        if asked_ns is None:
            return
        self.answers += 1
        value = {"epoch": int(epoch), "asked": asked_ns}
        self._recorder.event("dataplane", "packet", value, kind="ok", key=key, node=node)

    def error_received(self, problem: Exception) -> None:
        """A node that does not run refuses: nobody acts there."""
