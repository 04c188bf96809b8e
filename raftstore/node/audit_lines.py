"""The lines of an audit file: how they are written, and how they are read back byte for byte.

Three kinds of line, each compact JSON: a header (an object, the first line of every file, which names the columns), an
event (an array: its columns), and a gap (an object: events that this node knows to have happened but never saw one by
one). The last line of a batch carries the chain head, so a file is a header and whole batches. Header and gap lines
carry a CRC-32, because no hash chain covers them. Every line has exactly one spelling: whoever reads one can spell it
again and compare the bytes. Knows no files and no threads; the fields of an event belong to the ownership machine.
(Ownership model, section 9: log all ownership changes, provide audit visibility.)
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from raftstore.ownership.commands import OP_NAMES
from raftstore.ownership.events import EVENT_NAMES, FIELDS, GENESIS_HEAD, Event
from raftstore.ownership.records import STATE_NAMES

Line = dict[str, Any]

FORMAT = 2
LINE_BYTES_MAX = 1 << 20  # a longer line is damage, and is never read whole
RENDER_SLICE_EVENTS = 256  # so many events are spelled between two chances for other threads
GAP_EVENT = "AuditGap"

_FILE_NAME = re.compile(r"audit-(\d{16,19})\.jsonl")
COLUMNS = (*FIELDS, "time", "head")  # of an event's line; only the last line of a batch has a head
TIME_ENDS = (b'Z"]\n', b'""]\n')  # how a line ends whose last column is the time
_BETWEEN_ROWS = b"],["
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
    return _seal(
        {
            "audit": FORMAT,
            "cluster": cluster,
            "node": node,
            "first": first,
            "prev_head": prev_head.hex(),
            "columns": COLUMNS,
        }
    )


def gap_line(first: int, last: int, index: int, head: bytes) -> bytes:
    """Says that events `first` to `last` are not in this trail, and where the chain goes on."""
    return _seal({"event": GAP_EVENT, "from": first, "to": last, "index": index, "head": head.hex()})


def is_sealed(line: bytes, fields: Line) -> bool:
    """Whether a header or gap line is byte for byte what was written."""
    return _seal({key: value for key, value in fields.items() if key != "crc"}) == line


def event_line(event: Event, head: bytes | None) -> bytes:
    """The one spelling of an event; with `head` when it is the last of its batch."""
    row = _rows((event,))[0]
    return orjson.dumps(row if head is None else (*row, head.hex())) + b"\n"


def batch_lines(events: Sequence[Event], head: bytes, breathe: Callable[[], None] | None = None) -> bytes:
    """One line per event, the last with the chain head. `breathe` runs between slices of a long batch.

    The same bytes as `event_line`, at a fraction of its cost: this runs beside the event loop, for every event.
    """
    parts: list[bytes] = []
    for begin in range(0, len(events), RENDER_SLICE_EVENTS):
        if begin and breathe is not None:
            breathe()
        rows = _rows(events[begin : begin + RENDER_SLICE_EVENTS])
        if begin + RENDER_SLICE_EVENTS >= len(events):
            rows[-1] = (*rows[-1], head.hex())
        parts.append(_lines(rows))
    return b"".join(parts)


def _lines(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """One call of the encoder for all, cut where a row ends, unless that cannot be told from a text."""
    together = orjson.dumps(rows)
    if together.count(_BETWEEN_ROWS) != len(rows) - 1:
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)
    return together[1:-1].replace(_BETWEEN_ROWS, b"]\n[") + b"\n"


def _rows(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Codes by name, the incarnation as 16 hexadecimal digits, and wall time for people."""
    rows: list[tuple[Any, ...]] = []
    spelled_ms, time_text = None, ""
    spelled_incarnation, incarnation_text = -1, ""
    for event in events:
        (
            number, index, at_ms, wall_ms, kind, session_id, node, op, incarnation, seq, from_state, to_state, owner,
            epoch, version, reason, detail,
        ) = event  # fmt: skip
        if wall_ms != spelled_ms:  # the events of one batch share their time
            spelled_ms, time_text = wall_ms, time_of(wall_ms)
        if incarnation != spelled_incarnation:  # those of one group their process
            spelled_incarnation, incarnation_text = incarnation, f"{incarnation:016x}"
        rows.append(
            (
                number, index, at_ms, wall_ms, EVENT_NAMES[kind], session_id, node, OP_NAMES.get(op), incarnation_text,
                seq, STATE_NAMES[from_state], STATE_NAMES[to_state], owner, epoch, version, reason, detail, time_text,
            )
        )  # fmt: skip
    return rows


def parse_line(line: bytes) -> Line | None:
    """The fields of a complete line, those of an event by name; None when it is no line of an audit file."""
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    if isinstance(fields, list) and len(COLUMNS) - 1 <= len(fields) <= len(COLUMNS):
        return dict(zip(COLUMNS, fields, strict=False))
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


def _seal(fields: Line) -> bytes:
    crc = zlib.crc32(_encode(fields).encode("ascii"))
    return _encode({**fields, "crc": f"{crc:08x}"}).encode("ascii") + b"\n"
