"""The whole state as chunks of bytes; `restore` reads them back.

What changes later leaves a frozen state alone (see `sessions`), so another thread can write it while the machine goes
on. Chunks are msgpack values: a header, then sessions, remembered results and what a sticky node knows of other
machines in slices, then a trailer with the counts. Storage adds checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgpack

from raftstore.ownership.params import Params

if TYPE_CHECKING:
    from raftstore.ownership.machine import Machine

FORMAT_NAME = "raftstore-ownership"
FORMAT_VERSION = 1
# Packed at one go: about a millisecond. Between two slices a busy loop takes the interpreter for its whole turn, which
# is several times as long; with smaller ones a snapshot takes longer by as much, and all that changes is put aside.
SLICE_RECORDS = 2_000

HEADER, SESSIONS, RESULTS, TRAILER, PLACEMENT, DEPARTED = 0, 1, 2, 3, 4, 5


class FrozenState:
    """The state as of one index. Reading it needs no lock and disturbs nobody; `release` it afterwards."""

    def __init__(self, machine: Machine) -> None:
        self.index = machine.index
        self.clock_ms = machine.clock_ms
        self.last_wall_ms = machine.last_wall_ms
        self.head = machine.head
        self.event_seq = machine.event_seq
        self.params: Params = dict(machine.params)
        self.sessions = machine.sessions.freeze()
        self.nodes = machine.nodes.copy()
        self.placement = machine.placement
        self.departed = machine.departed.copy()
        self.remembered = {node_id: memory.copy() for node_id, memory in machine.remembered.items()}

    def release(self) -> None:
        """Nobody reads it any more. On the machine's thread."""
        self.sessions.release()

    def chunks(self) -> Iterator[bytes]:
        """The state, a piece at a time, in the order of creation; to be given to `restore`."""
        packer = msgpack.Packer()
        pack, pack_array_header = packer.pack, packer.pack_array_header
        yield pack((HEADER, FORMAT_NAME, FORMAT_VERSION, *self._header()))
        rows = self.sessions.packed_rows()
        while piece := list(islice(rows, SLICE_RECORDS)):
            yield b"".join((pack_array_header(2), pack(SESSIONS), pack_array_header(len(piece)), *piece))
        results = 0
        for node_id, memory in self.remembered.items():
            results += len(memory.results)
            items = iter(memory.results.items())
            while part := list(islice(items, SLICE_RECORDS)):
                yield pack((RESULTS, node_id, part))
        if self.placement is not None:
            yield pack((PLACEMENT, self.placement))
        marks = iter(self.departed.items())
        while portion := list(islice(marks, SLICE_RECORDS)):
            yield pack((DEPARTED, [(session_id, *mark) for session_id, mark in portion]))
        counts = (len(self.sessions), results)
        yield pack((TRAILER, *counts) if self.placement is None else (TRAILER, *counts, len(self.departed)))

    def _header(self) -> tuple[Any, ...]:
        nodes = [[*node, self.remembered[node.node_id].low_seq] for node in self.nodes.values()]
        params = sorted([key, value] for key, value in self.params.items())
        return (self.index, self.clock_ms, self.last_wall_ms, self.head, self.event_seq, params, nodes)


def digest(state: FrozenState) -> bytes:
    """SHA-256 over the state in sorted order, so that it does not depend on how a replica came to it."""
    pack = msgpack.Packer().pack
    total = hashlib.sha256(pack(state._header()[:6]))
    for _, node in sorted(state.nodes.items()):
        memory = state.remembered[node.node_id]
        total.update(pack((node, memory.low_seq, sorted(memory.results.items(), key=lambda item: item[0]))))
    for session_id in sorted(state.sessions):
        total.update(pack(state.sessions[session_id]))
    if state.placement is not None:
        total.update(pack((state.placement, sorted(state.departed.items()))))
    return total.digest()
