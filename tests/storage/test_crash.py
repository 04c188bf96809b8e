"""Power loss in every call of every operation: nothing acknowledged is lost, nothing is changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from fake_disk import FakeDisk, PowerLoss
from storage_scenes import DATA, entries, entry, open_store

from raftstore.storage.store import Store
from raftstore.storage.values import Entry, HardState, Recovered


@dataclass
class Expected:
    """What the data directory must hold: after an operation exactly this, during one this or the next."""

    log: list[Entry] = field(default_factory=list)
    snapshot: tuple[int, int] = (0, 0)
    hard_state: HardState | None = None

    def matches(self, found: Recovered) -> bool:
        snapshot = (found.snapshot.index, found.snapshot.term) if found.snapshot else (0, 0)
        beyond = [item for item in self.log if item[1] > self.snapshot[0]]
        return (snapshot, found.entries, found.hard_state) == (self.snapshot, beyond, self.hard_state)


Operation = tuple[Callable[[Store], object], Expected]


def script() -> Iterator[Operation]:
    """Each operation, and what must hold once it has returned."""
    now = Expected()

    def hard_state(*fields: object) -> Operation:
        nonlocal now
        state = HardState(*fields)  # type: ignore[arg-type]
        now = replace(now, hard_state=state)
        return (lambda store: store.set_hard_state(state)), now

    def append(*new: Entry) -> Operation:
        nonlocal now
        now = replace(now, log=[*now.log, *new])
        return (lambda store: (store.append(new), store.sync(), store.mark())), now

    def truncate(index: int) -> Operation:
        nonlocal now
        now = replace(now, log=[item for item in now.log if item[1] < index])
        return (lambda store: (store.truncate_from(index), store.sync())), now

    def snapshot(index: int, term: int) -> Operation:
        nonlocal now
        now = replace(now, snapshot=(index, term))
        return (lambda store: write_snapshot(store, index, term)), now

    yield hard_state(1, "n1", True)
    yield append(*entries(1, 3))
    yield append(entry(4, 1, 1500))
    yield append(entry(5, 1, 1700), entry(6, 1, 1700))
    yield append(*entries(7, 9, size_bytes=900))  # the second segment begins
    yield hard_state(2, None, True)
    yield truncate(8)
    yield append(*entries(8, 12, term=2, size_bytes=800))
    yield snapshot(6, 1)
    yield (lambda store: store.drop_through(6)), now
    yield append(*entries(13, 20, term=2, size_bytes=900))
    yield snapshot(18, 2)
    yield (lambda store: store.drop_through(18)), now
    yield hard_state(3, "n2", False)
    yield (lambda store: receive(store, 19, 2)), replace(now, snapshot=(19, 2))
    now = replace(now, snapshot=(19, 2))
    yield append(*entries(21, 22, term=3))
    now = replace(now, snapshot=(40, 3), log=[])
    yield (lambda store: receive(store, 40, 3)), now
    yield append(*entries(41, 43, term=3, size_bytes=1900))
    yield truncate(42)
    yield append(entry(42, 3))


def write_snapshot(store: Store, index: int, term: int) -> None:
    writer = store.begin_snapshot(index, term)
    for number in range(3):
        writer.write(b"%d" % number * 900)
    writer.commit()


def receive(store: Store, index: int, term: int) -> None:
    """Take a snapshot that another node of the cluster wrote, as a peer would send it, and tell the log."""
    data, sha256 = foreign_snapshot(index, term)
    receiver = store.begin_receiving(index, term, len(data), sha256)
    for offset in range(0, len(data), 1000):
        receiver.write(offset, data[offset : offset + 1000])
        if receiver.wants_sync:
            receiver.sync()
    info = receiver.finish()
    assert info is not None
    store.install_snapshot(info)


def foreign_snapshot(index: int, term: int) -> tuple[bytes, bytes]:
    store, _ = open_store(FakeDisk(), node_id="n9")
    store.set_hard_state(HardState(term, None, True))
    write_snapshot(store, index, term)
    info = store.latest_snapshot
    assert info is not None
    return store.snapshot_reader().read(info, 0, info.size_bytes), info.sha256


def run_until_power_loss(disk: FakeDisk) -> list[Expected]:
    """Run the script; the states that the disk may hold: one if the script ended, else before and after."""
    before = Expected()
    after = before
    try:
        store, _ = open_store(disk)
        for operation, after in script():
            operation(store)
            before = after
        store.close()
    except PowerLoss:
        return [before, after]
    return [before]


def calls_of_script() -> int:
    disk = FakeDisk()
    assert len(run_until_power_loss(disk)) == 1
    return disk.calls


def check(found: Recovered, allowed: list[Expected]) -> None:
    """The state after the last operation that returned, or a step into the one that was cut short."""
    assert any(state.matches(found) for state in [*allowed, *steps_between(*allowed)]), (
        f"recovered {[item[1:] for item in found.entries]}, {found.snapshot}, {found.hard_state}; "
        f"allowed {[([item[1:] for item in state.log], state.snapshot, state.hard_state) for state in allowed]}"
    )


def steps_between(before: Expected, after: Expected | None = None) -> Iterator[Expected]:
    """States that an operation passes through: entries in several groups; a snapshot before the log knows of it."""
    if after is None:
        return
    if after.snapshot != before.snapshot:
        beyond = [item for item in before.log if item[1] > after.snapshot[0]]
        yield replace(after, log=beyond)
    if after.log[: len(before.log)] == before.log:
        for count in range(len(before.log), len(after.log)):
            yield replace(before, log=after.log[:count])


def go_on(disk: FakeDisk, found: Recovered, rng: random.Random) -> None:
    """What is recovered stays, and the log goes on: another power loss loses nothing."""
    store, again = open_store(disk, seed=rng.randrange(1 << 30))
    assert (again.entries, again.snapshot, again.hard_state) == (found.entries, found.snapshot, found.hard_state)
    assert again.events == [], "what was repaired is repaired"
    if again.hard_state is None:
        return
    last = again.entries[-1][1] if again.entries else again.snapshot.index if again.snapshot else 0
    new = entry(last + 1, 9)
    store.set_hard_state(HardState(9, "n1", True))
    store.append([new])
    store.sync()
    _, after = open_store(disk.restart(rng))
    assert after.entries == [*found.entries, new]


@pytest.mark.parametrize("mode", ["none", "all", "some"])
def test_power_loss_in_any_call_loses_nothing_acknowledged(mode: str) -> None:
    """Whatever call the power fails in, whatever unsynced bytes survive, the start finds what was promised."""
    total = calls_of_script()
    assert total > 80
    for call in range(1, total + 1):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk)
        for seed in range(6 if mode == "some" else 1):
            rng = random.Random(f"{call}/{seed}")
            after = disk.restart(rng, mode)
            _, found = open_store(after, seed=seed)
            check(found, allowed)
            go_on(after.restart(rng), found, rng)


def test_power_loss_during_recovery_loses_nothing() -> None:
    """The start after a power loss may itself be cut short in any call, again and again."""
    total = calls_of_script()
    for call in range(3, total, 5):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk)
        rng = random.Random(call)
        for stop in range(1, 9):
            disk = disk.restart(rng)
            disk.crash_at = stop
            try:
                _, found = open_store(disk, seed=stop)
            except PowerLoss:
                continue
            check(found, allowed)
        _, found = open_store(disk.restart(rng))
        check(found, allowed)


def test_what_a_killed_process_left_in_memory_is_durable_once_recovered() -> None:
    """A killed process leaves unsynced bytes readable; what the next start returns survives a power loss after it."""
    for call in range(1, calls_of_script() + 1):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk)
        disk = disk.kill()
        _, found = open_store(disk)
        check(found, allowed)
        _, again = open_store(disk.restart(random.Random(call)))
        assert (again.entries, again.hard_state) == (found.entries, found.hard_state)


def test_what_is_readable_after_a_failed_sync_is_durable_once_recovered() -> None:
    """After a failed sync bytes can be read that never reached the disk; the next start writes them again."""
    for call in range(1, calls_of_script() + 1):
        disk = FakeDisk()
        disk.fail_at = call
        try:
            allowed = run_until_power_loss(disk)
        except Exception:
            disk = disk.kill()
            _, found = open_store(disk)
            _, again = open_store(disk.restart(random.Random(call)))
            assert (again.entries, again.hard_state) == (found.entries, found.hard_state)
        else:
            assert allowed
    assert disk.exists(DATA)
