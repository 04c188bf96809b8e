"""Directories of runs for tests of reports: small, seeded, and as wrong as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

NODES = ["n1", "n2", "n3"]
MS = 1_000_000


class Maker:
    """Makes up a history that looks like a real one. It need not be a true one: reports draw what they are given."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 0
        self.events: list[dict[str, Any]] = []
        self.versions: dict[str, list[Any]] = {}

    def tell(self, type_: str, f: str, process: Any, **more: Any) -> dict[str, Any]:
        self.now += self.rng.randrange(3_000, 2 * MS)
        event = {"time": self.now, "type": type_, "process": process, "f": f, "key": None, "value": None, "node": None}
        self.events.append({**event, **more, "index": len(self.events)})
        return self.events[-1]

    def op(self, process: int, key: str) -> None:
        """An op from its invoke to its answer, with what a session looks like then."""
        node = self.rng.choice(NODES)
        f = self.rng.choice(["reattach", "renew", "get", "migrate", "failover"])
        self.tell("invoke", f, process, key=key, node=node, value={"expected_version": 1})
        session = self.versions.setdefault(key, [node, 1, 0])
        outcome = self.rng.choices(["ok", "fail", "info"], [6, 3, 1])[0]
        if outcome == "ok" and f != "get":
            session[2] += 1
            if f in ("migrate", "failover"):
                session[0], session[1] = node, session[1] + 1
        shown = self.session(key)
        if outcome == "ok":
            self.tell("ok", f, process, key=key, node=node, value=shown)
        elif outcome == "fail":
            value = {"reason": "VERSION_MISMATCH", "session": shown}
            self.tell("fail", f, process, key=key, node=node, value=value, error="VERSION_MISMATCH")
        else:
            self.tell("info", f, process, key=key, node=node, error="TIMEOUT")

    def session(self, key: str) -> dict[str, Any]:
        owner, epoch, version = self.versions[key]
        return {
            "session_id": key,
            "state": "ATTACHED",
            "owner": owner,
            "epoch": epoch,
            "state_version": version,
            "binding": f"t-{owner}",
        }

    def packet(self, key: str, node: str | None = None, epoch: int | None = None) -> dict[str, Any]:
        session = self.versions[key]
        value = {"epoch": session[1] if epoch is None else epoch, "asked": self.now + 1_000}
        return self.tell("ok", "packet", "dataplane", key=key, node=node or session[0], value=value)

    def fault(self, f: str, kind: str, nodes: list[str]) -> None:
        for effective in (False, True):
            value = {"kind": kind, "nodes": nodes, "effective": effective, "detail": {"form": "halves"}}
            self.tell("info", f, "nemesis", value=value)


def history(seed: int, ops: int, sessions: int) -> list[dict[str, Any]]:
    """Ops over many sessions, faults of two kinds, leaders, packets."""
    maker = Maker(seed)
    maker.tell("info", "role", "observer", node="n1", value={"term": 1, "role": "leader"})
    for number in range(ops):
        key = f"s{number % sessions}"
        maker.op(number, key)
        if number % 7 == 0:
            maker.packet(key)
        if number % max(ops // 8, 1) == 1:
            kind = ("partition", "kill")[maker.rng.randrange(2)]
            maker.fault("fault", kind, [maker.rng.choice(NODES)])
        if number % max(ops // 8, 1) == max(ops // 16, 2):
            maker.fault("heal", "all", [])
    maker.tell("info", "role", "observer", node="n1", value={"term": 1, "role": "follower"})
    return maker.events


def two_owners(seed: int = 1) -> list[dict[str, Any]]:
    """A session for which n2 goes on after n1 has begun under a higher epoch."""
    maker = Maker(seed)
    for process in range(12):
        maker.op(process, f"s{process % 3}")
    maker.versions["s1"][:2] = ["n2", 3]
    maker.packet("s1", "n2", 3)
    maker.packet("s1", "n1", 4)
    maker.packet("s1", "n2", 3)
    return maker.events


def write_run(directory: Path, events: list[dict[str, Any]], results: dict[str, Any] | None = None) -> Path:
    """A run's directory, as the runner leaves it before there is a report."""
    (directory / "final").mkdir(parents=True)
    (directory / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    test = {
        "name": "ownership-kill",
        "workload": "ownership",
        "nemeses": ["partition", "kill"],
        "nodes": NODES,
        "time_limit_s": 12.5,
        "workers": 6,
        "rate": 100.0,
        "seed": 42,
        "policy": "deny",
        "stock": False,
        "plan": [[{"at_s": 1.0, "name": "kill"}]],
    }
    (directory / "test.json").write_text(json.dumps(test))
    verdict = {"valid": True, "checker": "dual_owner", "errors": [], "stats": {"sights": 3}, "seconds": 0.25}
    told = {"valid": True, "torn": "", "events": len(events), "checkers": {"dual_owner": verdict}}
    (directory / "results.json").write_text(json.dumps(told if results is None else results))
    for node in NODES:
        (directory / "final" / f"{node}.json").write_text(json.dumps({"sessions": [], "events": [], "index": 0}))
        (directory / f"{node}.log").write_text(f"{node} speaks\n")
    return directory
