"""The report of a run: complete for a whole run, and as much as possible for a damaged one."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.commands_test import replay
from jepsen_like.report import plots, series, write_report
from jepsen_like.report.material import natural, pair_leniently, read, replay_line
from jepsen_like.report.places import Places
from jepsen_like.runner import Plan
from tests.jepsen_like.runs_on_disk import history, two_owners, write_run


def test_a_run_gets_all_its_pages_and_pictures(tmp_path: Path) -> None:
    """Verdict, checkers, parameters, the line that repeats it, pictures, links to all files."""
    run = write_run(tmp_path / "run", history(1, ops=200, sessions=6))
    write_report(run)
    text = (run / "index.html").read_text()
    assert '<div class="verdict pass" id="verdict">PASS</div>' in text
    assert "What is missing" not in text
    assert "--workload ownership --nemesis partition,kill" in text and "seed 42" in text
    for name in plots.PLOTS:
        assert (run / name).read_bytes().startswith(b"\x89PNG") and f'src="{name}"' in text
    for name in ("history.jsonl", "results.json", "test.json", "n1.log", "final/n2.json", "ownership.html"):
        assert f'href="{name}"' in text


def test_a_failure_says_why_and_where(tmp_path: Path) -> None:
    """The first twenty errors of a checker, each with a link to its moment and session; the rest are counted."""
    events = two_owners()
    where = len(events) - 1
    errors = [f"s1: an epoch went back, event {where}, number {number}" for number in range(25)]
    verdict = {"valid": False, "errors": errors, "stats": {"errors": 25}, "seconds": 0.1}
    passed = {"valid": True, "errors": [], "stats": {}}
    results = {"valid": False, "checkers": {"leaders": passed, "dual_owner": verdict}}
    run = write_run(tmp_path / "run", events, results)
    write_report(run)
    text = (run / "index.html").read_text()
    link = f"ownership.html#t={events[where]['time'] / 1e9:.6f}&amp;session=s1"
    assert text.count(link) == 20 and "and 5 more in results.json" in text
    assert "FAIL" in text and text.index("dual_owner</td>") < text.index("leaders</td>")


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    """A run that was never judged is unknown, and the page says what is missing."""
    run = write_run(tmp_path / "run", history(1, ops=20, sessions=2))
    (run / "results.json").unlink()
    write_report(run)
    text = (run / "index.html").read_text()
    assert 'id="verdict">UNKNOWN' in text and "results.json is missing" in text


def test_a_verdict_that_is_none_counts_as_unknown(tmp_path: Path) -> None:
    """Only true and false are verdicts; no other word, and no number, is a pass."""
    for place, valid in enumerate(("yes", None, [], 1, 0)):
        verdict = {"valid": valid, "errors": [], "stats": {}}
        results = {"valid": valid, "checkers": {"x": verdict}}
        found = read(write_run(tmp_path / f"run{place}", history(1, ops=4, sessions=1), results))
        assert found.valid == "unknown" and found.checks[0].valid == "unknown"


def damaged(run: Path, kind: str) -> str:
    """Damage a run; what the page must say of it."""
    path = run / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if kind == "torn":
        path.write_bytes(b"".join(lines)[:-5])
        return "torn line"
    if kind == "garbage":
        path.write_bytes(b"".join([*lines[:10], b"\xff not json\n", *lines[10:]]))
        return "was read up to event 10"
    if kind == "fields":
        path.write_bytes(b"".join([*lines[:10], b'{"f": 3}\n', b'{"time": -4, "type": "ok"}\n', *lines[10:]]))
        return "2 lines without time, type, f or process"
    if kind == "no history":
        path.unlink()
        return "history.jsonl is missing"
    if kind == "test":
        (run / "test.json").write_text("[1, 2")
        return "test.json cannot be read"
    if kind == "results":
        (run / "results.json").write_text("[]")
        return "results.json cannot be read: not an object"
    (run / "final" / "n2.json").write_bytes(b"\x00\xff")
    return "n2.json cannot be read"


@pytest.mark.parametrize("kind", ["torn", "garbage", "fields", "no history", "test", "results", "final"])
def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path: Path, kind: str) -> None:
    """Never a traceback: both pages exist, and say what could not be read."""
    run = write_run(tmp_path / "run", history(1, ops=40, sessions=3))
    said = damaged(run, kind)
    write_report(run)
    assert said in (run / "index.html").read_text() and (run / "ownership.html").exists()


def test_an_empty_directory_has_a_report(tmp_path: Path) -> None:
    """A run that died at once left nothing; its page says just that."""
    write_report(tmp_path)
    text = (tmp_path / "index.html").read_text()
    for name in ("history.jsonl is missing", "test.json is missing", "results.json is missing", "final/ is empty"):
        assert name in text


def odd(events: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    return [{**event, "value": value, "node": value, "key": value} for event in events]


@pytest.mark.parametrize("value", [None, 7, "x", [1], {"a": {}}, {"from": "x", "nodes": 3, "kind": []}, True, 1e300])
def test_events_with_odd_values_do_not_stop_a_report(tmp_path: Path, value: Any) -> None:
    """Whatever stands where a session, a node or a fault should."""
    run = write_run(tmp_path / "run", odd(history(2, ops=40, sessions=2), value))
    write_report(run)
    assert (run / "index.html").exists()


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    """Analyzing an old run again leaves no pages of before, and no fragments."""
    run = write_run(tmp_path / "run", history(1, ops=10, sessions=2))
    write_report(run)
    (run / "results.json").write_text(json.dumps({"valid": False, "checkers": {}}))
    write_report(run)
    assert 'id="verdict">FAIL' in (run / "index.html").read_text()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_without_matplotlib_the_page_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are an extra; nothing else depends on them."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if "matplot" in name else found(name))
    load = builtins.__import__

    def refuse(name: str, *more: Any, **named: Any) -> Any:
        assert not name.startswith("matplotlib")
        return load(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    run = write_run(tmp_path / "run", history(1, ops=10, sessions=2))
    write_report(run)
    text = (run / "index.html").read_text()
    for name in plots.PLOTS:
        assert f"{name}: matplotlib is not installed; to get it: pip install" in text
    assert "<img" not in text and not list(run.glob("*.png"))


def test_a_picture_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing library's failure is a sentence on the page."""
    monkeypatch.setitem(plots.PLOTS, "rate.png", lambda axes, material: [][0])
    run = write_run(tmp_path / "run", history(1, ops=10, sessions=2))
    write_report(run)
    assert "rate.png: could not be drawn: IndexError" in (run / "index.html").read_text()


def test_the_line_that_repeats_a_run_is_the_runners_own(tmp_path: Path) -> None:
    """What the page says and what the runner printed order the same run."""
    plan = Plan("ownership", ["partition", "kill"], 3, 12.5, 6, 100.0, 42, "deny")
    found = read(write_run(tmp_path / "run", history(1, ops=4, sessions=1)))
    said, printed = replay_line(found.test, found.results), replay(plan)
    assert said is not None and sorted(said.split()) == sorted(printed.split())


def test_a_simulated_run_is_repeated_by_its_seed(tmp_path: Path) -> None:
    """It keeps its parameters in the results, and what it found while it ran counts as failed checkers."""
    run = write_run(tmp_path / "run", history(1, ops=4, sessions=1))
    (run / "test.json").unlink()
    body = {"valid": False, "seed": 7, "found": [["log matching", "n1 and n2 differ"]], "test": {"nodes": ["n1"]}}
    (run / "results.json").write_text(json.dumps(body))
    found = read(run)
    assert replay_line(found.test, found.results) == "python -m jepsen_like sim --seed 7"
    assert [(check.name, check.valid, check.errors) for check in found.checks] == [
        ("log matching", False, ["n1 and n2 differ"])
    ]
    assert not any("test.json" in text for text in found.missing)


def test_quantiles_are_values_that_were_measured() -> None:
    """The smallest value that the share does not exceed; of one value, that value."""
    ordered = [float(number) for number in range(1, 101)]
    assert [series.quantile(ordered, q) for q in series.QUANTILES] == [50.0, 95.0, 99.0, 100.0]
    assert [series.quantile([3.0], q) for q in series.QUANTILES] == [3.0] * 4


def test_rates_count_every_answer_once(tmp_path: Path) -> None:
    """Over all windows, the answers per second add up to the answers."""
    found = read(write_run(tmp_path / "run", history(4, ops=300, sessions=5)))
    end_s = found.end_ns / 1e9
    width = series.window_s(end_s)
    for outcome, line in series.rates(found.ops, end_s).items():
        assert round(sum(rate for _, rate in line) * width) == sum(op.type == outcome for op in found.ops)
    assert len(series.points(found.ops)) == 300


def test_latencies_fall_into_the_window_of_their_question(tmp_path: Path) -> None:
    """A window has one value for each quantile, and none where nobody asked."""
    slow = [
        series.Point(0.1, 5.0, "get", "ok"),
        series.Point(0.2, 9.0, "get", "ok"),
        series.Point(3.1, 1.0, "get", "ok"),
    ]
    found = series.quantiles(slow, 4.0)
    assert found[1.0] == [(0.25, 9.0), (3.25, 1.0)] and found[0.5] == [(0.25, 5.0), (3.25, 1.0)]


def test_ops_are_paired_where_a_checker_would_refuse() -> None:
    """A completion of nothing is left out, an op that another one of its process overtakes stays open."""
    events = [
        {"time": 1, "type": "ok", "process": 1, "f": "get"},
        {"time": 2, "type": "invoke", "process": 1, "f": "get"},
        {"time": 3, "type": "invoke", "process": 1, "f": "renew"},
        {"time": 4, "type": "ok", "process": 1, "f": "renew"},
    ]
    assert [(op.f, op.ret) for op in pair_leniently(events)] == [("get", None), ("renew", 3)]


def test_an_error_has_its_place_where_its_events_are() -> None:
    """The session of the first event that has one, over all its events; none without such events."""
    told = ((1, None), (4, "s2"), (6, "s3"), (9, "s2"))
    places = Places({"index": n, "f": "get", "key": key, "time": n * 10} for n, key in told)
    place = places.find("s2: x (events 1 to 4, ok) before event 6 and (epoch 3, event 9, 1.0 s)")
    assert place is not None and place == ("s2", 40, 90)
    assert places.find("nobody left a trail") is None and places.find("event 77") is None


def test_what_a_simulation_saw_has_its_place_too() -> None:
    """It stops at once and names no events; its history tells when it was, the sentence tells which session."""
    said = "s1-0 is owned by n1 (epoch 1) and n3 (epoch 2) at 9"
    events = [{"index": 0, "f": "get", "key": key, "time": 5} for key in ("s1", "s1-0")]
    events.append(
        {"index": 2, "f": "violation", "key": None, "time": 9, "value": {"kind": "dual_owner", "detail": said}}
    )
    assert Places(events).find(said) == ("s1-0", 9, 9)
    assert Places(events[:2]).find(said) is None


def test_sessions_are_counted_as_people_do() -> None:
    """s9 comes before s10."""
    assert sorted(["s10", "s9", "a", "s9b"], key=natural) == ["a", "s9", "s9b", "s10"]
