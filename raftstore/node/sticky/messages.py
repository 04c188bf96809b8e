"""What sticky nodes tell each other: which mapping each has adopted, and sessions on their way to where they belong.

    mapping   "this is my mapping", on connection, on every change and once a second
    pull      "give me what maps to me"; with it, which sessions of earlier answers are on this node's disk by now
    handed    the answer: sessions that were transferred, those whose earlier transfer is in doubt, or that none is left

Every message names the mapping it belongs to; one that belongs to another than the receiver's has no effect.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raftstore.codec.messages import Check, Protocol, is_bool, is_bytes, is_u64
from raftstore.ownership import is_mapping, read_mapping
from raftstore.ownership.commands import NUMBER_MAX, POLICIES, is_id, is_number
from raftstore.ownership.placement import INVOLVED_MAX

BATCH_MAX = 256  # sessions in one message
_I64_MAX = 2**63 - 1


class Row(NamedTuple):
    """A session on its way, as its giver's log left it. Times are relative: the two clusters' clocks differ."""

    session_id: str
    epoch: int
    version: int
    nonce: int
    policy: str
    age_ms: int
    left_ms: int  # of its TTL; negative when it is over
    reason: str | None  # of its termination; None while it lives
    owner: str | None  # under whom it ended; None while it lives
    moved_at: int | None  # epoch of the mapping under which it was transferred; None of a tombstone


def is_row(value: Any) -> bool:
    """Whether a decoded value is a Row within its bounds."""
    if type(value) is not list or len(value) != len(Row._fields):
        return False
    row = Row(*value)
    return (
        is_id(row.session_id)
        and all(type(n) is int and 0 <= n <= NUMBER_MAX for n in (row.epoch, row.version, row.nonce, row.age_ms))
        and 1 <= row.epoch <= row.version
        and row.policy in POLICIES
        and type(row.left_ms) is int
        and -_I64_MAX <= row.left_ms <= NUMBER_MAX
        and (
            (row.reason is None and row.owner is None and is_number(row.moved_at, 1, NUMBER_MAX))
            or (is_id(row.reason) and is_id(row.owner) and row.moved_at is None)
        )
    )


def _is_rows(value: Any) -> bool:
    return type(value) is list and len(value) <= BATCH_MAX and all(map(is_row, value))


def _is_marks(value: Any) -> bool:
    """[session id, version] pairs."""
    return (
        type(value) is list
        and len(value) <= BATCH_MAX
        and all(type(m) is list and len(m) == 2 and is_id(m[0]) and is_u64(m[1]) for m in value)
    )


def _is_doubts(value: Any) -> bool:
    """[session id, version, epoch of the mapping under which it was transferred]."""
    return (
        type(value) is list
        and len(value) <= BATCH_MAX
        and all(type(d) is list and len(d) == 3 and is_id(d[0]) and is_u64(d[1]) and is_u64(d[2]) for d in value)
    )


def _is_ids(value: Any) -> bool:
    return type(value) is list and len(value) <= INVOLVED_MAX and all(map(is_id, value))


def _is_maybe_mapping(value: Any) -> bool:
    return value is None or is_mapping(value)


_SCHEMAS: dict[str, tuple[int, tuple[tuple[str, Check], ...]]] = {
    "mapping": (
        48,
        (
            ("store_id", is_u64),  # of the sender's log; 0 while it has no mapping
            ("mapping", _is_maybe_mapping),
            ("settled", is_bool),
            ("closed", is_bool),
            ("founding", is_bytes),  # digest of the node table in its configuration
            ("knows_store", is_u64),  # store id under which the receiver once confirmed; 0 for none
            ("knows_epoch", is_u64),  # epoch that the receiver confirmed; 0 for none
            ("gone", is_bool),  # the receiver was declared lost
        ),
    ),
    "pull": (
        49,
        (
            ("number", is_u64),
            ("digest", is_bytes),
            ("store_id", is_u64),
            ("have", _is_marks),  # on the sender's disk
            ("declined", _is_marks),  # never were, and by the sender's epoch never will be
        ),
    ),
    "handed": (
        50,
        (
            ("number", is_u64),
            ("store_id", is_u64),
            ("rows", _is_rows),
            ("doubtful", _is_doubts),  # transferred to the receiver under an earlier mapping: has it them?
            ("done", is_bool),  # nothing is left here for the receiver
            ("involved", _is_ids),
        ),
    ),
}

PROTOCOL = Protocol(_SCHEMAS)


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes of at most one frame."""
    return PROTOCOL.encode(message)


def decode(data: bytes | memoryview) -> dict[str, Any]:
    """The message, with mapping and rows as values. MalformedMessage otherwise."""
    message = PROTOCOL.decode(data)
    if message["type"] == "mapping" and message["mapping"] is not None:
        message["mapping"] = read_mapping(message["mapping"])
    elif message["type"] == "handed":
        message["rows"] = [Row(*row) for row in message["rows"]]
    return message
