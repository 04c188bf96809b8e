"""What a data directory must hold after each operation, and the check of it after a power loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from fake_disk import FakeDisk, PowerLoss
from storage_scenes import entry, open_store

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


def write_snapshot(store: Store, index: int, term: int) -> None:
    """Write a snapshot of three chunks."""
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
    """The bytes of a snapshot that another node wrote, and their SHA-256."""
    store, _ = open_store(FakeDisk(), node_id="n9")
    store.set_hard_state(HardState(term, None, True))
    write_snapshot(store, index, term)
    info = store.latest_snapshot
    assert info is not None
    return store.snapshot_reader().read(info, 0, info.size_bytes), info.sha256


def run_until_power_loss(disk: FakeDisk, operations: Iterable[Operation]) -> list[Expected]:
    """Run the operations; the states that the disk may hold: one if they all ended, else before and after."""
    before = Expected()
    after = before
    try:
        store, _ = open_store(disk)
        for operation, after in operations:
            operation(store)
            before = after
        store.close()
    except PowerLoss:
        return [before, after]
    return [before]


def count_calls(operations: Iterable[Operation]) -> int:
    """How many calls the operations make, opening and closing included."""
    disk = FakeDisk()
    assert len(run_until_power_loss(disk, operations)) == 1
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
    new = entry(last + 1, 99)
    store.set_hard_state(HardState(99, "n1", True))
    store.append([new])
    store.sync()
    _, after = open_store(disk.restart(rng))
    assert after.entries == [*found.entries, new]
