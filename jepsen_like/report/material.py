"""A run's directory as values for pages and plots, whatever is missing from it.

A report is wanted most when something went wrong, so nothing in here raises over a damaged piece: it goes to `missing`
in one sentence, and what was read before it stays. Checkers are strict (`jepsen_like.history`); a report is not.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jepsen_like.checkers.availability import Fault, faults
from jepsen_like.history import TYPES, Event, HistoryError, Op, Reader

FINAL_BYTES_MAX = 256 << 20  # of one node's last state; more is not read, and said so
RESULT_BYTES_MAX = 64 << 20

_NUMBERS = re.compile(r"(\d+)")


class Check(NamedTuple):
    """What one checker said. `valid` is True, False or "unknown"."""

    name: str
    valid: Any
    errors: list[str]
    stats: Mapping[str, Any]
    seconds: float | None


@dataclass
class Material:
    """All that a report is made of."""

    directory: Path
    events: list[Event] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    finals: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def valid(self) -> Any:
        """True, False or "unknown"; without results, "unknown": nothing was shown."""
        return _valid(self.results.get("valid"))

    @property
    def name(self) -> str:
        return str(self.test.get("name") or self.test.get("workload") or self.directory.name)

    @property
    def end_ns(self) -> int:
        return int(self.events[-1]["time"]) if self.events else 0

    @property
    def nodes(self) -> list[str]:
        """Those that the run names, and any other that an event names."""
        told = [str(node) for node in _list(self.test.get("nodes"))]
        seen = {str(event["node"]) for event in self.events if event.get("node") is not None}
        return told + sorted(seen - set(told), key=natural)


def read(directory: Path) -> Material:
    """What there is of a run. Never raises over its content."""
    found = Material(directory)
    found.results = _object(directory / "results.json", RESULT_BYTES_MAX, found.missing)
    inside = found.results.get("test")  # a simulated run keeps its parameters there
    if isinstance(inside, dict) and not (directory / "test.json").exists():
        found.test = inside
    else:
        found.test = _object(directory / "test.json", RESULT_BYTES_MAX, found.missing)
    found.events = _events(directory / "history.jsonl", found.missing)
    found.ops = pair_leniently(found.events)
    found.faults = _faults(found.events, found.missing)
    found.checks = checks_of(found.results)
    for path in sorted((directory / "final").glob("*.json")):
        found.finals[path.stem] = _object(path, FINAL_BYTES_MAX, found.missing)
    if not found.finals:
        found.missing.append("final/ is empty: no node told of its last state")
    return found


def _object(path: Path, bytes_max: int, missing: list[str]) -> dict[str, Any]:
    try:
        if path.stat().st_size > bytes_max:
            raise ValueError(f"larger than {bytes_max} bytes")
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        missing.append(f"{path.name} is missing")
    except (OSError, ValueError, RecursionError) as problem:
        missing.append(f"{path.name} cannot be read: {problem}")
    else:
        return value
    return {}


def _events(path: Path, missing: list[str]) -> list[Event]:
    """The history up to its first damage, numbered where it is not, without what no report could place."""
    events: list[Event] = []
    left_out = 0
    reader = Reader(path)
    try:
        for position, event in enumerate(reader):
            if not _is_event(event):
                left_out += 1
                continue
            event.setdefault("index", position)
            events.append(event)
    except FileNotFoundError:
        missing.append(f"{path.name} is missing")
    except (OSError, HistoryError) as problem:
        missing.append(f"{path.name} was read up to event {len(events)}: {problem}")
    if reader.torn:
        missing.append(reader.torn.removeprefix(f"{path.parent}/"))
    if left_out:
        missing.append(f"{path.name}: {left_out} lines without time, type, f or process were left out")
    events.sort(key=lambda event: int(event["time"]))  # stable: ties keep their order
    return events


def _faults(events: Sequence[Event], missing: list[str]) -> list[Fault]:
    try:
        return faults(events)
    except (TypeError, ValueError) as problem:
        missing.append(f"faults cannot be told: {problem}")
        return []


def _is_event(event: Event) -> bool:
    time, index = event.get("time"), event.get("index", 0)
    is_placed = type(time) is int and time >= 0 and type(index) is int
    return is_placed and event.get("type") in TYPES and isinstance(event.get("f"), str) and "process" in event


def pair_leniently(events: Iterable[Event]) -> list[Op]:
    """Ops of clients by invoke; what pairs with nothing is left out, where a checker would refuse the history."""
    ops: list[Op] = []
    open_ops: dict[int, Op] = {}
    for position, event in enumerate(events):
        process = event["process"]
        if type(process) is not int:
            continue
        if event["type"] == "invoke":
            open_ops[process] = op = Op(position, event)
            ops.append(op)
        elif process in open_ops:
            op = open_ops.pop(process)
            op.ret, op.completion, op.type = position, event, event["type"]
    return ops


def checks_of(results: Mapping[str, Any]) -> list[Check]:
    """The verdicts, failures first; what a simulated run found while it went on counts as checkers of its own."""
    told = results.get("checkers")
    checks = [
        Check(str(name), _valid(value.get("valid")), _texts(value.get("errors")), _dict(value.get("stats")), _s(value))
        for name, value in (told.items() if isinstance(told, Mapping) else ())
        if isinstance(value, Mapping)
    ]
    known = {check.name for check in checks}
    found: dict[str, list[str]] = {}
    for entry in _list(results.get("found")):
        if isinstance(entry, Sequence) and len(entry) == 2 and str(entry[0]) not in known:
            found.setdefault(str(entry[0]), []).append(str(entry[1]))
    checks += [Check(name, False, errors, {}, None) for name, errors in found.items()]
    order = {False: 0, "unknown": 1, True: 2}
    return sorted(checks, key=lambda check: order[check.valid])


def _valid(value: Any) -> Any:
    return value if value is True or value is False else "unknown"


def _texts(value: Any) -> list[str]:
    return [str(text) for text in _list(value)]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _s(value: Mapping[str, Any]) -> float | None:
    seconds = value.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else None


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key for sorting by which s9 comes before s10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBERS.split(text) if part]


def replay_line(test: Mapping[str, Any], results: Mapping[str, Any]) -> str | None:
    """The command that orders the same run, as far as its parameters tell; None when they do not."""
    told = test.get("replay") or results.get("replay")
    if isinstance(told, str):
        return told
    if "workload" not in test or "seed" not in test or "nemeses" not in test:
        seed = results.get("seed")
        return None if seed is None else shlex.join(["python", "-m", "jepsen_like", "sim", "--seed", str(seed)])
    words = ["python", "-m", "jepsen_like", "test", "--workload", str(test["workload"])]
    words += ["--nemesis", ",".join(map(str, _list(test["nemeses"]))) or "none"]
    words += ["--concurrency", str(test.get("workers", "2n")), "--nodes", str(len(_list(test.get("nodes"))))]
    for option, name in (("time-limit", "time_limit_s"), ("rate", "rate"), ("seed", "seed"), ("policy", "policy")):
        if name in test:
            value = test[name]
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, *(["--stock"] if test.get("stock") else [])])


__all__ = ["Check", "Material", "checks_of", "natural", "pair_leniently", "read", "replay_line"]
