"""Small helpers that the storage tests share: a store on a disk, with small segments and repeatable names."""

from __future__ import annotations

import random
from collections.abc import Callable

from raftstore.ports import Disk
from raftstore.storage.store import Store
from raftstore.storage.values import Entry, HardState, Limits, Recovered

DATA = "/data"
SMALL = Limits(
    segment_bytes=12288,
    record_bytes_max=2000,
    group_bytes_max=4000,
    snapshot_chunk_bytes_max=1000,
    snapshot_unsynced_bytes_max=1500,
)


def entropy(seed: int) -> Callable[[int], bytes]:
    """Segment ids that are alike in every run and differ between segments and seeds."""
    return random.Random(seed).randbytes


def open_store(
    disk: Disk,
    directory: str = DATA,
    *,
    cluster: str = "c",
    node_id: str = "n1",
    strategy: str = "shared",
    limits: Limits = SMALL,
    seed: int = 1,
) -> tuple[Store, Recovered]:
    """Open the data directory as the node would."""
    return Store.open(
        disk, directory, cluster=cluster, node_id=node_id, strategy=strategy, limits=limits, entropy=entropy(seed)
    )


def entry(index: int, term: int = 1, size_bytes: int = 20) -> Entry:
    """An entry whose payload tells which one it is."""
    return (f"{term}/{index}:".encode().ljust(size_bytes, b"."), index, term)


def entries(first: int, last: int, term: int = 1, size_bytes: int = 20) -> list[Entry]:
    """Entries from `first` to `last`."""
    return [entry(index, term, size_bytes) for index in range(first, last + 1)]


def append(store: Store, *groups: list[Entry]) -> None:
    """Append each group and sync it."""
    for group in groups:
        store.append(group)
        store.sync()


def ready_store(disk: Disk, directory: str = DATA, *, term: int = 1) -> Store:
    """A new store that knows its first term."""
    store, recovered = open_store(disk, directory)
    assert recovered.fresh
    store.set_hard_state(HardState(term, None, True))
    return store
