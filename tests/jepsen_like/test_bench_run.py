"""The benchmark on real processes: half a second of raftstore, of others where they are, and an interrupt."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from jepsen_like.bench import limits, run
from jepsen_like.bench.peers import PEERS
from jepsen_like.bench.plan import Case, Plan
from jepsen_like.cli import main
from jepsen_like.cluster.children import python_environment
from raftstore.cli.bench_process import BenchFailed

SECONDS = 0.05
INTERRUPT_WAIT_S = 30
POLL_S = 0.02


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Where sockets have room for their names."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are measured by a test of their own."""

    async def measure(_directory: Path) -> dict[str, float]:
        return {}

    monkeypatch.setattr(run.limits, "measure", measure)


def processes_of(directory: Path) -> list[str]:
    """Command lines of running processes that name a directory."""
    return list(pids_of(directory).values())


def pids_of(directory: Path) -> dict[int, str]:
    """The same by their pids."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in line and path.parent.name != str(os.getpid()):
            found[int(path.parent.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def test_raftstore_is_measured_and_everything_is_counted(tmp_path: Path) -> None:
    """One round of the command itself: rates, syncs, bytes, memory, and files that say the same."""
    options = ["--peers", "raftstore", "--concurrency", "1", "--seconds", str(SECONDS), "--quick"]
    ended = CliRunner().invoke(main, ["bench", *options, "--store", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    result = json.loads((tmp_path / "bench" / "latest" / "bench.json").read_text())
    entries = {entry["case"]: entry for entry in result["summary"]}
    assert list(entries) == result["plan"]["cases"]
    one = entries["transition/1/leader"]
    assert one["ops"] > 0
    assert one["failures"] == 0
    assert one["syncs_per_op"] >= 2  # a majority has synced each
    assert one["cpu_us_per_op"] is None or one["cpu_us_per_op"] > 0
    assert entries["owns/1/leader"]["p50_us"] < 1_000
    assert (tmp_path / "bench" / "latest" / "bench.txt").read_text() in ended.output
    assert not (tmp_path / "latest").exists()  # that is for runs that can be judged


@pytest.mark.usefixtures("no_limits")
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("raftstore", "raftstore-same-loop")])
def test_every_peer_that_is_here_does_transitions_races_and_reads(name: str) -> None:
    """Every kind of op succeeds on each; nothing fails; races have losers only."""
    peer = PEERS[name]
    if peer.presence().version is None:
        assert peer.presence().missing
        return
    cases = (Case("transition", 2, "all"), Case("race", 8, "leader"), Case("mixed", 2, "all"))
    plan = Plan((name,), cases, rounds=1, seconds=SECONDS, warm_up_seconds=0.05)
    found = asyncio.run(run.rounds(plan, {name: peer}, lambda _text: None))
    assert found["problems"] == []
    assert [row["case"] for row in found["rows"]] == [case.name for case in cases]
    assert all(row["ops"] > 0 and row["failures"] == {} for row in found["rows"])
    assert found["rows"][1]["refused"] > 0


def test_the_machines_limits_are_measured(short_directory: Path) -> None:
    """Every one is a positive number."""
    assert all(value > 0 for value in asyncio.run(limits.measure(short_directory)).values())


@pytest.mark.usefixtures("no_limits")
def test_a_peer_that_fails_is_named_and_the_next_one_is_measured() -> None:
    """Its figures are missing, not zero."""

    class Broken:
        name, about = "broken", "never starts"

        async def start(self, directory: Path) -> object:
            raise BenchFailed("n1 said nothing")

    class Silent(Broken):
        name = "silent"

    plan = Plan(("broken", "silent"), (), rounds=1, seconds=SECONDS, warm_up_seconds=0)
    peers = {"broken": Broken(), "silent": Silent()}
    found = asyncio.run(run.rounds(plan, peers, lambda _text: None))  # type: ignore[arg-type]
    assert found["rows"] == []
    assert found["problems"] == [f"{name}, round 1: n1 said nothing" for name in plan.peers]


def ended_by(number: signal.Signals, options: list[str], until: Callable[[str], bool], *places: Path) -> None:
    """Start a benchmark, send the signal once `until` holds of what it said, and look that nothing is left."""
    temporary, store = places
    child = subprocess.Popen(
        [sys.executable, "-m", "jepsen_like", "bench", *options, "--store", str(store)],
        env={**python_environment(), "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        said = ""
        while not until(said):
            line = child.stderr.readline()
            assert line, said
            said += line
        assert processes_of(temporary)
        child.send_signal(number)
        said += child.communicate(timeout=INTERRUPT_WAIT_S)[1]
    finally:
        child.kill()
        child.communicate()
    assert (child.returncode, "nothing is left running" in said) == (255, True), said
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []
    assert not store.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, short_directory: Path, tmp_path: Path) -> None:
    """In the middle of a measurement: no process, no directory, no half result."""
    options = ["--peers", "raftstore", "--concurrency", "1", "--seconds", "60", "--rounds", "1"]
    ended_by(number, options, lambda said: "transition/1/leader" in said, short_directory, tmp_path / "store")


def test_a_trial_that_is_ended_leaves_no_stopped_node(short_directory: Path, tmp_path: Path) -> None:
    """In the middle of a cut, while two nodes are stopped and cannot hear anything but SIGKILL."""

    def is_cut(said: str) -> bool:
        return "cut off" in said and wait_stopped(short_directory) == 2

    ended_by(signal.SIGTERM, ["--parts", "minority"], is_cut, short_directory, tmp_path / "store")


def wait_stopped(directory: Path) -> int:
    """How many processes of a directory are stopped, once there are any."""
    end = time.monotonic() + INTERRUPT_WAIT_S
    while time.monotonic() < end:
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids_of(directory)]
        if states.count("T") > 1:
            return states.count("T")
        time.sleep(POLL_S)
    return 0


def test_an_unknown_peer_is_a_bad_argument() -> None:
    """The answer lists those that there are."""
    ended = CliRunner().invoke(main, ["bench", "--peers", "zookeeper"])
    assert ended.exit_code == 254
    assert "etcd-aetcd" in ended.output
