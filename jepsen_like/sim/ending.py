"""How a run ends: faults stop, and within a bound of virtual time the cluster elects, serves, converges.

Then one more leader dies with ops on its way, the last checks look at what all replicas hold, and every node's last
state goes into the history.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jepsen_like.sim.load import as_told
from jepsen_like.sim.scheduler import MS
from raftstore.errors import RaftstoreError
from raftstore.ownership import to_session
from raftstore.types import SessionState

if TYPE_CHECKING:
    from jepsen_like.sim.process import Process
    from jepsen_like.sim.world import World

CHANGE_EVERY_NS = 6_000 * MS
HAND_OVER_MS = 9_000  # an op may take so long while its leader dies and nothing else does


class Ending:
    """The last part of one world's run. Violations go to the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._next_change = 0  # of the mapping, while the cluster settles

    def run(self) -> None:
        """Faults stop: within a bound the cluster elects, serves and converges."""
        self.world.is_ending = True
        self.world.record(
            "nemesis", "info", "heal", value={"kind": "all", "detail": "", "nodes": [], "effective": True}
        )
        self.world.faults.heal()
        self.world.network.heal()
        self.world.note_reach()
        for machine in self.world.machine_list:
            machine.disk.heal()
            self.world.start(machine)
        bound_ns = self._recovery_bound_ms() * MS
        if not self.world.scheduler.run_until(
            self.world.scheduler.now + bound_ns, lambda: bool(self.world.violations) or self._is_ready()
        ):
            self.world.violation("liveness", f"not ready {bound_ns // MS} ms after the last fault: {self._why_not()}")
            return
        if not self.world.violations:
            self._converge()

    def _converge(self) -> None:
        """Callers have their answers, every replica has applied the same, and a last op goes through everywhere."""
        answers: dict[str, None] = {}
        asked: dict[str, None] = {}
        bound_ns = (self.world.plan.timing["op_timeout_ms"] * 3 + 5_000) * MS
        expected = len(self.world.machine_list)

        def done() -> bool:
            for process in self.world.serving():
                if process.name not in asked and not self.world.violations:
                    asked[process.name] = None
                    self._probe(process, answers)
            return bool(self.world.violations) or (len(answers) >= expected and self._is_ready() and self._is_equal())

        if not self.world.scheduler.run_until(self.world.scheduler.now + bound_ns, done):
            self.world.violation(
                "liveness", f"not equal {bound_ns // MS} ms later: answers from {list(answers)} {self._why_not()}"
            )
        elif not self.world.violations and self._hand_over():
            self._finals()

    def _hand_over(self) -> bool:
        """One more leader dies, with ops on their way to it: every one of them is decided by the next."""
        leader = self.world.leader()
        if self.world.plan.is_sticky or leader is None or len(self.world.machine_list) == 1:
            return True
        told: dict[str, str] = {}
        asking = [process for process in self.world.serving() if process is not leader]
        for process in asking:
            process.loop.run(process.loop.create_task, self._ask_across(process, told))
        dies_ns = self.world.rng.randint(0, 2 * (self.world.plan.latency_us + self.world.plan.jitter_us)) * 1_000
        self.world.later(dies_ns, self.world.kill, leader.machine)
        self.world.later(dies_ns + self.world.rng.randint(1, 1_500) * MS, self.world.start, leader.machine)
        bound_ns = (HAND_OVER_MS + self._recovery_bound_ms()) * MS

        def done() -> bool:
            return bool(self.world.violations) or (len(told) == len(asking) and self._is_ready() and self._is_equal())

        if not self.world.scheduler.run_until(self.world.scheduler.now + bound_ns, done):
            self.world.violation(
                "liveness", f"not ready {bound_ns // MS} ms after a leader's death: {told} {self._why_not()}"
            )
        unknown = [name for name, outcome in told.items() if outcome == "OutcomeUnknown"]
        if unknown:
            self.world.violation(
                "liveness", f"{unknown} were not told what became of an op, {HAND_OVER_MS} ms after it"
            )
        return not self.world.violations

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
                if self.world.plan.is_sticky and process.node.preferred_owner(key) != process.node_id:
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
        timing = self.world.plan.timing
        return 12 * timing["election_timeout_max_ms"] + 3 * timing["lease_ttl_ms"] + 15_000

    def _is_ready(self) -> bool:
        processes = self.world.serving()
        if len(processes) < len(self.world.machine_list):
            return False
        if self.world.plan.is_sticky:
            return self._is_settled(processes)
        return all(process.runtime.why_not_ready() is None for process in processes)

    def _is_settled(self, processes: list[Process]) -> bool:
        """One plain mapping everywhere, and no session left to move; else, now and then, a change to that.

        Of one epoch there may be two: those settle by a later one only.
        """
        placements = [process.runtime.machine.placement for process in processes]
        mappings = {None if placement is None else placement.mapping for placement in placements}
        settled = all(process.runtime.why_not_ready() is None and not self._left(process) for process in processes)
        if settled and len(mappings) == 1 and all(map(self._is_plain, processes)):
            return True
        if self.world.scheduler.now >= self._next_change:
            self._next_change = self.world.scheduler.now + CHANGE_EVERY_NS
            newest = max(processes, key=lambda process: int(process.runtime.mapping_epoch()))
            weights = dict.fromkeys(self.world.config.node_ids, 1)
            self.world.steer(newest, lambda: newest.node.change_mapping(weights))
        return False

    def _is_plain(self, process: Process) -> bool:
        """Every node has its share, so that every node can be asked to serve."""
        mapping = process.runtime.machine.placement.mapping
        shares = {node.node_id for node in mapping.nodes if node.weight and not node.draining}
        return shares == set(self.world.config.node_ids)

    def _left(self, process: Process) -> bool:
        left = process.runtime.sticky.left()
        return left is None or bool(left)

    def _is_equal(self) -> bool:
        if self.world.plan.is_sticky:
            return True
        rafts = [process.core.raft for process in self.world.serving()]
        return len({(raft.last_applied, raft.last_log_index) for raft in rafts}) == 1

    def _why_not(self) -> list[str]:
        why = []
        for machine in self.world.machine_list:
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

    # --- the last checks -------------------------------------------------------------------------------------
    def _finals(self) -> None:
        self._check_logs()
        self._check_held()
        patience_ns = (self.world.plan.timing["op_timeout_ms"] + 1_000) * MS
        if not self.world.scheduler.run_until(
            self.world.scheduler.now + patience_ns, lambda: not self.world.load.waiting()
        ):
            self.world.violation("liveness", f"callers were never told anything: {self.world.load.waiting()[:5]}")
        self.world.scheduler.run_until(self.world.scheduler.now + 200 * MS)  # the audit files are late by so much
        for process in self.world.serving():
            machine = process.core.replica.machine
            process.runtime.audit.close(0.0)
            sessions = [as_told(to_session(machine.sessions[key])) for key in sorted(machine.sessions)]
            value = {
                "sessions": sessions,
                "events": process.machine.shelf.lines(),
                "head": machine.head.hex(),
                "index": machine.index,
            }
            self.world.record("observer", "ok", "final", node=process.node_id, value=value)

    def _check_logs(self) -> None:
        """Log matching: what two nodes hold at one index is the same."""
        if self.world.plan.is_sticky:
            return
        seen: dict[int, tuple[bytes, int, str]] = {}
        for process in self.world.serving():
            journal = process.core.journal
            for command, index, term in journal[1:]:
                held = seen.setdefault(index, (command, term, process.node_id))
                if held[:2] != (command, term):
                    self.world.violation(
                        "log_matching", f"entry {index} differs between {held[2]} and {process.node_id}"
                    )
                    return

    def _check_held(self) -> None:
        """What a node believes to own now that all is quiet, the machine says it owns."""
        for process in self.world.serving():
            for session_id, epoch in process.runtime.owned.held():
                record = process.core.replica.machine.sessions.get(session_id)
                mine = (SessionState.ATTACHED, process.node_id, epoch, process.core.incarnation)
                if record is None or (record.state, record.owner, record.epoch, record.owner_inc) != mine:
                    self.world.violation(
                        "held", f"{process.node_id} believes to own {session_id}, epoch {epoch}: {record}"
                    )
