"""One run: the machines, what befalls them, what callers ask, the history of it all, and what must hold meanwhile.

The world decides nothing: the plan does. It lets time pass, keeps the record, watches bounds, restarts what failed as a
supervisor would, and at the end heals everything and waits for the cluster to serve again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from jepsen_like.sim.ending import Ending
from jepsen_like.sim.faults import Faults
from jepsen_like.sim.load import Load
from jepsen_like.sim.network import Network
from jepsen_like.sim.plan import Plan
from jepsen_like.sim.process import Machine, Process
from jepsen_like.sim.scheduler import MS, Scheduler, Spinning
from jepsen_like.sim.watch import Promise
from raftstore.errors import CorruptionError, RaftstoreError
from raftstore.raft.seams import LEADER
from raftstore.types import OpId, Session

HOUSE_NS = 250 * MS  # between two looks of the supervisor
VIOLATIONS_MAX = 20
RESTART_MAX_MS = 2_000
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
            Ending(self).run()
        self.is_over = True
        self._let_go()

    def finals(self) -> dict[str, dict[str, Any]]:
        """Every node's last state, as checkers read it."""
        return {event["node"]: event["value"] for event in self.history if event["f"] == "final"}

    def _let_go(self) -> None:
        for machine in self.machine_list:
            if machine.process is not None:
                process, machine.process = machine.process, None
                process.end()
