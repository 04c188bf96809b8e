"""Whether a decoded op is well-formed: check 1 of the machine. Anything else that an entry may hold is refused.

An op that was built by `commands` from validated arguments always passes. The check looks at types and bounds of
single values only, never at state, so every replica answers alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from raftstore.config import WEIGHT_MAX
from raftstore.ownership import commands as c
from raftstore.ownership.commands import INCARNATION_MAX, NUMBER_MAX, is_binding, is_id, is_number
from raftstore.ownership.params import is_param
from raftstore.ownership.placement import INVOLVED_MAX, NODES_MAX, Placement

Check = Callable[[list[Any]], bool]


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def _session(op: list[Any]) -> bool:
    return is_id(op[3]) and _natural(op[4])


def _nothing(op: list[Any]) -> bool:
    return True


def _create(op: list[Any]) -> bool:
    return (
        is_id(op[3])
        and (op[4] is None or is_binding(op[4]))
        and _natural(op[5])
        and op[5] > 0
        and (op[6] is None or (type(op[6]) is str and op[6] in c.POLICIES))
    )


def _reattach(op: list[Any]) -> bool:
    return _session(op) and is_binding(op[5]) and (op[6] is None or _natural(op[6]))


def _detach(op: list[Any]) -> bool:
    return _session(op) and is_id(op[5])


def _renew(op: list[Any]) -> bool:
    return _session(op) and _natural(op[5]) and op[5] > 0


def _freeze(op: list[Any]) -> bool:
    return _session(op) and type(op[5]) is str and op[5] in c.FREEZE_REASONS and is_id(op[6])


def _maybe_bound(op: list[Any]) -> bool:
    return _session(op) and (op[5] is None or is_binding(op[5]))


def _terminate(op: list[Any]) -> bool:
    return _session(op) and is_id(op[5]) and type(op[6]) is bool


def _pairs(value: Any, items_max: int) -> bool:
    return (
        type(value) is list and len(value) <= items_max and all(type(pair) is list and len(pair) == 2 for pair in value)
    )


def _sweep(op: list[Any]) -> bool:
    return _pairs(op[3], c.SWEEP_MAX) and all(is_id(sid) and _natural(version) for sid, version in op[3])


def _configure(op: list[Any]) -> bool:
    return _pairs(op[3], c.PARAMS_MAX) and all(is_param(key, value) for key, value in op[3])


def _ids(value: Any, items_max: int) -> bool:
    """Node ids in strictly rising order."""
    return (
        type(value) is list
        and len(value) <= items_max
        and all(map(is_id, value))
        and all(a < b for a, b in pairwise(value))
    )


def is_mapping(value: Any) -> bool:
    """Whether a decoded value holds the fields of a mapping record.

    The ids rise, so that equal mappings are equal bytes; a lost node is in no mapping; some node takes sessions.
    """
    if type(value) is not list or len(value) != 4:
        return False
    epoch, nodes, sources, lost = value
    return (
        _natural(epoch)
        and epoch > 0
        and type(nodes) is list
        and 0 < len(nodes) <= NODES_MAX
        and all(type(node) is list and len(node) == 3 for node in nodes)
        and _ids([node[0] for node in nodes], NODES_MAX)
        and all(is_number(node[1], 0, WEIGHT_MAX) and type(node[2]) is bool for node in nodes)
        and any(node[1] > 0 and not node[2] for node in nodes)
        and _ids(sources, INVOLVED_MAX)
        and _ids(lost, INVOLVED_MAX)
        and not any(node[0] in lost for node in nodes)
    )


def is_placement(value: Any) -> bool:
    """Whether a decoded value has the mappings of a placement in their places; `read_placement` reads the rest."""
    return (
        type(value) is list
        and len(value) == len(Placement._fields)
        and is_mapping(value[0])
        and type(value[2]) is list
        and all(map(is_mapping, value[2]))
        and (value[-1] is None or is_mapping(value[-1]))
    )


def _adopt(op: list[Any]) -> bool:
    return is_mapping(op[3:])


def _confirm(op: list[Any]) -> bool:
    return (
        is_id(op[3])
        and _natural(op[4])
        and type(op[5]) is bytes
        and len(op[5]) == 32
        and is_number(op[6], 0, INCARNATION_MAX)
        and _ids(op[7], INVOLVED_MAX)
    )


def _epoch(op: list[Any]) -> bool:
    return _natural(op[3])


def _create_mapped(op: list[Any]) -> bool:
    return _create(op) and _natural(op[7])


def _admit(op: list[Any]) -> bool:
    _, _, _, sid, at_epoch, giver, epoch, version, nonce, policy, created_at_ms, expires_at_ms, reason, owner = op[:14]
    return (
        is_id(sid)
        and is_id(giver)
        and all(map(_natural, (at_epoch, epoch, version, nonce, created_at_ms, expires_at_ms, op[14])))
        and 1 <= epoch <= version
        and created_at_ms < expires_at_ms
        and type(policy) is str
        and policy in c.POLICIES
        and ((reason is None and owner is None) or (is_id(reason) and is_id(owner)))
    )


def _forget(op: list[Any]) -> bool:
    return _session(op) and is_id(op[5]) and _natural(op[6])


def _reclaim(op: list[Any]) -> bool:
    return _session(op) and _natural(op[5])


# kind -> (number of items, check of the arguments)
SHAPES: Final[dict[int, tuple[int, Check]]] = {
    c.CONFIGURE: (4, _configure),
    c.JOIN: (3, _nothing),
    c.RENEW_LEASE: (3, _nothing),
    c.DRAIN: (3, _nothing),
    c.LEAVE: (3, _nothing),
    c.CREATE: (7, _create),
    c.REATTACH: (7, _reattach),
    c.DETACH: (6, _detach),
    c.RENEW: (6, _renew),
    c.FREEZE: (7, _freeze),
    c.TRANSFER: (5, _session),
    c.RESUME: (6, _maybe_bound),
    c.THAW: (5, _session),
    c.FAILOVER: (6, _maybe_bound),
    c.TERMINATE: (7, _terminate),
    c.SWEEP: (4, _sweep),
    c.ADOPT: (7, _adopt),
    c.CONFIRM: (8, _confirm),
    c.SETTLE: (4, _epoch),
    c.CLOSE: (4, _epoch),
    c.CREATE_MAPPED: (8, _create_mapped),
    c.ADMIT: (15, _admit),
    c.FORGET: (7, _forget),
    c.RECLAIM: (6, _reclaim),
}


def is_well_formed(op: Any) -> bool:
    """Whether a decoded value is an op of a known kind with arguments of the right types within their bounds."""
    if type(op) is not list or len(op) < 3 or type(op[0]) is not int:
        return False
    shape = SHAPES.get(op[0])
    if shape is None or len(op) != shape[0]:
        return False
    seq = op[1]
    return type(seq) is int and 0 < seq <= c.SEQ_MAX and _natural(op[2]) and shape[1](op)


def readable_id(op: Any) -> tuple[int, int]:
    """(kind, seq) of an op that is not well-formed, each 0 where it cannot be read."""
    kind = seq = 0
    if type(op) is list:
        if op and type(op[0]) is int and op[0] in SHAPES:
            kind = op[0]
        if len(op) > 1 and type(op[1]) is int and 0 < op[1] <= c.SEQ_MAX:
            seq = op[1]
    return kind, seq
