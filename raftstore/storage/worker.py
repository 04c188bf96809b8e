"""Storage off the event loop: jobs in, one sync for all that wait, one message back.

`durable before visible` rests here: a job's number is reported only after the sync that covers it. The loop submits
without waiting; the thread takes everything that is queued, performs it in order, syncs once, and posts the highest
number done. While it syncs, the next group gathers. Snapshots go through a thread of their own, a step at a time,
so that they never stand between a job and its sync.

Leaves to the node what to do when the disk fails (stop) or the backlog is full (refuse new work, OVERLOADED).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from raftstore.errors import StorageError
from raftstore.storage.snapshot import SnapshotReceiver
from raftstore.storage.store import Store
from raftstore.storage.values import Entry, HardState, SnapshotInfo

Job = Callable[[Store], object]
Step = Iterator[None]
Post = Callable[[Callable[[], None]], object]

BACKLOG_BYTES_MAX = 64 * 1024 * 1024
JOB_BYTES = 64  # what a job without payload counts
ASIDE_JOBS_MAX = 16
MARK_AFTER_S = 0.01  # of quiet: earlier it would keep the node's loop from going on with what has just become durable
SNAPSHOT_PAUSE_S = 0.0005  # between two steps of a snapshot: the other threads' turn


class Worker(ABC):
    """What both workers share: numbering, the backlog, and the jobs. All methods on the loop's thread.

    `post(f)` must make the loop's thread call `f()`, in order. `on_durable(number)`: every job up to that one is
    durable. `on_failure(error)`, at most once: nothing more will become durable; a later submit raises StorageError.
    `on_space(free_bytes)` answers `check_space`.
    """

    def __init__(
        self,
        store: Store,
        *,
        post: Post,
        on_durable: Callable[[int], None],
        on_failure: Callable[[Exception], None],
        on_space: Callable[[int], None] | None = None,
        backlog_bytes_max: int = BACKLOG_BYTES_MAX,
    ) -> None:
        self._store = store
        self._post = post
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._on_space = on_space
        self._asking_space = False
        self._aside_jobs = 0
        self.backlog_bytes_max = backlog_bytes_max
        self.backlog_bytes = 0
        self.submitted = 0
        self.durable = 0
        self.failure: Exception | None = None

    # --- jobs ----------------------------------------------------------------------------------------
    @property
    def is_full(self) -> bool:
        """Whether new work should be refused: `backlog_bytes_max` or more wait for the disk."""
        return self.backlog_bytes >= self.backlog_bytes_max

    def submit(self, job: Job, size_bytes: int = JOB_BYTES) -> int:
        """Queue a job; its number. StorageError after a failure, and when twice `backlog_bytes_max` wait.

        The second half is for what cannot be refused any more once `is_full` says so; whoever fills that too has
        not asked, and is stopped rather than let memory run out.
        """
        if self.failure is not None:
            raise StorageError(f"storage has failed: {self.failure}") from self.failure
        if self.backlog_bytes + size_bytes > 2 * self.backlog_bytes_max:
            raise StorageError(f"{self.backlog_bytes} bytes wait for the disk: over twice backlog_bytes_max")
        self.submitted += 1
        self.backlog_bytes += size_bytes
        self._put((self.submitted, job, size_bytes))
        return self.submitted

    def append(self, entries: Sequence[Entry]) -> int:
        """Append entries to the log."""
        size_bytes = JOB_BYTES + sum(JOB_BYTES + len(entry[0]) for entry in entries)
        return self.submit(lambda store: store.append(entries), size_bytes)

    def truncate_from(self, index: int) -> int:
        """Void the entries from `index` on."""
        return self.submit(lambda store: store.truncate_from(index))

    def set_hard_state(self, term: int, voted_for: str | None, voter: bool) -> int:
        """Store term, vote and voter flag."""
        return self.submit(lambda store: store.set_hard_state(HardState(term, voted_for, voter)))

    def drop_through(self, index: int) -> int:
        """Remove log segments that a durable snapshot makes superfluous."""
        return self.submit(lambda store: store.drop_through(index))

    def install_snapshot(self, info: SnapshotInfo) -> int:
        """Let the log go on after a snapshot that `finish_receiving` has made durable."""
        return self.submit(lambda store: store.install_snapshot(info))

    def check_space(self) -> None:
        """Ask for the free space; `on_space` is told. Asking again before the answer does nothing."""
        if self._asking_space or self._on_space is None:
            return
        self._asking_space = True
        self.submit(lambda store: self._post(partial(self._tell_space, store.free_bytes())))

    # --- snapshots -----------------------------------------------------------------------------------
    def write_snapshot(
        self, index: int, term: int, chunks: Iterable[bytes], done: Callable[[SnapshotInfo | Exception], None]
    ) -> None:
        """Write a snapshot aside; `done` on the loop's thread. `chunks` is iterated on the other thread.

        `done` gets a StorageError when the snapshot was given up: the disk had no room, or `chunks` raised one.
        """
        self._aside(self._snapshot_steps(index, term, chunks, done))

    def sync_receiving(self, receiver: SnapshotReceiver) -> None:
        """Sync what a receiver holds, aside; for when it `wants_sync`. A failure shows at the next `write`."""
        self._aside(self._sync_steps(receiver))

    def finish_receiving(
        self, receiver: SnapshotReceiver, done: Callable[[SnapshotInfo | Exception | None], None]
    ) -> None:
        """Check and publish a received snapshot aside; `done(None)` when its bytes were not what was announced."""
        self._aside(self._finish_steps(receiver, done))

    def _aside(self, steps: Step) -> None:
        if self._aside_jobs >= ASIDE_JOBS_MAX:
            raise StorageError(f"{self._aside_jobs} snapshot jobs wait: ASIDE_JOBS_MAX")
        self._aside_jobs += 1
        self._put_aside(self._counted(steps))

    def _counted(self, steps: Step) -> Step:
        try:
            yield from steps
        except Exception as error:  # a bug in what makes the chunks, or a disk that failed for good
            self._post(partial(self._fail, error))
        self._post(self._count_aside)

    def _count_aside(self) -> None:
        self._aside_jobs -= 1

    def _snapshot_steps(
        self, index: int, term: int, chunks: Iterable[bytes], done: Callable[[SnapshotInfo | Exception], None]
    ) -> Step:
        try:
            writer = self._store.begin_snapshot(index, term)
            try:
                for chunk in chunks:
                    writer.write(chunk)
                    yield
                info = writer.commit()
            except BaseException:  # the disk, the maker of the chunks, or the end of this worker
                writer.abort()
                raise
        except StorageError as error:
            self._report_aside(partial(done, error))
        else:
            self._post(partial(done, info))

    def _sync_steps(self, receiver: SnapshotReceiver) -> Step:
        receiver.sync()
        yield

    def _finish_steps(
        self, receiver: SnapshotReceiver, done: Callable[[SnapshotInfo | Exception | None], None]
    ) -> Step:
        try:
            info = receiver.finish()
        except StorageError as error:
            self._report_aside(partial(done, error))
        else:
            self._post(partial(done, info))
        yield

    def _report_aside(self, tell: Callable[[], None]) -> None:
        """A snapshot failed. That is final only if it poisoned the store."""
        self._post(tell)
        if self._store.failure is not None:
            self._post(partial(self._fail, self._store.failure))

    # --- performing: on the worker's thread -----------------------------------------------------------
    def _perform(self, jobs: Sequence[tuple[int, Job, int]]) -> bool:
        """Do all jobs, sync once, report. False when the store failed: nothing may be done after that."""
        try:
            for _, job, _ in jobs:
                job(self._store)
            self._store.sync()
        except Exception as error:  # a failed disk, or a bug: either way this node must stop here
            self._post(partial(self._fail, error))
            return False
        self._post(partial(self._done, jobs[-1][0], sum(size for _, _, size in jobs)))
        return True

    def _mark(self) -> bool:
        try:
            self._store.mark()
        except Exception as error:
            self._post(partial(self._fail, error))
            return False
        return True

    # --- posted: on the loop's thread ------------------------------------------------------------------
    def _done(self, number: int, size_bytes: int) -> None:
        self.durable = number
        self.backlog_bytes -= size_bytes
        self._on_durable(number)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            self._on_failure(error)

    def _tell_space(self, free_bytes: int) -> None:
        self._asking_space = False
        if self._on_space is not None:
            self._on_space(free_bytes)

    # --- how jobs get to where they are done -------------------------------------------------------------
    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _put(self, item: tuple[int, Job, int]) -> None: ...

    @abstractmethod
    def _put_aside(self, steps: Step) -> None: ...


class StorageWorker(Worker):
    """Two threads: one for log and hard state, one for snapshots. `start` before, `close` after use."""

    _jobs: SimpleQueue[tuple[int, Job, int] | None]
    _asides: SimpleQueue[Step | None]

    def start(self) -> None:
        """Start the threads."""
        self._jobs = SimpleQueue()
        self._asides = SimpleQueue()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="raftstore-log", daemon=True),
            threading.Thread(target=self._run_aside, name="raftstore-snapshots", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Do what is queued for the log, give up unfinished snapshots, end the threads. Blocks. Not the store."""
        self._closing.set()
        self._jobs.put(None)
        self._asides.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, item: tuple[int, Job, int]) -> None:
        self._jobs.put(item)

    def _put_aside(self, steps: Step) -> None:
        self._asides.put(steps)

    def _run(self) -> None:
        jobs, is_open, is_marked = self._jobs, True, True
        while is_open:
            group = []
            try:
                item = jobs.get() if is_marked else jobs.get(timeout=MARK_AFTER_S)
                while item is not None:
                    group.append(item)
                    item = jobs.get_nowait()
                is_open = False
            except Empty:
                pass
            if not (self._perform(group) if group else self._mark()):
                return
            is_marked = not group

    def _run_aside(self) -> None:
        active: deque[Step] = deque()
        while not self._closing.is_set():
            if not active or not self._asides.empty():
                steps = self._asides.get()
                if steps is None:
                    return
                active.append(steps)
            steps = active.popleft()
            if next(steps, self) is not self:
                active.append(steps)
            self._closing.wait(SNAPSHOT_PAUSE_S)


class InlineWorker(Worker):
    """The same contract under the caller's control, for tests and simulation: nothing happens but in `run_pending`."""

    _queue: deque[tuple[int, Job, int]]
    _active: deque[Step]

    def start(self) -> None:
        """Begin."""
        self._queue = deque()
        self._active = deque()

    def close(self) -> None:
        """Do what is queued for the log; give up unfinished snapshots."""
        self.run_pending(steps_max=0)
        self._active.clear()

    def run_pending(self, *, jobs_max: int | None = None, steps_max: int = 1) -> bool:
        """Perform up to `jobs_max` queued jobs (None: all) as one group, then up to `steps_max` snapshot steps.

        True while anything is left to do.
        """
        count = len(self._queue) if jobs_max is None else min(jobs_max, len(self._queue))
        group = [self._queue.popleft() for _ in range(count)]
        is_sound = self.failure is None and self._store.failure is None
        if is_sound and group and self._perform(group) and not self._queue:
            self._mark()
        for _ in range(min(steps_max, len(self._active))):
            steps = self._active.popleft()
            if next(steps, self) is not self:
                self._active.append(steps)
        return bool(self._queue or self._active)

    def _put(self, item: tuple[int, Job, int]) -> None:
        self._queue.append(item)

    def _put_aside(self, steps: Step) -> None:
        self._active.append(steps)
