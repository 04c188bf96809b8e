"""Did cluster time pass as it may, and did sessions end when they must and not before?

Every event of the trail is stamped with cluster time. It never goes back; it goes no faster than real time and the
drift bound allow; where it jumped (`ClockResumed`: the whole cluster had stopped), then by `clock_resume_max_ms` at
most.

A session ends with its TTL, strictly: at or after that stamp no op of a caller has an effect on it, and no sweep calls
its TTL over before it. When it ends is counted here from what callers asked for (`ttl_ms` of creations and renewals, by
op id) and from the stamps of the entries that did it. That takes a trail without gaps.

The log is one, so the sticky strategy is not judged: there sessions travel between cluster times.
(Ownership model, sections 4 and 9.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jepsen_like.checkers.trail import is_transition, merged, op_id, trails_of
from jepsen_like.history import Errors, Event, Finals, Op, Verdict, finals_of, pair

NAME = "cluster_time"
MILLION = 1_000_000
STAMP_SLACK_MS = 1_000  # a history may begin after the cluster's first entry
SETS_TTL = ("create", "renew")
ENDS_BY_TTL = "TTL_EXPIRED"


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """ "unknown" when no node left a trail."""
    errors = Errors()
    trails = [] if test.get("strategy") == "sticky" else trails_of(finals_of(history, finals))
    events = merged(trails)
    lasted_ms = max((event["time"] for event in history), default=0) // MILLION
    jumps = _passes(events, test, lasted_ms, errors)
    ends = _ttls(events, pair(history), test, errors)
    nothing = "no node left an audit trail" if not events and test.get("strategy") != "sticky" else ""
    return errors.verdict(NAME, {"events": len(events), "jumps": jumps, "ttls": ends}, nothing=nothing)


def _passes(events: Sequence[Event], test: Mapping[str, Any], lasted_ms: int, errors: Errors) -> int:
    """Stamps in order, no faster than time; how many jumps there were."""
    jumps = jumped_ms = 0
    limit_ms = test.get("clock_resume_max_ms")
    for before, event in pairwise(events):
        if event["at_ms"] < before["at_ms"]:
            errors.add(f"audit event {event['number']} is stamped before event {before['number']}")
        if event["event"] == "ClockResumed":
            jump_ms = int(event["detail"])
            jumps, jumped_ms = jumps + 1, jumped_ms + jump_ms
            if limit_ms is not None and jump_ms > limit_ms:
                errors.add(
                    f"audit event {event['number']}: cluster time jumped by {jump_ms} ms, {limit_ms} are allowed"
                )
    drift_ppm = test.get("max_clock_drift_ppm")
    if events and drift_ppm is not None:
        passed_ms = events[-1]["at_ms"] - events[0]["at_ms"] - jumped_ms
        allowed_ms = lasted_ms * (MILLION + drift_ppm) // MILLION + STAMP_SLACK_MS
        if passed_ms > allowed_ms:
            errors.add(f"cluster time went on by {passed_ms} ms, of {lasted_ms} ms of the run, jumps not counted")
    return jumps


def _ttls(events: Sequence[Event], ops: Sequence[Op], test: Mapping[str, Any], errors: Errors) -> int:
    """Transitions at or after a session's end, and ends that came too early; how many ends were known."""
    if [event["number"] for event in events] != list(range(1, len(events) + 1)):
        return 0  # a renewal may be among what is missing
    asked = _asked(ops, test.get("ttl_default_ms"))
    ends_ms: dict[str, int] = {}  # of the sessions whose end is known
    known = 0
    for event in filter(is_transition, events):
        session_id, at_ms = event["session_id"], event["at_ms"]
        end_ms = ends_ms.get(session_id)
        what = f"{session_id}: audit event {event['number']} ({event['event']}) at {at_ms} ms"
        if end_ms is not None and at_ms >= end_ms and event["op"] != "sweep":
            errors.add(f"{what}, and its TTL ended at {end_ms} ms")
        if end_ms is not None and at_ms < end_ms and event["reason"] == ENDS_BY_TTL:
            errors.add(f"{what}: its TTL was called over, and ends at {end_ms} ms")
        if event["op"] in SETS_TTL:
            ttl_ms = asked.get(op_id(event))
            ends_ms.pop(session_id, None)
            if ttl_ms is not None:
                ends_ms[session_id] = at_ms + ttl_ms
                known += 1
    return known


def _asked(ops: Sequence[Op], default_ms: int | None) -> dict[str, int]:
    """The TTL that each creation and renewal asked for, by op id."""
    found: dict[str, int] = {}
    for op in ops:
        if op.f not in SETS_TTL:
            continue
        ttl_ms = op.args.get("ttl_ms")
        ttl_ms = default_ms if ttl_ms is None else ttl_ms
        if ttl_ms is not None:
            found.update(dict.fromkeys(op.op_ids, int(ttl_ms)))
    return found
