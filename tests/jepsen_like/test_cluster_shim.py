"""The shim: what a process is told of clocks and disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.cluster.shim import Shim, compile_shim

CLOCKS = """
import json, time
COARSE = 6  # CLOCK_MONOTONIC_COARSE: a clock that the shim leaves alone
def now():
    return {"boot": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "mono": time.monotonic_ns(),
            "raw": time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), "true": time.clock_gettime_ns(COARSE)}
began = now()
time.sleep(0.5)
ended = now()
print(json.dumps({name: (ended[name] - began[name]) / 1e9 for name in began} | {"wall": time.time()}))
"""
TURNS = """
import json, threading, time
COARSE = 6
def busy():
    while not over:
        sum(range(1000))
over = False
time.sleep(1.0)  # long enough for the clocks to be far apart
threading.Thread(target=busy).start()
began = time.clock_gettime(COARSE)
for _ in range(5):
    time.sleep(0)  # gives the interpreter lock away, and has to wait for it
print(json.dumps(time.clock_gettime(COARSE) - began))
over = True
"""
DISK = """
import errno, json, os, sys, time
told = {}
for name, place in (("inside", sys.argv[1]), ("outside", sys.argv[2])):
    fd = os.open(place + "/file", os.O_RDWR | os.O_CREAT)
    for call, do in (("write", lambda: os.pwrite(fd, b"x", 0)), ("sync", lambda: os.fdatasync(fd))):
        began = time.perf_counter()
        try:
            do()
            told[f"{name} {call}"] = "ok"
        except OSError as problem:
            told[f"{name} {call}"] = errno.errorcode[problem.errno]
        told[f"{name} {call} ms"] = (time.perf_counter() - began) * 1e3
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(library: Path, tmp_path: Path) -> Iterator[Shim]:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    found = Shim(library, tmp_path / "page", tmp_path / "inside")
    yield found
    found.close()


def disk(shim: Shim, directory: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", DISK, str(directory / "inside"), str(directory / "outside")]
    done = subprocess.run(command, env={**os.environ, **shim.environment()}, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def clocks(shim: Shim) -> dict[str, float]:
    """How much time a process sees pass, in seconds, by clock, while it sleeps for half a second."""
    environment = {**os.environ, **shim.environment()}
    done = subprocess.run([sys.executable, "-c", CLOCKS], env=environment, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def test_an_idle_shim_changes_nothing(shim: Shim, tmp_path: Path) -> None:
    """With nothing ordered, disk and clocks are true; the shim saw that it was asked."""
    told = disk(shim, tmp_path)
    assert [told[f"{name} {call}"] for name in ("inside", "outside") for call in ("write", "sync")] == ["ok"] * 4
    assert shim.get("clock_reads") > 0


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_writes_below_the_directory_fail(shim: Shim, tmp_path: Path, error: str) -> None:
    """The error comes from writes to the node's own files and from nothing else."""
    shim.fail_writes(error)
    told = disk(shim, tmp_path)
    assert (told["inside write"], told["inside sync"], told["outside write"]) == (error, "ok", "ok")
    shim.heal_disk()
    assert disk(shim, tmp_path)["inside write"] == "ok"


def test_syncs_fail_and_are_slow(shim: Shim, tmp_path: Path) -> None:
    """A sync can fail, or take its time, on the node's own files only."""
    shim.fail_syncs("EIO")
    assert disk(shim, tmp_path)["inside sync"] == "EIO"
    shim.heal_disk()
    shim.slow_syncs(120)
    told = disk(shim, tmp_path)
    assert told["inside sync"] == "ok" and told["inside sync ms"] >= 100
    assert told["outside sync ms"] < 100


@pytest.mark.parametrize("ppm", [400_000, -400_000])
def test_monotonic_clocks_run_at_another_rate(shim: Shim, ppm: int) -> None:
    """Every monotonic clock gains or loses alike, and a sleep lasts as long as the process thinks it does."""
    shim.run_at(ppm)
    told = clocks(shim)
    for name in ("boot", "mono", "raw"):
        assert told[name] / told["true"] == pytest.approx(1 + ppm / 1e6, rel=0.1)
    assert 0.5 <= told["mono"] < 5


def test_the_wall_clock_jumps_alone(shim: Shim) -> None:
    """An hour back on the wall is no time at all on the monotonic clocks."""
    shim.jump_wall(-3_600_000)
    told = clocks(shim)
    now = float(subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True).stdout)
    assert -3_660 < told["wall"] - now < -3_540
    assert told["boot"] / told["true"] == pytest.approx(1, rel=0.1)


def test_a_rate_beyond_reason_is_refused(shim: Shim) -> None:
    """A clock that stands still or runs backwards is no rate."""
    with pytest.raises(ValueError, match="rate"):
        shim.run_at(-1_000_000)


@pytest.mark.parametrize("rate_ppm", [400_000, -400_000])
def test_threads_take_turns_as_soon_as_ever(rate_ppm: int, shim: Shim) -> None:
    """Deadlines of the interpreter lock come from a clock that lies; who waits for it does not wait longer for that."""
    shim.run_at(rate_ppm)
    environment = {**os.environ, **shim.environment()}
    done = subprocess.run([sys.executable, "-c", TURNS], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 1.0  # five turns of 5 ms; with the difference, 0.4 s more each
