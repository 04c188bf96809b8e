"""Bounded, schema-checked msgpack messages between members. Sans-I/O.

A message is a msgpack array: a kind number, then its fields in the order of its schema. Numbers are never reused;
a change of fields is a new kind (the protocol version of the hello covers the rest). What does not fit its schema
raises MalformedMessage: the link it came on is closed and counted. Nothing here unpickles, and nothing is allocated
beyond the frame that was already bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

U64_MAX = (1 << 64) - 1
Check = Callable[[Any], bool]


class MalformedMessage(Exception):  # noqa: N818 - names what came
    """Bytes of a peer that are no message of this protocol."""


def is_u64(value: Any) -> bool:
    return type(value) is int and 0 <= value <= U64_MAX


def is_bool(value: Any) -> bool:
    return type(value) is bool


def is_bytes(value: Any) -> bool:
    return type(value) is bytes


def is_entries(value: Any) -> bool:
    """Log entries: [bytes, index, term] with consecutive indices and terms that never fall."""
    if type(value) is not list:
        return False
    last_index, last_term = None, 0
    for entry in value:
        if type(entry) is not list or len(entry) != 3:
            return False
        command, index, term = entry
        if type(command) is not bytes or not command or not is_u64(index) or not is_u64(term):
            return False
        if (last_index is not None and index != last_index + 1) or term < last_term:
            return False
        last_index, last_term = index, term
    return True


class Protocol:
    """A closed set of message kinds: {name: (kind, ((field, check), ...))}."""

    def __init__(self, schemas: dict[str, tuple[int, tuple[tuple[str, Check], ...]]]) -> None:
        self._by_name = {n: (kind, tuple(f for f, _ in fields)) for n, (kind, fields) in schemas.items()}
        self._by_kind = {kind: (name, fields) for name, (kind, fields) in schemas.items()}
        if len(self._by_kind) != len(schemas):
            raise ValueError("two messages share a kind")

    def encode(self, message: dict[str, Any]) -> bytes:
        """One message, `{"type": name, field: value, ...}`, as bytes."""
        kind, fields = self._by_name[message["type"]]
        packed: bytes = msgpack.packb([kind, *[message[f] for f in fields]])
        return packed

    def decode(self, data: bytes | memoryview) -> dict[str, Any]:
        """The message in `data`. MalformedMessage when it is none of this protocol's."""
        try:
            parts = msgpack.unpackb(data, use_list=True, strict_map_key=True, max_ext_len=0)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as problem:
            raise MalformedMessage(f"not msgpack: {problem}") from None
        if type(parts) is not list or not parts or type(parts[0]) is not int:
            raise MalformedMessage("not a message")
        return self._check(parts)

    def _check(self, parts: Sequence[Any]) -> dict[str, Any]:
        known = self._by_kind.get(parts[0])
        if known is None:
            raise MalformedMessage(f"unknown kind {parts[0]}")
        name, fields = known
        if len(parts) != len(fields) + 1:
            raise MalformedMessage(f"{name}: {len(parts) - 1} fields instead of {len(fields)}")
        message: dict[str, Any] = {"type": name}
        for (field, check), value in zip(fields, parts[1:], strict=True):
            if not check(value):
                raise MalformedMessage(f"{name}: bad {field}")
            message[field] = value
        return message
