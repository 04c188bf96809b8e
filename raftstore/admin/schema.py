"""Strict reading of what API callers send: bodies, paths and queries become checked arguments, or one InvalidArgument.

Knows the shape and the bounds of every argument of every op, as a table. Nothing is guessed or coerced: an unknown
field, a number in quotes, `true` for 1, a duplicate key are refused with the field's name, because a caller who
misspelt `expected_version` must not be told that the op was done. Leaves to the node: what the values mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from raftstore.config import WEIGHT_MAX
from raftstore.errors import InvalidArgument
from raftstore.ownership import validate_binding, validate_nonce, validate_reason, validate_session_id
from raftstore.types import Binding, OpId, SessionState

INTEGER_MAX = (1 << 53) - 1  # beyond it JSON readers round
LIST_LIMIT_MAX = 1_000
TIMEOUT_MS_MAX = 600_000
ISOLATED_PEERS_MAX = 16
MAPPED_NODES_MAX = 64  # of one mapping, and of those declared lost with it

_NODE_ID = re.compile(r"[a-z0-9-]{1,32}\Z")
_OP_ID = re.compile(r"([a-z0-9-]{1,32}):([0-9a-f]{16}):([0-9]{1,19})\Z")
_DIGITS = re.compile(r"[0-9]{1,16}\Z")


Reader = Callable[[str, Any], Any]  # (field name, value) -> checked value, or InvalidArgument


def integer(low: int, high: int) -> Reader:
    """An integer from `low` to `high`; a truth value or a float is none."""

    def read(field: str, value: Any) -> int:
        if type(value) is not int:
            raise InvalidArgument(field, f"must be an integer from {low} to {high}")
        if not low <= value <= high:
            raise InvalidArgument(field, f"must be from {low} to {high}")
        return value

    return read


def pattern(regex: re.Pattern[str], words: str) -> Reader:
    """A text that matches; `words` says so to people."""

    def read(field: str, value: Any) -> str:
        if isinstance(value, str) and regex.match(value):
            return value
        raise InvalidArgument(field, f"must be {words}")

    return read


def checked(validate: Callable[[object, str], Any]) -> Reader:
    """The ownership machine's own rule for a value."""

    def read(field: str, value: Any) -> Any:
        return validate(value, field)

    return read


def one_of(*choices: str) -> Reader:
    def read(field: str, value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise InvalidArgument(field, "must be " + " or ".join(f'"{c}"' for c in choices))

    return read


def truth(field: str, value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidArgument(field, "must be true or false")
    return value


_BINDING_FIELDS = Binding._fields


def binding(field: str, value: Any) -> Binding:
    """{"transport_id", "proto", "remote"}, each a text of 1 to 128 bytes."""
    if not isinstance(value, dict):
        raise InvalidArgument(field, 'must be an object with "transport_id", "proto" and "remote"')
    for name in value:
        if name not in _BINDING_FIELDS:
            raise InvalidArgument(f"{field}.{shown(name)}", "unknown field; known: " + ", ".join(_BINDING_FIELDS))
    for name in _BINDING_FIELDS:
        if name not in value:
            raise InvalidArgument(f"{field}.{name}", "missing")
        validate_binding((value[name],) * len(_BINDING_FIELDS), f"{field}.{name}")
    return Binding(**value)


def node_ids(most: int) -> Reader:
    """A list of at most `most` node ids."""

    def read(field: str, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > most:
            raise InvalidArgument(field, f"must be a list of at most {most} node ids")
        return [node_id(f"{field}[{i}]", item) for i, item in enumerate(value)]

    return read


def weights(field: str, value: Any) -> dict[str, int]:
    """{"vpn-1": 1, ...}: nodes of a mapping with their weights."""
    if not isinstance(value, dict) or not 1 <= len(value) <= MAPPED_NODES_MAX:
        raise InvalidArgument(field, f"must be an object of 1 to {MAPPED_NODES_MAX} node ids, each with its weight")
    for name in value:
        node_id(field, name)
    return {name: weight(f"{field}.{name}", number) for name, number in value.items()}


node_id = pattern(_NODE_ID, "a node id: 1 to 32 of a-z, 0-9 and '-'")
weight = integer(0, WEIGHT_MAX)
session_id = checked(validate_session_id)
version = integer(1, INTEGER_MAX)  # no session has version 0
nonce = checked(validate_nonce)
reason = checked(validate_reason)
ttl_ms = integer(1, INTEGER_MAX)  # the node holds it to sessions.ttl_max_ms
timeout_ms = integer(1, TIMEOUT_MS_MAX)
policy = one_of("deny", "terminate")


class Field(NamedTuple):
    read: Reader
    required: bool = False
    nullable: bool = False  # null stands for "not given"


_VERSION = Field(version, required=True)
_TIMEOUT = {"timeout_ms": Field(timeout_ms, nullable=True)}
_BINDING = Field(binding, nullable=True)

OPS: Mapping[str, Mapping[str, Field]] = {
    "create": {
        "binding": _BINDING,
        "ttl_ms": Field(ttl_ms, nullable=True),
        "policy": Field(policy, nullable=True),
        **_TIMEOUT,
    },
    "reattach": {
        "expected_version": _VERSION,
        "binding": Field(binding, required=True),
        "nonce": Field(nonce, nullable=True),
        **_TIMEOUT,
    },
    "detach": {"expected_version": _VERSION, "reason": Field(reason), **_TIMEOUT},
    "renew": {"expected_version": _VERSION, "ttl_ms": Field(ttl_ms, required=True), **_TIMEOUT},
    "migrate": {"expected_version": _VERSION, "to": Field(node_id, required=True), **_TIMEOUT},
    "resume": {"expected_version": _VERSION, "binding": _BINDING, **_TIMEOUT},
    "failover": {"expected_version": _VERSION, "binding": _BINDING, **_TIMEOUT},
    "terminate": {
        "expected_version": _VERSION,
        "reason": Field(reason),
        "operator": Field(truth),
        **_TIMEOUT,
    },
}
NOTHING: Mapping[str, Field] = {}
LEADER_TRANSFER: Mapping[str, Field] = {"to": Field(node_id, nullable=True)}
ISOLATE: Mapping[str, Field] = {"peers": Field(node_ids(ISOLATED_PEERS_MAX), required=True)}
MAPPING_CHANGE: Mapping[str, Field] = {
    "nodes": Field(weights, required=True),
    "draining": Field(node_ids(MAPPED_NODES_MAX)),
    "lost": Field(node_ids(MAPPED_NODES_MAX)),
    "epoch": Field(integer(1, INTEGER_MAX), nullable=True),
}


def read_body(raw: bytes, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The arguments in a JSON body; an empty body is an empty object. InvalidArgument names the first bad field."""
    return read_object(_parse(raw) if raw.strip() else {}, fields)


def read_object(data: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidArgument("body", "must be a JSON object")
    for name in data:
        if name not in fields:
            raise InvalidArgument(shown(name), "unknown field; known: " + (", ".join(fields) or "none"))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in data:
            if field.required:
                raise InvalidArgument(name, "missing")
        elif data[name] is not None or not field.nullable:
            values[name] = field.read(name, data[name])
    return values


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as problem:
        raise InvalidArgument("body", f"not UTF-8 at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise InvalidArgument(
            "body", f"not JSON: {problem.msg} at line {problem.lineno} column {problem.colno}"
        ) from None
    except RecursionError:
        raise InvalidArgument("body", "nested too deeply") from None
    except InvalidArgument:
        raise  # a ValueError too
    except ValueError:
        raise InvalidArgument("body", "a number has too many digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidArgument(shown(name), "given twice")
        found[name] = value
    return found


def _constant(name: str) -> NoReturn:
    raise InvalidArgument("body", f"{name} is not JSON")


def shown(name: str) -> str:
    """A caller's own word, safe and short enough to send back."""
    word = name.encode("ascii", "backslashreplace").decode("ascii")
    return word if len(word) <= 64 else word[:61] + "..."


# ---- queries: every value arrives as text


def number_text(low: int, high: int) -> Reader:
    check = integer(low, high)

    def read(field: str, value: Any) -> int:
        if not _DIGITS.match(value):
            raise InvalidArgument(field, f"must be an integer from {low} to {high}")
        result: int = check(field, int(value))
        return result

    return read


def flag_text(field: str, value: Any) -> bool:
    """`?follow`, `?follow=1` and `?follow=true` are yes."""
    if value in ("", "1", "true"):
        return True
    if value in ("0", "false"):
        return False
    raise InvalidArgument(field, "must be 1 or 0")


def state(field: str, value: Any) -> SessionState:
    try:
        return SessionState[value.upper()]
    except KeyError:
        raise InvalidArgument(field, "must be one of " + ", ".join(s.name for s in SessionState)) from None


SESSIONS_QUERY: Mapping[str, Field] = {
    "owner": Field(node_id),
    "state": Field(state),
    "limit": Field(number_text(1, LIST_LIMIT_MAX)),
    "after": Field(session_id),
}
SESSION_QUERY: Mapping[str, Field] = {"consistency": Field(one_of("linearizable", "local"))}
OWNS_QUERY: Mapping[str, Field] = {"epoch": Field(number_text(1, INTEGER_MAX))}
AUDIT_QUERY: Mapping[str, Field] = {"after": Field(number_text(0, INTEGER_MAX)), "follow": Field(flag_text)}
READYZ_QUERY: Mapping[str, Field] = {"verbose": Field(flag_text)}


def read_query(items: list[tuple[str, str]], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The arguments of a query string, as strictly as a body."""
    return read_object(_object(list(items)), fields)


def op_id(field: str, value: Any) -> OpId:
    """NODE:INCARNATION:SEQ as results print it."""
    match = _OP_ID.match(value)
    if match is None:
        raise InvalidArgument(field, "must be NODE:INCARNATION:SEQ, as the answer named it")
    return OpId(match[1], int(match[2], 16), int(match[3]))
