"""One machine of the cluster and the processes that run on it, one after another: the production `Node`, embedded.

A machine has a disk, an audit shelf, a clock and a place in the network; a process has a life, a loop and a node. What
happens to them is `faults`' affair.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from jepsen_like.sim.audit import AuditShelf, SimAudit
from jepsen_like.sim.clock import SimClock
from jepsen_like.sim.disk import SimDisk
from jepsen_like.sim.links import SimLinks
from jepsen_like.sim.loop import SimLoop
from jepsen_like.sim.network import Network
from jepsen_like.sim.scheduler import MS, Life, Scheduler
from jepsen_like.sim.storage import SimWorker
from jepsen_like.sim.watch import Promise, Tracker
from raftstore.config import ClusterConfig
from raftstore.errors import CorruptionError, RaftstoreError
from raftstore.node.node import Node
from raftstore.node.surroundings import Surroundings
from raftstore.raft.seams import LEADER, ROLE_NAMES
from raftstore.transport.hello import LocalIdentity
from raftstore.transport.ports import LinkLimits
from raftstore.types import OpId, Session

FENCE_MAX_NS = 1_000 * MS
WATCHDOG_LOOKS = 4  # per longest allowed stall


class Surrounding(Protocol):
    """What a machine needs of its world."""

    scheduler: Scheduler
    network: Network
    promise: Promise
    config: ClusterConfig
    keep_entries: int

    def record(self, process: Any, kind: str, f: str, **fields: Any) -> object: ...

    def violation(self, kind: str, detail: str) -> None: ...

    def assigned(self, process: Process, session: Session) -> None: ...

    def late_commit(self, process: Process, op_id: OpId, session: Session) -> bool: ...

    def leads(self, process: Process) -> None: ...

    def voted(self, process: Process) -> None: ...


class Machine:
    """What survives a process."""

    def __init__(self, world: Surrounding, node_id: str, seed: str, drift_ppm: int) -> None:
        self.world = world
        self.node_id = node_id
        self.rng = Random(f"{seed}:{node_id}")
        self.disk = SimDisk(Random(f"{seed}:{node_id}:disk"))
        self.shelf = AuditShelf()
        self.clock = SimClock(world.scheduler, self.rng.randrange(10**12), drift_ppm)
        self.process: Process | None = None
        self.lives = 0
        self.refused: Exception | None = None  # why the last process could not start
        self.is_damaged = False  # a byte at rest was flipped
        self.forgets = True  # until it is a voter: it may have promised what it does not know

    @property
    def is_up(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """A new process on this machine."""
        assert self.process is None
        self.refused = None
        self.lives += 1
        self.world.network.machines_off.pop(self.node_id, None)
        self.process = Process(self)
        self.process.start()

    def kill(self) -> None:
        """SIGKILL: the process ends, the machine goes on."""
        if self.process is not None:
            process, self.process = self.process, None
            if process.links is not None:
                process.links.abandon()
            process.end()
        self.disk.kill(self.world.scheduler.now)

    def lose_power(self, keep: float) -> None:
        """The machine stops; what was not durable may be lost, and nobody says goodbye."""
        if self.process is not None:
            process, self.process = self.process, None
            process.end()
        self.world.network.machines_off[self.node_id] = None
        self.disk.lose_power(self.world.scheduler.now, keep)

    def wipe(self) -> None:
        """A new, empty disk. The machine must be down."""
        assert self.process is None
        self.forgets = True
        self.disk.wipe()
        self.shelf.wipe()
        self.is_damaged = False


class Process:
    """One life of one node."""

    def __init__(self, machine: Machine) -> None:
        world = machine.world
        self.machine = machine
        self.world = world
        self.node_id = machine.node_id
        self.name = f"{machine.node_id}/{machine.lives}"
        self.rng = Random(machine.rng.getrandbits(64))
        self.life = Life()
        self.life.watch = self.watch
        self.loop = SimLoop(
            world.scheduler, self.life, lambda text: world.violation("exception", f"{self.name}: {text}")
        )
        self.loop.rate = machine.clock.rate
        self.loop.clock = machine.clock.now_ns
        self.loop.on_thread_begin = machine.disk.begin
        self.loop.thread_now = lambda: machine.disk.cursor
        self.links: SimLinks | None = None
        self.tracker: Tracker | None = None
        self.runtime: Any = None
        self.core: Any = None
        self.op_taken: Callable[[OpId, int], None] | None = None  # told of the next op that is submitted
        self.is_stopping = False
        self._role = (-1, -1)
        self._vote: tuple[int, str | None] = (-1, None)
        self._applied = 0
        self.node = Node(
            world.config,
            self.node_id,
            insecure=True,
            own_thread=False,
            clock=machine.clock,
            surroundings=self._surroundings(),
        )
        self.node.on_assigned(lambda session: world.assigned(self, session))
        self.node.on_fenced(self._fenced)
        self.node.on_late_commit(lambda op_id, session: world.late_commit(self, op_id, session))

    # --- what it stands on -----------------------------------------------------------------------------------
    def _surroundings(self) -> Surroundings:
        world, machine = self.world, self.machine
        scheduler = world.scheduler
        return Surroundings(
            disk=lambda: machine.disk,
            storage_worker=lambda store, **options: SimWorker(scheduler, self.loop, machine.disk, store, **options),
            audit_trail=self._make_audit,
            links=self._make_links,
            watchdog=self._make_watchdog,
            random_bits=self.rng.getrandbits,
            entropy=self.rng.randbytes,
            keep_entries=world.keep_entries,
        )

    def _make_audit(self, directory: Any, *, on_trouble: Any, backlog_events_max: int, **_: Any) -> SimAudit:
        shelf, scheduler = self.machine.shelf, self.world.scheduler
        return SimAudit(scheduler, self.life, shelf, self.rng.randint, on_trouble, backlog_events_max)

    def _make_links(self, config: ClusterConfig, node_id: str, core: Any, adapter: Any, handler: Any, **_: Any) -> Any:
        local = LocalIdentity(config.cluster, node_id, core.incarnation, config.digest(), core.is_fresh)
        limits = LinkLimits(
            frame_bytes_max=config.limits.frame_bytes_max, send_queue_bytes_max=config.limits.send_queue_bytes_max
        )
        self.links = adapter.links = SimLinks(self.world.network, self.loop, local, handler, limits)
        return self.links

    def _make_watchdog(self, **options: Any) -> SimWatchdog:
        return SimWatchdog(self.world.scheduler, self.life, **options)

    # --- life ------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.world.scheduler.at(self.world.scheduler.now, self.loop.run, self._begin, life=self.life, on_loop=True)

    def _begin(self) -> None:
        self.loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            await self.node.start(wait_ms=None)
        except RaftstoreError as problem:
            self.machine.refused = problem
            kind = "corruption" if isinstance(problem, CorruptionError) else "refused"
            self.world.record(
                "nemesis", "info", "refused", node=self.node_id, value={"kind": kind, "why": str(problem)}
            )
        except Exception as problem:
            if self.life.is_dead:  # thrown out of what it waited for
                return
            self.machine.refused = problem
            self.world.violation("exception", f"{self.name}: while starting: {traceback.format_exc(limit=-2)}")

    async def stop(self, drain: bool) -> None:
        """A graceful stop, as an operator asks for it."""
        self.is_stopping = True
        await self.node.stop(drain=drain)

    def end(self) -> None:
        """Nothing of it happens any more."""
        if self.tracker is not None:
            self.tracker.die()
        if self.world.network.listening.get(self.node_id) is self.links:
            self.world.network.forget(self.node_id)
        self.loop.die()

    @property
    def has_failed(self) -> bool:
        return self.machine.refused is not None or (self.runtime is not None and self.runtime.failed is not None)

    # --- watching --------------------------------------------------------------------------------------------
    def watch(self) -> None:
        """After everything that happened in this process."""
        if self.tracker is None:
            if self.node._runtime is None or not self.node._runtime.is_open:
                return
            self._attach()
        assert self.tracker is not None
        self.tracker.look()
        raft = self.core.raft
        role = (raft.term, raft.role)
        if role != self._role:
            self._role_changed(role)
        vote = (raft.term, raft.voted_for)
        if vote != self._vote:
            self._vote = vote
            if vote[1] not in (None, self.node_id):
                self.world.voted(self)
        applied = self.core.replica.machine.index
        if applied < self._applied:
            self.world.violation("applied", f"{self.node_id} went back from entry {self._applied} to {applied}")
        self._applied = applied

    def _attach(self) -> None:
        runtime = self.runtime = self.node._runtime
        assert runtime is not None
        self.core = runtime.core
        self.tracker = Tracker(self.world.promise, self.name, self.node_id, self.machine.clock, runtime.owned)
        submit = runtime.submit

        def noted(ticket: Any) -> None:
            taken, self.op_taken = self.op_taken, None
            submit(ticket)
            request = ticket.request
            if request.gives_up and ticket.seq and runtime.owned.owns(request.session_id):
                detail = f"{self.node_id} still owns {request.session_id} after it asked for a {request.kind}"
                self.world.violation("gives_up", detail)
            if taken is not None and ticket.seq:
                pending = self.core.proposals._pending.get(ticket.seq)
                taken(runtime.op_id(ticket), 0 if pending is None else pending.deadline_ms)

        runtime.submit = noted  # type: ignore[method-assign]  # the only place that knows an op's id

    def _fenced(self, session_id: str, epoch: int, reason: str) -> None:
        self.world.record(
            "observer", "info", "fenced", key=session_id, value={"epoch": epoch, "reason": reason}, node=self.node_id
        )
        if self.tracker is not None:
            self.tracker.fenced(session_id, epoch)

    def check_fences(self) -> None:
        """Whoever lost a right against its will hears of it as soon as its loop runs."""
        now = self.world.scheduler.now
        if self.tracker is None or max(self.life.paused_until, self.life.stalled_until) > now - FENCE_MAX_NS:
            return
        for (session_id, epoch), since in self.tracker.unfenced.items():
            if now - since > FENCE_MAX_NS:
                detail = f"{self.node_id} lost {session_id} (epoch {epoch}) at {since} and its embedder was not told"
                self.world.violation("fenced", detail)

    def _role_changed(self, role: tuple[int, int]) -> None:
        self._role = role
        term, number = role
        if number == LEADER:
            self.world.promise.lead(term, self.node_id)
            self.world.leads(self)
        value = {"term": term, "role": ROLE_NAMES[number]}
        self.world.record("observer", "info", "role", node=self.node_id, value=value)


class SimWatchdog:
    """The production watchdog's looks, as events of a thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        life: Life,
        *,
        clock: Any,
        stall_max_ms: int,
        last_pulse_ns: Callable[[], int],
        on_stall: Callable[[int], None],
    ) -> None:
        self._scheduler = scheduler
        self._life = life
        self._clock = clock
        self._stall_max_ns = stall_max_ms * MS
        self._last_pulse_ns = last_pulse_ns
        self._on_stall = on_stall
        self._told_for_ns = -1
        self._stopped = False

    def start(self) -> None:
        self._scheduler.at(self._scheduler.now + self._stall_max_ns // WATCHDOG_LOOKS, self._look, life=self._life)

    def stop(self) -> None:
        self._stopped = True

    def _look(self) -> None:
        if self._stopped:
            return
        pulse_ns = self._last_pulse_ns()
        stalled_ns = self._clock.now_ns() - pulse_ns
        if stalled_ns > self._stall_max_ns and pulse_ns != self._told_for_ns:
            self._told_for_ns = pulse_ns
            self._on_stall(stalled_ns // MS)
        self.start()
