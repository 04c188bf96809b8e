"""The node's heart: everything of one process on one event loop, without its sockets, threads and files.

Inputs (a peer's message, storage's "durable", a caller's op, time) set things up and ask for a step. A step reads
as a sequence: Raft step, which lets go what disk and peers can go on with and then applies what is committed; propose
or forward what waits; ask for reads; release what may leave. Tests and the simulator build this very class with their
own clock, links and storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from raftstore.codec.messages import MalformedMessage
from raftstore.config import ClusterConfig
from raftstore.errors import StorageError, Unavailable
from raftstore.node.admission import Admission
from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.courier import Courier
from raftstore.node.late import LateBindings
from raftstore.node.leader import LeaderDuties
from raftstore.node.lease import LeaseKeeper
from raftstore.node.owned import Owned
from raftstore.node.peer_messages import is_node_message
from raftstore.node.ports import CoreObserver, Links
from raftstore.node.proposals import Answer, Build, Callback, Proposals, Request
from raftstore.node.raft_timing import raft_timing
from raftstore.node.read_requests import ReadRequests, Waiter
from raftstore.node.replica import Replica, ReplicaDiverged
from raftstore.node.step_timer import StepTimer
from raftstore.ownership import Machine, SessionRecord
from raftstore.ownership.commands import configure, join, renew_lease, sweep
from raftstore.ports import Clock
from raftstore.raft import peer_messages as raft_messages
from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.outbox import Outbox
from raftstore.raft.seams import LEADER, InvariantViolation
from raftstore.raft.snapshots import SnapshotStore
from raftstore.types import Reason

TICK_NS = 100_000_000  # house-keeping at the latest: leases, sweeps, what owns() may answer
TICK_EARLY_NS = 55_000_000  # by so much it may come early, with a step that runs anyway: waking up costs most
HEADS_EVERY_NS = 1_000_000_000  # how often a leader lets its followers compare chain heads
PATIENCE_GRACE_MS = 150  # a caller waits this much beyond the deadline for the entry that decides
GROUPS_IN_FLIGHT_MAX = 4
INCARNATION_BITS = 62

FATAL = (InvariantViolation, ReplicaDiverged, StorageError)  # this node must not go on


class Core:
    """One node on one event loop. Not thread-safe, but for `owned.owns`."""

    def __init__(
        self,
        config: ClusterConfig,
        node_id: str,
        incarnation: int,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: Random,
        journal: HardenedJournal,
        machine: Machine,
        snapshots: SnapshotStore,
        links: Links,
        observer: CoreObserver,
        learner: int,
    ) -> None:
        self.config = config
        self.node_id = node_id
        self.incarnation = incarnation
        self.clock = clock
        self.journal = journal
        self.observer = observer
        self.stopped: str | None = None  # why nothing is served any more
        self.is_stopping = False
        self.why_storage_refuses: Callable[[], str | None] = lambda: None
        self.on_tick: Callable[[], None] = lambda: None  # the sticky strategy's house-keeping
        self._loop = loop
        self._links = links
        self.cluster_clock = ClusterClock(clock)
        self.cluster_clock.anchor(machine.clock_ms)
        self.owned = Owned(clock)
        self.proposals = Proposals(
            pending_ops_max=config.limits.pending_ops_max, groups_in_flight_max=GROUPS_IN_FLIGHT_MAX
        )
        self.reads = ReadRequests(incarnation)
        self.outbox = Outbox(journal, links.send)
        self.replica = Replica(
            node_id,
            incarnation,
            machine=machine,
            local_clock=clock,
            cluster_clock=self.cluster_clock,
            owned=self.owned,
            proposals=self.proposals,
            observer=observer,
            is_leading=lambda: self.raft.is_leader_ready,
            lease_terms=(config.timing.lease_ttl_ms, config.timing.max_clock_drift_ppm),
        )
        self.raft = HardenedSyncObj(
            node_id,
            (node_id,) if config.is_sticky else config.node_ids,
            clock=clock,
            rng=rng,
            journal=journal,
            transport=self.outbox,
            snapshots=snapshots,
            apply=self.replica.apply,
            timing=raft_timing(config),
            before_applying=self._send_ahead,
            cluster_ms=self.cluster_clock.witnessed_ms,
            learner=learner,
        )
        self.lease = LeaseKeeper(
            clock=clock,
            owned=self.owned,
            replica=self.replica,
            submit=self._submit_internal,
            on_fenced=observer.fenced,
            on_superseded=self._superseded,
            loop_stall_max_ms=config.timing.loop_stall_max_ms,
        )
        self.leader = LeaderDuties(
            clock=clock,
            cluster_clock=self.cluster_clock,
            raft=self.raft,
            replica=self.replica,
            take_own_group=lambda ops_max, bytes_max: self.courier.take_group(ops_max, bytes_max),
            submit=self._submit_internal,
            report=observer.report,
            wanted_params=config.machine_params(),
            batch_ops_max=config.limits.batch_ops_max,
            entry_bytes_max=config.limits.entry_bytes_max,
        )
        self.courier = Courier(
            node_id,
            incarnation,
            clock=clock,
            raft=self.raft,
            links=links,
            replica=self.replica,
            proposals=self.proposals,
            reads=self.reads,
            leader=self.leader,
            group_ops_max=config.limits.batch_ops_max,
            group_bytes_max=config.limits.entry_bytes_max // 2,
        )
        self.late = LateBindings(self.replica, self.submit)
        self._peer_hellos: dict[str, bool] = {}  # connected peers, and whether their hello said they are fresh
        self._step_asked = False
        self._timer = StepTimer(loop, clock, self._step)
        self._tick_due_ns = clock.now_ns()
        self._heads_due_ns = clock.now_ns()
        self._admission = Admission(self)
        self._takes_ops = False  # looked at once per step: nothing that refuses changes in between
        self.known_refusal: tuple[Reason, str] | None = None  # until the next step; read by any thread
        self._applied_at_tick = 0
        self.last_pulse_ns = clock.now_ns()  # read by the watchdog

    # --- inputs ----------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin. A cluster of one has nobody to wait for."""
        self._consider_bootstrap()
        self.ask_step()

    def peer_connected(self, peer_id: str, incarnation: int, fresh: bool) -> None:
        """A link to a member stands; its hello said whether that member's directory was empty."""
        self._peer_hellos[peer_id] = fresh
        self.courier.link_up(peer_id, incarnation)
        self.raft.peer_connected(peer_id)
        self._consider_bootstrap()
        self.ask_step()

    def peer_disconnected(self, peer_id: str) -> None:
        self._peer_hellos.pop(peer_id, None)
        self._takes_ops = False
        self.courier.link_down(peer_id)
        self.outbox.drop_peer(peer_id)
        self.raft.peer_disconnected(peer_id)
        self.ask_step()

    def receive(self, peer_id: str, payload: bytes) -> None:
        """One frame of a member. What is no message of ours costs it its connection."""
        if self.stopped is not None:
            return
        try:
            if is_node_message(payload):
                self.courier.receive(peer_id, payload)
            else:
                self.raft.receive(peer_id, raft_messages.decode(payload))
        except MalformedMessage as problem:
            self.observer.report("MALFORMED_MESSAGE", f"{peer_id}: {problem}")
            self._links.drop(peer_id, "MALFORMED_MESSAGE")
        except Exception as failure:
            self._fail_by(failure)
            if not isinstance(failure, FATAL):
                raise
        self.ask_step()

    def on_durable(self, job: int) -> None:
        """Storage has made everything up to this job durable."""
        self.raft.on_durable(job)
        self.outbox.on_durable(job)
        self._links.flush()
        if self.raft.can_commit():  # nobody else's commit index waits for the own disk
            self.ask_step()
            self.end_of_inputs()

    def is_fresh(self) -> bool:
        """Whether this node has never promised anything: no log, no snapshot, no term."""
        return self.journal.last_index == 0 and self.raft.term == 0

    def _consider_bootstrap(self) -> None:
        """The first start of a cluster: every member says it never promised anything, so all may vote.

        A member whose disk was lost finds others that remember a term, and stays a learner until it caught up.
        """
        sees_all = len(self._peer_hellos) == len(self.raft.peer_ids)
        if self.raft.is_learner and self.is_fresh() and sees_all and all(self._peer_hellos.values()):
            self.raft.become_voter()

    # --- the step ------------------------------------------------------------------------------------------------
    def ask_step(self) -> None:
        """Run a step soon, once, after the inputs that are being delivered now."""
        if not self._step_asked and self.stopped is None:
            self._step_asked = True
            self._loop.call_soon(self.end_of_inputs)

    def end_of_inputs(self) -> None:
        """A group of inputs has been delivered: run the step that they asked for now, not at the loop's next turn."""
        if self._step_asked:
            self._step()

    def _step(self) -> None:
        self._step_asked = False
        self._takes_ops = False
        self.known_refusal = None
        if self.stopped is not None:
            return
        try:
            self._run_step()
        except Exception as problem:  # after a bug nothing here can be trusted: it fails closed
            self._fail_by(problem)
            if not isinstance(problem, FATAL):
                raise  # so that it is logged with all that led to it

    def _run_step(self) -> None:
        now = self.clock.now_ns()
        if now >= self._tick_due_ns - TICK_EARLY_NS:
            self._tick(now)
        if self.raft.role == LEADER:
            self.leader.propose()
        self.raft.step()
        self.reads.applied(self.raft.last_applied)
        self.courier.follow_leader(now)
        if self.raft.role == LEADER:
            if self.leader.propose():
                self.raft.step()
        else:
            self.leader.propose()
            self.courier.forward()
        self.courier.ask_reads()
        self._send_out()
        self._lose_patience(now)
        self._set_timer()

    def _send_out(self) -> None:
        self.outbox.release()
        self._links.flush()

    def _send_ahead(self) -> None:
        """Entries are about to be applied here, which takes a while: disk and peers go on meanwhile."""
        if self.outbox.has_work:
            self.raft.suspend_read_lease()
            self._send_out()

    def _set_timer(self) -> None:
        due = min(self.raft.next_deadline_ns(), self._tick_due_ns)
        patience = self.proposals.next_patience_ns()
        if patience is not None:
            due = min(due, patience)
        if self.courier.resend_at_ns is not None:
            due = min(due, self.courier.resend_at_ns)
        self._timer.set(due)

    def _tick(self, now: int) -> None:
        lapse = self.owned.lease_until_ns  # bindings are fenced then, and not a tick later
        self._tick_due_ns = min(now + TICK_NS, lapse) if lapse > now else now + TICK_NS
        self.last_pulse_ns = now
        raft = self.raft
        stuck = raft.last_applied == self._applied_at_tick and raft.commit_index > raft.last_applied
        self._applied_at_tick = raft.last_applied
        self.lease.tick(has_quorum=raft.has_quorum, keeps_up=not stuck)
        self.leader.tick()
        if raft.has_quorum and self.lease.is_held:
            self.late.tick()
        for pending in self.proposals.decide_unknown(self.replica.machine.clock_ms):
            self.replica.finish(pending, Answer(True, Reason.REQUEST_EXPIRED), now, waits=False)
        if raft.role == LEADER and now >= self._heads_due_ns:
            self._heads_due_ns = now + HEADS_EVERY_NS
            self.courier.send_heads()
        self.on_tick()

    def _lose_patience(self, now: int) -> None:
        for pending, answer in self.proposals.out_of_patience(now, self.replica.machine.clock_ms):
            self.replica.finish(pending, answer, now)

    # --- callers -------------------------------------------------------------------------------------------------
    def why_refused(self) -> Unavailable | None:
        """Why this node takes no op right now: a refusal before any proposal, so it never has an effect."""
        return self._admission.why_refused()

    def why_not_taken(self) -> Unavailable | None:
        """The same for one op, asked often: None when it would be proposed."""
        if self._takes_ops and not self.proposals.is_full:
            return None
        refusal = self.why_refused()
        self._takes_ops = refusal is None
        if (
            refusal is not None and refusal.reason is Reason.NO_QUORUM
        ):  # nothing but a message ends it: then a step runs
            self.known_refusal = (refusal.reason, refusal.detail)
        return refusal

    def submit(self, request: Request, callback: Callback | None) -> int:
        """Propose an op; `callback` is called once. Its number.

        Of callers only what `why_not_taken` lets pass. The node's own procedures go on while callers are refused.
        """
        timeout = self.config.timing.op_timeout_ms if request.timeout_ms is None else request.timeout_ms
        now = self.clock.now_ns()
        if request.gives_up and request.session_id is not None:
            self.owned.begin_giving_up(request.session_id)
        pending = self.proposals.submit(
            request,
            callback,
            deadline_ms=self.cluster_clock.at_ms(now) + timeout,
            patience_ns=now + (timeout + PATIENCE_GRACE_MS) * 1_000_000,
            begun_ns=now,
        )
        self.ask_step()
        return pending.seq

    def _submit_internal(self, kind: str, callback: Callback) -> None:
        """An op of the node itself: beside the callers' bound, since one of each kind is under way at most."""
        builders: dict[str, Build] = {
            "join": lambda seq, deadline_ms: join(seq, deadline_ms),
            "renew_lease": lambda seq, deadline_ms: renew_lease(seq, deadline_ms),
            "configure": lambda seq, deadline_ms: configure(seq, deadline_ms, self.config.machine_params()),
            "sweep": lambda seq, deadline_ms: sweep(seq, deadline_ms, self.leader.sweep),
        }
        self.submit(Request(kind, None, builders[kind]), callback)

    def may_read_now(self) -> bool:
        """Whether reading this replica is linearizable at this instant, without asking anybody. Any thread."""
        return self.stopped is None and self.raft.holds_read_lease()

    def read(self, waiter: Waiter) -> None:
        """Call `waiter(True)` once reading this replica is linearizable, or `waiter(False)`. Unavailable at once."""
        refusal = self._admission.why_unread()
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # else its traceback led back to it, work for the garbage collector
        self.reads.add(waiter)
        self.ask_step()

    def detach_late(self, record: SessionRecord) -> None:
        """A binding whose caller was never told is not kept (design: what a caller can learn)."""
        self.late.add(record)

    # --- the end -------------------------------------------------------------------------------------------------
    def _superseded(self) -> None:
        self.fail("NODE_FENCED", f"another process has joined as {self.node_id}: only one may run under this id")

    def _fail_by(self, problem: Exception) -> None:
        kinds = {ReplicaDiverged: "STATE_DIVERGENCE", InvariantViolation: "INVARIANT_VIOLATION"}
        other = "STORAGE_FAILED" if isinstance(problem, StorageError) else "INTERNAL_ERROR"
        self.fail(kinds.get(type(problem), other), str(problem) or repr(problem))

    def fail(self, reason: str, detail: str) -> None:
        """Stop serving for good: own nothing, promise nothing, answer nobody."""
        if self.stopped is not None:
            return
        self.observer.fenced(self.owned.fence(), reason)
        self.close(f"{reason}: {detail}")
        self.observer.failed_for_good(reason, detail)

    def stop_taking(self) -> None:
        """From here on callers' ops are refused: the node is about to leave."""
        self.is_stopping = True
        self._takes_ops = False
        self.known_refusal = None

    def close(self, why: str) -> None:
        """No step runs any more; callers that wait get the answer that is certain."""
        self._takes_ops = False
        self.known_refusal = None
        self.owned.fence()
        self.stopped = why
        self._timer.cancel()
        self.reads.fail_all()
        for pending in self.proposals.abandon():
            if pending.callback is not None:
                sent = pending.proposed
                answer = Answer(not sent, Reason.DEADLINE_PASSED if sent else Reason.NODE_STOPPING, detail=why)
                pending.callback(answer)
