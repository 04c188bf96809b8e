"""Disks that lose power: what was synced stays, what was not goes. Where they cannot be had, it is said why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys
from pathlib import Path
from jepsen_like.cluster.disks import DiskError, PowerDisks

directory = Path(sys.argv[1])
point = directory / "n1"
try:
    disks = PowerDisks(directory, {"n1": point})
except DiskError as problem:
    print(json.dumps({"why": str(problem)}))
    sys.exit()
files = {}
for name in ("synced", "unsynced"):
    files[name] = os.open(point / name, os.O_RDWR | os.O_CREAT)
    os.pwrite(files[name], b"x" * 5000, 0)
    if name == "synced":
        os.fsync(files[name])
        os.fsync(os.open(point, os.O_RDONLY))
disks.cut_power(["n1"])
try:
    os.fsync(files["unsynced"])
    refused = False
except OSError:
    refused = True
for fd in range(3, 64):
    try:
        os.close(fd)
    except OSError:
        pass
disks.unmount("n1")
disks.mount("n1")
kept = sorted(path.name for path in point.iterdir() if path.is_file() and path.stat().st_size == 5000)
disks.close()
print(json.dumps({"refused": refused, "kept": kept}))
"""


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    """After the cut the disk takes nothing more; after the next mount it holds what was synced, and only that."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told == {"refused": True, "kept": ["synced"]} or told["why"]


def test_nothing_stays_mounted(tmp_path: Path) -> None:
    """The mounts belong to the process that made them: nobody else sees them, and they end with it."""
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
