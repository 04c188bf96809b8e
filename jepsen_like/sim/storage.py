"""The storage worker on virtual time: the production jobs and snapshot steps, performed by events.

Like the worker's threads: one for the log, which takes everything that waits and syncs once, and one for snapshots, a
step at a time. What they do is durable, and told, when the disk's time has come, not when the event ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

from jepsen_like.sim.disk import SimDisk
from jepsen_like.sim.loop import SimLoop
from jepsen_like.sim.scheduler import Scheduler
from raftstore.storage.worker import MARK_AFTER_S, Job, Worker

WAKE_NS = 15_000  # until a thread that slept has its work
PAUSE_NS = 500_000  # between two steps of a snapshot


class SimWorker(Worker):
    """See above; made with the scheduler, the loop and the disk of one process's life."""

    def __init__(self, scheduler: Scheduler, loop: SimLoop, disk: SimDisk, store: Any, **options: Any) -> None:
        super().__init__(store, **options)
        self._scheduler = scheduler
        self._loop = loop
        self._disk = disk
        self._jobs: deque[tuple[int, Job, int]] = deque()
        self._steps: deque[Iterator[None]] = deque()
        self._is_busy = self._is_busy_aside = self._is_closed = False
        self._through_ns = 0  # when the last group performed is durable

    def start(self) -> None:
        """Nothing to start: the events come with the work."""

    def close(self) -> None:
        """Do what is queued for the log; give up unfinished snapshots. Called as a thread's work."""
        self._is_closed = True
        jobs = list(self._jobs)
        self._jobs.clear()
        self._steps.clear()
        self._disk.cursor = max(self._disk.cursor, self._through_ns)  # it waits for the log's thread
        if jobs and self.failure is None and self._store.failure is None:
            self._perform(jobs)

    # --- the log's thread ------------------------------------------------------------------------------------
    def _put(self, item: tuple[int, Job, int]) -> None:
        self._jobs.append(item)
        if not self._is_busy:
            self._is_busy = True
            self._later(self._scheduler.now + WAKE_NS, self._work)

    def _work(self) -> None:
        if self._is_closed or self._store.failure is not None:
            return
        if not self._jobs:
            self._is_busy = False
            self._later(self._scheduler.now + int(MARK_AFTER_S * 1e9), partial(self._mark_if_quiet, self.submitted))
            return
        group = list(self._jobs)
        self._jobs.clear()
        self._loop.begin_thread(self._scheduler.now)
        is_sound = self._perform(group)
        done_at = self._through_ns = self._loop.end_thread()
        if is_sound:
            self._later(done_at, self._work)

    def _mark_if_quiet(self, submitted: int) -> None:
        if self.submitted == submitted and not self._is_closed and self._store.failure is None:
            self._loop.begin_thread(self._scheduler.now)
            self._mark()
            self._loop.end_thread()

    # --- the snapshots' thread -------------------------------------------------------------------------------
    def _put_aside(self, steps: Iterator[None]) -> None:
        self._steps.append(steps)
        if not self._is_busy_aside:
            self._is_busy_aside = True
            self._later(self._scheduler.now + WAKE_NS, self._work_aside)

    def _work_aside(self) -> None:
        if not self._steps:
            self._is_busy_aside = False
            return
        steps = self._steps.popleft()
        self._loop.begin_thread(self._scheduler.now)
        if next(steps, self) is not self:
            self._steps.append(steps)
        self._later(self._loop.end_thread() + PAUSE_NS, self._work_aside)

    def _later(self, when: int, work: Any) -> None:
        self._scheduler.at(when, work, life=self._loop.life)
