"""A tiny world that keeps the promise: one log, applied at one moment, told by random clients. For tests of checkers.

It makes histories with everything in them: refusals, unknown outcomes that happened or did not, migrations seen in
between, windows that closed, late commits, nodes without a majority, what the data path saw, and what each node has in
the end. It shares nothing with the checkers. The audit chain of its events is the production code's, so that the
checkers' own chain is tested against it.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from raftstore.ownership.events import GENESIS_HEAD, chain_next, event_from_dict, pack_events

MS = 1_000_000
NODES = ("n1", "n2", "n3")
TEST = {
    "nodes": list(NODES),
    "election_timeout_max_ms": 600,
    "lease_ttl_ms": 3_000,
    "op_timeout_ms": 5_000,
    "strategy": "shared",
    "callers_in_process": True,
}
DEADLINE_MS = 5_000
LEASE_MS = 3_030
OPS = ("reattach", "detach", "renew", "get", "migrate", "resume", "failover", "terminate")
LIKELY = {  # by state
    "ATTACHED": ("reattach", "detach", "renew", "get", "get", "migrate", "migrate", "failover", "failover"),
    "RECOVERING": ("reattach", "reattach", "renew", "get", "migrate", "failover"),
    "FROZEN": ("resume", "resume", "resume", "get", "failover"),
    "TERMINATED": ("get",),
}
EVENT_OF = {
    "create": "SessionCreated",
    "reattach": "Reattached",
    "detach": "Detached",
    "renew": "Renewed",
    "freeze": "Frozen",
    "transfer": "OwnerChanged",
    "failover": "OwnerChanged",
    "resume": "Resumed",
    "thaw": "Thawed",
    "terminate": "Terminated",
}


class Run(NamedTuple):
    """What a run leaves for its checkers."""

    history: list[dict[str, Any]]
    finals: dict[str, dict[str, Any]]


class Call:
    """An op on its way."""

    def __init__(self, process: int, node: str, f: str, key: str, args: dict[str, Any], at_ms: int) -> None:
        self.process, self.node, self.f, self.key, self.args = process, node, f, key, args
        self.deadline_ms = at_ms + DEADLINE_MS
        self.parts = ["freeze", "transfer"] if f == "migrate" else [f]
        self.seqs: list[int] = []
        self.answer: tuple[str, Any] | None = None  # once decided
        self.is_waiting = True  # the caller has not given up


class World:
    """Steps of random kind, each a millisecond or more after the one before."""

    def __init__(self, seed: int, processes: int, sessions: int, know_ids: bool = True) -> None:
        self.rng = Random(seed)
        self.know_ids = know_ids
        self.now = 0
        self.history: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.keys = [f"s{number}" for number in range(sessions)]
        self.idle = [(process, NODES[process % 3]) for process in range(processes)]
        self.next_process = processes
        self.calls: list[Call] = []
        self.index = self.seq = self.transport = self.term = 0
        self.tell(type="ok", process="observer", f="role", node="n1", value={"term": 0, "role": "leader"})
        self.cut: dict[str, int] = {}  # nodes without a majority, since when
        self.owning: dict[str, tuple[str, int, int]] = {}  # by session: node, epoch, since

    def run(self, ops: int) -> Run:
        count = 0
        while count < ops or self.calls:
            self.now += self.rng.randrange(MS, 40 * MS)
            choice = self.rng.random()
            if choice < 0.3 and count < ops and self.idle:
                self.invoke()
                count += 1
            elif choice < 0.6:
                self.apply()
            elif choice < 0.9:
                self.reply()
            elif choice < 0.93:
                self.give_up()
            elif choice < 0.95:
                self.sweep()
            elif choice < 0.96:
                self.cut_or_heal()
            else:
                self.look()
        for key in list(self.owning):
            self.strike(key)
        return Run(self.history, self.finals())

    # -- clients ---------------------------------------------------------------------------------------------------

    def tell(self, **event: Any) -> None:
        base = {"index": len(self.history), "time": self.now, "key": None, "value": None, "node": None}
        self.history.append(base | event)

    def invoke(self) -> None:
        process, node = self.idle.pop(self.rng.randrange(len(self.idle)))
        key = self.rng.choice(self.keys)
        session = self.sessions.get(key)
        if session is None:
            f = "create"
        else:
            f = self.rng.choice(LIKELY[session["state"]] if self.rng.random() < 0.85 else OPS)
        if session is not None and self.rng.random() < 0.9 and f not in ("failover", "get"):
            moved = [place for place, (_, at) in enumerate(self.idle) if at == session["owner"]]
            if moved and node != session["owner"]:  # mostly the owner asks
                self.idle.append((process, node))
                process, node = self.idle.pop(moved[0])
        args: dict[str, Any] = {}
        if f not in ("get", "create"):
            stale = int(self.rng.random() < 0.1)
            args["expected_version"] = max(1, session["state_version"] - stale) if session else 1
        if f in ("create", "reattach") or (f in ("resume", "failover") and self.rng.random() < 0.5):
            self.transport += 1
            args["binding"] = f"t{self.transport}"
        if f == "migrate":
            args["to"] = self.rng.choice([other for other in NODES if other != node])
        call = Call(process, node, f, key, args, self.now // MS)
        self.tell(type="invoke", process=process, f=f, key=key, node=node, value=args)
        if node in self.cut and f != "get-local":
            call.answer = ("fail", {"reason": "NO_QUORUM", "session": None})
        self.calls.append(call)

    def reply(self) -> None:
        decided = [call for call in self.calls if call.answer is not None and call.is_waiting]
        if not decided:
            return
        call = self.rng.choice(decided)
        assert call.answer is not None
        self.calls.remove(call)
        kind, value = call.answer
        self.tell(
            type=kind, process=call.process, f=call.f, key=call.key, node=call.node, value=value, **self.ids(call)
        )
        self.idle.append((call.process, call.node))

    def give_up(self) -> None:
        waiting = [call for call in self.calls if call.is_waiting]
        if not waiting:
            return
        call = self.rng.choice(waiting)
        call.is_waiting = False
        self.seqs(call)
        session = self.sessions.get(call.key)
        if session is not None and session["binding"] == call.args.get("binding") is not None:
            self.strike(call.key)
            session["confirmed"] = False
        extra = self.ids(call) | {"deadline_ms": call.deadline_ms, "error": "DEADLINE_PASSED"}
        self.tell(type="info", process=call.process, f=call.f, key=call.key, node=call.node, **extra)
        if call.answer is not None:
            self.calls.remove(call)
        self.idle.append((self.next_process, call.node))
        self.next_process += 1

    def seqs(self, call: Call) -> list[int]:
        while len(call.seqs) < len(call.parts):
            self.seq += 1
            call.seqs.append(self.seq)
        return call.seqs

    def ids(self, call: Call) -> dict[str, Any]:
        if not self.know_ids or not call.seqs or call.f == "get":
            return {}
        names = [f"{call.node}:{ord(call.node[1]):016x}:{seq}" for seq in call.seqs]
        return {"op_ids": names} if len(names) > 1 else {"op_id": names[0]}

    # -- the log -----------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """One op takes effect, or its next part."""
        pending = [call for call in self.calls if call.answer is None]
        if not pending:
            return
        call = self.rng.choice(pending)
        if call.node in self.cut:
            if not call.is_waiting:
                self.calls.remove(call)  # it never left the node
            return
        if self.now // MS > call.deadline_ms:
            call.answer = ("fail", {"reason": "REQUEST_EXPIRED", "session": None})
        elif call.f == "get":
            session = self.sessions.get(call.key)
            call.answer = ("ok", self.shown(call.key)) if session else self.refusal("SESSION_NOT_FOUND", None)
        else:
            self.part(call)
        if call.answer is not None and not call.is_waiting:
            self.calls.remove(call)

    def part(self, call: Call) -> None:
        done = len(call.parts) - len([p for p in call.parts if p not in call.args.get("done", ())])
        name = call.parts[done]
        seq = self.seqs(call)[done]
        reason = self.why_not(call, name, done)
        if reason is None:
            self.change(call, name, seq)
            call.args = call.args | {"done": (*call.args.get("done", ()), name)}
            if done + 1 == len(call.parts):
                call.answer = ("ok", self.shown(call.key))
        else:
            self.event(call, name, seq, "Refused", reason, None)
            if done:  # undo the freeze, as a migration does, unless somebody was quicker
                session = self.sessions[call.key]
                if session["state"] == "FROZEN" and not session["transferred"]:
                    self.seq += 1
                    self.change(call, "thaw", self.seq)
            call.answer = self.refusal(reason, call.key)

    def refusal(self, reason: str, key: str | None) -> tuple[str, Any]:
        shown = self.shown(key) if key in self.sessions else None
        return "fail", {"reason": reason, "session": shown}

    def why_not(self, call: Call, name: str, done: int) -> str | None:
        session = self.sessions.get(call.key)
        if name == "create":
            return None if session is None else "SESSION_EXISTS"
        if session is None:
            return "SESSION_NOT_FOUND"
        if session["state"] == "TERMINATED":
            return "SESSION_TERMINATED"
        is_owner = session["owner"] == call.node
        if name == "failover":
            if is_owner:
                return "INVALID_TRANSITION"
            lost = self.now - self.cut.get(session["owner"], self.now) > LEASE_MS * MS
            if session["state_version"] != call.args["expected_version"]:
                return "VERSION_MISMATCH" if lost else "OWNERSHIP_CONFLICT"
            return None if lost else "OWNER_STILL_LIVE"
        if not is_owner:
            return "OWNERSHIP_CONFLICT"
        if session["state_version"] != call.args["expected_version"] + done:
            return "VERSION_MISMATCH"
        frozen, moved = session["state"] == "FROZEN", session["transferred"]
        good = {
            "reattach": not frozen,
            "renew": not frozen,
            "freeze": not frozen,
            "detach": session["state"] == "ATTACHED",
            "transfer": frozen and not moved and self.rng.random() < 0.8,
            "resume": frozen and moved,
            "terminate": True,
        }
        return None if good[name] else "INVALID_TRANSITION"

    def change(self, call: Call, name: str, seq: int) -> None:
        key, args = call.key, call.args
        old = self.sessions.get(key)
        new = dict(old or {"owner": call.node, "epoch": 1, "state_version": 0, "state": None, "binding": None})
        new |= {"state_version": new["state_version"] + 1}
        detail = args.get("binding")
        if name in ("create", "reattach", "resume", "failover"):
            if new["owner"] != call.node:
                new |= {"owner": call.node, "epoch": new["epoch"] + 1}
            state = "ATTACHED" if detail else "RECOVERING"
            new |= {"state": state, "binding": detail, "transferred": False, "confirmed": call.is_waiting}
        elif name in ("detach", "thaw"):
            new |= {"state": "RECOVERING", "binding": None, "transferred": False}
        elif name == "freeze":
            new |= {"state": "FROZEN", "binding": None, "target": args["to"]}
        elif name == "transfer":
            new |= {"owner": new["target"], "epoch": new["epoch"] + 1, "transferred": True}
        elif name == "terminate":
            new |= {"state": "TERMINATED", "binding": None}
        self.put(key, new)
        reasons = {"freeze": "MIGRATION", "transfer": "TRANSFER", "failover": "FAILOVER"}
        self.event(call, name, seq, EVENT_OF[name], reasons.get(name), old, detail)

    def put(self, key: str, session: dict[str, Any]) -> None:
        self.sessions[key] = session
        self.strike(key)
        if session["state"] == "ATTACHED" and session.get("confirmed") and session["owner"] not in self.cut:
            self.owning[key] = (session["owner"], session["epoch"], self.now)

    def shown(self, key: str) -> dict[str, Any]:
        session = self.sessions[key]
        names = ("state", "owner", "epoch", "state_version", "binding")
        return {"session_id": key} | {name: session[name] for name in names}

    def event(
        self, call: Call | None, op: str, seq: int, kind: str, reason: str | None, old: Any, detail: str | None = None
    ) -> None:
        if not self.events or self.rng.random() < 0.7:
            self.index += self.rng.randrange(1, 4)
        key = call.key if call else detail
        session = self.sessions.get(str(key))
        node = call.node if call else "n1"
        self.events.append(
            {
                "number": len(self.events) + 1,
                "index": self.index,
                "at_ms": self.now // MS,
                "wall_ms": 1_700_000_000_000 + self.now // MS,
                "event": kind,
                "session_id": key,
                "node": node,
                "op": op,
                "incarnation": f"{ord(node[1]):016x}",
                "seq": seq,
                "from_state": (old or {}).get("state") if kind != "Refused" else (session or {}).get("state"),
                "to_state": (session or {}).get("state"),
                "owner": (session or {}).get("owner"),
                "epoch": (session or {}).get("epoch", 0),
                "state_version": (session or {}).get("state_version", 0),
                "reason": reason,
                "detail": detail if call else None,
            }
        )

    # -- what happens by itself ----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        live = [key for key, session in self.sessions.items() if session["state"] in ("ATTACHED", "FROZEN")]
        if not live:
            return
        key = self.rng.choice(live)
        old = self.sessions[key]
        ends = self.rng.random() < 0.05
        state, kind = ("TERMINATED", "Expired") if ends else ("RECOVERING", "Detached")
        new = old | {"state": state, "binding": None, "transferred": False}
        self.put(key, new | {"state_version": old["state_version"] + 1})
        self.seq += 1
        self.event(None, "sweep", self.seq, kind, "TTL_EXPIRED" if ends else "OWNER_RESTARTED", old, key)

    def cut_or_heal(self) -> None:
        if self.cut:
            (node,) = self.cut
            self.cut = {}
            self.tell(type="info", process="nemesis", f="heal", value={"kind": "partition", "effective": True})
            self.tell(type="ok", process="observer", f="quorum", node=node, value=True)
            return
        node = self.rng.choice(NODES)
        self.cut = {node: self.now}
        self.tell(type="info", process="nemesis", f="fault", value={"kind": "partition", "nodes": [node]})
        value = {"kind": "partition", "nodes": [node], "effective": True}
        self.tell(type="info", process="nemesis", f="fault", value=value)
        self.tell(type="ok", process="observer", f="quorum", node=node, value=False)
        self.term += 1
        leader = self.rng.choice([other for other in NODES if other != node])
        self.tell(type="ok", process="observer", f="role", node=leader, value={"term": self.term, "role": "leader"})
        for key in [key for key, owned in self.owning.items() if owned[0] == node]:
            self.strike(key)
            self.sessions[key]["confirmed"] = False

    # -- the data path -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        for key, (node, epoch, _) in self.owning.items():
            if self.rng.random() < 0.5:
                self.tell(type="ok", process="dataplane", f="packet", node=node, key=key, value={"epoch": epoch})
            else:
                value = {"owns": True, "epoch": epoch}
                self.tell(type="ok", process="dataplane", f="owns", node=node, key=key, value=value)

    def strike(self, key: str) -> None:
        owned = self.owning.pop(key, None)
        if owned is not None:
            node, epoch, since = owned
            value = {"from": since, "to": self.now, "epoch": epoch}
            self.tell(type="ok", process="dataplane", f="owns", node=node, key=key, value=value)

    def finals(self) -> dict[str, dict[str, Any]]:
        seal(self.events)
        head = self.events[-1]["head"] if self.events else bytes(32).hex()
        return {
            node: {
                "sessions": [self.shown(key) for key in self.sessions],
                "events": [dict(event) for event in self.events],
                "head": head,
                "index": self.index + 5,
            }
            for node in NODES
        }


def seal(events: list[dict[str, Any]]) -> None:
    """Put the chain head behind each batch, as the production code computes it."""
    head = GENESIS_HEAD
    for place, event in enumerate(events):
        event.pop("head", None)
        if place + 1 == len(events) or events[place + 1]["index"] != event["index"]:
            batch = [event_from_dict(other) for other in events if other["index"] == event["index"]]
            head = chain_next(head, event["index"], pack_events(batch))
            event["head"] = head.hex()


def run(seed: int, ops: int = 120, *, processes: int = 6, sessions: int = 3, know_ids: bool = True) -> Run:
    """A history of the tiny world; the same for the same seed."""
    return World(seed, processes, sessions, know_ids).run(ops)
