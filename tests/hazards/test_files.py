"""Holes of what is kept on disk (H5, H6, H6b, H6c, H7, H15, H24)."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Ours, Stock, Told, two_owners
from pysyncobj import journal as stock_journal
from raft_cluster import MemoryStorage
from raft_messages import entry

import raftstore
from raftstore.errors import CorruptionError, StorageError
from raftstore.raft.journal import HardenedJournal
from raftstore.storage.disk import OsDisk
from raftstore.storage.store import Store
from raftstore.storage.values import HardState, Limits

SMALL = Limits(segment_bytes=12288, record_bytes_max=2000, group_bytes_max=4000)

# The stock library leaves files to the garbage collector, and forks.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:.*fork.*:DeprecationWarning",
)


def open_store(path: Path) -> tuple[Store, object]:
    return Store.open(OsDisk(), str(path), cluster="c", node_id="A", limits=SMALL)


def used_store(path: Path, entries: int = 20) -> None:
    """A closed data directory with a vote in term 3 and some entries."""
    store, _ = open_store(path)
    store.set_hard_state(HardState(3, "B", True))
    store.append([entry(i, 3, b"owner%d" % i) for i in range(1, entries + 1)])
    store.sync()
    store.close()


def test_h5_nothing_is_acknowledged_before_it_is_on_disk(stock, monkeypatch):
    """The stock class commits without one sync; ours tells nobody anything while the disks stand still."""
    syncs: list[str] = []
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *_, name=name: syncs.append(name))
    monkeypatch.setattr(stock_journal.FileJournal, "flush", lambda self: syncs.append("flush"))
    c = stock(files=True)
    assert c.elect("A", "BC")
    told = c.acquire("A", "s", "x")
    c.settle("A")
    assert told.succeeded
    assert syncs == []

    d = Ours()
    assert d.elect("A", "BC")
    d.settle("A")
    d.auto_sync = False
    told = d.acquire("A", "s", "x")
    for _ in range(3):
        d.settle("A")
    assert told.calls == []
    d.auto_sync = True
    d.settle("A")
    assert told.succeeded


def test_h6_cutting_the_log_rewrites_nothing(tmp_path, monkeypatch):
    """The stock journal clears itself and writes its tail again: dying in between loses it."""
    path = str(tmp_path / "j")
    log = stock_journal.FileJournal(path)
    for i in range(1, 101):
        log.add(b"x" * 50, i, 1)
    write, writes = stock_journal.ResizableFile.write, []

    def dies_in_the_middle(self: object, offset: int, data: bytes) -> None:
        writes.append(offset)
        if len(writes) > 40:
            raise KeyboardInterrupt  # stands for kill -9
        write(self, offset, data)

    monkeypatch.setattr(stock_journal.ResizableFile, "write", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        log.deleteEntriesTo(50)
    monkeypatch.undo()
    log._destroy()
    found = stock_journal.FileJournal(path)
    assert found[-1][1] < 100
    found._destroy()

    disk = MemoryStorage()
    ours = HardenedJournal(disk, entries=[entry(i, 1) for i in range(1, 101)])
    ours.deleteEntriesTo(50)
    assert (ours.base_index, ours.last_index) == (50, 100)
    assert not disk.jobs, "storage drops whole segments later, by itself"


def lose_the_tail(c: Stock | Ours, crash: object) -> tuple[Told, Told]:
    """B takes a snapshot, acknowledges one entry more, and dies before its log was cut."""
    assert c.elect("A", "BC")
    c.settle("A")
    for n in range(5):
        c.put("A", n)
    c.settle("A")
    c.isolate("C")
    first = crash(c)
    c.isolate("A")
    c.connect("B", "C")
    _ = c.elect("C", "B") or c.elect("B", "C")
    leader = "C" if c.leads("C") else "B"
    c.settle(leader, "BC", 8)
    second = c.acquire(leader, "s", "two")
    c.settle(leader, "BC", 8)
    return first, second


def test_h6b_a_crash_between_snapshot_and_cut_loses_nothing(stock, tmp_path):
    """On restart the stock class throws away a journal that does not begin where its dump ends."""

    def stock_crash(c: Stock) -> Told:
        c.nodes["B"].forceLogCompaction()
        c.tick("B")  # the dump is in place; the journal is cut at the next tick
        first = c.acquire("A", "s", "one")
        c.beat("A")
        c.deliver("A", "B")
        c.deliver("B", "A")
        c.tick("A")
        kept = tmp_path / "kept"
        kept.mkdir()
        for file in tmp_path.glob("B.*"):
            shutil.copy(file, kept)
        c.isolate("B")
        c.nodes["B"]._doDestroy()
        for file in kept.iterdir():
            shutil.copy(file, tmp_path)
        c.nodes["B"] = c._new("B")
        c.tick("B")
        return first

    assert two_owners(*lose_the_tail(stock(files=True), stock_crash))

    def our_crash(c: Ours) -> Told:
        c.auto_sync = False
        c.members["B"].snapshot()
        c.members["B"].storage.sync()  # the snapshot is durable; nothing was told, nothing cut in memory
        c.auto_sync = True
        first = c.acquire("A", "s", "one")
        c.settle("A", "AB")
        c.restart("B")
        return first

    first, second = lose_the_tail(Ours(), our_crash)
    assert first.succeeded
    assert second.calls == [(False, "SUCCESS")]


def test_h6b_our_log_on_disk_survives_a_snapshot_that_it_reaches_over(tmp_path):
    """A durable snapshot in the middle of an uncut log: what follows it is recovered."""
    used_store(tmp_path / "data")
    store, _ = open_store(tmp_path / "data")
    writer = store.begin_snapshot(12, 3)
    writer.write(b"state")
    writer.commit()
    store.abandon()  # dies before the log hears of it
    store, recovered = open_store(tmp_path / "data")
    assert recovered.snapshot.index == 12
    assert [e[1] for e in recovered.entries] == list(range(13, 21))
    with pytest.raises(StorageError, match="never thrown away"):
        HardenedJournal(MemoryStorage()).clear()
    store.close()


def test_h6c_no_child_outlives_the_process_and_changes_its_files(stock, tmp_path):
    """The stock dump is renamed by a child that goes on when its parent is dead: the journal no longer fits it."""
    c = stock("A", files=True, useFork=True)
    c.campaign("A")
    for n in range(5):
        c.put("A", n)
    c.tick("A", ms=200)
    c.tick("A", ms=200)
    c.nodes["A"].forceLogCompaction()
    c.tick("A")
    child = c.nodes["A"]._SyncObj__serializer._Serializer__pid
    assert child > 0
    c.nodes["A"]._SyncObj__serializer.checkSerializing = lambda: (1, None)  # it goes on for as long as the parent lives
    c.put("A", "acknowledged while the child writes")
    c.tick("A", ms=200)
    c.tick("A", ms=200)
    assert c.history("A")[-1] == "acknowledged while the child writes"
    kept = (tmp_path / "A.j").read_bytes()  # the parent dies here
    os.waitpid(child, 0)
    c.nodes["A"]._doDestroy()
    (tmp_path / "A.j").write_bytes(kept)
    c.nodes["A"] = c._new("A")
    before = c.log("A")[-1][0]
    c.tick("A")
    assert c.log("A")[-1][0] < before

    sources = [p.read_text() for p in Path(raftstore.__file__).parent.rglob("*.py")]
    assert not any("os.fork(" in text or "multiprocessing" in text for text in sources)


def test_h7_a_damaged_vote_is_never_forgotten_silently(stock, tmp_path):
    """The stock class starts with no vote and no term when a byte of its meta file is wrong; ours refuses."""
    c = stock(files=True)
    assert c.elect("A", "BC")
    c.settle("A")
    assert c.term("A") == 1
    meta = tmp_path / "A.j.meta"
    c.isolate("A")
    c.nodes["A"]._doDestroy()
    meta.write_bytes(meta.read_bytes()[:10])
    c.nodes["A"] = c._new("A")
    assert c.nodes["A"]._SyncObj__votedForNodeId is None

    used_store(tmp_path / "data")
    state = tmp_path / "data" / "hard_state"
    data = bytearray(state.read_bytes())
    for offset in range(len(data)):
        data[offset] ^= 0x40
    state.write_bytes(data)
    with pytest.raises(CorruptionError, match="hard_state"):
        open_store(tmp_path / "data")


def test_h7_a_changed_command_is_never_applied_silently(stock, tmp_path):
    """One flipped byte gives the stock class another owner; ours refuses and names file and offset."""
    c = stock(files=True)
    assert c.elect("A", "BC")
    c.acquire("A", "s", "owner3")
    c.acquire("A", "t", "owner4")
    c.settle("A")
    journal = tmp_path / "A.j"
    c.isolate("A")
    c.nodes["A"]._SyncObj__raftLog.onOneSecondTimer()
    c.nodes["A"]._doDestroy()
    data = bytearray(journal.read_bytes())
    data[data.index(b"owner3") + 5] ^= 1
    journal.write_bytes(data)
    c.nodes["A"] = c._new("A")
    c.tick("A")
    c.tick("A")
    assert c.owner("A", "s") == "owner2"

    used_store(tmp_path / "data")
    segment = next((tmp_path / "data" / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"owner3") + 5] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptionError, match=segment.name):
        open_store(tmp_path / "data")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_h15_a_damaged_snapshot_stops_the_start(stock, tmp_path):
    """The stock class goes on without its state, and is elected; ours refuses to start."""
    c = stock(files=True)
    assert c.elect("A", "BC")
    c.acquire("A", "s", "one")
    for n in range(20):
        c.put("A", n)
    c.settle("A")
    c.compact("A")
    c.put("A", "tail")
    c.settle("A")
    c.isolate("A")
    c.nodes["A"]._doDestroy()
    dump = tmp_path / "A.d"
    dump.write_bytes(dump.read_bytes()[:-20])
    c.nodes["A"] = c._new("A")
    c.tick("A")
    c.tick("A")
    c.connect_all()
    assert c.elect("A", "BC")
    assert c.owner("A", "s") is None

    used_store(tmp_path / "data")
    store, _ = open_store(tmp_path / "data")
    writer = store.begin_snapshot(20, 3)
    writer.write(b"state" * 100)
    writer.commit()
    store.close()
    flip_a_byte(next((tmp_path / "data" / "snapshots").glob("*.snap")))
    with pytest.raises(CorruptionError):
        open_store(tmp_path / "data")


def test_h15_a_failed_install_is_not_acknowledged(ours):
    """A follower whose disk refuses the snapshot says nothing, and gets it again."""
    d = ours()
    assert d.elect("A", "BC")
    d.settle("A")
    d.isolate("C")
    for n in range(20):
        d.put("A", n)
    d.settle("A", "AB")
    d.compact("A")
    d.isolate("B")
    d.members["C"].storage.fail_installs = 1
    d.connect("A", "C")
    told = d.put("A", "with C alone")
    for _ in range(3):
        d.beat("A")
        d.flush("AC")
    assert d.members["C"].storage.fail_installs == 0
    assert not told.succeeded
    assert d.applied("C") < 20
    for _ in range(30):
        d.beat("A")
        d.flush("AC")
    assert told.succeeded
    assert d.history("C")[-1] == "with C alone"


def test_h24_a_full_disk_is_an_error_not_a_signal(tmp_path):
    """The stock journal is a memory map: without blocks behind it a write kills the process. Ours has no such map."""
    code = """
import mmap, os, sys
class Full(mmap.mmap):  # a map whose file keeps its size and has no blocks: what a full disk leaves of a sparse file
    def size(self):
        return len(self)
mmap.mmap = Full
from pysyncobj.journal import FileJournal
log = FileJournal(sys.argv[1])
os.truncate(sys.argv[1], 0)
log.add(b"x", 1, 1)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "j")]
    run = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert run.returncode == -signal.SIGBUS

    sources = [p.read_text() for p in Path(raftstore.__file__).parent.rglob("*.py")]
    assert not any("mmap" in text for text in sources)
