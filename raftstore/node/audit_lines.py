"""The lines of an audit file: how they are written, and how they are read back byte for byte.

Three kinds of line, each one compact JSON object in ASCII: a header (the first line of every file), an event,
and a gap (events that this node knows to have happened but never saw one by one). The last line of a batch
carries the chain head, so a file is a header and whole batches. Header and gap lines carry a CRC-32, because
no hash chain covers them. Every line has exactly one spelling: whoever reads one can spell it again and
compare the bytes. Knows no files and no threads; the fields of an event belong to the ownership machine.
(Ownership model, section 9: log all ownership changes, provide audit visibility.)
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any, NamedTuple

from raftstore.ownership.commands import OP_NAMES
from raftstore.ownership.events import EVENT_NAMES, FIELDS, GENESIS_HEAD, Event, event_as_dict
from raftstore.ownership.records import STATE_NAMES

Line = dict[str, Any]

FORMAT = 1
LINE_BYTES_MAX = 1 << 20  # a longer line is damage, and is never read whole
RENDER_SLICE_EVENTS = 64  # so many events are spelled between two chances for other threads
GAP_EVENT = "AuditGap"
FREQUENT_TEXTS_MAX = 4096  # node ids and reasons whose spelling is kept

_FILE_NAME = re.compile(r"audit-(\d{16,19})\.jsonl")
_TEMPLATE = "{" + ",".join(f'"{name}":%s' for name in FIELDS) + ',"time":"%s"'
_EVENTS = tuple(_quoted(name) for name in EVENT_NAMES)
_OPS = {code: _quoted(name) for code, name in OP_NAMES.items()}
_STATES = tuple("null" if name is None else _quoted(name) for name in STATE_NAMES)
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode


class Stretch(NamedTuple):
    """A batch or a gap, spelled: `data` holds whole lines, the last of them with the head."""

    data: bytes
    first: int
    last: int
    log_index: int
    head: bytes
    queued_events: int = 0  # how many events it frees in the queue once it is durable


class Position(NamedTuple):
    """Where a trail stands: the last event's number, its log index, and the chain head after it."""

    number: int
    log_index: int
    head: bytes


def file_name(first: int) -> str:
    return f"audit-{first:016d}.jsonl"


def first_of(path: Path) -> int:
    """The number of the first event in a file, by its name; -1 when the name is no audit file's."""
    match = _FILE_NAME.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def list_files(directory: Path) -> list[Path]:
    """The audit files of a directory, oldest first. OSError when it cannot be listed."""
    return sorted((path for path in directory.iterdir() if first_of(path) >= 0), key=first_of)


def header_line(cluster: str, node: str, first: int, prev_head: bytes) -> bytes:
    """The first line of a file: `prev_head` is the chain head before event `first`."""
    return _seal({"audit": FORMAT, "cluster": cluster, "node": node, "first": first, "prev_head": prev_head.hex()})


def gap_line(first: int, last: int, index: int, head: bytes) -> bytes:
    """Says that events `first` to `last` are not in this trail, and where the chain goes on."""
    return _seal({"event": GAP_EVENT, "from": first, "to": last, "index": index, "head": head.hex()})


def is_sealed(line: bytes, fields: Line) -> bool:
    """Whether a header or gap line is byte for byte what was written."""
    return _seal({key: value for key, value in fields.items() if key != "crc"}) == line


def event_line(event: Event, head: bytes | None) -> bytes:
    """The one spelling of an event, from its JSON form; with `head` when it is the last of its batch."""
    fields = event_as_dict(event)
    fields["time"] = time_of(fields["wall_ms"])
    if head is not None:
        fields["head"] = head.hex()
    return _encode(fields).encode("ascii") + b"\n"


def batch_lines(events: Sequence[Event], head: bytes, breathe: Callable[[], None] | None = None) -> bytes:
    """One line per event, the last with the chain head. `breathe` runs between slices of a long batch.

    The same bytes as `event_line`, at a third of its cost: this runs beside the event loop, for every event.
    """
    lines: list[str] = []
    spelled_ms, time_text = None, ""
    for position, event in enumerate(events, start=1):
        number, index, at_ms, wall_ms, kind, session_id, node, op = event[:8]
        incarnation, seq, from_state, to_state, owner, epoch, version, reason, detail = event[8:]
        if wall_ms != spelled_ms:  # the events of one batch share their time
            spelled_ms, time_text = wall_ms, time_of(wall_ms)
        lines.append(
            _TEMPLATE
            % (
                *(number, index, at_ms, wall_ms, _EVENTS[kind]),
                *("null" if session_id is None else _quoted(session_id), _frequent(node)),
                *(_OPS.get(op, "null"), _incarnation(incarnation), seq, _STATES[from_state], _STATES[to_state]),
                *(_frequent(owner), epoch, version, _frequent(reason)),
                *("null" if detail is None else _quoted(detail), time_text),
            )
        )
        if breathe is not None and not position % RENDER_SLICE_EVENTS:
            breathe()
    return ("}\n".join(lines) + f',"head":"{head.hex()}"}}\n').encode("ascii")


def parse_line(line: bytes) -> Line | None:
    """The fields of a complete line; None when it is not one JSON object with its newline."""
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return fields if isinstance(fields, dict) else None


def position_of(fields: Line) -> Position | None:
    """Where the trail stands after a line that ends a batch or a gap; None for any other line."""
    number = fields.get("to") if fields.get("event") == GAP_EVENT else fields.get("number")
    index, head = fields.get("index"), head_of(fields, "head")
    if head is None or type(number) is not int or type(index) is not int:
        return None
    return Position(number, index, head)


def head_of(fields: Line, key: str) -> bytes | None:
    """A chain head out of its hexadecimal form; None when it is none."""
    text = fields.get(key)
    if not isinstance(text, str) or len(text) != 2 * len(GENESIS_HEAD):
        return None
    try:
        head = bytes.fromhex(text)
    except ValueError:
        return None
    return head if head.hex() == text else None


def time_of(wall_ms: object) -> str:
    """Wall time for people, ISO 8601 in UTC with milliseconds; empty when it lies outside the calendar."""
    if type(wall_ms) is not int:
        return ""
    try:
        moment = datetime.fromtimestamp(wall_ms // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ms % 1000:03d}Z"


@lru_cache(FREQUENT_TEXTS_MAX)
def _frequent(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


@lru_cache(FREQUENT_TEXTS_MAX)
def _incarnation(incarnation: int) -> str:
    return f'"{incarnation:016x}"'


def _seal(fields: Line) -> bytes:
    crc = zlib.crc32(_encode(fields).encode("ascii"))
    return _encode({**fields, "crc": f"{crc:08x}"}).encode("ascii") + b"\n"
