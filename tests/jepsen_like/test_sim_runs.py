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
