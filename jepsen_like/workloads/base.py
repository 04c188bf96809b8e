"""What a workload is made of: sessions to fight over, what is known of them, the next op, and how one is done.

Workers share what they know of the sessions, as clients of one application would through its database: so most ops name
a version that is right or nearly so, and races are real ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jepsen_like.cluster.programs import Program, Raftstore

OPS_PER_KEY = 150  # then a new session takes its place: histories per session stay short enough to be checked
LIVE = ("ATTACHED", "RECOVERING")
STALE_SHARE = 0.12  # of ops name an older version on purpose


class Op(NamedTuple):
    """What a worker asks for. `args` are the arguments as the history shows them."""

    f: str
    key: str
    args: dict[str, Any]


class Outcome(NamedTuple):
    """What came of it: `type` ok, fail or info, the completion's `value`, `error` and further fields."""

    type: str
    value: Any
    error: str | None = None
    more: Mapping[str, Any] = {}


class Caller(Protocol):
    """Does ops on one node after the other; one per worker."""

    async def call(self, node: str, op: Op) -> Outcome: ...

    async def close(self) -> None: ...


class Book:
    """The sessions in play, and the newest that any worker has seen of each."""

    def __init__(self, size: int, prefix: str = "s") -> None:
        self._prefix = prefix
        self._made = 0
        self.seen: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, int] = {}
        self.keys: list[str] = []
        self.all_keys: list[str] = []
        for _ in range(size):
            self._add()

    def _add(self) -> None:
        key = f"{self._prefix}{self._made}"
        self._made += 1
        self.keys.append(key)
        self.all_keys.append(key)

    def learn(self, session: Any) -> None:
        """Something a node said of a session."""
        if not isinstance(session, Mapping):
            return
        key = session["session_id"]
        known = self.seen.get(key)
        if known is None or known["state_version"] < session["state_version"]:
            self.seen[key] = dict(session)

    def count(self, key: str, ops_max: int = OPS_PER_KEY) -> None:
        """One more op on the session; one that has ended, or has had many, is replaced."""
        self._asked[key] = self._asked.get(key, 0) + 1
        known = self.seen.get(key)
        is_over = known is not None and known["state"] == "TERMINATED" and self._asked[key] > ops_max // 10
        if key in self.keys and (is_over or self._asked[key] >= ops_max):
            self.keys.remove(key)
            self._add()

    def owned_by(self, node: str) -> list[str]:
        return [key for key in self.keys if self.seen.get(key, {}).get("owner") == node]


class Workload(Protocol):
    """Client and generator, and which checkers can judge it."""

    name: str
    sessions: int
    checkers: Sequence[str] | None  # None: all
    probes_every_s: float  # how often each node is asked over its API whether it owns a session; 0: never
    packets_per_s: float  # to each node, for each session; 0: the program has no data path

    def program(self, policy: str) -> Program:
        """What must run as nodes."""

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        """What a worker at `node` does next."""


class Defaults:
    """What most workloads have in common."""

    sessions = 8
    checkers: Sequence[str] | None = None
    probes_every_s = 0.05
    packets_per_s = 0.0

    def program(self, policy: str) -> Program:
        return Raftstore(policy=policy)


def fresh_binding(rng: random.Random, node: str) -> str:
    """A transport id that no other op has."""
    return f"t-{node}-{rng.getrandbits(48):012x}"


def version_of(known: Mapping[str, Any], rng: random.Random) -> int:
    """The version that an op names: mostly the one last seen."""
    version = int(known["state_version"])
    if rng.random() < STALE_SHARE:
        version += rng.choice((-1, -1, 1))
    return max(1, version)


def weighted(rng: random.Random, choices: Mapping[str, float]) -> str:
    return rng.choices(list(choices), weights=list(choices.values()))[0]


def op_of(f: str, key: str, known: Mapping[str, Any], rng: random.Random, node: str, nodes: Sequence[str]) -> Op:
    """An op of kind `f` on a session, with arguments that make sense for it."""
    others = [other for other in nodes if other != node] or [node]
    args: dict[str, Any] = {"expected_version": version_of(known, rng)} if known else {}
    match f:
        case "create":
            return Op(f, key, {"binding": fresh_binding(rng, node) if rng.random() < 0.7 else None})
        case "get" | "get-local":
            return Op(f, key, {})
        case "reattach":
            args["binding"] = fresh_binding(rng, node)
        case "failover" | "resume":
            args["binding"] = fresh_binding(rng, node) if rng.random() < 0.8 else None
        case "renew":
            args["ttl_ms"] = rng.choice((3_000, 30_000, 60_000))
        case "migrate":
            args["to"] = rng.choice(others)
        case "terminate":
            args["operator"] = known.get("owner") != node
    return Op(f, key, args)
