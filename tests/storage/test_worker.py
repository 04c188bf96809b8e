"""The worker's contract, alike for the threads and for the one under the caller's control."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from fake_disk import FakeDisk
from storage_scenes import entries, open_store, ready_store

from raftstore.errors import StorageError
from raftstore.storage.store import Store
from raftstore.storage.values import HardState, SnapshotInfo
from raftstore.storage.worker import ASIDE_JOBS_MAX, JOB_BYTES, InlineWorker, StorageWorker, Worker

PATIENCE_S = 20


class Scene:
    """A worker, and a loop that runs what is posted when the test says so."""

    def __init__(self, kind: type[StorageWorker] | type[InlineWorker], backlog_bytes_max: int = 100_000) -> None:
        self.disk = FakeDisk()
        self.store = ready_store(self.disk)
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.durable: list[int] = []
        self.failures: list[Exception] = []
        self.space: list[int] = []
        self.worker = kind(
            self.store,
            post=self.posted.put,
            on_durable=self.durable.append,
            on_failure=self.failures.append,
            on_space=self.space.append,
            backlog_bytes_max=backlog_bytes_max,
        )
        self.worker.start()

    def run_until(self, condition: Callable[[], object]) -> None:
        """Run what is posted until the condition holds."""
        for _ in range(1000):
            if condition():
                return
            if isinstance(self.worker, InlineWorker):
                self.worker.run_pending()
                if self.posted.empty():
                    continue  # a step that had nothing to say
            self.posted.get(timeout=PATIENCE_S)()
        raise AssertionError("what was waited for did not come")

    def finish(self) -> None:
        self.worker.close()
        self.store.close()


Kind = type[StorageWorker] | type[InlineWorker]


@pytest.fixture(params=[StorageWorker, InlineWorker])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the two workers."""
    found: Kind = request.param
    return found


@pytest.fixture
def scene(kind: Kind) -> Iterator[Scene]:
    """A worker on a new store."""
    scene = Scene(kind)
    yield scene
    scene.finish()


def gated(worker: Worker) -> threading.Event:
    """Hold the worker's thread in a job, so that what follows gathers; set the event to let it go on."""
    gate = threading.Event()
    if isinstance(worker, StorageWorker):
        entered = threading.Event()
        worker.submit(lambda store: (entered.set(), gate.wait(PATIENCE_S)))
        assert entered.wait(PATIENCE_S)
    return gate


def test_jobs_are_numbered_done_in_order_and_durable_when_reported(scene: Scene) -> None:
    """Numbers grow by one; what is reported survives a power loss; the whole round of jobs ends on disk."""
    worker = scene.worker
    assert worker.append(entries(1, 3)) == 1
    assert worker.set_hard_state(2, "n1", True) == 2
    assert worker.truncate_from(3) == 3
    assert worker.append(entries(3, 4, term=2)) == 4 == worker.submitted
    scene.run_until(lambda: worker.durable == 4)
    assert scene.durable == sorted(scene.durable)
    assert worker.backlog_bytes == 0
    _, found = open_store(scene.disk.copy())
    assert found.entries == entries(1, 2) + entries(3, 4, term=2)
    assert found.hard_state == HardState(2, "n1", True)


def test_nothing_is_reported_before_its_sync(scene: Scene) -> None:
    """At each report, what a power loss at that moment would leave holds all that was reported."""
    worker, lost = scene.worker, []

    def look(number: int) -> None:
        found = open_store(scene.disk.restart(random.Random(number), "none"))[1].entries
        lost.append(len(found) < number)

    worker._on_durable = look
    for index in range(1, 31):
        worker.append(entries(index, index))
        if index % 3 == 0:
            scene.run_until(lambda index=index: worker.durable == index)  # type: ignore[misc]
    assert lost
    assert not any(lost)


def test_what_gathers_while_it_syncs_shares_one_sync(scene: Scene) -> None:
    """Everything queued is made durable by one write and one sync, and reported once."""
    gate = gated(scene.worker)
    before, first = scene.disk.calls, scene.worker.submitted + 1
    for index in range(1, 21):
        scene.worker.append(entries(index, index))
    gate.set()
    last = scene.worker.submitted
    scene.run_until(lambda: scene.worker.durable == last)
    assert len(scene.durable) == (2 if first > 1 else 1)
    scene.finish()
    assert scene.disk.calls - before <= 2 + 1 + 2, "one group, the mark, and what an orderly end adds"


def test_the_log_is_marked_once_nothing_comes_any_more() -> None:
    """The mark says that the last group was durable, which nothing waits for: it comes when there is nothing to do."""
    scene, marked = Scene(StorageWorker), threading.Event()
    mark = scene.store.mark
    scene.store.mark = lambda: (mark(), marked.set())  # type: ignore[method-assign]
    last = scene.worker.append(entries(1, 3))
    scene.run_until(lambda: scene.worker.durable == last)
    assert marked.wait(PATIENCE_S) and scene.store._log._tail.marked
    scene.finish()


def test_the_backlog_is_counted_and_bounded(kind: Kind) -> None:
    """Beyond its bound the worker says that it is full; beyond twice the bound it takes nothing more."""
    scene = Scene(kind, backlog_bytes_max=1000)
    worker = scene.worker
    gate = gated(worker)
    held = worker.backlog_bytes
    worker.append(entries(1, 1, size_bytes=400))
    assert worker.backlog_bytes == held + 400 + 2 * JOB_BYTES
    assert not worker.is_full
    worker.append(entries(2, 2, size_bytes=500))
    assert worker.is_full
    worker.append(entries(3, 3, size_bytes=500))
    with pytest.raises(StorageError, match="backlog_bytes_max"):
        worker.append(entries(4, 4, size_bytes=500))
    gate.set()
    last = worker.submitted
    scene.run_until(lambda: worker.durable == last)
    assert (worker.backlog_bytes, worker.is_full) == (0, False)
    scene.finish()


def test_a_failed_disk_is_reported_once_and_nothing_after_it_is_durable(scene: Scene) -> None:
    """After a failed sync no job is reported, and a later submit is refused."""
    worker = scene.worker
    scene.disk.fail_at = scene.disk.calls + 2
    worker.append(entries(1, 1))
    scene.run_until(lambda: scene.failures)
    with pytest.raises(StorageError, match="input/output error"):
        worker.append(entries(2, 2))
    assert (scene.durable, len(scene.failures), worker.failure) == ([], 1, scene.store.failure)


def test_a_bug_in_a_job_stops_the_worker_too(scene: Scene) -> None:
    """Entries that cannot follow are no fault of the disk, but nothing behind them may become durable either."""
    scene.worker.append(entries(5, 5))
    scene.worker.append(entries(1, 1))
    scene.run_until(lambda: scene.failures)
    assert isinstance(scene.failures[0], ValueError)
    assert scene.durable == []


def test_free_space_is_asked_once_at_a_time(scene: Scene) -> None:
    """However often space is asked for, one answer comes; then it can be asked again."""
    gate = gated(scene.worker)
    before = scene.worker.submitted
    for _ in range(5):
        scene.worker.check_space()
    assert scene.worker.submitted == before + 1
    gate.set()
    scene.run_until(lambda: scene.space)
    scene.worker.check_space()
    scene.run_until(lambda: len(scene.space) == 2)
    assert scene.space == [scene.disk.free_bytes("/")] * 2


def test_a_snapshot_is_written_aside_while_the_log_goes_on(scene: Scene) -> None:
    """Between two chunks of a snapshot, groups are made durable; the snapshot then serves to cut the log."""
    worker, done = scene.worker, list[SnapshotInfo | Exception | None]()
    worker.append(entries(1, 3))
    scene.run_until(lambda: worker.durable == 1)
    may_go_on = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        if isinstance(worker, StorageWorker):
            assert may_go_on.wait(PATIENCE_S)
        yield b"second"

    worker.write_snapshot(3, 1, chunks(), done.append)
    number = worker.append(entries(4, 5))
    scene.run_until(lambda: worker.durable == number)
    assert done == []
    may_go_on.set()
    scene.run_until(lambda: done)
    (info,) = done
    assert isinstance(info, SnapshotInfo)
    assert info == scene.store.latest_snapshot
    assert list(scene.store.snapshot_reader().chunks(info)) == [b"first", b"second"]
    last = worker.drop_through(3)
    scene.run_until(lambda: worker.durable == last)


def test_a_received_snapshot_is_finished_aside_and_installed_in_order(scene: Scene) -> None:
    """Receiving, syncing, checking and installing: the log then goes on behind the snapshot."""
    store, _ = open_store(FakeDisk(), node_id="n2")
    announced, data = sent_by(store)
    worker, done = scene.worker, list[SnapshotInfo | Exception | None]()
    receiver = scene.store.begin_receiving(9, 1, announced.size_bytes, announced.sha256)
    receiver.write(0, data)
    worker.sync_receiving(receiver)
    worker.finish_receiving(receiver, done.append)
    scene.run_until(lambda: done)
    (info,) = done
    assert isinstance(info, SnapshotInfo)
    worker.install_snapshot(info)
    last = worker.append(entries(10, 10))
    scene.run_until(lambda: worker.durable == last)
    _, found = open_store(scene.disk.copy())
    assert (found.snapshot, found.entries) == (info, entries(10, 10))


def sent_by(store: Store) -> tuple[SnapshotInfo, bytes]:
    store.set_hard_state(HardState(1, None, True))
    writer = store.begin_snapshot(9, 1)
    writer.write(b"state" * 100)
    info = writer.commit()
    return info, store.snapshot_reader().read(info, 0, info.size_bytes)


def test_a_snapshot_without_room_is_reported_and_the_log_goes_on(scene: Scene) -> None:
    """A full disk costs the snapshot; the worker goes on."""
    worker, done = scene.worker, list[SnapshotInfo | Exception | None]()
    scene.disk.capacity_bytes = scene.disk.capacity_bytes - scene.disk.free_bytes("/") + 300
    worker.write_snapshot(3, 1, [bytes(900)], done.append)
    scene.run_until(lambda: done)
    assert isinstance(done[0], StorageError)
    number = worker.append(entries(1, 1))
    scene.run_until(lambda: worker.durable == number)
    assert scene.failures == []


def test_a_snapshot_that_its_maker_puts_off_leaves_nothing_behind(scene: Scene) -> None:
    """A StorageError from the chunks gives the snapshot up: it is reported, its file removed, the next one works."""
    worker, done = scene.worker, list[SnapshotInfo | Exception | None]()

    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise StorageError("put off")

    worker.write_snapshot(3, 1, chunks(), done.append)
    scene.run_until(lambda: done)
    assert str(done[0]) == "put off"
    assert scene.disk.listdir("/data/snapshots") == []
    worker.write_snapshot(3, 1, [b"first"], done.append)
    scene.run_until(lambda: len(done) == 2)
    assert isinstance(done[1], SnapshotInfo)
    assert scene.failures == []


def test_a_bug_in_what_makes_the_chunks_stops_the_worker(scene: Scene) -> None:
    """An exception from the chunks is a bug of the machine's snapshot: the node stops."""

    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("cannot encode")

    scene.worker.write_snapshot(3, 1, chunks(), lambda _: None)
    scene.run_until(lambda: scene.failures)
    assert isinstance(scene.failures[0], RuntimeError)


def test_snapshot_jobs_are_bounded(kind: Kind) -> None:
    """More snapshot jobs than ASIDE_JOBS_MAX at once are refused."""
    scene = Scene(kind)
    may_go_on = threading.Event()

    def chunks() -> Iterator[bytes]:
        if isinstance(scene.worker, StorageWorker):
            may_go_on.wait(PATIENCE_S)
        yield b"chunk"

    for _ in range(ASIDE_JOBS_MAX):
        scene.worker.write_snapshot(3, 1, chunks(), lambda _: None)
    with pytest.raises(StorageError, match="ASIDE_JOBS_MAX"):
        scene.worker.write_snapshot(3, 1, chunks(), lambda _: None)
    may_go_on.set()
    scene.finish()


def test_closing_finishes_what_is_queued(kind: Kind) -> None:
    """Jobs submitted before the end are durable after it."""
    scene = Scene(kind)
    for index in range(1, 51):
        scene.worker.append(entries(index, index))
    scene.finish()
    assert open_store(scene.disk.copy())[1].entries == entries(1, 50)


def test_the_inline_worker_does_as_much_as_it_is_told() -> None:
    """Under the caller's control a group is as large as the caller says, so that a crash can fall in between."""
    scene = Scene(InlineWorker)
    worker = scene.worker
    assert isinstance(worker, InlineWorker)
    for index in range(1, 5):
        worker.append(entries(index, index))
    assert worker.run_pending(jobs_max=3)
    assert open_store(scene.disk.copy())[1].entries == entries(1, 3)
    assert not worker.run_pending()
    while not scene.posted.empty():
        scene.posted.get()()
    assert scene.durable == [3, 4]
