"""Did a node act for a session on the strength of a binding whose caller was never told that it succeeded?

A binding may commit late, after its caller was told "unknown" or had given up. The node must not act on it unless its
embedder says that it shall. So whenever `owns()` is true for a session under an epoch, there must be a binding at that
node that gave it this epoch and was acknowledged, or whose caller still waits, or that was confirmed: an event
`confirmed` with node, key and, in its value, the session's `epoch` and `state_version`. And once a node was told that
it has given the session up, by detach, migration or termination, what was bound before is no ground any more.

That holds only where callers give up inside the node: a remote caller's "unknown" may have been the node's "yes". So it
is asked for by test["callers_in_process"]; what was said may still be under way for `give_up_delay_ms`.
(Ownership model, final principle: if ownership cannot be proven, continuation must be denied.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jepsen_like.checkers.dual_owner import Sight, gather, last_moment
from jepsen_like.history import Errors, Event, Finals, Op, Verdict, pair

NAME = "unconfirmed"
GIVES_UP = ("detach", "migrate", "freeze", "transfer", "terminate")
BINDS = ("create", "reattach", "resume", "failover")
FOR_EVER = 1 << 62

Place = tuple[str | None, str | None]  # node, session


class Ground(NamedTuple):
    """Why a node may act for a session: a binding, from its invoke on, or its confirmation."""

    begin: int
    end: int  # after that it founds nothing: its caller was told that nobody knows
    epoch: int | None  # None: not known
    version: int | None


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """True, without a look, where callers are remote."""
    errors = Errors()
    if not test.get("callers_in_process"):
        return errors.verdict(NAME, {"sights": 0, "looked": False})
    ops = pair(history)
    grounds = _grounds(ops, history, int(test.get("give_up_delay_ms", 0)) * 1_000_000)
    given_up = _given_up(ops)
    count = 0
    for key, sights in gather(history, 0).items():
        for sight in sights:
            count += 1
            at = (sight.node, key)
            ends = given_up.get(at, ())
            if not any(_founds(ground, sight, ends) for ground in grounds.get(at, ())):
                errors.add(f"{key}: {sight} acts for it, and no binding there was acknowledged")
    return errors.verdict(NAME, {"sights": count, "looked": True})


def _grounds(ops: Iterable[Op], history: Iterable[Event], delay_ns: int) -> dict[Place, list[Ground]]:
    grounds: dict[Place, list[Ground]] = {}
    for op in ops:
        if op.f in BINDS and op.args.get("binding") is not None and op.type != "fail":
            session: Mapping[str, Any] = op.session or {}
            is_over = op.type == "info" and op.completion is not None
            end = op.completion["time"] + delay_ns if is_over and op.completion is not None else FOR_EVER
            ground = Ground(op.invoke["time"], end, session.get("epoch"), session.get("state_version"))
            grounds.setdefault((op.node, op.key), []).append(ground)
    for event in history:
        if event["f"] == "confirmed":
            value: Mapping[str, Any] = event.get("value") or {}
            ground = Ground(event["time"], FOR_EVER, value.get("epoch"), value.get("state_version"))
            grounds.setdefault((event.get("node"), event.get("key")), []).append(ground)
    return grounds


def _given_up(ops: Iterable[Op]) -> dict[Place, list[tuple[int, int]]]:
    """When each node was told that it had given a session up, and under which version."""
    ends: dict[Place, list[tuple[int, int]]] = {}
    for op in ops:
        if op.f in GIVES_UP and op.type == "ok" and op.session is not None and op.completion is not None:
            end = (op.completion["time"], op.session["state_version"])
            ends.setdefault((op.node, op.key), []).append(end)
    return ends


def _founds(ground: Ground, sight: Sight, ends: Iterable[tuple[int, int]]) -> bool:
    """Whether this may be why the node acts there and then."""
    if not ground.begin <= sight.end <= ground.end or not _is_epoch(ground, sight):
        return False
    version = ground.version
    return version is None or not any(time < last_moment(sight) and later > version for time, later in ends)


def _is_epoch(ground: Ground, sight: Sight) -> bool:
    return ground.epoch is None or sight.epoch is None or ground.epoch == sight.epoch
