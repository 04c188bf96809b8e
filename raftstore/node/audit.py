"""The audit trail of one node: every event of the replicated log, as JSON lines, none missing and none twice.

The trail is derived from the log: events come with their running numbers from the machine's own apply. After a
crash the log is replayed and the trail takes what its files do not hold yet. Files always hold whole batches,
so the place to go on is the last line with a chain head. The event loop only queues; one writer thread spells,
writes and syncs, a group at a time. A disk that fails, fills or stalls therefore delays the trail and never
a transition. What the bounded queue cannot hold is left out and written down as a gap, with the chain head at
which the trail goes on, so that even a hole is explained.

Knows files through `AuditFiles` and the lines' form through `audit_lines`; what an event says is the ownership
machine's affair. Whoever takes snapshots should wait for `durable_index` before cutting the log, while the
disk works: a log cut too early is what makes a gap after a crash. (Ownership model, sections 7 and 9.)

Troubles reported: AUDIT_TORN_LINE, AUDIT_DAMAGED (on open), AUDIT_GAP, AUDIT_BACKLOG, AUDIT_BACKLOG_RECOVERED,
AUDIT_MISMATCH, AUDIT_DISK, AUDIT_DISK_RECOVERED, AUDIT_SLOW, AUDIT_UNREADABLE_EVENT, AUDIT_WRITER_DIED.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from raftstore.node.audit_files import AuditDisk, AuditFiles, OsDisk, Trouble
from raftstore.node.audit_lines import RENDER_SLICE_EVENTS, Line, Stretch, batch_lines, gap_line
from raftstore.node.audit_read import read_events
from raftstore.ownership.events import GENESIS_HEAD, Event

GROUP_EVENTS_MAX = 8192  # events in the writer's hand: spelled, and kept so until durable
SLOW_WRITE_S = 1.0  # a group that takes longer is reported


class Pace(NamedTuple):
    """How long the writer pauses, in seconds. Every pause is also a bound on what it takes from the node."""

    group_s: float = 0.02  # between groups: fewer syncs beside those of the log; a reader lags by this
    slice_s: float = 0.0001  # after each slice of a group: lets the event loop have the interpreter
    retry_first_s: float = 0.2  # after the first failure, doubling
    retry_last_s: float = 5.0


class _Queued(NamedTuple):
    log_index: int
    first: int
    last: int
    events: list[Event] | None  # None: a gap
    head: bytes


class AuditTrail:
    """One node's audit files. One thread appends (the node's loop); `read` and `wait_durable` may be any thread's.

    `on_trouble(kind, detail)` is called from the appending thread or the writer's: it must be quick, may be
    called by both at once, and must not raise. Attributes to read: `last_number` (queued or written),
    `durable_number`, `durable_index` (everything up to this log index is durable), `backlog` (events queued).
    """

    def __init__(
        self,
        directory: Path,
        *,
        cluster: str,
        node_id: str,
        file_bytes_max: int,
        files_max: int,
        backlog_events_max: int,
        on_trouble: Callable[[str, str], None],
        disk: AuditDisk | None = None,
        pace: Pace | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if backlog_events_max < 1:
            raise ValueError("backlog_events_max must be at least 1")
        self._directory = directory
        self._files = AuditFiles(
            directory,
            cluster=cluster,
            node_id=node_id,
            file_bytes_max=file_bytes_max,
            files_max=files_max,
            disk=disk or OsDisk(),
        )
        self._backlog_events_max = backlog_events_max
        self._on_trouble = on_trouble
        self._pace = pace or Pace()
        self._monotonic = monotonic
        self.last_number = self.durable_number = self.durable_index = self.backlog = 0
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        # shared, under the lock
        self._queue: deque[_Queued] = deque()
        self._last_index = 0  # of everything seen, batches without events too
        self._last_head = GENESIS_HEAD
        self._leaving_out = False  # the backlog is full: batches become a gap until it is half empty
        self._asleep = False
        self._closing = True  # until opened
        # the writer's own
        self._hand: list[Stretch] = []
        self._durable_head = GENESIS_HEAD
        self._failures = 0
        self._was_slow = False
        self._spelled_since_pause = 0

    # -- the node's side

    def open(self, *, start_writer: bool = True) -> None:
        """Find where the files end, cut what a crash left unfinished, start the writer. Blocks on the disk.

        StorageError when the directory cannot be used or is another node's. `start_writer=False` leaves the
        writing to calls of `turn`, for tests and simulators.
        """
        position, troubles = self._files.open()
        self.last_number = self.durable_number = position.number
        self._last_index = self.durable_index = position.log_index
        self._last_head = self._durable_head = position.head
        self._closing = False
        self._tell(troubles)
        if start_writer:
            self._thread = threading.Thread(target=self._run, name="raftstore-audit", daemon=True)
            self._thread.start()

    def append(self, index: int, first_number: int, events: list[Event], head: bytes) -> None:
        """Take the events of one applied batch, numbered from `first_number`; `head` is the chain after it.

        Never blocks on the disk and never raises. Events already taken are passed over (a replay). Batches
        without events count too: they move `durable_index`.
        """
        last = first_number + len(events) - 1
        troubles: list[Trouble] = []
        with self._changed:
            if self._closing:
                return
            if last <= self.last_number:
                self._pass_over(index, last, head, troubles)
            elif first_number != self.last_number + 1:
                detail = f"events {self.last_number + 1} to {last} did not arrive one by one (log index {index})"
                troubles.append(("AUDIT_GAP", detail))
                self._leave_out(index, last, head)
            elif self._has_room(len(events), troubles):
                self._queue.append(_Queued(index, first_number, last, events, head))
                self.backlog += len(events)
                self._advance(index, last, head)
            else:
                self._leave_out(index, last, head)
        if troubles:
            self._tell(troubles)

    def skip_to(self, number: int, index: int, head: bytes) -> None:
        """A snapshot was installed that holds everything up to event `number` and log index `index`.

        What the trail does not reach is written down as a gap. Never blocks, never raises.
        """
        troubles: list[Trouble] = []
        with self._changed:
            if self._closing:
                return
            if number <= self.last_number:
                self._pass_over(index, number, head, troubles)
            else:
                detail = f"events {self.last_number + 1} to {number} came in a snapshot (log index {index})"
                troubles.append(("AUDIT_GAP", detail))
                self._leave_out(index, number, head)
        self._tell(troubles)

    def wait_durable(self, number: int, timeout_s: float) -> bool:
        """Wait until event `number` is durable or known as a gap; False when the time ran out or the trail closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.durable_number >= number or self._closing, timeout_s)
            return self.durable_number >= number

    def read(self, after: int) -> Iterator[Line]:
        """Durable events with numbers above `after`, and gaps, in order. Blocks on the disk; any thread.

        A gap, also one that the removal of old files made, is `{"event": "AuditGap", "from", "to", "number"}`
        where `number` is that of its last event: what to pass as `after` next time.
        """
        return read_events(self._directory, after, self.durable_number)

    def close(self, timeout_s: float) -> None:
        """Write what is queued, unless the disk fails or `timeout_s` runs out, and stop.

        What is not durable then comes again from the log at the next start.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None
        else:
            self._finish()

    # -- queueing, under the lock

    def _pass_over(self, index: int, last: int, head: bytes, troubles: list[Trouble]) -> None:
        if last == self.last_number and head != self._last_head:
            detail = f"the files hold another history than the log: chain heads differ after event {last}"
            troubles.append(("AUDIT_MISMATCH", detail))
            self._last_head = head  # said once
        self._last_index = max(self._last_index, index)
        if self.durable_number == self.last_number:
            self.durable_index = self._last_index

    def _has_room(self, count: int, troubles: list[Trouble]) -> bool:
        if self._leaving_out and self.backlog <= self._backlog_events_max // 2:
            self._leaving_out = False
            troubles.append(("AUDIT_BACKLOG_RECOVERED", f"{self.backlog} events queued"))
        elif not self._leaving_out and self.backlog + count > self._backlog_events_max:
            self._leaving_out = True
            detail = f"{self.backlog} events wait for the disk; those from {self.last_number + 1} on are left out"
            troubles.append(("AUDIT_BACKLOG", detail))
        return not self._leaving_out

    def _leave_out(self, index: int, last: int, head: bytes) -> None:
        first = self.last_number + 1
        if self._queue and self._queue[-1].events is None:  # one growing gap, however long the trouble lasts
            first = self._queue.pop().first
        self._queue.append(_Queued(index, first, last, None, head))
        self._advance(index, last, head)

    def _advance(self, index: int, last: int, head: bytes) -> None:
        self.last_number, self._last_head = last, head
        self._last_index = max(self._last_index, index)
        if self._asleep:
            self._asleep = False
            self._changed.notify_all()

    def _tell(self, troubles: list[Trouble]) -> None:
        for kind, detail in troubles:
            self._on_trouble(kind, detail)

    # -- the writer

    def turn(self) -> float | None:
        """Write one group. Returns the seconds to wait before the next turn; None: until something is queued.

        Called by the writer thread, or by whoever opened the trail without one.
        """
        if not self._hand:
            self._hand = [self._spell(item) for item in self._take()]
        if not self._hand:
            return None
        began = self._monotonic()
        try:
            count = self._files.store(self._hand, self._durable_head)
        except OSError as error:
            return self._failed(error)
        self._stored(count)
        self._judge_speed(self._monotonic() - began)
        return 0.0 if self._hand else self._pace.group_s

    def _run(self) -> None:
        try:
            while not self._closing:
                self._sleep(self.turn())
            self._finish()
        except Exception as error:  # a bug, or no memory: the node must hear of it, and goes on
            self._on_trouble("AUDIT_WRITER_DIED", f"no audit events are written until a restart: {error!r}")

    def _finish(self) -> None:
        while self.turn() is not None and not self._failures:
            pass
        self._files.close()

    def _sleep(self, wait_s: float | None) -> None:
        with self._changed:
            if wait_s is None:
                self._asleep = not self._queue
                self._changed.wait_for(lambda: not self._asleep or self._closing)
            elif wait_s > 0:
                self._changed.wait_for(lambda: self._closing, wait_s)

    def _take(self) -> list[_Queued]:
        taken: list[_Queued] = []
        count = 0
        with self._changed:
            while self._queue and count < GROUP_EVENTS_MAX:
                item = self._queue.popleft()
                taken.append(item)
                count += len(item.events) if item.events else 1
        return taken

    def _spell(self, item: _Queued) -> Stretch:
        data = None
        if item.events is not None:
            try:
                data = batch_lines(item.events, item.head, self._breathe)
            except (ValueError, TypeError, LookupError) as error:  # the rest of the trail must not end here
                detail = f"events {item.first} to {item.last} (log index {item.log_index}): {error!r}"
                self._on_trouble("AUDIT_UNREADABLE_EVENT", detail)
            self._spelled_since_pause += len(item.events)
            if self._spelled_since_pause >= RENDER_SLICE_EVENTS:  # many small batches are a long stretch too
                self._breathe()
        if data is None:
            data = gap_line(item.first, item.last, item.log_index, item.head)
        return Stretch(data, item.first, item.last, item.log_index, item.head, len(item.events or ()))

    def _breathe(self) -> None:
        self._spelled_since_pause = 0
        if self._pace.slice_s > 0:
            time.sleep(self._pace.slice_s)

    def _stored(self, count: int) -> None:
        done, self._hand = self._hand[:count], self._hand[count:]
        newest = done[-1]
        self._durable_head = newest.head
        with self._changed:
            self.backlog -= sum(stretch.queued_events for stretch in done)
            self.durable_number = newest.last
            has_all = self.durable_number == self.last_number
            self.durable_index = self._last_index if has_all else newest.log_index
            self._changed.notify_all()
        if self._failures:
            self._failures = 0
            self._on_trouble("AUDIT_DISK_RECOVERED", f"durable up to event {newest.last}")

    def _failed(self, error: OSError) -> float:
        self._failures += 1
        if self._failures == 1:
            detail = f"{self._directory}: {error}; durable up to event {self.durable_number}, trying again"
            self._on_trouble("AUDIT_DISK", detail)
        doublings = min(self._failures - 1, 16)
        return min(self._pace.retry_first_s * (1 << doublings), self._pace.retry_last_s)

    def _judge_speed(self, took_s: float) -> None:
        is_slow = took_s > SLOW_WRITE_S
        if is_slow and not self._was_slow:
            self._on_trouble("AUDIT_SLOW", f"{self._directory}: a group took {took_s * 1000:.0f} ms")
        self._was_slow = is_slow
