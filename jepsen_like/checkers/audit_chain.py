"""Do all replicas tell the same story, without a hole, bound by the same chain?

For each node: numbers run, log indices do not go back, every stated chain head follows from the events before it, and
the replicated head at the end is the one that the events give. Between nodes: under one number stands one event. Under
the sticky strategy each node has a log of its own, so only the first part holds. (Ownership model, section 9.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from jepsen_like.checkers.trail import FIELDS, Trail, chain_next, trails_of
from jepsen_like.history import Errors, Event, Finals, Verdict, finals_of

NAME = "audit_chain"


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """ "unknown" when no node left a trail."""
    errors = Errors()
    last_states = finals_of(history, finals)
    trails = trails_of(last_states)
    for trail in trails:
        _numbers(trail, errors)
        _chain(trail, last_states[trail.node], errors)
    if test.get("strategy") != "sticky":
        _alike(trails, errors)
        _heads_alike(trails, last_states, errors)
    stats = {
        "nodes": len(trails),
        "events": {trail.node: len(trail.events) for trail in trails},
        "gaps": {trail.node: len(trail.gaps) for trail in trails if trail.gaps},
    }
    return errors.verdict(NAME, stats, nothing="" if trails else "no node left an audit trail")


def _numbers(trail: Trail, errors: Errors) -> None:
    skipped = {gap.first: gap.last for gap in trail.gaps}
    due = index = 0
    for event in trail.events:
        number = event["number"]
        while due in skipped:
            due = skipped[due] + 1
        if due and number != due:
            errors.add(f"{trail.node}: audit event {number} where {due} was due")
        if event["index"] < index:
            errors.add(f"{trail.node}: audit event {number}: log index {event['index']} after {index}")
        due, index = number + 1, event["index"]


def _chain(trail: Trail, final: Mapping[str, Any], errors: Errors) -> None:
    """Recompute; after a gap, and after a head that does not follow, go on from the one that is stated."""
    head = trail.prev_head
    known = {gap.last + 1: gap.head for gap in trail.gaps}
    for index, group in groupby(trail.events, key=lambda event: event["index"]):
        batch = list(group)
        if batch[0]["number"] in known:
            stated = known[batch[0]["number"]]
            head = None if stated is None else bytes.fromhex(stated)
        computed = None if head is None else chain_next(head, index, batch)
        stated = batch[-1].get("head")
        if stated is not None and computed is not None and stated != computed.hex():
            errors.add(f"{trail.node}: the chain head at audit event {batch[-1]['number']} does not follow")
        head = computed if stated is None else bytes.fromhex(stated)
    ends_in_gap = any(gap.last >= trail.last for gap in trail.gaps)
    stated = final.get("head")
    if stated is not None and head is not None and not ends_in_gap and stated != head.hex():
        errors.add(f"{trail.node}: the chain head of its state is not the one of its audit events")
    if trail.events and final.get("index", trail.events[-1]["index"]) < trail.events[-1]["index"]:
        errors.add(f"{trail.node}: events up to log index {trail.events[-1]['index']}, state at {final['index']}")


def _alike(trails: Sequence[Trail], errors: Errors) -> None:
    known: dict[int, tuple[str, Event]] = {}
    for trail in trails:
        for event in trail.events:
            node, other = known.setdefault(event["number"], (trail.node, event))
            if other is event:
                continue
            differ = [name for name in FIELDS if event[name] != other[name]]
            if differ:
                errors.add(f"audit event {event['number']}: {node} and {trail.node} differ in {', '.join(differ)}")


def _heads_alike(trails: Sequence[Trail], finals: Mapping[str, Mapping[str, Any]], errors: Errors) -> None:
    heads: dict[int, tuple[str, str]] = {}
    for trail in trails:
        stated = finals[trail.node].get("head")
        if stated is None:
            continue
        node, head = heads.setdefault(trail.last, (trail.node, stated))
        if head != stated:
            errors.add(f"{node} and {trail.node} have different chain heads after audit event {trail.last}")
