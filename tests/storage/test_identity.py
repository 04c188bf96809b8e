"""Whose data directory it is, and of which strategy: what is written, what is read back, what is refused."""

from __future__ import annotations

import random
from zlib import crc32

import pytest
from fake_disk import FakeDisk, PowerLoss
from storage_scenes import DATA, append, entries, open_store, ready_store

from raftstore.config import STRATEGIES
from raftstore.errors import CorruptionError, StorageError
from raftstore.storage.identity import DEFAULT_STRATEGY, Identity, read_identity, write_identity
from raftstore.storage.store import Store
from raftstore.storage.values import HardState

PATH = f"{DATA}/identity"
# As written by the versions that knew one strategy only. Never change these bytes: such directories are in use.
OLD_TEXT = b'{"cluster": "c", "created_wall_ms": 1700000000000, "format_version": 1, "node_id": "n1"}\n'
OLD_FILE = b"b3d5496c\n" + OLD_TEXT
OTHER = {"shared": "sticky", "sticky": "shared"}


def disk_with(content: bytes) -> FakeDisk:
    disk = FakeDisk()
    disk.makedirs(DATA)
    file = disk.open(PATH, create=True)
    file.pwrite(content, 0)
    file.datasync()
    file.close()
    disk.sync_dir(DATA)
    return disk


def sealed(text: bytes) -> bytes:
    return b"%08x\n" % crc32(text) + text


def used_directory(disk: FakeDisk, strategy: str) -> None:
    """A directory with a term and three entries in it, closed."""
    store, _ = open_store(disk, strategy=strategy)
    store.set_hard_state(HardState(1, None, True))
    append(store, entries(1, 3))
    store.close()


def content_of(disk: FakeDisk) -> dict[str, bytes]:
    return {path: bytes(inode.current) for path, inode in disk.names.items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_written_is_read_back(strategy: str) -> None:
    """Cluster, node, date and strategy survive the file, and power loss right after it."""
    disk = FakeDisk()
    disk.makedirs(DATA)
    identity = Identity("c", "n1", 1_700_000_000_000, strategy)
    write_identity(disk, DATA, identity)
    assert read_identity(disk.restart(random.Random(1)), DATA) == identity


def test_an_old_identity_file_is_of_the_shared_strategy() -> None:
    """A file from before there was a choice names no strategy, and means the one there was."""
    found = read_identity(disk_with(OLD_FILE), DATA)
    assert found == Identity("c", "n1", 1_700_000_000_000, "shared")
    assert STRATEGIES[0] == DEFAULT_STRATEGY == "shared"


def test_a_shared_directory_is_what_it_always_was() -> None:
    """Writing an old identity again gives the very bytes, so that an older version can take the directory back."""
    disk = FakeDisk()
    disk.makedirs(DATA)
    write_identity(disk, DATA, Identity("c", "n1", 1_700_000_000_000))
    assert bytes(disk.names[PATH].current) == OLD_FILE


def test_an_old_directory_goes_on_as_shared_and_never_as_sticky() -> None:
    """The whole directory of an older version opens with its entries; for the sticky strategy it is refused."""
    disk = FakeDisk()
    used_directory(disk, "shared")
    inode = disk.names[PATH]
    inode.current[:] = inode.durable[:] = OLD_FILE
    with pytest.raises(StorageError, match="belongs to strategy 'shared'"):
        open_store(disk, strategy="sticky")
    store, found = open_store(disk)
    assert found.entries == entries(1, 3)
    store.close()
    assert bytes(disk.names[PATH].current) == OLD_FILE


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_other_strategy_is_refused_with_the_way_to_change(strategy: str) -> None:
    """Either way round: one line with directory, both strategies and what to do; not a byte changes; no lock stays."""
    disk = FakeDisk()
    used_directory(disk, strategy)
    before = content_of(disk)
    with pytest.raises(StorageError) as refusal:
        open_store(disk, strategy=OTHER[strategy])
    text = str(refusal.value)
    assert not isinstance(refusal.value, CorruptionError), "the data is sound: nobody is told to rebuild it"
    assert text.startswith(f"{DATA}: belongs to strategy {strategy!r}, this node is to run with {OTHER[strategy]!r}")
    assert "\n" not in text
    steps = ["sessions do not travel", f"go back to {strategy!r}", "let the sessions end", "accept that they end"]
    steps += ["stop all nodes", "every node an empty data directory", f"start them with {OTHER[strategy]!r}"]
    places = [text.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert content_of(disk) == before
    assert not disk.locked
    store, found = open_store(disk, strategy=strategy)
    assert found.entries == entries(1, 3)
    store.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_directory_without_a_promise_is_refused_too(strategy: str) -> None:
    """What was set up is set up: the first start decides, not the first session."""
    disk = FakeDisk()
    store, found = open_store(disk, strategy=strategy)
    assert found.fresh
    store.close()
    with pytest.raises(StorageError, match=f"belongs to strategy '{strategy}'"):
        open_store(disk, strategy=OTHER[strategy])


def test_an_empty_directory_takes_the_new_strategy() -> None:
    """The way that the refusal names leads there."""
    disk = FakeDisk()
    used_directory(disk, "shared")
    store, found = open_store(disk, "/elsewhere", strategy="sticky")
    assert found.fresh
    store.close()
    identity = read_identity(disk, "/elsewhere")
    assert identity is not None
    assert identity.strategy == "sticky"


def test_a_store_that_names_no_strategy_is_shared() -> None:
    """Left out, the strategy is the shared one, for what is opened as for what is made."""
    disk = FakeDisk()
    Store.open(disk, DATA, cluster="c", node_id="n1", entropy=random.Random(1).randbytes)[0].close()
    identity = read_identity(disk, DATA)
    assert identity is not None
    assert identity.strategy == "shared"
    used = FakeDisk()
    used_directory(used, "sticky")
    with pytest.raises(StorageError, match="belongs to strategy 'sticky'"):
        Store.open(used, DATA, cluster="c", node_id="n1")


def test_a_foreign_directory_is_foreign_first() -> None:
    """Whose it is comes before what it is for: nobody is told to empty another node's directory."""
    disk = FakeDisk()
    ready_store(disk).close()
    with pytest.raises(StorageError, match="belongs to node 'n1' of cluster 'c', not to node 'n2'"):
        open_store(disk, node_id="n2", strategy="sticky")


def test_a_setup_that_was_cut_short_never_mixes_strategies() -> None:
    """Wherever the first start loses power, the directory then is sticky or nobody's yet; never shared by default."""
    crashes = 0
    for call in range(1, 100):
        disk = FakeDisk()
        disk.crash_at = call
        try:
            open_store(disk, strategy="sticky")[0].abandon()
            break
        except PowerLoss:
            crashes += 1
        left = disk.restart(random.Random(call))
        identity = read_identity(left, DATA) if left.exists(PATH) else None
        if identity is not None:
            assert identity.strategy == "sticky"
            with pytest.raises(StorageError, match="belongs to strategy 'sticky'"):
                open_store(left.copy(), strategy="shared")
        store, found = open_store(left, strategy="sticky")
        assert found.fresh
        store.close()
    assert crashes > 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (OLD_TEXT.replace(b'"node_id"', b'"node"'), "not an identity file"),
        (OLD_TEXT.replace(b"{", b'{"extra": 1, '), "not an identity file"),
        (b"[]\n", "not an identity file"),
        (OLD_TEXT.replace(b'"format_version": 1', b'"format_version": 2, "more": 3'), "format version 2"),
    ],
)
def test_an_identity_that_is_not_understood_is_refused(text: bytes, problem: str) -> None:
    """A sound file of another shape is refused by name; of a later format, with its version, whatever else it holds."""
    with pytest.raises(StorageError, match=problem) as refusal:
        read_identity(disk_with(sealed(text)), DATA)
    assert PATH in str(refusal.value)


def test_a_strategy_from_the_future_is_refused_by_name() -> None:
    """A directory of a strategy that this version does not know belongs to neither that it knows."""
    disk = FakeDisk()
    used_directory(disk, "elsewhere")
    for strategy in STRATEGIES:
        with pytest.raises(StorageError, match="belongs to strategy 'elsewhere'"):
            open_store(disk, strategy=strategy)
