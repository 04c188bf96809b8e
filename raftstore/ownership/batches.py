"""Groups and batches: how the ops of many callers travel to the leader, and become one entry of the log.

    batch = [1 (format), stamp_ms, wall_ms, resume_jump_ms or nil, [group...]]
    group = [node_id, incarnation, low_seq, [op...]]

A follower packs its ops into a group, the leader joins the packed groups into a batch without taking them apart.
Knows the outline alone: an op is judged by `shapes`, one by one, when it is applied. Maps and extension types never
occur in the form: whatever a decoder makes of them is refused as malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgpack

from raftstore.ownership.commands import INCARNATION_MAX, NUMBER_MAX, SEQ_MAX, is_id, is_number

BATCH_FORMAT: Final = 1
ARRAY_ITEMS_MAX: Final = 131_072  # of any array inside an entry, so that a forged header cannot reserve memory

_pack: Final[Callable[[object], bytes]] = msgpack.Packer().pack  # one for all: see `commands`


def _array_header(count: int) -> bytes:
    """The msgpack header of an array of `count` items."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65_536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def pack_group(node_id: str, incarnation: int, low_seq: int, packed_ops: Sequence[bytes]) -> bytes:
    """Ops of one node as they travel to the leader. Every seq below `low_seq` is answered at that node."""
    head = (b"\x94", _pack(node_id), _pack(incarnation), _pack(low_seq), _array_header(len(packed_ops)))
    return b"".join((*head, *packed_ops))


def join_batch(stamp_ms: int, wall_ms: int, resume_jump_ms: int | None, packed_groups: Sequence[bytes]) -> bytes:
    """One entry's payload from groups that are packed already. `stamp_ms` is cluster time, `wall_ms` for people.

    `resume_jump_ms` is not None in the first batch of a leader without an anchor (design, time and leases).
    """
    head = (b"\x95\x01", _pack(stamp_ms), _pack(wall_ms), _pack(resume_jump_ms), _array_header(len(packed_groups)))
    return b"".join((*head, *packed_groups))


def encode_batch(
    stamp_ms: int,
    wall_ms: int,
    resume_jump_ms: int | None,
    groups: Iterable[tuple[str, int, int, Sequence[bytes]]],
) -> bytes:
    """`join_batch` of groups given as (node_id, incarnation, low_seq, packed ops)."""
    return join_batch(stamp_ms, wall_ms, resume_jump_ms, [pack_group(*group) for group in groups])


class _Foreign:
    """Stands for a map or an extension value, which no valid op contains."""


_FOREIGN: Final = _Foreign()


def _foreign(*_: object) -> _Foreign:
    return _FOREIGN


def unpack(data: bytes) -> Any:
    """The decoded value, or None when the bytes are no single msgpack value within the bounds. Raises on no bytes.

    Invalid UTF-8 becomes text that no validator accepts, so that one bad op does not spoil its batch.
    """
    try:
        return msgpack.unpackb(
            data,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            object_pairs_hook=_foreign,
            ext_hook=_foreign,
            max_array_len=ARRAY_ITEMS_MAX,
        )
    except MemoryError:
        raise  # says nothing about the bytes: this replica must stop rather than decide otherwise than its peers
    except Exception:  # the decoder raises many unrelated types on garbage; an entry must be refused, not fatal
        return None


def is_group(value: object) -> bool:
    """Whether a decoded value has the outline of a group; its ops are judged one by one when applied."""
    return (
        type(value) is list
        and len(value) == 4
        and is_id(value[0])
        and is_number(value[1], 0, INCARNATION_MAX)
        and is_number(value[2], 0, SEQ_MAX)
        and type(value[3]) is list
    )


def is_well_formed_group(data: bytes, node_id: str, incarnation: int, ops_max: int) -> int | None:
    """The number of ops when `data` is a group of that sender with at most `ops_max` ops; None otherwise.

    Bytes that pass cannot make the batch they are joined into undecodable: they are read here as deep inside other
    arrays as they will be there.
    """
    value = unpack(b"\x91\x91\x91" + data)
    if type(value) is not list:
        return None
    group = value[0][0][0]
    if not is_group(group) or group[0] != node_id or group[1] != incarnation or len(group[3]) > ops_max:
        return None
    return len(group[3])


def decode_batch(data: bytes) -> list[Any] | None:
    """[stamp_ms, wall_ms, resume_jump_ms, groups] of an entry, or None when its outline is not a batch's."""
    value = unpack(data)
    if type(value) is not list or len(value) != 5 or type(value[0]) is not int or value[0] != BATCH_FORMAT:
        return None
    _, stamp_ms, wall_ms, jump_ms, groups = value
    if not (is_number(stamp_ms, 0, NUMBER_MAX) and is_number(wall_ms, 0, NUMBER_MAX)):
        return None
    if jump_ms is not None and not is_number(jump_ms, 0, NUMBER_MAX):
        return None
    if type(groups) is not list or not all(map(is_group, groups)):
        return None
    return value[1:]
