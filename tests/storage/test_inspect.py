"""Looking into a data directory: what is found is reported, and nothing is changed."""

from __future__ import annotations

from fake_disk import FakeDisk
from storage_scenes import DATA, append, entries, open_store, ready_store

from raftstore.storage.inspect import BAD, NOTE, OK, Finding, dump, verify
from raftstore.storage.values import HardState


def worked() -> FakeDisk:
    """A directory with several segments, a conflict and a snapshot; closed."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, *([item] for item in entries(1, 20, size_bytes=900)))
    store.set_hard_state(HardState(2, "n1", True))
    store.truncate_from(20)
    append(store, entries(20, 21, term=2))
    writer = store.begin_snapshot(10, 1)
    writer.write(b"state")
    writer.commit()
    store.close()
    return disk


def levels(disk: FakeDisk) -> set[str]:
    return {finding.level for finding in verify(disk, DATA)}


def test_a_sound_directory_is_found_sound() -> None:
    """Every part is named, and nothing is noted or bad."""
    disk = worked()
    findings = list(verify(disk, DATA))
    assert {finding.level for finding in findings} == {OK}
    text = "\n".join(finding.detail for finding in findings)
    for words in (
        "node 'n1' of cluster 'c'",
        "term 2, voted for n1",
        "covers entry 10",
        "segment 3",
        "entries 1 to 21",
    ):
        assert words in text


def test_verifying_changes_nothing_and_needs_no_lock() -> None:
    """A directory in use can be looked at: no call that changes anything is made."""
    disk = FakeDisk()
    store = ready_store(disk)
    append(store, entries(1, 3))
    calls = disk.calls
    assert levels(disk) == {OK}
    assert len(list(dump(disk, DATA))) == 3
    assert disk.calls == calls


def test_each_damage_is_found_where_it_is() -> None:
    """A flipped byte in any part gives a finding that names the file."""
    for part, level in (("identity", BAD), ("hard_state", NOTE), ("wal/0", BAD), (".snap", BAD)):
        disk = worked()
        path = next(path for path in sorted(disk.names) if part in path)
        disk.flip(path, 0x1050 if part.startswith("wal") else 30, 1)
        found = [finding for finding in verify(disk, DATA) if finding.level != OK]
        assert level in {finding.level for finding in found}
        assert any(path in (finding.file, finding.detail.split(":")[0]) for finding in found)


def test_an_unfinished_tail_is_a_note() -> None:
    """What the next start would cut is noted: nothing acknowledged is concerned."""
    disk = worked()
    path = sorted(path for path in disk.names if path.endswith(".wal"))[-1]
    end = len(bytes(disk.names[path].current).rstrip(b"\0"))
    disk.open(path).pwrite(b"half a group", end + 30)
    (finding,) = [finding for finding in verify(disk, DATA) if finding.level != OK]
    assert isinstance(finding, Finding)
    assert (finding.level, finding.file) == (NOTE, path)
    assert open_store(disk.copy())[1].entries[-1] == entries(21, 21, term=2)[0]


def test_what_is_no_data_directory_is_said_to_be_none() -> None:
    """An empty place and one without a log are bad, not an exception."""
    disk = FakeDisk()
    disk.makedirs(DATA)
    assert BAD in levels(disk)


def test_dump_shows_the_records_as_they_were_written() -> None:
    """Voided entries and the record that voids them are shown; a range of indexes can be asked for."""
    disk = worked()
    views = list(dump(disk, DATA))
    assert [(view.kind, view.at, view.term) for view in views[-4:]] == [
        ("ENTRY", 20, 1),
        ("TRUNCATE", 20, 0),
        ("ENTRY", 20, 2),
        ("ENTRY", 21, 2),
    ]
    assert [view.at for view in dump(disk, DATA, first=5, last=7)] == [5, 6, 7]
    assert views[0].payload == entries(1, 1, size_bytes=900)[0][0]


def test_dump_goes_on_behind_damage() -> None:
    """One damaged group hides itself only."""
    disk = worked()
    path = sorted(path for path in disk.names if path.endswith(".wal"))[0]
    disk.flip(path, 0x1050, 1)
    assert [view.at for view in dump(disk, DATA)][:3] == [2, 3, 4]
