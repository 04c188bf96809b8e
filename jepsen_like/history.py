"""The history of a run: the one thing that runners, checkers and reports have in common.

A history is a list of plain dictionaries in the order of time; position in the list is position in time, so ties of the
clock decide nothing. One event per line in `history.jsonl`:

    index    0, 1, 2 ...                        time     nanoseconds since the run began
    type     invoke | ok | fail | info          process  an integer (a client), else text ("nemesis", "dataplane" ...)
    f        what it is about                   key      session id or null
    value    any JSON                           node     node id or null

An op is the `invoke` of a client and its completion: `ok` it happened, `fail` it did not and never will, `info`
nobody knows; no completion is `info` too. A process does one op at a time and ends with its first `info`. Where the id
of an op is known ("node:incarnation:seq"), it stands as `op_id` in the event or in its value, on either side; so does
`deadline_ms`, in cluster time. A migration is several ops of the node: `op_ids`, a list. An
op that is tried again under the same id is one op still, from its first invoke to its last answer.

Events of other processes stand alone: `fault` and `heal`, `owns`, `packet`, `role`, `quorum`, `final`. The last state
of a node is `final`: {"sessions": [...], "events": [...], "head": hex, "index": n}, in the history or beside it.

Knows no cluster and no checker. While writing and reading, memory is bounded by one line; a checker needs the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

Event = dict[str, Any]
Finals = Mapping[str, Mapping[str, Any]]  # by node
Valid = bool | Literal["unknown"]

LINE_BYTES_MAX = 1 << 24  # a longer line is damage, and is never read whole
ERRORS_MAX = 100  # named one by one in a verdict; a ruined run has more, and they say no more
TYPES = ("invoke", "ok", "fail", "info")
READS = ("get", "get-local")

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode


class HistoryError(ValueError):
    """The history is not one. The message names the index, or the line."""


# -- verdicts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker says: True, False, or "unknown", which is not a pass."""

    valid: Valid
    checker: str
    errors: list[str] = field(default_factory=list)  # each names the events it rests on
    stats: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"valid": self.valid, "checker": self.checker, "errors": self.errors, "stats": self.stats}


class Errors:
    """Errors as a checker finds them, the first ERRORS_MAX by name."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < ERRORS_MAX:
            self.texts.append(text)

    def verdict(self, checker: str, stats: dict[str, Any], *, nothing: str = "") -> Verdict:
        """False with errors; "unknown" when there was `nothing` to look at (a sentence); else True."""
        if self.count:
            return Verdict(False, checker, self.texts, {**stats, "errors": self.count})
        if nothing:
            return Verdict("unknown", checker, [nothing], stats)
        return Verdict(True, checker, [], stats)


# -- files -------------------------------------------------------------------------------------------------------------


class Writer:
    """Appends events to a file, numbers them, and keeps their times in order. Also a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", buffering=1 << 16)
        self.count = 0
        self._time = 0

    def append(self, event: Event) -> Event:
        """The event with its index, as written. HistoryError when its time lies before the previous one's."""
        if event["time"] < self._time:
            raise HistoryError(f"index {self.count}: time {event['time']} after {self._time}")
        numbered = {**event, "index": self.count}
        self._file.write(_encode(numbered) + "\n")
        self.count += 1
        self._time = event["time"]
        return numbered

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


class Loaded(NamedTuple):
    """A history from a file; `torn` says what was left out at its end, or is empty."""

    events: list[Event]
    torn: str


class Reader:
    """Goes through a file event by event. After the last one `torn` tells of an unfinished line at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.torn = ""

    def __iter__(self) -> Iterator[Event]:
        """HistoryError, naming the line, when one before the end is no event."""
        with self._path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), start=1):
                if not line.endswith(b"\n"):
                    if len(line) == LINE_BYTES_MAX:
                        raise HistoryError(f"{self._path}:{number}: longer than {LINE_BYTES_MAX} bytes")
                    self.torn = f"{self._path}:{number}: torn line of {len(line)} bytes left out"
                    return
                yield _parse(line, f"{self._path}:{number}")


def _parse(line: bytes, place: str) -> Event:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise HistoryError(f"{place}: not JSON: {problem}") from None
    if not isinstance(event, dict):
        raise HistoryError(f"{place}: not an event")
    return event


def load(path: Path) -> Loaded:
    """A whole history. HistoryError unless indices run 0, 1, 2 ... and times do not go back."""
    reader = Reader(path)
    events = list(reader)
    validate(events)
    return Loaded(events, reader.torn)


def write(path: Path, events: Iterable[Event]) -> int:
    """Write a whole history; the number of events."""
    with Writer(path) as writer:
        for event in events:
            writer.append(event)
        return writer.count


def validate(history: Sequence[Event]) -> None:
    """HistoryError, naming the index, unless every event has its fields, the next index and a time in order."""
    before = 0
    for index, event in enumerate(history):
        if event.get("index") != index:
            raise HistoryError(f"index {event.get('index')} where {index} was due")
        time = event.get("time")
        if type(time) is not int or time < before:
            raise HistoryError(f"index {index}: time {time!r} after {before}")
        if event.get("type") not in TYPES or type(event.get("f")) is not str or "process" not in event:
            raise HistoryError(f"index {index}: type, f or process is missing or not one")
        before = time


# -- ops ---------------------------------------------------------------------------------------------------------------


class Op:
    """An invoke and its completion. `call` and `ret` are positions in the history; no `ret`: it is open for ever."""

    __slots__ = ("call", "completion", "invoke", "ret", "type")

    def __init__(self, call: int, invoke: Event) -> None:
        self.call = call
        self.invoke = invoke
        self.ret: int | None = None
        self.completion: Event | None = None
        self.type = "info"

    @property
    def f(self) -> str:
        return str(self.invoke["f"])

    @property
    def key(self) -> str | None:
        key: str | None = self.invoke.get("key")
        return key

    @property
    def node(self) -> str | None:
        node: str | None = self.invoke.get("node")
        return node

    @property
    def index(self) -> int:
        return int(self.invoke.get("index", self.call))

    @property
    def args(self) -> Mapping[str, Any]:
        value = self.invoke.get("value")
        return value if isinstance(value, Mapping) else {}

    @property
    def session(self) -> Mapping[str, Any] | None:
        """The session that the completion shows: the result of an `ok`, the one beside the reason of a `fail`."""
        value = None if self.completion is None else self.completion.get("value")
        if self.type == "fail" and isinstance(value, Mapping):
            value = value.get("session")
        return value if isinstance(value, Mapping) and "state_version" in value else None

    @property
    def reason(self) -> str | None:
        """Why it failed, or why nobody knows."""
        if self.completion is None or self.type == "ok":
            return None
        value = self.completion.get("value")
        reason = value.get("reason") if isinstance(value, Mapping) else None
        return reason or self.completion.get("error")

    @property
    def is_read(self) -> bool:
        return self.invoke["f"] in READS

    def told(self, name: str) -> Any:
        """A field such as `op_id`, from wherever it stands; the completion's before the invoke's."""
        for event in (self.completion, self.invoke):
            if event is None:
                continue
            value = event.get("value")
            for place in (event, value):
                if isinstance(place, Mapping) and place.get(name) is not None:
                    return place[name]
        return None

    @property
    def op_ids(self) -> list[str]:
        one, several = self.told("op_id"), self.told("op_ids") or []
        return [str(op_id) for op_id in ([] if one is None else [one]) + [i for i in several if i != one]]

    def __str__(self) -> str:
        ends = "open" if self.completion is None else self.completion.get("index", self.ret)
        return f"{self.f} of {self.key} at {self.node} (events {self.index} to {ends}, {self.type})"


def pair(history: Sequence[Event]) -> list[Op]:
    """The ops of all clients, in the order of their invokes. HistoryError, naming the index, on what cannot be.

    Clients are the processes with a number; the events of others are no ops.
    """
    ops: list[Op] = []
    open_ops: dict[int, Op] = {}
    ended: set[int] = set()
    for position, event in enumerate(history):
        process = event.get("process")
        if type(process) is not int:
            continue
        kind = event.get("type")
        if kind == "invoke":
            if process in open_ops:
                raise HistoryError(f"index {position}: process {process} invokes while its {open_ops[process]}")
            if process in ended:
                raise HistoryError(f"index {position}: process {process} goes on after an op of unknown outcome")
            open_ops[process] = op = Op(position, event)
            ops.append(op)
        elif kind in ("ok", "fail", "info"):
            _complete(open_ops.pop(process, None), position, event)
            if kind == "info":
                ended.add(process)
        else:
            raise HistoryError(f"index {position}: type {kind!r}")
    return ops


def _complete(op: Op | None, position: int, event: Event) -> None:
    if op is None:
        raise HistoryError(f"index {position}: process {event['process']} completes what it never invoked")
    for name in ("f", "key"):
        if event.get(name) != op.invoke.get(name):
            said = f"{name} {event.get(name)!r} completes {name} {op.invoke.get(name)!r}"
            raise HistoryError(f"index {position}: {said} of index {op.index}")
    op.completion = event
    op.type = event["type"]
    if op.type != "info":
        op.ret = position


def by_key(ops: Iterable[Op]) -> dict[str, list[Op]]:
    """Ops on sessions, session by session."""
    keys: dict[str, list[Op]] = {}
    for op in ops:
        if op.key is not None:
            keys.setdefault(op.key, []).append(op)
    return keys


def binding_of(value: Any) -> str | None:
    """The transport id of a binding in any of its forms: the id itself, three fields by name or in order, none."""
    if isinstance(value, Mapping):
        value = value.get("transport_id")
    elif isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return None if value is None else str(value)


def finals_of(history: Iterable[Event], finals: Finals | None) -> dict[str, Mapping[str, Any]]:
    """The last state of each node: those handed over, and those in the history."""
    found: dict[str, Mapping[str, Any]] = {
        str(event["node"]): event["value"]
        for event in history
        if event.get("f") == "final" and isinstance(event.get("value"), Mapping)
    }
    found.update(finals or {})
    return dict(sorted(found.items()))


def sessions_of(final: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A node's sessions by id, from a list of them or from an object."""
    sessions = final.get("sessions") or ()
    if isinstance(sessions, Mapping):
        return dict(sessions)
    return {session["session_id"]: session for session in sessions}


__all__ = [
    "ERRORS_MAX",
    "Errors",
    "Event",
    "Finals",
    "HistoryError",
    "Loaded",
    "Op",
    "Reader",
    "Valid",
    "Verdict",
    "Writer",
    "binding_of",
    "by_key",
    "finals_of",
    "load",
    "pair",
    "sessions_of",
    "validate",
    "write",
]
