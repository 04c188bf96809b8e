"""Did what callers were told happen, and only that?

Every op that was acknowledged stands in the audit trail of every node exactly once; one that was refused has no
transition there, ever; one of unknown outcome has at most one, in an entry that was stamped before its deadline.

An op is found by its id where the history knows it. Without, by what it did: under one version of one session there is
one transition. One that no acknowledged op made, but that is in all respects what a refused op asked for and no op of
unknown outcome did, was made by the refused one. What nodes do by themselves (late commits undone, drains, sweeps)
never looks like that. What a node says of an op later (events `outcome`) must be so too. Under the sticky strategy the
log of some node counts. (Ownership model, sections 6 and 7.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jepsen_like.checkers.trail import Trail, is_transition, merged, op_id, trails_of
from jepsen_like.history import Errors, Event, Finals, Op, Verdict, binding_of, finals_of, pair

NAME = "acknowledged"
LOGGED_AS = {"create": ("create", "create_mapped")}
UNDONE = ("freeze", "thaw")  # what a refused migration may leave behind
BY_ITSELF = ("DRAIN", "MAPPING")  # reasons of freezes that nobody asked for
BINDS = ("create", "reattach", "resume", "failover")


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """ "unknown" when no node left a trail."""
    errors = Errors()
    trails = trails_of(finals_of(history, finals))
    ops = [op for op in pair(history) if not op.is_read and op.key is not None]
    stats = {kind: sum(op.type == kind for op in ops) for kind in ("ok", "fail", "info")}
    if not trails:
        return errors.verdict(NAME, stats, nothing="no node left an audit trail")
    log = _Log(trails, sticky=test.get("strategy") == "sticky")
    made: dict[int, Op] = {}  # by the transition's place in the log
    for op in ops:
        if op.type == "ok":
            _happened(op, log, made, errors)
    for op in ops:
        if op.type != "ok":
            _by_id(op, log, made, errors)
    stats["told_later"] = _told_later(history, log, errors)
    stats["strays"] = _strays(ops, log, made, errors)
    stats["transitions"] = len(log.transitions)
    return errors.verdict(NAME, stats)


class _Entry(NamedTuple):
    """A transition in the log."""

    place: int
    event: Event


class _Log:
    """The transitions of all logs, found by op id and by session and version."""

    def __init__(self, trails: Sequence[Trail], *, sticky: bool) -> None:
        self.trails = trails
        self.sticky = sticky
        logs: Iterable[Event] = (event for trail in trails for event in trail.events) if sticky else merged(trails)
        self.transitions = [_Entry(place, event) for place, event in enumerate(filter(is_transition, logs))]
        self.is_whole = all(trail.is_whole for trail in trails) if sticky else any(trail.is_whole for trail in trails)
        self._numbers = {trail.node: {event["number"] for event in trail.events} for trail in trails}
        self._by_id: dict[str, list[_Entry]] = {}
        self._by_version: dict[tuple[str, int], list[_Entry]] = {}
        for entry in self.transitions:
            event = entry.event
            self._by_id.setdefault(op_id(event), []).append(entry)
            self._by_version.setdefault((event["session_id"], event["state_version"]), []).append(entry)

    def by_id(self, one_id: str) -> list[_Entry]:
        return self._by_id.get(one_id, [])

    def by_version(self, session_id: str, version: int) -> list[_Entry]:
        return self._by_version.get((session_id, version), [])

    def without(self, event: Event) -> list[str]:
        """Nodes whose trail should hold the event and does not reach it."""
        if self.sticky:
            return []
        number = event["number"]
        return [t.node for t in self.trails if number not in self._numbers[t.node] and not t.skips(number)]


# -- what was acknowledged --------------------------------------------------------------------------------------------


def _happened(op: Op, log: _Log, made: dict[int, Op], errors: Errors) -> None:
    entries = [entry for one_id in op.op_ids for entry in log.by_id(one_id)]
    for one_id in op.op_ids:
        count = len(log.by_id(one_id))
        if count > 1 or (not count and log.is_whole):
            errors.add(f"{op}: acknowledged, and has {count} transitions under {one_id}")
    versions = _versions(op)
    for name, version in versions:
        found = log.by_version(str(op.key), version)
        if len(found) != 1:
            if found or log.is_whole:
                errors.add(f"{op}: acknowledged, and version {version} has {len(found)} transitions in the log")
            continue
        entries += found
        _is_mine(op, name, found[0].event, errors)
    for entry in entries:
        made.setdefault(entry.place, op)
        missing = log.without(entry.event)
        if missing:
            number = entry.event["number"]
            errors.add(f"{op}: acknowledged, audit event {number}, which {', '.join(missing)} does not have")


def _versions(op: Op) -> list[tuple[str, int]]:
    """The transitions that an acknowledged op made, by what was told of its result."""
    if op.session is None:
        return []
    version = op.session["state_version"]
    if op.f == "migrate":
        return [("freeze", version - 1), ("transfer", version)]
    return [(op.f, version)]


def _is_mine(op: Op, name: str, event: Event, errors: Errors) -> None:
    what = f"{op}: version {event['state_version']} was made by {event['op']} of {event['node']}"
    if event["op"] not in LOGGED_AS.get(name, (name,)) or (op.node is not None and event["node"] != op.node):
        errors.add(what)
    elif op.op_ids and op_id(event) not in op.op_ids and op.f != "migrate":
        errors.add(f"{what} under {op_id(event)}, the op is {', '.join(op.op_ids)}")


# -- what was not ----------------------------------------------------------------------------------------------------


def _by_id(op: Op, log: _Log, made: dict[int, Op], errors: Errors) -> None:
    for one_id in op.op_ids:
        entries = log.by_id(one_id)
        for entry in entries:
            made.setdefault(entry.place, op)
            if op.type == "fail" and not (op.f == "migrate" and entry.event["op"] in UNDONE):
                errors.add(f"{op}: refused ({op.reason}), and has audit event {entry.event['number']}: {one_id}")
            _in_time(op, entry.event, errors)
        if len(entries) > 1:
            errors.add(f"{op}: {len(entries)} transitions under {one_id}")


def _told_later(history: Iterable[Event], log: _Log, errors: Errors) -> int:
    """What nodes said of an op afterwards: "committed", "rejected", "unavailable" or "unknown"."""
    count = 0
    for event in history:
        if event["f"] != "outcome":
            continue
        one_id, outcome = event["value"]["op_id"], event["value"]["outcome"]
        found = len(log.by_id(one_id))
        count += outcome != "unknown"
        what = f"event {event.get('index')}: {event['node']} says that {one_id} is {outcome}"
        if outcome == "committed" and not found and log.is_whole:
            errors.add(f"{what}, and it has no transition")
        elif outcome in ("rejected", "unavailable") and found:
            errors.add(f"{what}, and it has audit event {log.by_id(one_id)[0].event['number']}")
    return count


def _in_time(op: Op, event: Event, errors: Errors) -> None:
    deadline_ms = op.told("deadline_ms")
    if deadline_ms is not None and event["at_ms"] > deadline_ms:
        number = event["number"]
        errors.add(f"{op}: audit event {number} is stamped {event['at_ms']} ms, after the deadline {deadline_ms} ms")


def _strays(ops: Sequence[Op], log: _Log, made: Mapping[int, Op], errors: Errors) -> int:
    """Transitions that no op accounts for. How many there are; an error where only a refused op can have made one."""
    asked: dict[tuple[str | None, int, str | None, str], list[Op]] = {}
    for op in ops:
        if op.type != "ok" and not op.op_ids:
            for name, version in _asked(op):
                asked.setdefault((op.key, version, op.node, name), []).append(op)
    strays = 0
    for place, event in log.transitions:
        if place in made:
            continue
        name = "create" if event["op"] == "create_mapped" else event["op"]
        at = (event["session_id"], event["state_version"], event["node"], name)
        fits = [] if _moved_by_node(event, log) else [op for op in asked.get(at, ()) if _fits(op, event)]
        strays += not fits
        if fits and all(op.type == "fail" for op in fits):
            errors.add(f"{fits[0]}: refused ({fits[0].reason}), and audit event {event['number']} did just that")
        elif len(fits) == 1:
            _in_time(fits[0], event, errors)
    return strays


def _asked(op: Op) -> list[tuple[str, int]]:
    """The transitions that an op asked for, where what it said tells; none that a node might make by itself."""
    expected = 0 if op.f == "create" else op.args.get("expected_version")
    if expected is None:
        return []
    if op.f == "migrate":
        freeze = [("freeze", expected + 1)] if op.type == "info" else []
        return [*freeze, ("transfer", expected + 2)]
    return [(op.f, expected + 1)]


def _moved_by_node(event: Event, log: _Log) -> bool:
    """Whether a transfer belongs to a freeze that the node itself began: a drain, or a mapping change."""
    frozen = log.by_version(event["session_id"], event["state_version"] - 1) if event["op"] == "transfer" else []
    return any(entry.event["reason"] in BY_ITSELF for entry in frozen)


def _fits(op: Op, event: Event) -> bool:
    if op.f in BINDS:
        binding = binding_of(op.args.get("binding"))
        # without a binding a node resumes what it was given by itself: that proves nothing
        return bool(binding == event["detail"]) and (binding is not None or op.f != "resume" or op.type == "info")
    if op.f == "migrate":
        return bool(event["owner"] == op.args.get("to") or event["op"] == "freeze")
    return event["reason"] not in ("LATE_COMMIT", *BY_ITSELF)
