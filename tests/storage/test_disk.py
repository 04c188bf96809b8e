"""The contract of ports.Disk, for the real disk and for the one that forgets."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fake_disk import FakeDisk

from raftstore.ports import Disk
from raftstore.storage.disk import OsDisk


@pytest.fixture(params=["os", "fake"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    """A disk and a directory on it."""
    if request.param == "os":
        return OsDisk(), str(tmp_path)
    disk = FakeDisk()
    disk.makedirs("/some/where")
    return disk, "/some/where"


def test_what_is_written_is_read_back(place: tuple[Disk, str]) -> None:
    """Bytes come back from where they were put; holes and preallocated parts read as zeros."""
    disk, folder = place
    file = disk.open(f"{folder}/a", create=True)
    file.pwrite(b"abc", 5)
    assert file.pread(100, 0) == b"\0\0\0\0\0abc"
    file.preallocate(20)
    file.preallocate(4)
    assert (file.size(), file.pread(100, 6)) == (20, b"bc" + bytes(12))
    file.truncate(6)
    assert file.pread(100, 0) == b"\0\0\0\0\0a"
    assert file.pread(10, 50) == b""
    file.datasync()
    file.close()
    again = disk.open(f"{folder}/a", read_only=True)
    assert again.pread(1, 5) == b"a"
    with pytest.raises(OSError, match=r"Bad file|not open"):
        again.pwrite(b"x", 0)
    again.close()


def test_names_come_and_go(place: tuple[Disk, str]) -> None:
    """Directories list what is in them, sorted; a rename replaces; what is absent is said to be absent."""
    disk, folder = place
    disk.makedirs(f"{folder}/x/y")
    disk.makedirs(f"{folder}/x/y")
    for name in ("b", "a", "c"):
        disk.open(f"{folder}/x/{name}", create=True).close()
    assert disk.listdir(f"{folder}/x") == ["a", "b", "c", "y"]
    disk.rename(f"{folder}/x/a", f"{folder}/x/c")
    disk.unlink(f"{folder}/x/b")
    disk.sync_dir(f"{folder}/x")
    assert disk.listdir(f"{folder}/x") == ["c", "y"]
    assert disk.exists(f"{folder}/x/c")
    assert disk.exists(f"{folder}/x/y")
    assert not disk.exists(f"{folder}/x/b")
    for call in (
        lambda: disk.open(f"{folder}/none"),
        lambda: disk.unlink(f"{folder}/none"),
        lambda: disk.rename(f"{folder}/none", f"{folder}/other"),
        lambda: disk.listdir(f"{folder}/none"),
        lambda: disk.sync_dir(f"{folder}/none"),
        lambda: disk.open(f"{folder}/none/file", create=True),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert disk.free_bytes(folder) > 0


def test_a_lock_has_one_holder(place: tuple[Disk, str]) -> None:
    """Who asks for a lock that is held is told so, and gets it once it is released."""
    disk, folder = place
    release = disk.lock(f"{folder}/lock")
    with pytest.raises(BlockingIOError, match="held by process"):
        disk.lock(f"{folder}/lock")
    release()
    disk.lock(f"{folder}/lock")()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """A process that ends without a word leaves no lock behind, and while it lives it is named."""
    code = (
        "import sys; from raftstore.storage.disk import OsDisk; "
        "keep = OsDisk().lock(sys.argv[1]); sys.stdout.write('held'); sys.stdout.flush(); sys.stdin.read()"
    )
    path = str(tmp_path / "lock")
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1, env=with_path()) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"held"
        with pytest.raises(BlockingIOError, match=f"held by process {process.pid}"):
            OsDisk().lock(path)
        process.kill()
        process.wait()
    OsDisk().lock(path)()


def with_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_fake_disk_forgets_what_was_not_synced() -> None:
    """After a power loss synced bytes and names are there, unsynced ones may be missing, torn or reordered."""
    seen = set()
    for seed in range(60):
        disk = FakeDisk()
        disk.makedirs("/d")
        file = disk.open("/d/f", create=True)
        file.pwrite(b"kept", 0)
        file.datasync()
        disk.sync_dir("/d")
        file.pwrite(b"1111", 4)
        file.pwrite(b"2222", 4)
        disk.rename("/d/f", "/d/g")
        after = disk.restart(random.Random(seed))
        (name,) = after.listdir("/d")
        content = after.open(f"/d/{name}").pread(100, 0)
        assert content[:4] == b"kept"
        seen.add((name, content[4:]))
    assert {name for name, _ in seen} == {"f", "g"}
    assert {b"", b"1111", b"2222"} <= {content for _, content in seen}
    assert len(seen) > 8, "torn and mixed ones too"
