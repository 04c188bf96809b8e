"""Audit events: one for every transition and every refusal, as tuples, as JSON objects, and as a hash chain.

An event tuple is what the chain covers; `event_as_dict` and `event_from_dict` are exact inverses, so that an
auditor recomputes the chain from the JSON lines alone: all events with the same index, in order, packed as one list,
are that batch's bytes. Batches without events leave the chain as it is. (Ownership model, sections 7 and 9.)

Successful lease renewals have no event: they change no session, and several a second would bury the trail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

from raftstore.ownership.commands import INCARNATION_MAX, OP_NAMES
from raftstore.ownership.records import STATE_NAMES

# Kinds of events. Part of the audit format: never reuse a number.
EVENT_NAMES: Final = (
    "",
    "SessionCreated",
    "Reattached",
    "Detached",
    "Renewed",
    "Frozen",
    "OwnerChanged",
    "Resumed",
    "Thawed",
    "Terminated",
    "Expired",
    "Refused",
    "NodeJoined",
    "NodeDraining",
    "NodeLeft",
    "Configured",
    "ClockResumed",
    "MalformedBatch",
    "MappingAdopted",
    "MappingConfirmed",
    "MappingSettled",
    "MappingClosed",
    "SessionAdmitted",
    "SessionHandedOver",
)
SESSION_CREATED: Final = 1
REATTACHED: Final = 2
DETACHED: Final = 3
RENEWED: Final = 4
FROZE: Final = 5
OWNER_CHANGED: Final = 6
RESUMED: Final = 7
THAWED: Final = 8
TERMINATED_EVENT: Final = 9
EXPIRED: Final = 10
REFUSED: Final = 11
NODE_JOINED: Final = 12
NODE_DRAINING_EVENT: Final = 13
NODE_LEFT: Final = 14
CONFIGURED: Final = 15
CLOCK_RESUMED: Final = 16
MALFORMED_BATCH: Final = 17
MAPPING_ADOPTED: Final = 18
MAPPING_CONFIRMED: Final = 19
MAPPING_SETTLED: Final = 20
MAPPING_CLOSED: Final = 21
SESSION_ADMITTED: Final = 22
SESSION_HANDED_OVER: Final = 23

FIELDS = (
    "number",  # 1, 2, 3 ... over the whole history
    "index",  # of the log entry
    "at_ms",  # cluster time
    "wall_ms",  # the leader's wall clock, for people
    "event",
    "session_id",
    "node",  # who asked
    "op",
    "incarnation",  # with node and seq: the op's id
    "seq",
    "from_state",
    "to_state",
    "owner",
    "epoch",
    "state_version",
    "reason",
    "detail",
)
_NUMBERS = ("number", "index", "at_ms", "wall_ms", "seq", "epoch", "state_version")
_TEXTS = ("session_id", "node", "owner", "reason", "detail")

Event = tuple[Any, ...]

GENESIS_HEAD = bytes(32)

_EVENT_CODES = {name: code for code, name in enumerate(EVENT_NAMES) if code}
_OP_CODES: dict[str | None, int] = {None: 0, **{name: code for code, name in OP_NAMES.items()}}
_STATE_CODES = {name: code for code, name in enumerate(STATE_NAMES)}


def pack_events(events: Sequence[Event]) -> bytes:
    """The bytes that the chain covers."""
    packed: bytes = msgpack.packb(events)
    return packed


def unpack_events(packed: bytes) -> list[Event]:
    """The events again."""
    events: list[Event] = [tuple(fields) for fields in msgpack.unpackb(packed)]
    return events


def chain_next(head: bytes, index: int, events_packed: bytes) -> bytes:
    """The chain head after the batch at log `index`, which has these events."""
    return hashlib.sha256(head + index.to_bytes(8, "big") + events_packed).digest()


def event_as_dict(event: Event) -> dict[str, Any]:
    """The JSON form of an event: codes by name, the incarnation as 16 hexadecimal digits."""
    shown = dict(zip(FIELDS, event, strict=True))
    shown["event"] = EVENT_NAMES[shown["event"]]
    shown["op"] = OP_NAMES.get(shown["op"])
    shown["incarnation"] = f"{shown['incarnation']:016x}"
    shown["from_state"] = STATE_NAMES[shown["from_state"]]
    shown["to_state"] = STATE_NAMES[shown["to_state"]]
    return shown


def event_from_dict(shown: Mapping[str, Any]) -> Event:
    """The event tuple of a JSON object; other keys than FIELDS are ignored. ValueError on nonsense."""
    try:
        values = {name: shown[name] for name in FIELDS}
        values["event"] = _EVENT_CODES[values["event"]]
        values["op"] = _OP_CODES[values["op"]]
        values["from_state"] = _STATE_CODES[values["from_state"]]
        values["to_state"] = _STATE_CODES[values["to_state"]]
        values["incarnation"] = _incarnation(values["incarnation"])
    except (KeyError, TypeError) as problem:
        raise ValueError(f"not an audit event: {problem!r}") from problem
    for name in _NUMBERS:
        if type(values[name]) is not int or not 0 <= values[name] <= INCARNATION_MAX:
            raise ValueError(f"not an audit event: {name} must be a natural number")
    for name in _TEXTS:
        if values[name] is not None and type(values[name]) is not str:
            raise ValueError(f"not an audit event: {name} must be text or null")
    return tuple(values[name] for name in FIELDS)


def _incarnation(text: Any) -> int:
    if type(text) is not str or len(text) != 16 or text.strip("0123456789abcdef"):
        raise ValueError("not an audit event: incarnation must be 16 hexadecimal digits")
    return int(text, 16)
