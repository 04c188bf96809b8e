"""A machine from the chunks of a snapshot. Checks the meaning of everything it reads (storage checks the bytes)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from raftstore.ownership import placement
from raftstore.ownership import records as r
from raftstore.ownership.batches import unpack
from raftstore.ownership.commands import INCARNATION_MAX, NUMBER_MAX, POLICIES, SEQ_MAX, is_id, is_number
from raftstore.ownership.machine import Machine
from raftstore.ownership.params import DEFAULTS, is_param
from raftstore.ownership.records import NodeRecord, Row, SessionRecord
from raftstore.ownership.remembered import Remembered
from raftstore.ownership.shapes import is_placement
from raftstore.ownership.snapshot import (
    DEPARTED,
    FORMAT_NAME,
    FORMAT_VERSION,
    HEADER,
    PLACEMENT,
    RESULTS,
    SESSIONS,
    TRAILER,
)


def restore(chunks: Iterable[bytes]) -> Machine:
    """The machine that a frozen state was taken of. ValueError when the chunks are not exactly one state's."""
    machine = Machine()
    reader = _Reader(machine)
    for chunk in chunks:
        reader.take(chunk)
    if not reader.complete:
        raise ValueError("snapshot ends before its trailer")
    return machine


_NoneType = type(None)
_INT, _TEXT, _FLAG = frozenset({int}), frozenset({str}), frozenset({bool})
_MAYBE_INT, _MAYBE_TEXT = _INT | {_NoneType}, _TEXT | {_NoneType}
FIELD_TYPES: dict[str, frozenset[type]] = {
    "session_id": _TEXT,
    "state": _INT,
    "owner": _TEXT,
    "epoch": _INT,
    "state_version": _INT,
    "binding": _MAYBE_TEXT,
    "created_at_ms": _INT,
    "expires_at_ms": _INT,
    "reattach_by_ms": _MAYBE_INT,
    "freeze_by_ms": _MAYBE_INT,
    "target": _MAYBE_TEXT,
    "reason": _MAYBE_TEXT,
    "owner_inc": _INT,
    "nonce": _INT,
    "transferred": _FLAG,
    "policy": _TEXT,
    "owned_since": _INT,
}


class _Reader:
    """Fills a new machine from chunks, in their order."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._begun = False
        self._results = 0
        self.complete = False

    def take(self, chunk: bytes) -> None:
        value = unpack(chunk)
        if type(value) is not list or not value or type(value[0]) is not int or self.complete:
            raise ValueError("snapshot holds a chunk that is none")
        kind = value[0]
        if not self._begun:
            _check(kind == HEADER and len(value) == 10, "header")
            self._header(value)
        elif kind == SESSIONS and len(value) == 2 and type(value[1]) is list:
            self._sessions(value[1])
        elif kind == RESULTS and len(value) == 3 and type(value[2]) is list:
            self._remembered(value[1], value[2])
        elif kind == PLACEMENT and len(value) == 2:
            _check(self._machine.placement is None and is_placement(value[1]), "placement")
            self._machine.placement = placement.read_placement(value[1])
        elif kind == DEPARTED and len(value) == 2 and type(value[1]) is list:
            for mark in value[1]:
                self._departed(mark)
        else:
            counts = [len(self._machine.sessions), self._results]
            if self._machine.placement is not None:
                counts.append(len(self._machine.departed))
            _check(kind == TRAILER and value[1:] == counts, "trailer")
            self.complete = True

    def _header(self, value: list[Any]) -> None:
        _, name, version, index, clock_ms, wall_ms, head, event_seq, params, nodes = value
        _check(name == FORMAT_NAME and version == FORMAT_VERSION, "format name or version")
        _check(all(is_number(n, 0, NUMBER_MAX) for n in (index, clock_ms, wall_ms, event_seq)), "counter")
        _check(type(head) is bytes and len(head) == 32, "chain head")
        _check(type(params) is list and type(nodes) is list, "parameters or nodes")
        machine = self._machine
        machine.index, machine.clock_ms, machine.last_wall_ms = index, clock_ms, wall_ms
        machine.head, machine.event_seq = head, event_seq
        for pair in params:
            _check(type(pair) is list and len(pair) == 2 and is_param(*pair), "parameter")
            machine.params[pair[0]] = pair[1]
        _check(len(params) == len(DEFAULTS), "number of parameters")
        for fields in nodes:
            self._node(fields)
        self._begun = True

    def _node(self, fields: Any) -> None:
        _check(type(fields) is list and len(fields) == 8, "node")
        node_id, incarnation, lease_ms, fence_ms, draining, left, former, low_seq = fields
        _check(is_id(node_id) and node_id not in self._machine.nodes, "node id")
        _check(type(former) is list, "former incarnations")
        _check(all(is_number(n, 0, INCARNATION_MAX) for n in (incarnation, *former)), "incarnation")
        _check(is_number(lease_ms, 0, 2 * NUMBER_MAX) and is_number(fence_ms, 0, 2 * NUMBER_MAX), "lease")
        _check(type(draining) is bool and type(left) is bool and is_number(low_seq, 0, SEQ_MAX), "node")
        node = NodeRecord(node_id, incarnation, lease_ms, fence_ms, draining, left, tuple(former))
        self._machine.nodes[node_id] = node
        self._machine.remembered[node_id] = Remembered(low_seq)

    def _departed(self, mark: Any) -> None:
        _check(type(mark) is list and len(mark) == 3 and is_id(mark[0]), "mark")
        _check(all(is_number(number, 1, NUMBER_MAX) for number in mark[1:]), "mark")
        _check(mark[0] not in self._machine.sessions and mark[0] not in self._machine.departed, "mark twice")
        self._machine.departed[mark[0]] = r.Mark(*mark[1:])

    def _sessions(self, items: list[Any]) -> None:
        rows = self._rows(items)
        _check(self._machine.sessions.add(rows), "session: it is there twice")
        for (owner, state), count in Counter((row[2], row[1]) for row in rows).items():
            self._machine.tally.count(owner, state, count)

    def _rows(self, items: list[Any]) -> list[Row]:
        """Some of possibly millions, so they are checked field by field, all at once."""
        if not items:
            return []
        if set(map(type, items)) != {list} or set(map(len, items)) != {len(FIELD_TYPES)}:
            raise ValueError("snapshot holds an unusable session")
        columns: dict[str, Sequence[Any]] = dict(zip(FIELD_TYPES, zip(*items, strict=True), strict=True))
        for name, types in FIELD_TYPES.items():
            if not types.issuperset(map(type, columns[name])):
                raise ValueError(f"snapshot holds a session with an unusable {name}")
        states = columns["state"]
        if min(states) < r.ATTACHED or max(states) > r.TERMINATED or not set(columns["policy"]).issubset(POLICIES):
            raise ValueError("snapshot holds a session of unknown state or policy")
        if min(columns["epoch"]) < 1 or min(columns["state_version"]) < 1:
            raise ValueError("snapshot holds a session without a version")
        if not (all(map(is_id, columns["session_id"])) and all(map(is_id, set(columns["owner"])))):
            raise ValueError("snapshot holds a session without an identity")
        return list(map(tuple, items))

    def _remembered(self, node_id: Any, items: list[Any]) -> None:
        _check(type(node_id) is str and node_id in self._machine.remembered, "node of remembered results")
        memory = self._machine.remembered[node_id]
        for item in items:
            _check(type(item) is list and len(item) == 2 and is_number(item[0], memory.low_seq, SEQ_MAX), "result")
            _check(type(item[1]) is list and len(item[1]) == 2, "result")
            _check(is_number(item[1][0], 0, len(r.REASONS) - 1), "result")
        rows = iter(self._rows([record for _, (_, record) in items if record is not None]))
        for seq, (code, record) in items:
            _check(seq not in memory.results, "result twice")
            memory.results[seq] = (code, None if record is None else SessionRecord(*next(rows)))
            self._results += 1


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"snapshot holds an unusable {what}")
