"""The audit trail on virtual time: what a node's audit files would hold, and how late they would.

Keeps the contract of the production trail towards the node (numbers one by one, gaps explained, `wait_durable` before
a log is cut); the lines are spelled by the production code at the end of a run. Survives the node's processes as the
files do: a crash loses what was not written yet, and the log brings it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jepsen_like.sim.scheduler import Life, Scheduler
from raftstore.node.audit_lines import batch_lines, parse_line
from raftstore.ownership.events import GENESIS_HEAD


class Batch(NamedTuple):
    """Events `first` to `last`, or the gap in their place (None), and the chain head after them."""

    log_index: int
    first: int
    last: int
    events: list[tuple[Any, ...]] | None
    head: bytes


class AuditShelf:
    """What is durable of one node's trail."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.write_min_ns = 1_000_000
        self.write_max_ns = 25_000_000

    def lines(self) -> list[dict[str, Any]]:
        """The events as the JSON objects of the audit files; gaps as they stand there."""
        lines: list[dict[str, Any]] = []
        for batch in self.batches:
            if batch.events is None:
                gap = {"event": "AuditGap", "from": batch.first, "to": batch.last, "index": batch.log_index}
                lines.append(gap | {"head": batch.head.hex()})
            else:
                spelled = batch_lines(batch.events, batch.head).splitlines(keepends=True)
                lines += [fields for line in spelled if (fields := parse_line(line)) is not None]
        return lines

    def wipe(self) -> None:
        self.batches.clear()


class SimAudit:
    """One life's writer of the shelf. See `raftstore.node.audit.AuditTrail`."""

    def __init__(
        self,
        scheduler: Scheduler,
        life: Life,
        shelf: AuditShelf,
        draw: Callable[[int, int], int],
        on_trouble: Callable[[str, str], None],
        backlog_events_max: int,
    ) -> None:
        self._scheduler = scheduler
        self._life = life
        self._shelf = shelf
        self._draw = draw
        self._on_trouble = on_trouble
        self.backlog_events_max = backlog_events_max
        self._queue: deque[Batch] = deque()
        self._is_writing = False
        newest = shelf.batches[-1] if shelf.batches else Batch(0, 0, 0, None, GENESIS_HEAD)
        self.last_number = self.durable_number = newest.last
        self.durable_index = self._last_index = newest.log_index
        self._last_head = newest.head
        self.backlog = 0

    def open(self) -> None:
        """The shelf is always whole."""

    def close(self, timeout_s: float) -> None:
        """Write what is queued."""
        while self._queue:
            self._store(self._queue.popleft())

    def append(self, index: int, first_number: int, events: list[tuple[Any, ...]], head: bytes) -> None:
        last = first_number + len(events) - 1
        if last <= self.last_number:
            self._pass_over(index, last, head)
        elif first_number != self.last_number + 1:
            self._on_trouble("AUDIT_GAP", f"events {self.last_number + 1} to {last} did not arrive one by one")
            self._put(Batch(index, self.last_number + 1, last, None, head))
        else:
            self._put(Batch(index, first_number, last, list(events), head))

    def skip_to(self, number: int, index: int, head: bytes) -> None:
        if number <= self.last_number:
            self._pass_over(index, number, head)
        else:
            self._on_trouble("AUDIT_GAP", f"events {self.last_number + 1} to {number} came in a snapshot")
            self._put(Batch(index, self.last_number + 1, number, None, head))

    def wait_durable(self, number: int, timeout_s: float) -> bool:
        """Nobody can wait here: whether it is durable now. The caller puts its work off."""
        return self.durable_number >= number

    def read(self, after: int) -> Iterator[dict[str, Any]]:
        return iter([line for line in self._shelf.lines() if line.get("number", line.get("to", 0)) > after])

    def _pass_over(self, index: int, last: int, head: bytes) -> None:
        if last == self.last_number and head != self._last_head:
            self._on_trouble("AUDIT_MISMATCH", f"chain heads differ after event {last}")
        self._last_index = max(self._last_index, index)
        if self.durable_number == self.last_number:
            self.durable_index = self._last_index

    def _put(self, batch: Batch) -> None:
        self._queue.append(batch)
        self.backlog += 0 if batch.events is None else len(batch.events)
        self.last_number, self._last_head = batch.last, batch.head
        self._last_index = max(self._last_index, batch.log_index)
        if not self._is_writing:
            self._is_writing = True
            self._plan()

    def _plan(self) -> None:
        delay = self._draw(self._shelf.write_min_ns, self._shelf.write_max_ns)
        self._scheduler.at(self._scheduler.now + delay, self._write, len(self._queue), life=self._life)

    def _write(self, count: int) -> None:
        for _ in range(min(count, len(self._queue))):
            self._store(self._queue.popleft())
        if self._queue:
            self._plan()
        else:
            self._is_writing = False
            self.durable_index = self._last_index

    def _store(self, batch: Batch) -> None:
        self._shelf.batches.append(batch)
        self.backlog -= 0 if batch.events is None else len(batch.events)
        self.durable_number, self.durable_index = batch.last, batch.log_index
