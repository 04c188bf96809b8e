"""The machine against a small model of its own: naive dictionaries, written from the specification.

The model shares no code with the machine. After every entry both must agree on every answer and every session.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftstore.ownership import REASONS, DueIndex, Machine, batches, invariants, restore
from raftstore.ownership import commands as c
from raftstore.ownership.sweep import SLOT_MS, overdue

B1, B2 = ("t1", "udp", "198.51.100.7:51820"), ("t2", "tcp", "203.0.113.9:4500")
WINDOW, FREEZE, LEASE = 120_000, 10_000, 3_030
NODES = ("a", "b", "c")
SESSIONS = ("s", "t", "u")
STATES = {1: "ATTACHED", 2: "RECOVERING", 3: "FROZEN", 4: "TERMINATED"}


class Refused(Exception):  # noqa: N818 - an answer of the model
    """How the model says no."""


class Model:
    """Sessions and nodes as dictionaries; one method per op, each reading like the specification."""

    def __init__(self) -> None:
        self.now = 1_000
        self.nodes: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.answers: dict[tuple[str, int, int], str] = {}

    def ask(self, node: str, inc: int, seq: int, deadline: int, op: str, *args: Any) -> str:
        me = self.nodes.get(node)
        current = me is not None and me["inc"] == inc
        if current and (node, inc, seq) in self.answers:
            return self.answers[node, inc, seq]
        try:
            if not current and (op != "join" or (me and inc in me["old"])):
                raise Refused("NODE_FENCED" if me and inc in me["old"] else "NODE_NOT_LIVE")
            if deadline < self.now:
                raise Refused("REQUEST_EXPIRED")
            if current and me["left"]:
                raise Refused("NODE_NOT_LIVE")
            if op not in ("join", "renew_lease") and me["lease"] <= self.now:
                raise Refused("NODE_NOT_LIVE")
            getattr(self, op)(node, inc, *args)
            answer = "OK"
        except Refused as refusal:
            answer = str(refusal)
        if self.nodes.get(node, {}).get("inc") == inc:
            self.answers[node, inc, seq] = answer
        return answer

    # nodes

    def join(self, node: str, inc: int) -> None:
        me = self.nodes.get(node)
        if me is None:
            self.nodes[node] = {"inc": inc, "old": set(), "lease": 0, "fence": 0, "left": False, "drain": False}
        elif me["inc"] != inc:
            me["old"].add(me["inc"])
            me.update(inc=inc, fence=max(me["fence"], me["lease"]), left=False, drain=False, lease=0)
        self.renew_lease(node, inc)

    def renew_lease(self, node: str, inc: int) -> None:
        self.nodes[node]["lease"] = max(self.nodes[node]["lease"], self.now + LEASE)

    def drain(self, node: str, inc: int) -> None:
        self.nodes[node]["drain"] = True

    def leave(self, node: str, inc: int) -> None:
        self.nodes[node].update(left=True, lease=self.now)

    # sessions

    def lost(self, node: str) -> bool:
        return self.nodes[node]["lease"] <= self.now and self.nodes[node]["fence"] <= self.now

    def alive(self, sid: str) -> dict[str, Any]:
        if sid not in self.sessions:
            raise Refused("SESSION_NOT_FOUND")
        s = self.sessions[sid]
        if s["state"] == "TERMINATED":
            raise Refused("SESSION_TERMINATED")
        if self.now >= s["expires"] or (s["state"] == "RECOVERING" and self.now >= s["by"]):
            raise Refused("SESSION_EXPIRED")
        return s

    def mine(self, node: str, inc: int, sid: str, version: int) -> dict[str, Any]:
        s = self.alive(sid)
        if s["owner"] != node:
            raise Refused("OWNERSHIP_CONFLICT")
        if s["version"] != version:
            raise Refused("VERSION_MISMATCH")
        if s["inc"] != inc and self.now < self.nodes[node]["fence"]:
            raise Refused("OWNER_STILL_LIVE")
        return s

    def bind(self, s: dict[str, Any], inc: int, binding: Any) -> None:
        state = "RECOVERING" if binding is None else "ATTACHED"
        s.update(state=state, binding=binding, by=self.now + WINDOW, inc=inc, moved=False)
        s["version"] += 1

    def need(self, s: dict[str, Any], *states: str, frozen: str = "INVALID_TRANSITION") -> None:
        if s["state"] not in states:
            raise Refused(frozen if s["state"] == "FROZEN" else "INVALID_TRANSITION")

    def taker(self, node: str) -> None:
        if node not in self.nodes or self.nodes[node]["left"] or self.nodes[node]["lease"] <= self.now:
            raise Refused("NODE_NOT_LIVE")
        if self.nodes[node]["drain"]:
            raise Refused("NODE_DRAINING")

    def create(self, node: str, inc: int, sid: str, binding: Any, ttl: int, policy: str | None) -> None:
        if sid in self.sessions:
            self.alive(sid)
            raise Refused("SESSION_EXISTS")
        if self.nodes[node]["drain"]:
            raise Refused("NODE_DRAINING")
        s = {"owner": node, "epoch": 1, "version": 0, "expires": self.now + ttl, "nonce": 0, "policy": policy or "deny"}
        self.bind(s, inc, binding)
        self.sessions[sid] = s

    def reattach(self, node: str, inc: int, sid: str, version: int, binding: Any, nonce: int | None) -> None:
        s = self.mine(node, inc, sid, version)
        self.need(s, "ATTACHED", "RECOVERING", frozen="SESSION_FROZEN")
        if nonce is not None:
            if nonce <= s["nonce"]:
                raise Refused("REPLAY_DETECTED")
            s["nonce"] = nonce
        self.bind(s, inc, binding)

    def detach(self, node: str, inc: int, sid: str, version: int, reason: str) -> None:
        s = self.mine(node, inc, sid, version)
        self.need(s, "ATTACHED", frozen="SESSION_FROZEN")
        self.bind(s, inc, None)

    def renew(self, node: str, inc: int, sid: str, version: int, ttl: int) -> None:
        s = self.mine(node, inc, sid, version)
        self.need(s, "ATTACHED", "RECOVERING", frozen="SESSION_FROZEN")
        s.update(version=version + 1, expires=self.now + ttl)

    def freeze(self, node: str, inc: int, sid: str, version: int, reason: str, target: str) -> None:
        s = self.mine(node, inc, sid, version)
        self.need(s, "ATTACHED", "RECOVERING")
        if target == node:
            raise Refused("INVALID_TRANSITION")
        self.taker(target)
        s.update(state="FROZEN", version=version + 1, binding=None, by=self.now + FREEZE, target=target, inc=inc)

    def transfer(self, node: str, inc: int, sid: str, version: int) -> None:
        s = self.mine(node, inc, sid, version)
        self.need(s, "FROZEN")
        if s["moved"]:
            raise Refused("INVALID_TRANSITION")
        to = s["target"]
        self.taker(to)
        s.update(owner=to, epoch=s["epoch"] + 1, version=version + 1, moved=True)
        s.update(inc=self.nodes[to]["inc"], by=self.now + FREEZE)

    def resume(self, node: str, inc: int, sid: str, version: int, binding: Any) -> None:
        s = self.mine(node, inc, sid, version)
        if s["state"] != "FROZEN" or not s["moved"]:
            raise Refused("INVALID_TRANSITION")
        self.bind(s, inc, binding)

    def thaw(self, node: str, inc: int, sid: str, version: int) -> None:
        s = self.mine(node, inc, sid, version)
        if s["state"] != "FROZEN" or s["moved"]:
            raise Refused("INVALID_TRANSITION")
        self.bind(s, inc, None)

    def failover(self, node: str, inc: int, sid: str, version: int, binding: Any) -> None:
        s = self.alive(sid)
        if s["owner"] == node:
            raise Refused("INVALID_TRANSITION")
        if s["version"] != version:
            raise Refused("VERSION_MISMATCH" if self.lost(s["owner"]) else "OWNERSHIP_CONFLICT")
        if not self.lost(s["owner"]):
            raise Refused("OWNER_STILL_LIVE")
        if self.nodes[node]["drain"]:
            raise Refused("NODE_DRAINING")
        s.update(owner=node, epoch=s["epoch"] + 1)
        self.bind(s, inc, binding)

    def terminate(self, node: str, inc: int, sid: str, version: int, reason: str, operator: bool) -> None:
        if operator:
            s = self.alive(sid)
            if s["version"] != version:
                raise Refused("VERSION_MISMATCH")
        else:
            s = self.mine(node, inc, sid, version)
        self.end(s)

    def end(self, s: dict[str, Any]) -> None:
        s.update(state="TERMINATED", version=s["version"] + 1, binding=None, moved=False)

    def sweep(self, node: str, inc: int, candidates: list[tuple[str, int]]) -> None:
        for sid, version in candidates:
            s = self.sessions.get(sid)
            if s is not None and s["version"] == version and s["state"] != "TERMINATED":
                self.sweep_one(s)

    def sweep_one(self, s: dict[str, Any]) -> None:
        owner = self.nodes[s["owner"]]
        late = s["state"] != "ATTACHED" and self.now >= s["by"]
        ends = self.now >= s["expires"] or (s["state"] == "RECOVERING" and late)
        if ends or (s["policy"] == "terminate" and self.lost(s["owner"])):
            self.end(s)
            return
        restarted = s["state"] == "ATTACHED" and s["inc"] != owner["inc"] and self.now >= owner["fence"]
        if (s["state"] == "FROZEN" and late) or restarted:
            self.bind(s, s["inc"], None)


class MachineAgainstModel(RuleBasedStateMachine):
    """Random ops of three nodes, with restarts, lapses, retries and passing time."""

    def __init__(self) -> None:
        super().__init__()
        self.machine, self.model, self.index, self.seq = Machine(), Model(), 0, 0
        self.due = DueIndex(self.machine)
        self.inc = dict.fromkeys(NODES, 1)
        self.last: tuple[str, int, int, int, str, tuple[Any, ...]] | None = None
        for node in NODES:
            self.go(node, 1, "join")

    def go(self, node: str, inc: int, op: str, *args: Any, deadline: int = 2**50) -> None:
        self.seq += 1
        self.send(node, inc, self.seq, deadline, op, args)

    def send(self, node: str, inc: int, seq: int, deadline: int, op: str, args: tuple[Any, ...]) -> None:
        self.last = (node, inc, seq, deadline, op, args)
        data = batches.encode_batch(self.model.now, 0, None, [(node, inc, 0, [getattr(c, op)(seq, deadline, *args)])])
        self.index += 1
        before = dict(self.machine.sessions)
        seen = self.machine.result_of(node, inc, seq) is not None
        applied = self.machine.apply(self.index, 1, data)
        self.due.note(applied.due_earlier)
        ((_, (code, record)),) = applied.groups[0][2]
        assert str(REASONS[code] or "OK") == self.model.ask(node, inc, seq, deadline, op, *args)
        for new in applied.changed:
            old = before.get(new.session_id)
            assert invariants.check_change(old, new) == []
            # A replica asks by this whether a change can have ended its own right (Replica.apply).
            stays = old is not None and old.owner == new.owner
            assert new.owned_since == (old.owned_since if old is not None and stays else self.index)
        events = 0 if seen or (op == "renew_lease" and code == 0) else 1
        assert len(applied.events) == (len(applied.changed) if op == "sweep" and code == 0 and not seen else events)
        assert code == 0 or record is None or record == before[record.session_id] or seen

    @rule(ms=st.sampled_from([1, 500, 1_500, 3_030, 9_999, 60_000]), alive=st.sets(st.sampled_from(NODES)))
    def time_passes(self, ms: int, alive: set[str]) -> None:
        self.model.now += ms
        for node in sorted(alive):
            self.go(node, self.inc[node], "renew_lease")

    @rule(node=st.sampled_from(NODES))
    def restart(self, node: str) -> None:
        self.inc[node] += 1
        self.go(node, self.inc[node], "join")

    @rule(node=st.sampled_from(NODES), back=st.integers(0, 2), op=st.sampled_from(["join", "drain", "leave"]))
    def node_op(self, node: str, back: int, op: str) -> None:
        self.go(node, max(0, self.inc[node] - back), op)

    @rule(
        node=st.sampled_from(NODES),
        sid=st.sampled_from(SESSIONS),
        binding=st.sampled_from([None, B1]),
        ttl=st.sampled_from([2_000, 600_000]),
        policy=st.sampled_from([None, "deny", "terminate"]),
    )
    def create(self, node: str, sid: str, binding: Any, ttl: int, policy: str | None) -> None:
        self.go(node, self.inc[node], "create", sid, binding, ttl, policy)

    @rule(
        sid=st.sampled_from(SESSIONS),
        op=st.sampled_from(
            ["reattach", "detach", "renew", "freeze", "transfer", "resume", "thaw", "failover", "terminate"]
        ),
        other=st.sampled_from([None, None, *NODES]),
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        old=st.booleans(),
        late=st.sampled_from([0, 0, 0, 1]),
        data=st.data(),
    )
    def session_op(self, sid: str, op: str, other: str | None, off: int, old: bool, late: int, data: Any) -> None:
        s = self.model.sessions.get(sid, {"owner": "a", "version": 1})
        node = other or s["owner"]
        rest: dict[str, tuple[Any, ...]] = {
            "reattach": (B2, data.draw(st.sampled_from([None, 1, 2, 3]))) if op == "reattach" else (),
            "detach": ("NO_DELIVERY",),
            "renew": (data.draw(st.sampled_from([1_000, 600_000])),) if op == "renew" else (),
            "freeze": ("DRAIN", data.draw(st.sampled_from(NODES))) if op == "freeze" else (),
            "resume": (data.draw(st.sampled_from([None, B2])),) if op == "resume" else (),
            "failover": (data.draw(st.sampled_from([None, B2])),) if op == "failover" else (),
            "terminate": ("POLICY", data.draw(st.booleans())) if op == "terminate" else (),
        }
        inc = max(0, self.inc[node] - (old and off != 0))
        deadline = self.model.now - 1 if late else 2**50
        self.go(node, inc, op, sid, max(0, s["version"] + off), *rest.get(op, ()), deadline=deadline)

    @rule(node=st.sampled_from(NODES))
    def sweep(self, node: str) -> None:
        candidates = [(sid, s["version"]) for sid, s in self.model.sessions.items()]
        self.go(node, self.inc[node], "sweep", candidates)

    @precondition(lambda self: self.last is not None)
    @rule()
    def retry(self) -> None:
        node, inc, seq, deadline, op, args = self.last
        before = dict(self.machine.sessions)
        self.send(node, inc, seq, deadline, op, args)
        known = self.machine.nodes[node].incarnation == inc
        assert not known or before == self.machine.sessions

    @rule()
    def snapshot(self) -> None:
        digest = self.machine.state_digest()
        self.machine = restore(list(self.machine.freeze_state().chunks()))
        assert self.machine.state_digest() == digest
        self.due = DueIndex(self.machine)

    @rule()
    def everything_overdue_is_found(self) -> None:
        """Three slots after the index was last asked, it finds every session overdue for a slot, and no other."""
        was_ms = self.model.now = self.model.now + SLOT_MS * 3
        self.index += 1
        self.machine.apply(self.index, 1, batches.encode_batch(was_ms, 0, None, []))
        found = self.due.due(was_ms, 100)
        assert len(found) == len(dict(found))
        for record in self.machine.sessions.values():
            due = [overdue(record, self.machine.nodes, at_ms) for at_ms in (was_ms - SLOT_MS, was_ms)]
            assert ((record.session_id, record.state_version) in found) or None in due
            assert due[1] is not None or record.session_id not in dict(found)

    @invariant()
    def they_agree(self) -> None:
        assert invariants.check(self.machine) == []
        assert set(self.machine.sessions) == set(self.model.sessions)
        for sid, s in self.model.sessions.items():
            real = self.machine.get(sid)
            assert real is not None
            assert (real.state.name, real.owner, real.epoch, real.state_version, real.binding, real.expires_at_ms) == (
                s["state"], s["owner"], s["epoch"], s["version"], s["binding"], s["expires"],
            )  # fmt: skip
            if real.state.name in ("RECOVERING", "FROZEN"):
                assert (real.reattach_by_ms or real.freeze_by_ms) == s["by"]


MachineAgainstModel.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestMachineAgainstModel = MachineAgainstModel.TestCase
