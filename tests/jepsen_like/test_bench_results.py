"""What the benchmark tells people and machines of a made-up run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.bench import command, plot, results
from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.peers import etcd
from jepsen_like.bench.plan import Case, Plan
from jepsen_like.bench.run import Usage, figures

CASE = "transition/1/leader"
TURN = {"sync_op_ms": 0.1, "sync_op_idle_ms": 4.0, "sync_page_ms": 0.2, "tls_round_trip_ms": 0.1, "op_bytes": 75.0}
PLAN = Plan(("raftstore", "other"), (Case("transition", 1, "leader"),), rounds=2, seconds=1, warm_up_seconds=0)


def row(peer: str, per_second: float, latency_us: int, **more: Any) -> dict[str, Any]:
    return {
        "round": 1,
        "peer": peer,
        "case": CASE,
        "ops": 10,
        "refused": 0,
        "failures": {},
        "per_second": per_second,
        "latency": Histogram([latency_us * 1_000] * 10).as_json(),
        "cpu_us_per_op": 50.0,
        "syncs_per_op": None,
        "disk_bytes_per_op": 700.0,
        "wire_bytes_per_op": 400.0,
        "resident_bytes": {"n1": 3 << 20, "n2": 2 << 20, "n1 callers": 9 << 20},
        **more,
    }


def made_up() -> dict[str, Any]:
    rows = [row("raftstore", 900.0, 400), row("other", 300.0, 800), row("raftstore", 1_100.0, 400)]
    found = {"rows": rows, "limits": [TURN, {**TURN, "sync_op_ms": 0.3}], "problems": [], "trials": {}, "findings": []}
    return command.complete(PLAN, {}, {"gone": "apt-get install gone"}, found)


def entry(result: dict[str, Any], peer: str) -> dict[str, Any]:
    return next(one for one in result["summary"] if one["peer"] == peer)


def test_figures_are_medians_over_rounds() -> None:
    """Of 900 and 1100 per second: 1000; latencies of all rounds are one distribution."""
    ours = entry(made_up(), "raftstore")
    assert (ours["per_second"], ours["rounds"], ours["ops"]) == (1_000.0, 2, 20)
    assert ours["p50_us"] == pytest.approx(400, rel=0.01)


def test_what_one_round_does_not_know_has_no_median() -> None:
    """A median of the known rest would pretend."""
    assert results.median([1.0, None, 3.0]) is None
    assert results.median([1.0, 2.0, 9.0]) == 2.0
    assert results.median([]) is None


def test_every_peer_stands_beside_ours_and_beside_the_floor() -> None:
    """Rate 1000 to 300, p50 400 to 800, and 800 us are four times 100 us of sync and 100 us of round trip."""
    other = entry(made_up(), "other")
    assert other["ours_to_its_rate"] == pytest.approx(1_000 / 300)
    assert other["ours_to_its_p50"] == pytest.approx(0.5, rel=0.02)
    assert other["floors"] == pytest.approx(4.0, rel=0.02)


def test_the_floor_is_the_least_that_a_sync_took() -> None:
    """A sync that an idle processor noticed late is told, but nobody is measured by it."""
    limits = made_up()["limits"]
    assert (limits["sync_floor_ms"], limits["sync_op_ms"], limits["sync_op_idle_ms"]) == (0.1, pytest.approx(0.2), 4.0)
    assert results.floor_us("owns/1/leader", limits) is None


def test_a_run_is_told_as_table_and_as_json(tmp_path: Path) -> None:
    """The table names cases, peers and absent peers; what is not known is a question mark; the file reads back."""
    result = made_up()
    text = command.report(result, tmp_path)
    assert (tmp_path / "bench.txt").read_text() in text
    for said in (CASE, "1,000", "3.33", "?", "gone", "absent", "apt-get install gone"):
        assert said in text
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert "bench.json" in text


def test_a_run_is_drawn(tmp_path: Path) -> None:
    """Where matplotlib is, as a PNG."""
    assert plot.write(made_up(), tmp_path / "bench.png") == ""
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_report_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other files are written all the same."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "raftstore[bench]" in command.report(made_up(), tmp_path)
    assert (tmp_path / "bench.json").exists()


def test_an_absent_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without etcd and Redis on the path the others are measured."""
    monkeypatch.setenv("PATH", "")
    measured, absent = command.present(("raftstore", "etcd-wire", "redis", "pysyncobj"))
    assert list(measured) == ["raftstore", "pysyncobj"]
    assert absent == {"etcd-wire": "apt-get install etcd-server", "redis": "apt-get install redis-server"}


def test_an_absent_client_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd is there, the Python client is not: that line alone is absent."""
    monkeypatch.setattr(etcd.shutil, "which", lambda _name: "/bin/true")
    monkeypatch.setattr(etcd.importlib.util, "find_spec", lambda _name: None)
    measured, absent = command.present(("etcd-aetcd", "etcd-wire"))
    assert (list(measured), absent) == (["etcd-wire"], {"etcd-aetcd": "pip install aetcd"})


def test_use_per_op_is_that_of_all_processes_between_two_moments() -> None:
    """What had been used before the measurement does not count; what one process does not tell makes it unknown."""
    answer = {"ops": 5, "refused": 1, "failures": {"Lost": 2}, "seconds": 0.5, "latency": Histogram([7]).as_json()}
    before = Usage({"n1": 1.0, "n2": 2.0}, {"n1": 100, "n2": None}, 1_000, 10)
    after = Usage({"n1": 1.5, "n2": 2.5}, {"n1": 300, "n2": None}, 3_000, 30)
    told = figures([answer, answer], before, after)
    assert (told["ops"], told["refused"], told["failures"], told["per_second"]) == (10, 2, {"Lost": 4}, 20.0)
    assert (told["cpu_us_per_op"], told["syncs_per_op"], told["wire_bytes_per_op"]) == (100_000.0, 2.0, 200.0)
    assert told["disk_bytes_per_op"] is None
