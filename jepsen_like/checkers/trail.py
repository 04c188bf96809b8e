"""The audit trail as an auditor sees it: JSON objects, line by line, and the chain that binds them.

A copy of the format, written down here a second time on purpose: if the code under test changed a number, its own
table would agree with it and this one would not. (Ownership model, sections 7 and 9.)

    event line    all of FIELDS; the last of a batch may carry "head", the chain head after it
    gap line      {"event": "AuditGap", "from": n, "to": n, "index": n, "head": hex}: known to have happened, not seen
    header line   {"audit": 1, "first": n, "prev_head": hex}: where a file begins

Chain: head = SHA-256(head before, log index as 8 bytes, the batch's events as msgpack), from 32 zero bytes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from jepsen_like.history import Event

FIELDS = (
    *("number", "index", "at_ms", "wall_ms", "event", "session_id", "node", "op", "incarnation", "seq"),
    *("from_state", "to_state", "owner", "epoch", "state_version", "reason", "detail"),
)
EVENTS = {
    name: code
    for code, name in enumerate(
        (
            *("SessionCreated", "Reattached", "Detached", "Renewed", "Frozen", "OwnerChanged", "Resumed", "Thawed"),
            *("Terminated", "Expired", "Refused", "NodeJoined", "NodeDraining", "NodeLeft", "Configured"),
            *("ClockResumed", "MalformedBatch", "MappingAdopted", "MappingConfirmed", "MappingSettled"),
            *("MappingClosed", "SessionAdmitted", "SessionHandedOver"),
        ),
        start=1,
    )
}
OPS: dict[str | None, int] = {
    None: 0, "configure": 1, "join": 2, "renew_lease": 3, "drain": 4, "leave": 5,
    "create": 10, "reattach": 11, "detach": 12, "renew": 13, "freeze": 14, "transfer": 15, "resume": 16,
    "thaw": 17, "failover": 18, "terminate": 19, "sweep": 20, "adopt": 30, "confirm": 31, "settle": 32,
    "close": 33, "create_mapped": 40, "admit": 41, "forget": 42, "reclaim": 43,
}  # fmt: skip
STATES = {None: 0, "ATTACHED": 1, "RECOVERING": 2, "FROZEN": 3, "TERMINATED": 4}
TRANSITIONS = frozenset(list(EVENTS)[:10])  # each of these is one transition of one session
GENESIS = bytes(32)


class Gap(NamedTuple):
    first: int
    last: int
    head: str | None


class Trail(NamedTuple):
    """One node's trail: events by number, and where something is missing."""

    node: str
    events: list[Event]
    gaps: list[Gap]
    prev_head: bytes | None  # before the first event; None: not known

    def skips(self, number: int) -> bool:
        """Whether the trail says itself that it does not hold the event with that number."""
        before = bool(self.events) and number < self.events[0]["number"]
        return before or any(gap.first <= number <= gap.last for gap in self.gaps)

    @property
    def last(self) -> int:
        ends = [gap.last for gap in self.gaps] + [event["number"] for event in self.events[-1:]]
        return max(ends, default=0)

    @property
    def is_whole(self) -> bool:
        """From the first event of all on, without a gap."""
        return bool(self.events) and self.events[0]["number"] == 1 and not self.gaps


def read(node: str, lines: Iterable[Mapping[str, Any]]) -> Trail:
    """Sort a node's lines into what they are. ValueError on an event without its fields."""
    events: list[Event] = []
    gaps: list[Gap] = []
    prev_head: bytes | None = None
    for line in lines:
        if "audit" in line:
            if not events and not gaps:
                prev_head = bytes.fromhex(str(line["prev_head"]))
        elif line.get("event") == "AuditGap":
            gaps.append(Gap(line["from"], line["to"], line.get("head")))
        else:
            missing = [name for name in FIELDS if name not in line]
            if missing:
                raise ValueError(f"{node}: audit event {line.get('number')} without {', '.join(missing)}")
            events.append(dict(line))
    if events and events[0]["number"] == 1 and not gaps:
        prev_head = GENESIS
    return Trail(node, events, gaps, prev_head)


def trails_of(finals: Mapping[str, Mapping[str, Any]]) -> list[Trail]:
    """The trails of all nodes that have one."""
    return [read(node, final["events"]) for node, final in finals.items() if final.get("events") is not None]


def merged(trails: Sequence[Trail]) -> list[Event]:
    """All events that any replica has, by number: one log, so one history. Of a number that differs, the first."""
    events: dict[int, Event] = {}
    for trail in trails:
        for event in trail.events:
            events.setdefault(event["number"], event)
    return [events[number] for number in sorted(events)]


def is_transition(event: Event) -> bool:
    return event["event"] in TRANSITIONS


def op_id(event: Event) -> str:
    """The id of the op that an event answers, as callers are told it."""
    return f"{event['node']}:{event['incarnation']}:{event['seq']}"


def fields(event: Event) -> tuple[Any, ...]:
    """What the chain covers. ValueError on a name that the format does not know."""
    try:
        return (
            *(event[name] for name in FIELDS[:4]),
            EVENTS[event["event"]],
            *(event["session_id"], event["node"], OPS[event["op"]], int(event["incarnation"], 16), event["seq"]),
            *(STATES[event["from_state"]], STATES[event["to_state"]]),
            *(event[name] for name in FIELDS[12:]),
        )
    except (KeyError, TypeError) as problem:
        raise ValueError(f"audit event {event.get('number')} cannot be spelled: {problem!r}") from None


def chain_next(head: bytes, index: int, batch: Sequence[Event]) -> bytes:
    """The chain head after a batch, from the one before."""
    packed: bytes = msgpack.packb([fields(event) for event in batch])
    return hashlib.sha256(head + index.to_bytes(8, "big") + packed).digest()
