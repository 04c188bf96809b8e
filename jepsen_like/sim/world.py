"""One run: the machines, what befalls them, what callers ask, the history of it all, and what must hold meanwhile.

The world decides nothing: the plan does. It lets time pass, keeps the record, watches bounds, restarts what failed as a
supervisor would, and at the end heals everything and waits for the cluster to serve again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from jepsen_like.sim.faults import Faults
from jepsen_like.sim.load import Load, as_told
from jepsen_like.sim.network import Network
from jepsen_like.sim.plan import Plan
from jepsen_like.sim.process import Machine, Process
from jepsen_like.sim.scheduler import MS, Scheduler, Spinning
from jepsen_like.sim.watch import Promise
from raftstore.errors import CorruptionError, RaftstoreError
from raftstore.ownership import to_session
from raftstore.raft.seams import LEADER
from raftstore.types import OpId, Session, SessionState

HOUSE_NS = 250 * MS  # between two looks of the supervisor
VIOLATIONS_MAX = 20
CHANGE_EVERY_NS = 6_000 * MS
RESTART_MAX_MS = 2_000
HAND_OVER_MS = 9_000  # an op may take so long while its leader dies and nothing else does
EXPECTED_FAILURES = ("STORAGE_FAILED",)  # what a broken disk may do to a node


class World:
    """See above. Use once: `run`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config = plan.config()
        self.keep_entries = plan.keep_entries
        self.scheduler = Scheduler()
        self.history: list[dict[str, Any]] = []
        self.violations: list[tuple[str, str]] = []
        self.is_ending = self.is_over = False
        self.rng = Random(f"world:{plan.seed}")
        self.network = Network(self.scheduler, Random(f"net:{plan.seed}"), self.config.node_ids)
        self.network.usual_ns = (plan.latency_us * 1_000, plan.jitter_us * 1_000)
        self.network.at_usual_speed()
        self.network.superseded_deliver = plan.superseded_deliver
        self.promise = Promise(self.scheduler, self.record, self.violation)
        self.promise.one_log = not plan.is_sticky
        self.machines = {
            node_id: Machine(self, node_id, str(plan.seed), self._first_drift()) for node_id in self.config.node_ids
        }
        self.machine_list = list(self.machines.values())
        for machine in self.machine_list:
            machine.disk.usual_ns = (100_000, plan.sync_max_ms * MS)
            machine.disk.at_usual_speed()
        self.load = Load(self)
        self.faults = Faults(self)
        self._restarting: dict[str, None] = {}
        self._reaches: dict[str, bool] = {}
        self._deaf: dict[str, bool] = {}
        self._next_change = 0  # of the mapping, while the cluster settles

    def _first_drift(self) -> int:
        """A clock is often as wrong as it may be: that is where leases meet."""
        bound = self.plan.drift_ppm
        return self.rng.choice((-bound, bound, self.rng.randint(-bound, bound)))

    # --- the record ------------------------------------------------------------------------------------------
    def record(
        self,
        process: Any,
        kind: str,
        f: str,
        *,
        key: str | None = None,
        value: Any = None,
        node: Any = None,
        **more: Any,
    ) -> dict[str, Any]:
        event = {
            "index": len(self.history),
            "time": self.scheduler.now,
            "type": kind,
            "process": process,
            "f": f,
            "key": key,
            "value": value,
            "node": node,
            **more,
        }
        self.history.append(event)
        return event

    def violation(self, kind: str, detail: str) -> None:
        """Something that must never be was seen."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append((kind, detail))
            self.record("world", "info", "violation", value={"kind": kind, "detail": detail})

    def digest(self) -> str:
        """Two runs of one seed have the same."""
        digest = hashlib.sha256()
        for event in self.history:
            digest.update(json.dumps(event, sort_keys=True).encode())
        return digest.hexdigest()

    # --- views -----------------------------------------------------------------------------------------------
    def serving(self) -> list[Process]:
        """Processes that can be asked: those that run, whatever they will say."""
        now = self.scheduler.now
        found = []
        for machine in self.machine_list:
            process = machine.process
            if process is None or process.core is None or process.is_stopping:
                continue
            if process.life.paused_until <= now and process.life.stalled_until <= now:
                found.append(process)
        return found

    def running(self, node_id: str) -> Process | None:
        return next((process for process in self.serving() if process.node_id == node_id), None)

    def leader(self) -> Process | None:
        """The leader of the highest term, if one runs."""
        leading = [p for m in self.machine_list if (p := m.process) is not None and p.core is not None]
        leading = [process for process in leading if process.core.raft.role == LEADER]
        return max(leading, key=lambda process: process.core.raft.term) if leading else None

    def note_reach(self) -> None:
        """Who can reach a majority, or somebody who can: what the network allows, whatever the nodes believe."""
        nodes = self.config.node_ids
        if self.plan.is_sticky:
            return  # nobody needs a majority there
        near = {one: {one} | {other for other in nodes if self._hear_each_other(one, other)} for one in nodes}
        central = [one for one in nodes if len(near[one]) > len(nodes) // 2]
        for one in nodes:
            reaches = any(other in near[one] for other in central)
            if self._reaches.get(one, True) != reaches:
                self._reaches[one] = reaches
                self.record("observer", "info", "quorum", node=one, value=reaches)
            deaf = len(nodes) > 1 and all(self.network.is_blocked(other, one) for other in nodes if other != one)
            if self._deaf.get(one, False) != deaf:
                self._deaf[one] = deaf
                self.record("observer", "info", "deaf", node=one, value=deaf)

    def cut_off(self) -> list[str]:
        """Nodes that can reach no majority."""
        return [node_id for node_id, reaches in self._reaches.items() if not reaches]

    def _hear_each_other(self, one: str, other: str) -> bool:
        now = self.scheduler.now
        for node_id in (one, other):
            process = self.machines[node_id].process
            if process is None or max(process.life.paused_until, process.life.stalled_until) > now:
                return False
        blocked = self.network.is_blocked
        return not blocked(one, other) and not blocked(other, one)

    def may_damage(self, target: Machine) -> bool:
        """Whether that disk may be lost: everybody else still knows what it promised."""
        if self.plan.is_sticky or len(self.machine_list) < 3 or not target.is_up:
            return False
        return not any(machine.is_damaged or machine.forgets for machine in self.machine_list)

    # --- what faults do --------------------------------------------------------------------------------------
    def later(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> None:
        self.scheduler.at(self.scheduler.now + delay_ns, callback, *args)

    def start(self, machine: Machine) -> None:
        if not machine.is_up:
            self._restarting.pop(machine.node_id, None)
            machine.start()
            self.note_reach()
            assert machine.process is not None
            self.load.plan_packet(machine.process)

    def kill(self, machine: Machine) -> None:
        machine.kill()
        self.note_reach()

    def set_drift(self, machine: Machine, drift_ppm: int) -> None:
        machine.clock.drift(drift_ppm)
        if machine.process is not None:
            machine.process.loop.rate = machine.clock.rate
            if machine.process.tracker is not None:
                machine.process.tracker.rate_changed()

    def stop_gracefully(self, machine: Machine, *, drain: bool) -> None:
        """Stop the process as an operator would, and start the next one when it is gone."""
        process = machine.process
        if process is None or process.core is None or process.is_stopping:
            return
        process.is_stopping = True
        if drain:
            value = {"kind": "drain", "detail": "before a stop", "nodes": [machine.node_id], "effective": True}
            self.record("nemesis", "info", "fault", value=value)

        async def stop() -> None:
            await process.stop(drain)
            self.later(0, self._stopped, machine, process)

        process.loop.run(process.loop.create_task, stop())

    def _stopped(self, machine: Machine, process: Process) -> None:
        if machine.process is process:
            self.kill(machine)
            self.later(self.rng.randint(1, RESTART_MAX_MS) * MS, self.start, machine)

    def steer(self, process: Process, work: Callable[[], Awaitable[Any]]) -> None:
        """Something that an operator asks for; its refusal is no news."""

        async def asked() -> None:
            try:
                await work()
            except RaftstoreError as problem:
                self.record("nemesis", "info", "refused", node=process.node_id, value={"why": type(problem).__name__})

        process.loop.run(process.loop.create_task, asked())

    # --- what nodes tell -------------------------------------------------------------------------------------
    def assigned(self, process: Process, session: Session) -> None:
        self.load.assigned(process, session)

    def late_commit(self, process: Process, op_id: OpId, session: Session) -> bool:
        confirmed = process.rng.random() < self.plan.confirm_late
        if confirmed:
            value = {"epoch": session.epoch, "state_version": session.state_version, "op_id": str(op_id)}
            self.record("observer", "ok", "confirmed", key=session.session_id, value=value, node=process.node_id)
        return confirmed

    def leads(self, process: Process) -> None:
        """A process has become leader."""
        if not self.plan.is_sticky:
            self.faults.leads(process)
            self.load.siege.rivalry(process, process.rng)

    def voted(self, process: Process) -> None:
        """A process has voted for another."""
        self.faults.voted(process)

    # --- the supervisor --------------------------------------------------------------------------------------
    def _keep_house(self) -> None:
        for machine in self.machine_list:
            process = machine.process
            if process is not None and process.has_failed and machine.node_id not in self._restarting:
                self._judge_failure(machine, process)
                self._restarting[machine.node_id] = None
                self.later(self.rng.randint(100, RESTART_MAX_MS) * MS, self._replace, machine, process)
            if process is not None and process.core is not None:
                if not process.core.raft.is_learner and process.core.replica.is_joined:
                    machine.forgets = False  # what it knows now it has from the others
                self._check_bounds(process)
                process.check_fences()
        self._check_counted()
        if not self.is_over:
            self.later(HOUSE_NS, self._keep_house)

    def _judge_failure(self, machine: Machine, process: Process) -> None:
        failed = None if process.runtime is None else process.runtime.failed
        if failed is not None and (failed[0] not in EXPECTED_FAILURES or not machine.disk.failures):
            self.violation("node_failed", f"{machine.node_id}: {failed[0]}: {failed[1]}")
        elif machine.refused is not None and not (machine.is_damaged or machine.disk.failures):
            self.violation("cannot_start", f"{machine.node_id}: {machine.refused}")

    def _replace(self, machine: Machine, process: Process) -> None:
        self._restarting.pop(machine.node_id, None)
        if machine.process is not process:
            return
        self.kill(machine)
        if isinstance(machine.refused, CorruptionError) and machine.is_damaged:
            machine.wipe()  # as the message says: a new disk, and the others bring everything back
        self.start(machine)

    def _check_counted(self) -> None:
        """What a leader counts on a follower for, that follower's process has in its log."""
        leader = None if self.plan.is_sticky else self.leader()
        if leader is None:
            return
        for peer, held in leader.core.raft._progress.items():
            process = self.machines[peer].process
            if process is None or process.core is None or not held.votes or not held.match:
                continue
            if leader.core.courier._peers.get(peer, (-1, 0))[0] != process.core.incarnation:
                continue  # that process has not been heard of yet
            theirs, ours = process.core.journal.term_at(held.match), leader.core.journal.term_at(held.match)
            if held.match > process.core.journal.last_index or (None not in (theirs, ours) and theirs != ours):
                detail = f"{leader.node_id} counts entry {held.match} of term {ours} at {peer}, which has {theirs}"
                self.violation("counted", detail)

    def _check_bounds(self, process: Process) -> None:
        core, limits = process.core, self.config.limits
        queues = (
            ("pending ops", len(core.proposals), limits.pending_ops_max + 8),
            ("forwarded groups", len(core.leader._forwarded), 64),
            ("held messages", len(core.outbox._held), 65_536),
            ("storage backlog", process.runtime.persistence._worker.backlog_bytes, 128 << 20),
        )
        for name, length, most in queues:
            if length > most:
                self.violation("bounds", f"{process.node_id}: {length} {name}, at most {most}")

    # --- the run ---------------------------------------------------------------------------------------------
    def run(self) -> None:
        """From the first start to the last check. Violations stand in `violations`."""
        logger = logging.getLogger("raftstore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)  # what nodes say in a world of faults would fill the screen
        try:
            self._run()
        except Spinning as problem:
            self.violation("spins", str(problem))
            self.is_over = True
            self._let_go()
        finally:
            logger.setLevel(level)

    def _run(self) -> None:
        plan, scheduler = self.plan, self.scheduler
        for machine in self.machine_list:
            self.later(self.rng.randint(0, 300) * MS, self.start, machine)
        self.later(HOUSE_NS, self._keep_house)
        for op in plan.ops:
            scheduler.at(op.at_ms * MS, self.load.act, op.salt)
        for fault in plan.faults:
            scheduler.at(fault.at_ms * MS, self.faults.begin, fault.kind, fault.salt)
        scheduler.run_until(plan.time_limit_ms * MS, lambda: bool(self.violations))
        if not self.violations:
            self._end_in_peace()
        self.is_over = True
        self._let_go()

    def _end_in_peace(self) -> None:
        """Faults stop: within a bound the cluster elects, serves and converges."""
        self.is_ending = True
        self.record("nemesis", "info", "heal", value={"kind": "all", "detail": "", "nodes": [], "effective": True})
        self.faults.heal()
        self.network.heal()
        self.note_reach()
        for machine in self.machine_list:
            machine.disk.heal()
            self.start(machine)
        bound_ns = self._recovery_bound_ms() * MS
        if not self.scheduler.run_until(
            self.scheduler.now + bound_ns, lambda: bool(self.violations) or self._is_ready()
        ):
            self.violation("liveness", f"not ready {bound_ns // MS} ms after the last fault: {self._why_not()}")
            return
        if not self.violations:
            self._converge()

    def _converge(self) -> None:
        """Callers have their answers, every replica has applied the same, and a last op goes through everywhere."""
        answers: dict[str, None] = {}
        asked: dict[str, None] = {}
        bound_ns = (self.plan.timing["op_timeout_ms"] * 3 + 5_000) * MS
        expected = len(self.machine_list)

        def done() -> bool:
            for process in self.serving():
                if process.name not in asked and not self.violations:
                    asked[process.name] = None
                    self._probe(process, answers)
            return bool(self.violations) or (len(answers) >= expected and self._is_ready() and self._is_equal())

        if not self.scheduler.run_until(self.scheduler.now + bound_ns, done):
            self.violation(
                "liveness", f"not equal {bound_ns // MS} ms later: answers from {list(answers)} {self._why_not()}"
            )
        elif not self.violations and self._hand_over():
            self._finals()

    def _hand_over(self) -> bool:
        """One more leader dies, with ops on their way to it: every one of them is decided by the next."""
        leader = self.leader()
        if self.plan.is_sticky or leader is None or len(self.machine_list) == 1:
            return True
        told: dict[str, str] = {}
        asking = [process for process in self.serving() if process is not leader]
        for process in asking:
            process.loop.run(process.loop.create_task, self._ask_across(process, told))
        dies_ns = self.rng.randint(0, 2 * (self.plan.latency_us + self.plan.jitter_us)) * 1_000
        self.later(dies_ns, self.kill, leader.machine)
        self.later(dies_ns + self.rng.randint(1, 1_500) * MS, self.start, leader.machine)
        bound_ns = (HAND_OVER_MS + self._recovery_bound_ms()) * MS

        def done() -> bool:
            return bool(self.violations) or (len(told) == len(asking) and self._is_ready() and self._is_equal())

        if not self.scheduler.run_until(self.scheduler.now + bound_ns, done):
            self.violation(
                "liveness", f"not ready {bound_ns // MS} ms after a leader's death: {told} {self._why_not()}"
            )
        unknown = [name for name, outcome in told.items() if outcome == "OutcomeUnknown"]
        if unknown:
            self.violation("liveness", f"{unknown} were not told what became of an op, {HAND_OVER_MS} ms after it")
        return not self.violations

    async def _ask_across(self, process: Process, told: dict[str, str]) -> None:
        outcome = "ok"
        try:
            await process.node.create(f"across-{process.node_id}", timeout_ms=HAND_OVER_MS)
        except RaftstoreError as problem:
            outcome = type(problem).__name__
        told[process.node_id] = outcome

    def _probe(self, process: Process, answers: dict[str, None]) -> None:
        async def ask() -> None:
            for attempt in range(400):
                key = f"probe-{process.name}-{attempt}".replace("/", "-")
                if self.plan.is_sticky and process.node.preferred_owner(key) != process.node_id:
                    continue
                try:
                    await process.node.create(key, timeout_ms=2_000)
                except RaftstoreError:
                    await asyncio.sleep(0.1)
                    continue
                answers[process.node_id] = None
                return

        process.loop.run(process.loop.create_task, ask())

    def _recovery_bound_ms(self) -> int:
        timing = self.plan.timing
        return 12 * timing["election_timeout_max_ms"] + 3 * timing["lease_ttl_ms"] + 15_000

    def _is_ready(self) -> bool:
        processes = self.serving()
        if len(processes) < len(self.machine_list):
            return False
        if self.plan.is_sticky:
            return self._is_settled(processes)
        return all(process.runtime.why_not_ready() is None for process in processes)

    def _is_settled(self, processes: list[Process]) -> bool:
        """The plain mapping everywhere, and no session left to move; else, now and then, a change to that."""
        epochs = {process.runtime.mapping_epoch() for process in processes}
        settled = all(process.runtime.why_not_ready() is None and not self._left(process) for process in processes)
        if settled and len(epochs) == 1 and all(map(self._is_plain, processes)):
            return True
        if self.scheduler.now >= self._next_change:
            self._next_change = self.scheduler.now + CHANGE_EVERY_NS
            newest = max(processes, key=lambda process: int(process.runtime.mapping_epoch()))
            weights = dict.fromkeys(self.config.node_ids, 1)
            self.steer(newest, lambda: newest.node.change_mapping(weights))
        return False

    def _is_plain(self, process: Process) -> bool:
        """Every node has its share, so that every node can be asked to serve."""
        mapping = process.runtime.machine.placement.mapping
        shares = {node.node_id for node in mapping.nodes if node.weight and not node.draining}
        return shares == set(self.config.node_ids)

    def _left(self, process: Process) -> bool:
        left = process.runtime.sticky.left()
        return left is None or bool(left)

    def _is_equal(self) -> bool:
        if self.plan.is_sticky:
            return True
        rafts = [process.core.raft for process in self.serving()]
        return len({(raft.last_applied, raft.last_log_index) for raft in rafts}) == 1

    def _why_not(self) -> list[str]:
        why = []
        for machine in self.machine_list:
            process = machine.process
            if process is None or process.core is None:
                why.append(f"{machine.node_id}: down ({machine.refused})")
            else:
                raft = process.core.raft
                why.append(
                    f"{machine.node_id}: {process.runtime.why_not_ready()} term {raft.term} leader {raft.leader_id} "
                    f"applied {raft.last_applied} of {raft.last_log_index}"
                )
        return why

    # --- the end -----------------------------------------------------------------------------------------------
    def finals(self) -> dict[str, dict[str, Any]]:
        """Every node's last state, as checkers read it."""
        return {event["node"]: event["value"] for event in self.history if event["f"] == "final"}

    def _finals(self) -> None:
        self._check_logs()
        self._check_held()
        patience_ns = (self.plan.timing["op_timeout_ms"] + 1_000) * MS
        if not self.scheduler.run_until(self.scheduler.now + patience_ns, lambda: not self.load.waiting()):
            self.violation("liveness", f"callers were never told anything: {self.load.waiting()[:5]}")
        self.scheduler.run_until(self.scheduler.now + 200 * MS)  # the audit files are late by so much
        for process in self.serving():
            machine = process.core.replica.machine
            process.runtime.audit.close(0.0)
            sessions = [as_told(to_session(machine.sessions[key])) for key in sorted(machine.sessions)]
            value = {
                "sessions": sessions,
                "events": process.machine.shelf.lines(),
                "head": machine.head.hex(),
                "index": machine.index,
            }
            self.record("observer", "ok", "final", node=process.node_id, value=value)

    def _check_logs(self) -> None:
        """Log matching: what two nodes hold at one index is the same."""
        if self.plan.is_sticky:
            return
        seen: dict[int, tuple[bytes, int, str]] = {}
        for process in self.serving():
            journal = process.core.journal
            for command, index, term in journal[1:]:
                held = seen.setdefault(index, (command, term, process.node_id))
                if held[:2] != (command, term):
                    self.violation("log_matching", f"entry {index} differs between {held[2]} and {process.node_id}")
                    return

    def _check_held(self) -> None:
        """What a node believes to own now that all is quiet, the machine says it owns."""
        for process in self.serving():
            for session_id, epoch in process.runtime.owned.held():
                record = process.core.replica.machine.sessions.get(session_id)
                mine = (SessionState.ATTACHED, process.node_id, epoch, process.core.incarnation)
                if record is None or (record.state, record.owner, record.epoch, record.owner_inc) != mine:
                    self.violation("held", f"{process.node_id} believes to own {session_id}, epoch {epoch}: {record}")

    def _let_go(self) -> None:
        for machine in self.machine_list:
            if machine.process is not None:
                process, machine.process = machine.process, None
                process.end()
