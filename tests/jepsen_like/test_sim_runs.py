"""Whole simulated runs: they pass, they repeat, and they can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepsen_like.sim.plan import draw
from jepsen_like.sim.run import Options, run_seed
from jepsen_like.sim.world import World
from raftstore.ownership import sessions
from raftstore.ownership.sessions import Sessions

ROOT = Path(__file__).resolve().parents[2]
SHORT = Options(time_limit_s=12)


@pytest.mark.parametrize("seed", range(6))
def test_a_seed_passes(seed: int) -> None:
    """A cluster under random load and faults keeps every promise and serves again afterwards."""
    result = run_seed(seed, SHORT)
    assert result.valid is True, result.line()


def test_a_sticky_run_ends_with_one_mapping() -> None:
    """Two of the last epoch, each plain and in conflict, are no end: an operator sets a higher one."""
    result = run_seed(20015, Options(workload="sticky"))
    assert result.valid is True, result.line()


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same history, also where strings hash differently."""
    code = (
        "from jepsen_like.sim.plan import draw; from jepsen_like.sim.world import World\n"
        "world = World(draw(3, time_limit_s=12)); world.run(); print(world.digest())"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip())
    world = World(draw(3, time_limit_s=12))
    world.run()
    assert digests == {world.digest()}


def test_two_seeds_differ() -> None:
    """Another seed is another run."""
    assert run_seed(1, SHORT).digest != run_seed(2, SHORT).digest


@pytest.mark.plain
def test_what_is_packed_and_when_changes_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds so small that all sessions are packed, and wait while a snapshot is written: the same to the byte."""
    expected = run_seed(4, SHORT)
    waited = 0
    let_in = Sessions._let_in

    def counted(self: Sessions, count: int) -> None:
        nonlocal waited
        waited += 1
        let_in(self, count)

    monkeypatch.setattr(Sessions, "_let_in", counted)
    for name, bound in (("AT_HAND", 0), ("PACK_LEAST", 1), ("LET_IN_LEAST", 1), ("LET_IN_PER_MOVED", 0)):
        monkeypatch.setattr(sessions, name, bound)
    assert run_seed(4, SHORT).digest == expected.digest
    assert waited > 0
