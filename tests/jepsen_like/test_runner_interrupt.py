"""Signals at the command line: a run that is ended cleans up, and a hurry does not keep it from that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jepsen_like.cluster.children import python_environment
from jepsen_like.commands_test import UNKNOWN

WAIT_S = 60.0
POLL_S = 0.05


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(POLL_S)


def holders(directory: str) -> list[int]:
    """Processes that were started with something of that directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if directory.encode() in told:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_and_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of a fault, told twice: the run is cleaned up, no other one begins, and nothing is known."""
    history = tmp_path / "store" / "latest" / "history.jsonl"
    arguments = ["--workloads", "lease,register", "--nemeses", "pause", "--nodes", "3", "--hosts", "loopback"]
    arguments += ["--time-limit", "60", "--seed", "1", "--store", str(tmp_path / "store")]
    with tempfile.TemporaryDirectory(prefix="jl", dir="/tmp") as short:
        running = subprocess.Popen(
            [sys.executable, "-m", "jepsen_like", "test-all", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=python_environment() | {"TMPDIR": short},
        )
        try:
            wait_for(lambda: history.exists() and '"effective":true' in history.read_text().replace(" ", ""), running)
            assert len(holders(short)) >= 3
            running.send_signal(number)
            running.send_signal(number)
            said, _ = running.communicate(timeout=WAIT_S)
        finally:
            running.kill()
            running.wait()
        assert running.returncode == UNKNOWN, said
        assert "interrupted: healed and cleaned up; no verdict" in said and "interrupted lease-pause" in said
        assert "--- 2 of 2" not in said
        assert holders(short) == [] and list(Path(short).iterdir()) == []
