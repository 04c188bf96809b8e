"""Callers at every node, and the data path: what gateways would do with the cluster, all on virtual time.

Callers know what they were told and nothing else, so some come with an old version, some to the wrong node, some twice
at once. A packet leaves a node when `owns()` is true at that instant, with the epoch; the resource behind notes both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any

from jepsen_like.sim.scheduler import MS
from jepsen_like.sim.siege import Siege
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, OpId, Reason, Session, SessionState

if TYPE_CHECKING:
    from jepsen_like.sim.process import Process
    from jepsen_like.sim.world import World

TIMEOUTS_MS = (None, None, None, 20, 100, 400)
ASKED_AGAIN_MS = (50, 400, 3_000)  # later, those who were told that nobody knows ask what became of their op

Call = Callable[[], Awaitable[Any]]


class Known:
    """What callers believe of one session."""

    __slots__ = ("generation", "session", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.generation = 0
        self.session: Session | None = None

    @property
    def key(self) -> str:
        return f"s{self.slot}-{self.generation}"

    def learn(self, session: Session) -> None:
        if session.session_id != self.key:
            return
        if self.session is None or session.state_version > self.session.state_version:
            self.session = session

    def ended(self) -> None:
        """That id can never be used again."""
        self.generation += 1
        self.session = None


class Load:
    """All callers of a run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan
        self.known = [Known(slot) for slot in range(world.plan.keys)]
        self.siege = Siege(self)
        self.begun = 0
        self._waiting: dict[int, tuple[Process, str]] = {}  # by caller: whom it asked, and for what
        self._free: list[int] = []
        self._processes = 0
        self._bindings = 0

    # --- what is asked ---------------------------------------------------------------------------------------
    def act(self, salt: int) -> None:
        """One caller does something."""
        rng = Random(salt)
        process = self.any_node(rng)
        if process is None:
            return
        known = rng.choice(self.known)
        session = known.session
        if self.plan.is_sticky:
            self._act_sticky(process, known, rng)
            return
        if session is None:
            kind = "create" if rng.random() < 0.8 else rng.choice(("get", "reattach", "failover"))
            self.do(process, known, kind, rng)
            return
        kind = self._choose(session, rng)
        if kind == "race":
            self._race(known, rng)
        elif kind == "rejoin":
            self._at_owner(known, "reattach", rng)
        else:
            self._place(process, known, kind, rng)

    def _act_sticky(self, process: Process, known: Known, rng: Random) -> None:
        """Callers come to the node that the mapping names, as far as the one that they asked knows it."""
        owner = process.node.preferred_owner(known.key)
        if owner is not None and rng.random() < 0.85:
            process = self.world.running(owner) or process
        if known.session is None or rng.random() < 0.05:  # a known one too: a fork begins with a second creation
            self.do(process, known, "create" if rng.random() < 0.9 else "get", rng)
            return
        kinds = ("reattach", "reattach", "reattach", "detach", "renew", "resume", "get", "get-local", "terminate")
        kind = rng.choices(kinds, [self.plan.op_weights.get(kind, 1.0) or 0.1 for kind in kinds])[0]
        if kind != "terminate" or rng.random() < 0.3:
            self.do(process, known, kind, rng)

    def _choose(self, session: Session, rng: Random) -> str:
        by_state: dict[SessionState, dict[str, float]] = {
            SessionState.ATTACHED: {"reattach": 3, "detach": 1, "renew": 1, "migrate": 3, "failover": 1, "race": 1},
            SessionState.RECOVERING: {"reattach": 4, "migrate": 1, "failover": 1, "race": 1, "rejoin": 4},
            SessionState.FROZEN: {"resume": 4, "reattach": 1, "failover": 2, "race": 1, "detach": 1},
        }
        likely = {"get": 2, "get-local": 1, "terminate": 0.3, **by_state.get(session.state, {"reattach": 1})}
        weights = [likely[kind] * self.plan.op_weights.get(kind, 1.0) for kind in likely]
        if not any(weights):
            return "get"
        return rng.choices(list(likely), weights)[0]

    def _place(self, process: Process, known: Known, kind: str, rng: Random) -> None:
        """At the owner mostly, where the owner's word counts; at another node for a failover."""
        session = known.session
        assert session is not None
        if kind == "failover":
            self.siege.hunt(process, known, rng, 0, 0)
        elif kind in ("get", "get-local") or rng.random() < 0.2:
            self.do(process, known, kind, rng)
        else:
            self._at_owner(known, kind, rng)

    def _at_owner(self, known: Known, kind: str, rng: Random) -> None:
        session = known.session
        owner = None if session is None else self.world.running(session.owner)
        process = owner or self.any_node(rng)
        if process is not None:
            self.do(process, known, kind, rng)

    def _race(self, known: Known, rng: Random) -> None:
        """Two nodes want the same at the same time."""
        for kind in rng.choice((("reattach", "failover"), ("failover", "failover"), ("reattach", "reattach"))):
            process = self.any_node(rng)
            if process is not None:
                self.do(process, known, kind, rng)

    def any_node(self, rng: Random) -> Process | None:
        able = self.world.serving()
        return rng.choice(able) if able else None

    def waiting(self) -> list[str]:
        """What callers of living processes still wait for."""
        return [what for process, what in self._waiting.values() if not process.life.is_dead]

    def one_more(self, slot: int) -> Known:
        """A session that nobody comes back to."""
        return Known(slot)

    # --- one op ----------------------------------------------------------------------------------------------
    def do(
        self,
        process: Process,
        known: Known,
        kind: str,
        rng: Random,
        *,
        then: Callable[[str, str | None], None] = lambda kind, reason: None,
        to: str | None = None,
    ) -> None:
        """Ask, and note in the history what was asked and what was told."""
        call, value = self._build(process, known, kind, rng, to)
        number = self._take_process()
        invoke = self.world.record(number, "invoke", kind, key=known.key, value=value, node=process.node_id)
        self.begun += 1
        self._waiting[number] = process, f"{kind} {known.key} at {process.name}"
        op_ids: list[OpId] = []

        def taken(op_id: OpId, deadline_ms: int) -> None:
            if kind != "migrate":  # that is several ops, each with a deadline of its own
                op_ids.append(op_id)
                value["deadline_ms"] = deadline_ms
                value["op_id"] = op_id_text(op_ids[0])

        def done(outcome: str, reason: str | None, session: Session | None) -> None:
            self._note(known, session, reason)
            told = None if session is None else as_told(session)
            result: Any = told if outcome == "ok" else {"reason": reason, "session": told}
            more = {"error": reason} if reason else {}
            self.world.record(number, outcome, kind, key=invoke["key"], value=result, node=process.node_id, **more)
            if outcome != "info":
                self._free.append(number)
            elif op_ids:
                for after_ms in ASKED_AGAIN_MS:
                    self.world.later(after_ms * MS, self._ask_again, process, op_ids[0], invoke["key"])
            if outcome == "ok" and session is not None and kind in ("create", "renew"):
                self.siege.expiry(process, known, session, rng)
            del self._waiting[number]
            then(outcome, reason)

        leaves = rng.random() < self.plan.clients_leave and kind not in ("get", "get-local")
        process.loop.run(self._start, process, kind, call, taken, done, rng.expovariate(1 / 15) if leaves else None)

    def _start(
        self, process: Process, kind: str, call: Call, taken: Any, done: Any, leaves_after_ms: float | None
    ) -> None:
        is_write = kind not in ("get", "get-local")
        task = process.loop.create_task(perform(process, kind, call, taken if is_write else None, done))
        if leaves_after_ms is not None:
            process.loop.call_later(leaves_after_ms / 1000, task.cancel)

    def _ask_again(self, process: Process, op_id: OpId, key: str) -> None:
        """Whoever was told that nobody knows asks the same process what became of the op."""
        if process not in self.world.serving():
            return
        told: dict[str, Any] = {}
        process.loop.run(lambda: told.update(process.node.outcome(op_id) or {}))
        if told:
            value = {"op_id": op_id_text(op_id), "outcome": told["outcome"]}
            self.world.record("observer", "info", "outcome", key=key, value=value, node=process.node_id)

    def _take_process(self) -> int:
        if self._free:
            return self._free.pop(0)
        self._processes += 1
        return self._processes - 1

    def _note(self, known: Known, session: Session | None, reason: str | None) -> None:
        if session is not None:
            known.learn(session)
            if session.state is SessionState.TERMINATED and session.session_id == known.key:
                known.ended()
        elif reason in (Reason.SESSION_EXPIRED, Reason.SESSION_TERMINATED):
            known.ended()

    def _build(
        self, process: Process, known: Known, kind: str, rng: Random, to: str | None
    ) -> tuple[Call, dict[str, Any]]:
        node, key, session = process.node, known.key, known.session
        version = 1 if session is None else session.state_version
        if rng.random() < 0.05:
            version = max(1, version + rng.choice((-1, 1)))
        timeout = rng.choice(TIMEOUTS_MS)
        binding = self._binding(rng)
        value: dict[str, Any] = {"timeout_ms": timeout}
        if kind in ("create", "reattach", "resume", "failover"):
            if kind != "reattach" and rng.random() < 0.15:
                binding = None
            value["binding"] = None if binding is None else binding.transport_id
        if kind == "create":
            value["ttl_ms"] = ttl = rng.choice((None, None, 4_000, 15_000))
            policy = rng.choice((None, None, "deny"))
            return lambda: node.create(key, binding=binding, ttl_ms=ttl, policy=policy, timeout_ms=timeout), value
        if kind in ("get", "get-local"):
            consistency = "local" if kind == "get-local" else "linearizable"
            return lambda: node.get(key, consistency=consistency, timeout_ms=timeout), {}
        value["expected_version"] = version
        if kind == "migrate":
            value["to"] = target = to or rng.choice(self.world.config.node_ids)
            return lambda: node.migrate(key, expected_version=version, to=target, timeout_ms=timeout), value
        if kind == "renew":
            value["ttl_ms"] = ttl = rng.choice((None, 3_000, 30_000))
            return lambda: node.renew(key, expected_version=version, ttl_ms=ttl, timeout_ms=timeout), value
        if kind == "terminate":
            value["operator"] = operator = rng.random() < 0.5
            return lambda: node.terminate(key, expected_version=version, operator=operator, timeout_ms=timeout), value
        if kind == "detach":
            return lambda: node.detach(key, expected_version=version, timeout_ms=timeout), value
        method: Any = {"reattach": node.reattach, "resume": node.resume, "failover": node.failover}[kind]
        return lambda: method(key, expected_version=version, binding=binding, timeout_ms=timeout), value

    def _binding(self, rng: Random) -> Binding | None:
        self._bindings += 1
        return Binding(f"t{self._bindings}", "udp", f"198.51.100.{rng.randrange(250)}:4500")

    # --- what nodes tell -------------------------------------------------------------------------------------
    def assigned(self, process: Process, session: Session) -> None:
        """A session was transferred to that node: its embedder resumes it, mostly."""
        rng = process.rng
        for known in self.known:
            if known.key == session.session_id:
                known.learn(session)
                if rng.random() < 0.8 and not self.world.is_ending:
                    delay = int(rng.expovariate(1 / 60) * MS)
                    scheduler = self.world.scheduler
                    scheduler.at(scheduler.now + delay, self.do, process, known, "resume", rng, life=process.life)

    # --- the data path ---------------------------------------------------------------------------------------
    def send_packets(self, process: Process) -> None:
        """One look at `owns()`, and a packet if it is true; the next look comes at the node's own moment."""
        known = process.rng.choice(self.known)
        epoch = process.node.owned_epoch(known.key)
        if epoch is not None and process.node.owns(known.key, epoch):
            self.world.record("dataplane", "ok", "packet", key=known.key, value={"epoch": epoch}, node=process.node_id)
        if not self.world.is_over:
            self.plan_packet(process)

    def plan_packet(self, process: Process) -> None:
        scheduler = self.world.scheduler
        delay = int(process.rng.expovariate(self.plan.packets_per_s) * 1_000 * MS)
        scheduler.at(scheduler.now + delay, self.send_packets, process, life=process.life)


async def perform(process: Process, kind: str, call: Call, taken: Any, done: Any) -> None:
    """One call to its end, whatever that is."""
    process.op_taken = taken
    try:
        session = await call()
    except Rejected as refusal:
        outcome = "info" if kind == "migrate" else "fail"
        done(outcome, str(refusal.reason), refusal.session)
    except Unavailable as refusal:
        done("info" if kind == "migrate" else "fail", str(refusal.reason), None)
    except OutcomeUnknown as unknown:
        done("info", str(unknown.reason), None)
    except InvalidArgument as problem:
        done("fail", f"INVALID_ARGUMENT: {problem.field}", None)
    except asyncio.CancelledError:
        done("info", "CALLER_LEFT", None)
    else:
        done("ok", None, session)
    finally:
        if process.op_taken is taken:
            process.op_taken = None


def op_id_text(op_id: OpId) -> str:
    """An op's id as histories show it."""
    return f"{op_id.node_id}:{op_id.incarnation:016x}:{op_id.seq}"


def as_told(session: Session) -> dict[str, Any]:
    """A session as histories show it."""
    binding = None if session.binding is None else session.binding.transport_id
    return {
        "session_id": session.session_id,
        "state": session.state.name,
        "owner": session.owner,
        "epoch": session.epoch,
        "state_version": session.state_version,
        "binding": binding,
    }
