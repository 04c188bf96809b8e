"""One node put together: storage, audit files, links and the core, on the event loop that calls `open`.

Knows the order in which things start and end, and carries news between them. What they do stands in their own
modules. Everything here runs on that one loop; the storage worker, the audit writer and the watchdog have threads
of their own and come back by posting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

from raftstore.config import ClusterConfig
from raftstore.errors import InvalidArgument, RaftstoreError, Rejected, StorageError, Unavailable
from raftstore.node import handover, procedures
from raftstore.node.answers import result_or_raise
from raftstore.node.audit import AuditTrail
from raftstore.node.callers import Callers
from raftstore.node.core import INCARNATION_BITS, Core
from raftstore.node.dispatch import Dispatcher
from raftstore.node.events import EventStream
from raftstore.node.link_adapter import CoreHandler, LinkAdapter, StickyHandler
from raftstore.node.owned import Owned
from raftstore.node.persistence import Persistence
from raftstore.node.proposals import Answer, Pending
from raftstore.node.requests import Requests
from raftstore.node.sticky.keeper import Sticky
from raftstore.node.surroundings import PRODUCTION, Surroundings
from raftstore.ownership import Machine, MappedNode, SessionRecord, to_session
from raftstore.ports import Clock
from raftstore.transport.links import PeerLinks
from raftstore.transport.ports import LinkHandler
from raftstore.types import OpId, Reason

log = logging.getLogger("raftstore.node")

SECURITY_EVENTS_MAX = 256  # kept for the status; the log has them all
STOP_STEP_MS = 1_500  # for each step of a graceful stop
READY_POLL_S = 0.02


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest loop that this machine has."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Runtime(Callers):
    """A running node. Made by `Node`; methods run on the node's loop unless they say otherwise."""

    def __init__(
        self,
        config: ClusterConfig,
        node_id: str,
        *,
        insecure: bool,
        clock: Clock,
        dispatcher: Dispatcher,
        surroundings: Surroundings = PRODUCTION,
    ) -> None:
        super().__init__(config, node_id, surroundings.random_bits(INCARNATION_BITS) | 1)
        self._around = surroundings
        self.clock = clock
        self.requests = Requests(config)
        self.security_events: deque[dict[str, Any]] = deque(maxlen=SECURITY_EVENTS_MAX)
        self.failed: tuple[str, str] | None = None
        self.drain_job: procedures.Drain | None = None
        self.answers_ready: Callable[[], None] = lambda: None  # an entry was applied: its answers can go to callers
        self._insecure = insecure
        self._dispatcher = dispatcher
        self._stop_task: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Recover storage, open the audit files, listen. Raises what keeps this node from starting."""
        loop = self._loop = asyncio.get_running_loop()
        node = self.config.node(self.node_id)
        self._failed_event = asyncio.Event()
        self.events_stream = EventStream(loop)
        self.persistence = Persistence(
            self.config,
            self.node_id,
            loop,
            wall_ms=self.clock.wall_ms,
            report=self.report,
            failed=self._fail_soon,
            surroundings=self._around,
        )
        machine = await self.persistence.open()
        self.audit: AuditTrail = self._around.audit_trail(
            node.audit_dir,
            cluster=self.config.cluster,
            node_id=self.node_id,
            file_bytes_max=self.config.audit.file_bytes_max,
            files_max=self.config.audit.files_max,
            backlog_events_max=self.config.audit.backlog_events_max,
            on_trouble=lambda kind, detail: self._post(lambda: self.report(kind, detail)),
        )
        try:
            await loop.run_in_executor(None, self.audit.open)
            self.audit.skip_to(machine.event_seq, machine.index, machine.head)
            await self._open_core(machine)
        except BaseException:
            await self._close_files()
            raise

    async def _open_core(self, machine: Machine) -> None:
        loop = self._loop
        persistence = self.persistence
        adapter = LinkAdapter()
        self.core = Core(
            self.config,
            self.node_id,
            self.incarnation,
            loop=loop,
            clock=self.clock,
            rng=Random(self.incarnation),
            journal=persistence.journal,
            machine=machine,
            snapshots=persistence.keeper,
            links=adapter,
            observer=self,
            learner=self._around.random_bits(INCARNATION_BITS) | 1,
        )
        self.owned: Owned = self.core.owned
        persistence.attach(self.core, self.audit)
        handler: LinkHandler = CoreHandler(self.core)
        if self.config.is_sticky:
            self.sticky = Sticky(self.core, adapter, loop)
            handler = StickyHandler(self.core, self.sticky)
        self.links: PeerLinks = self._around.links(
            self.config, self.node_id, self.core, adapter, handler, insecure=self._insecure
        )
        self._watchdog = self._around.watchdog(
            clock=self.clock,
            stall_max_ms=self.config.timing.loop_stall_max_ms,
            last_pulse_ns=lambda: self.core.last_pulse_ns,
            on_stall=self._stalled,
        )
        await self.links.start()
        self.is_open = True
        self.core.start()
        self._watchdog.start()
        self._housekeeping = loop.create_task(self._keep_house())

    async def _keep_house(self) -> None:
        """Twice a second: snapshots, disk space, troubles that threads have seen."""
        while self.core.stopped is None:
            await asyncio.sleep(0.5)
            self.persistence.tick()

    async def wait_ready(self, wait_ms: int) -> None:
        """Returns once this node is caught up, joined and holds its lease; Unavailable, saying why not, otherwise."""
        deadline_ns = self.clock.now_ns() + wait_ms * 1_000_000
        while True:
            if self.failed is not None:
                raise StorageError(f"{self.node_id}: {self.failed[0]}: {self.failed[1]}")
            refusal = self.why_not_ready()
            if refusal is None:
                return
            if self.clock.now_ns() >= deadline_ns:
                raise Unavailable(refusal.reason, f"{refusal.detail} (waited {wait_ms} ms)")
            await asyncio.sleep(READY_POLL_S)

    def why_not_ready(self) -> Unavailable | None:
        """Why this node serves nobody right now; None when it does, if not for every session."""
        return self.core.why_refused() or (None if self.sticky is None else self.sticky.why_not_ready())

    async def wait_failed(self) -> str:
        await self._failed_event.wait()
        assert self.failed is not None
        return f"{self.failed[0]}: {self.failed[1]}"

    async def stop(self, *, drain: bool) -> None:
        """Graceful stop; a second call waits for the first."""
        if self._stop_task is None:
            self._stop_task = asyncio.get_running_loop().create_task(self._stop(drain))
        await asyncio.shield(self._stop_task)

    async def _stop(self, drain: bool) -> None:
        if not self.is_open:
            return
        core = self.core
        if core.stopped is None:
            if drain:
                await self._drain_before_stop()
            core.stop_taking()
            self.fenced(core.lease.leave(), "NODE_STOPPING")
            if core.replica.is_joined and await handover.regains_quorum(core, STOP_STEP_MS):
                await procedures.leave(self, STOP_STEP_MS)
            await handover.give_up_leadership(core, STOP_STEP_MS)
            core.close("stopped")
        self.is_open = False
        self._housekeeping.cancel()
        self._watchdog.stop()
        await self.links.close()
        await self._close_files()

    async def _drain_before_stop(self) -> None:
        try:
            progress = await self.drain()
        except RaftstoreError as problem:
            self.report("DRAIN_INCOMPLETE", str(problem))
            return
        if progress["failed"]:
            self.report("DRAIN_INCOMPLETE", f"{progress['failed']} sessions did not move: {progress['last_problem']}")

    async def _close_files(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: self.audit.close(STOP_STEP_MS / 1000))
        await self.persistence.close()

    # --- steering --------------------------------------------------------------------------------------------------
    def is_node_live(self, node_id: str) -> bool:
        machine = self.machine
        node = machine.nodes.get(node_id)
        if node is None or node.left or node.draining:
            return False
        return bool(node.lease_until_ms > self.core.cluster_clock.now_ms())

    async def drain(self) -> dict[str, Any]:
        if self.sticky is not None:
            return await procedures.drain_sticky(self.sticky, self.change_mapping)
        if self.drain_job is not None and self.drain_job.is_running:
            raise Rejected(Reason.NODE_DRAINING)
        self.drain_job = procedures.Drain(self)
        return await self.drain_job.run()

    async def change_mapping(
        self, nodes: Collection[MappedNode], lost: Collection[str], epoch: int | None
    ) -> dict[str, Any]:
        """See Node.change_mapping: returns when the change is in this node's log."""
        if self.sticky is None:
            raise InvalidArgument(
                "strategy", "is shared: the mapping of cluster.conf is a hint there and never changes"
            )
        future: asyncio.Future[Answer] = self._loop.create_future()
        self.sticky.change(nodes, lost, epoch, lambda answer: None if future.done() else future.set_result(answer))
        result_or_raise(await future, OpId(self.node_id, self.incarnation, 0))
        return self.sticky.status()

    def mapping_epoch(self) -> int:
        """The epoch of the adopted mapping; 0 in the shared strategy."""
        return 0 if self.sticky is None else self.sticky.epoch()

    async def transfer_leadership(self, to: str | None) -> str:
        if self.sticky is not None:
            problem = "strategy sticky has no leader: to move sessions, change the mapping (raftstore mapping --help)"
            raise InvalidArgument("to", problem)
        return await handover.transfer_leadership(self.core, to)

    # --- news: what the core tells (CoreObserver) --------------------------------------------------------------------
    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        if lost:
            self.counters["fenced_sessions"] += len(lost)
            log.warning("%s: %d sessions are not owned here any more: %s", self.node_id, len(lost), reason)
            self._dispatcher.fenced(lost, reason)

    def _stalled(self, stalled_ms: int) -> None:
        """The watchdog's thread: the loop has not turned for too long. `owns` is false already; say so."""
        lost = self.core.owned.fence()
        self.fenced(lost, "LOOP_STALLED")
        self._post(lambda: self.report("LOOP_STALLED", f"the event loop stood still for more than {stalled_ms} ms"))

    def assigned(self, record: SessionRecord) -> None:
        self._dispatcher.assigned(to_session(record))

    def committed_late(self, pending: Pending, record: SessionRecord) -> None:
        self._late(OpId(self.node_id, self.incarnation, pending.seq), record)

    def _late(self, op_id: OpId, record: SessionRecord) -> None:
        self.report("LATE_COMMIT", f"{op_id}: {record.session_id} was bound after its caller gave up")

        def decide(confirmed: bool) -> None:
            self._post(lambda: self._decide_late(record, confirmed))

        self._dispatcher.committed_late(op_id, to_session(record), decide)

    def _decide_late(self, record: SessionRecord, confirmed: bool) -> None:
        if self.core.stopped is None and not (confirmed and self.core.replica.confirm(record)):
            self.core.detach_late(record)

    def audited(self, index: int, first_number: int, events: list[tuple[Any, ...]], head: bytes) -> None:
        self.answers_ready()  # before anything else of this step: the callers' threads take a while to wake up
        self.audit.append(index, first_number, events, head)
        self.events_stream.wake()

    async def next_events(self, after: int) -> list[dict[str, Any]]:
        """The next audit events beyond number `after`: at least one, waiting for it."""
        return await self.events_stream.next(after, self.core.replica, self.audit)

    def superseded(self, incarnation: int) -> None:
        detail = f"process {incarnation:016x} has joined as {self.node_id}: only one may run under this id"
        self._fail_soon("NODE_FENCED", detail)

    def report(self, kind: str, detail: str) -> None:
        self.counters[f"event:{kind}"] += 1
        self.security_events.append({"kind": kind, "detail": detail, "wall_ms": self.clock.wall_ms()})
        log.warning("%s: %s: %s", self.node_id, kind, detail)

    def failed_for_good(self, reason: str, detail: str) -> None:
        if self.failed is None:
            self.failed = (reason, detail)
            self.report(reason, detail)
            log.critical("%s stops serving: %s: %s", self.node_id, reason, detail)
            self._failed_event.set()

    def _fail_soon(self, reason: str, detail: str) -> None:
        """From any thread: stop serving at the next turn of the loop."""
        self._post(lambda: self.core.fail(reason, detail) if self.is_open else self.failed_for_good(reason, detail))

    def _post(self, task: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task)
