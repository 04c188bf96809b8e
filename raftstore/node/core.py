"""The node's heart: everything of one process on one event loop, without its sockets, threads and files.

Inputs (a peer's message, storage's "durable", a caller's op, time) set things up and ask for a step. A step reads
as a sequence: Raft step, which applies what is committed; propose or forward what waits; ask for reads; release what
may leave. Tests and the simulator build this very class with their own clock, links and storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from raftstore.codec.messages import MalformedMessage
from raftstore.config import ClusterConfig
from raftstore.errors import StorageError, Unavailable
from raftstore.node import peer_messages as node_messages
from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.late import LateBindings
from raftstore.node.leader import LeaderDuties
from raftstore.node.lease import LeaseKeeper
from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer, Callback, Pending, Proposals
from raftstore.node.read_requests import ReadRequests, Waiter
from raftstore.node.replica import Observer, Replica, ReplicaDiverged
from raftstore.ownership import Machine, SessionRecord, pack_group
from raftstore.ownership.commands import configure, join, renew_lease, sweep
from raftstore.ports import Clock
from raftstore.raft import peer_messages as raft_messages
from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.outbox import Outbox
from raftstore.raft.seams import LEADER, InvariantViolation, RaftTiming
from raftstore.raft.snapshots import SnapshotStore
from raftstore.types import Reason

TICK_NS = 100_000_000  # house-keeping: leases, sweeps, what owns() may answer
HEADS_EVERY_TICKS = 10  # how often a leader lets its followers compare chain heads
RESEND_AFTER_NS = 25_000_000  # after a leader refused a forwarded group
PATIENCE_GRACE_MS = 150  # a caller waits this much beyond the deadline for the entry that decides
GROUPS_IN_FLIGHT_MAX = 4
INCARNATION_BITS = 62

FATAL = (InvariantViolation, ReplicaDiverged, StorageError)  # this node must not go on

Build = Callable[[int, int], bytes]  # (seq, deadline_ms) -> packed op


class Links(Protocol):
    """The peer links as the core uses them; calls never block and never raise."""

    def send(self, peer_id: str, payload: bytes) -> bool: ...

    def flush(self) -> None:
        """Write what was sent, now."""

    def drop(self, peer_id: str, reason: str) -> None:
        """Close the connection to that peer: what it sent is no message of ours."""


class CoreObserver(Observer, Protocol):
    """The rest of the node, as told by the core."""

    def report(self, kind: str, detail: str) -> None:
        """A security event, or anything else an operator should know."""

    def failed_for_good(self, reason: str, detail: str) -> None:
        """The node stopped serving for good; the process should end and say why."""


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
        self._loop = loop
        self._links = links
        self.cluster_clock = ClusterClock(clock)
        self.cluster_clock.anchor(machine.clock_ms)
        self.owned = Owned(clock)
        self.proposals = Proposals(
            pending_ops_max=config.limits.pending_ops_max, groups_in_flight_max=GROUPS_IN_FLIGHT_MAX
        )
        self.reads = ReadRequests()
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
        )
        self.raft = HardenedSyncObj(
            node_id,
            config.node_ids,
            clock=clock,
            rng=rng,
            journal=journal,
            transport=self.outbox,
            snapshots=snapshots,
            apply=self._apply,
            timing=_raft_timing(config),
            is_anchored=lambda: self.cluster_clock.is_anchored,
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
            take_own_group=self._take_group,
            submit=self._submit_internal,
            report=observer.report,
            wanted_params=config.machine_params(),
            batch_ops_max=config.limits.batch_ops_max,
            entry_bytes_max=config.limits.entry_bytes_max,
        )
        self.late = LateBindings(
            self.replica, lambda sid, build, callback: self._submit("detach", sid, build, callback, gives_up=True)
        )
        self._peer_hellos: dict[str, bool] = {}  # connected peers, and whether their hello said they are fresh
        self._peer_incarnations: dict[str, int] = {}
        self._link_generation = 0
        self._peer_links: dict[str, int] = {}  # the generation in which each peer's link was made
        self._asked_of: tuple[str | None, int, int] | None = None  # leader, term and links when ops were last sent
        self._resend_at_ns: int | None = None
        self._step_asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._tick_due_ns = clock.now_ns()
        self._ticks = 0
        self._configured = False
        self._takes_ops = False  # looked at once per step: nothing that refuses changes in between
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
        self._peer_incarnations[peer_id] = incarnation
        self._link_generation += 1
        self._peer_links[peer_id] = self._link_generation
        self.raft.peer_connected(peer_id)
        self._consider_bootstrap()
        self.ask_step()

    def peer_disconnected(self, peer_id: str) -> None:
        self._peer_hellos.pop(peer_id, None)
        self._peer_incarnations.pop(peer_id, None)
        self._peer_links.pop(peer_id, None)
        self._takes_ops = False
        self._link_generation += 1
        self.outbox.drop_peer(peer_id)
        self.raft.peer_disconnected(peer_id)
        self.ask_step()

    def receive(self, peer_id: str, payload: bytes) -> None:
        """One frame of a member. What is no message of ours costs it its connection."""
        if self.stopped is not None:
            return
        try:
            if node_messages.is_node_message(payload):
                self._on_node_message(peer_id, node_messages.PROTOCOL.decode(payload))
            else:
                self.raft.receive(peer_id, raft_messages.decode(payload))
        except MalformedMessage as problem:
            self.observer.report("MALFORMED_MESSAGE", f"{peer_id}: {problem}")
            self._links.drop(peer_id, "MALFORMED_MESSAGE")
        except Exception as problem:
            self._fail_by(problem)
            if not isinstance(problem, FATAL):
                raise
        self.ask_step()

    def on_durable(self, job: int) -> None:
        """Storage has made everything up to this job durable."""
        self.raft.on_durable(job)
        self.outbox.on_durable(job)
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
        if now >= self._tick_due_ns:
            self._tick(now)
        self.raft.step()
        self.reads.applied(self.raft.last_applied)
        self._follow_leader(now)
        if self.raft.role == LEADER:
            if self.leader.propose():
                self.raft.step()
        else:
            self.leader.propose()
            self._forward()
        self._ask_reads()
        self.outbox.release()
        self._links.flush()
        self._lose_patience(now)
        self._set_timer()

    def _set_timer(self) -> None:
        due = min(self.raft.next_deadline_ns(), self._tick_due_ns)
        patience = self.proposals.next_patience_ns()
        if patience is not None:
            due = min(due, patience)
        if self._resend_at_ns is not None:
            due = min(due, self._resend_at_ns)
        if self._timer is not None:
            if self._timer_ns <= due and not self._timer.cancelled():
                return  # it fires early enough, and sets itself again
            self._timer.cancel()
        self._timer_ns = due
        delay_s = max(0, due - self.clock.now_ns()) / 1e9
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._step()

    def _tick(self, now: int) -> None:
        self._tick_due_ns = now + TICK_NS
        self._ticks += 1
        self.last_pulse_ns = now
        raft = self.raft
        stuck = raft.last_applied == self._applied_at_tick and raft.commit_index > raft.last_applied
        self._applied_at_tick = raft.last_applied
        self.lease.tick(has_quorum=raft.has_quorum, keeps_up=not stuck)
        self.leader.tick()
        if raft.has_quorum and self.lease.is_held:
            self.late.tick()
        for pending in self.proposals.decide_unknown(self.replica.machine.clock_ms):
            self.replica.finish(pending, Answer(True, Reason.REQUEST_EXPIRED), waits=False)
        if raft.role == LEADER and self._ticks % HEADS_EVERY_TICKS == 0:
            machine = self.replica.machine
            message = {"type": "chain_head", "index": machine.index, "head": machine.head}
            for peer in raft.peer_ids:
                self._links.send(peer, node_messages.encode(message))

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self.replica.apply(index, term, payload)

    # --- ops on their way ----------------------------------------------------------------------------------------
    def _follow_leader(self, now: int) -> None:
        """Whatever was asked of a leader or over a link that is gone is asked again of the next."""
        leader = (self.raft.leader_id, self.raft.term, self._link_generation)
        refused = self._resend_at_ns is not None and now >= self._resend_at_ns
        if leader != self._asked_of:
            self._asked_of = leader
            self.reads.leader_changed()
        elif not refused:
            return
        self._resend_at_ns = None
        self.proposals.send_again()

    def _take_group(self, ops_max: int, bytes_max: int) -> tuple[bytes, int]:
        ops = self.proposals.take(ops_max, bytes_max)
        if not ops:
            return b"", 0
        return pack_group(self.node_id, self.incarnation, self.proposals.low_seq, ops), len(ops)

    def _forward(self) -> None:
        leader = self.raft.leader_id
        if leader is None or leader == self.node_id or self._resend_at_ns is not None:
            return
        while True:
            group, _ = self._take_group(self.config.limits.batch_ops_max, self.config.limits.entry_bytes_max // 2)
            if not group:
                return
            self._links.send(leader, node_messages.encode({"type": "forward", "group": group}))

    def _ask_reads(self) -> None:
        if not self.reads.waits_to_ask:
            return
        leader = self.raft.leader_id
        if leader is None:
            self.reads.fail_fresh()
        elif leader != self.node_id:
            number = self.reads.ask()
            self._links.send(leader, node_messages.encode({"type": "read_request", "number": number}))
        elif self.raft.is_leader_ready:
            number = self.reads.ask()
            if self.raft.read_index(lambda index: self._read_confirmed(number, index)):
                self.raft.step()
            else:
                self.reads.answered(number, None, 0)

    def _read_confirmed(self, number: int, index: int | None) -> None:
        self.reads.answered(number, index, self.raft.last_applied)

    def _lose_patience(self, now: int) -> None:
        for pending, answer in self.proposals.out_of_patience(now, self.replica.machine.clock_ms):
            self.replica.finish(pending, answer)

    # --- messages of other nodes -------------------------------------------------------------------------------
    def _on_node_message(self, peer_id: str, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "forward":
            taken = self.leader.accept_forwarded(
                message["group"], peer_id, self._peer_incarnations.get(peer_id, -1)
            )
            if not taken:
                self._links.send(peer_id, node_messages.encode({"type": "forward_refused"}))
        elif kind == "forward_refused":
            if peer_id == self.raft.leader_id:
                self._resend_at_ns = self.clock.now_ns() + RESEND_AFTER_NS
        elif kind == "read_request":
            self._on_read_request(peer_id, message["number"])
        elif kind == "read_response":
            index = message["index"] if message["ok"] else None
            self.reads.answered(message["number"], index, self.raft.last_applied)
        elif kind == "chain_head" and peer_id == self.raft.leader_id:
            self.replica.compare_head(message["index"], message["head"])

    def _on_read_request(self, peer_id: str, number: int) -> None:
        link = self._peer_links.get(peer_id)

        def answer(index: int | None) -> None:
            if link == self._peer_links.get(peer_id):  # else its process may be another, with numbers of its own
                reply = {"type": "read_response", "number": number, "ok": int(index is not None), "index": index or 0}
                self._links.send(peer_id, node_messages.encode(reply))

        if not self.raft.read_index(answer):
            answer(None)

    # --- callers -------------------------------------------------------------------------------------------------
    def why_refused(self) -> Unavailable | None:
        """Why this node takes no op right now: a refusal before any proposal, so it never has an effect."""
        if self.stopped is not None:
            return Unavailable(Reason.NODE_STOPPING, f"{self.node_id} has stopped: {self.stopped}")
        if self.is_stopping:
            return Unavailable(Reason.NODE_STOPPING, f"{self.node_id} is stopping")
        if not self.raft.has_quorum:
            return Unavailable(Reason.NO_QUORUM, self._quorum_detail())
        if not self._is_configured():
            return Unavailable(Reason.LEASE_LOST, f"{self.node_id}: the cluster's parameters are not committed yet")
        if not self.lease.is_held:
            return Unavailable(Reason.LEASE_LOST, f"{self.node_id} has not (re)gained its lease yet")
        storage = self.why_storage_refuses()
        if storage is not None:
            return Unavailable(Reason.OVERLOADED, f"{self.node_id}: {storage}")
        if self.proposals.is_full:
            waiting = len(self.proposals)
            return Unavailable(Reason.OVERLOADED, f"{self.node_id}: {waiting} ops wait (limits.pending_ops_max)")
        return None

    def _is_configured(self) -> bool:
        """Whether the machine works by our configuration: no session may be made under other parameters."""
        if not self._configured:
            self._configured = not self.leader.differs(self.replica.machine.params)
        return self._configured

    def _quorum_detail(self) -> str:
        missing = [p for p in self.raft.peer_ids if not self.raft.is_connected(p)]
        if missing:
            return f"{self.node_id} knows no leader; not connected to {', '.join(missing)}"
        return f"{self.node_id} knows no leader; an election may be under way"

    def submit(
        self,
        kind: str,
        session_id: str | None,
        build: Build,
        callback: Callback,
        *,
        timeout_ms: int | None = None,
        binds: bool = False,
        gives_up: bool = False,
    ) -> int:
        """Propose an op; `callback` is called once. Its number. Unavailable when it is refused before that."""
        if not self._takes_ops or self.proposals.is_full:
            refusal = self.why_refused()
            if refusal is not None:
                raise refusal
            self._takes_ops = True
        return self._submit(kind, session_id, build, callback, timeout_ms, binds, gives_up).seq

    def _submit(
        self,
        kind: str,
        session_id: str | None,
        build: Build,
        callback: Callback | None,
        timeout_ms: int | None = None,
        binds: bool = False,
        gives_up: bool = False,
    ) -> Pending:
        timeout = self.config.timing.op_timeout_ms if timeout_ms is None else timeout_ms
        now = self.clock.now_ns()
        if gives_up and session_id is not None:
            self.owned.begin_giving_up(session_id)
        pending = self.proposals.submit(
            build,
            kind=kind,
            session_id=session_id,
            deadline_ms=self.cluster_clock.now_ms() + timeout,
            patience_ns=now + (timeout + PATIENCE_GRACE_MS) * 1_000_000,
            begun_ns=now,
            callback=callback,
            binds=binds,
            gives_up=gives_up,
        )
        self.ask_step()
        return pending

    def submit_own(self, kind: str, build: Build, callback: Callback | None, timeout_ms: int | None) -> int:
        """An op of the node's own procedures, while it refuses those of callers."""
        return self._submit(kind, None, build, callback, timeout_ms).seq

    def _submit_internal(self, kind: str, callback: Callback) -> None:
        """An op of the node itself: beside the callers' bound, since one of each kind is under way at most."""
        builders: dict[str, Build] = {
            "join": lambda seq, deadline_ms: join(seq, deadline_ms),
            "renew_lease": lambda seq, deadline_ms: renew_lease(seq, deadline_ms),
            "configure": lambda seq, deadline_ms: configure(seq, deadline_ms, self.config.machine_params()),
            "sweep": lambda seq, deadline_ms: sweep(seq, deadline_ms, self.leader.sweep),
        }
        self._submit(kind, None, builders[kind], callback)

    def read(self, waiter: Waiter) -> None:
        """Call `waiter(True)` once reading this replica is linearizable, or `waiter(False)`. Unavailable at once."""
        if self.stopped is not None:
            raise Unavailable(Reason.NODE_STOPPING, f"{self.node_id} has stopped: {self.stopped}")
        if not self.raft.has_quorum:
            raise Unavailable(Reason.NO_QUORUM, self._quorum_detail())
        if self.reads.is_full:
            raise Unavailable(Reason.OVERLOADED, f"{self.node_id}: too many reads wait")
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

    def close(self, why: str) -> None:
        """No step runs any more; callers that wait get the answer that is certain."""
        self._takes_ops = False
        self.owned.fence()
        self.stopped = why
        if self._timer is not None:
            self._timer.cancel()
        self.reads.fail_all()
        for pending in self.proposals.abandon():
            if pending.callback is not None:
                sent = pending.proposed
                answer = Answer(not sent, Reason.DEADLINE_PASSED if sent else Reason.NODE_STOPPING, detail=why)
                pending.callback(answer)


def _raft_timing(config: ClusterConfig) -> RaftTiming:
    timing = config.timing
    return RaftTiming(
        election_timeout_min_ns=timing.election_timeout_min_ms * 1_000_000,
        election_timeout_max_ns=timing.election_timeout_max_ms * 1_000_000,
        heartbeat_interval_ns=timing.heartbeat_interval_ms * 1_000_000,
        append_bytes_max=min(config.limits.entry_bytes_max, config.limits.frame_bytes_max // 2),
        inflight_appends_max=config.limits.inflight_entries_max,
    )


def peers_of(config: ClusterConfig, node_id: str) -> Sequence[str]:
    """The other members, in the order of the configuration."""
    return [n for n in config.node_ids if n != node_id]
