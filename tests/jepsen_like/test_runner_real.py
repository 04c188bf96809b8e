"""Whole runs on real processes, on whatever kind of hosts this machine has: short, and nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen_like import history, store
from jepsen_like.cluster import cluster as clusters
from jepsen_like.runner import Plan, Run


def descendants() -> set[int]:
    """Processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    left = [os.getpid()]
    while left:
        new = [pid for pid in children.get(left.pop(), []) if pid not in found]
        found.update(new)
        left += new
    return found


def temporary(directory: Path) -> list[Path]:
    return list(directory.glob("raftstore-*"))


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory in which all temporary files of a run are, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="jl", dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def finish(run: Run) -> dict[str, Any]:
    return asyncio.run(run.run())


def test_a_run_with_kills_pauses_and_partitions_passes(short_tmp: Path, tmp_path: Path) -> None:
    """Three nodes under three families of faults keep the promise; the run can be judged again from its files."""
    before = descendants()
    said: list[str] = []
    plan = Plan("ownership", ["kill", "pause", "partition"], 3, 8, 6, 80, seed=5, store=tmp_path)
    results = finish(run := Run(plan, said.append))
    failed = {name: found["errors"] for name, found in results["checkers"].items() if found["valid"] is not True}
    assert results["valid"] is True, failed
    found = history.load(run.directory / "history.jsonl").events
    assert any(event["f"] == "fault" and event["value"]["effective"] for event in found)
    assert sum(event["type"] == "ok" and isinstance(event["process"], int) for event in found) > 50
    assert (run.directory / "history.edn").read_text().count("\n") == len(found)
    assert sorted(path.stem for path in (run.directory / "final").iterdir()) == plan.node_ids
    assert (tmp_path / "latest").resolve() == run.directory
    assert any(line.startswith("hosts: ") for line in said)
    assert store.judge(run.directory, store.kept_verdicts(run.directory))["valid"] is True
    assert descendants() <= before and temporary(short_tmp) == []


def test_an_interrupted_run_leaves_nothing_behind(short_tmp: Path, tmp_path: Path) -> None:
    """Cancelled in the middle of a fault: processes, namespaces and files go, the history so far stays."""
    before = descendants()

    async def main() -> Path:
        run = Run(Plan("lease", ["pause"], 3, 60, 3, 30, seed=1, store=tmp_path), lambda _line: None)
        task = asyncio.create_task(run.run())
        while run.nemeses is None or not run.nemeses.current:
            await asyncio.sleep(0.02)
            assert not task.done(), task.result()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return run.directory

    directory = asyncio.run(main())
    assert descendants() <= before and temporary(short_tmp) == []
    assert history.load(directory / "history.jsonl").events
    assert (directory / "n1.log").exists()


def test_a_cluster_that_does_not_start_is_a_failure_and_leaves_nothing_behind(
    short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that ends at its start fails the run, with what it said, and everything else is cleaned up."""
    monkeypatch.setattr(clusters.Cluster, "data_dir", lambda self, node: self.directory / "cluster.conf")
    monkeypatch.setattr(
        "jepsen_like.cluster.programs.Raftstore.command",
        lambda *_given: ["sh", "-c", "echo no such luck; exit 3"],
    )
    before = descendants()
    results = finish(Run(Plan("ownership", [], 3, 5, 3, 30, seed=1, store=tmp_path), lambda _line: None))
    assert results["valid"] is False
    assert "no such luck" in json.dumps(results["checkers"]["run"]["errors"])
    assert descendants() <= before and temporary(short_tmp) == []


def test_stock_pysyncobj_runs_under_the_same_faults_and_the_same_judge(short_tmp: Path, tmp_path: Path) -> None:
    """That it lets two nodes own one session is shown by longer runs; here its data path is heard and judged at all."""
    plan = Plan("dataplane", ["pause", "partition"], 3, 8, 6, 100, seed=3, stock=True, store=tmp_path)
    results = finish(Run(plan, lambda _line: None))
    assert results["checkers"]["dual_owner"]["valid"] in (True, False)  # and not "unknown": there was data
