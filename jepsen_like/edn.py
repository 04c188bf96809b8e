"""A history in Jepsen's own form (`history.edn`): one map per line, for other people's checkers.

Keywords for what Jepsen's tools look at: `:index :time :type :process :f :value`; node, key and error go along. Ops of
clients keep their types. Whatever else was recorded becomes `:info`, as from a nemesis, with its type as `:outcome`:
those tools pair completions with invokes, and such events have none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from jepsen_like.history import Event

_KEYWORD = re.compile(r"[A-Za-z*!_?][A-Za-z0-9*!_?.+-]*\Z")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_LONG_MAX = 2**63 - 1
_AS_KEYWORDS = ("type", "f", "process", "error", "outcome")
_ORDER = ("index", "time", "type", "process", "f", "key", "value", "node", "error")


def export(events: Iterable[Event], out: TextIO) -> int:
    """Write events as EDN; how many. Memory: one event."""
    count = 0
    for event in events:
        out.write(line(event) + "\n")
        count += 1
    return count


def line(event: Event) -> str:
    """One event as an EDN map."""
    fields = {name: event[name] for name in _ORDER if name in event}
    fields.update((name, value) for name, value in event.items() if name not in fields)
    if type(fields.get("process")) is not int and fields.get("type") != "info":
        fields = {**fields, "type": "info", "outcome": event.get("type")}
    parts = (
        f"{_key(name)} {_keyword(value) if name in _AS_KEYWORDS else edn(value)}" for name, value in fields.items()
    )
    return "{" + ", ".join(parts) + "}"


def edn(value: Any) -> str:
    """A JSON value in EDN: objects as maps with keywords where the key can be one, else text."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if -_LONG_MAX <= value <= _LONG_MAX else f"{value}N"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(name))} {edn(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(edn(item) for item in value) + "]"
    raise TypeError(f"no EDN form for {type(value).__name__}")


def _key(name: str) -> str:
    return f":{name}" if _KEYWORD.match(name) else _text(name)


def _keyword(value: Any) -> str:
    return f":{value}" if isinstance(value, str) and _KEYWORD.match(value) else edn(value)


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "##NaN" if math.isnan(value) else ("##Inf" if value > 0 else "##-Inf")


def _text(text: str) -> str:
    return '"' + _SPECIAL.sub(lambda found: _ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}", text) + '"'
