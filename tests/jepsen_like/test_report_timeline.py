"""What the page of lanes embeds: who owned what when, as far as a history tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.checkers import dual_owner
from jepsen_like.checkers.dual_owner import Sight
from jepsen_like.report import material, ownership_page, timeline
from tests.jepsen_like import reference
from tests.jepsen_like.runs_on_disk import MS, Maker, history, two_owners, write_run


def build(tmp_path: Path, events: list[dict[str, Any]], results: dict[str, Any] | None = None) -> dict[str, Any]:
    return timeline.build(material.read(write_run(tmp_path / "run", events, results)))


def answer(number: int, asked_ms: int, told_ms: int, session: dict[str, Any], f: str = "get") -> list[dict[str, Any]]:
    base = {"process": number, "f": f, "key": session["session_id"], "node": "n1"}
    return [
        {**base, "time": asked_ms * MS, "type": "invoke", "value": {}},
        {**base, "time": told_ms * MS, "type": "ok", "value": session},
    ]


def seen(owner: str, epoch: int, version: int, state: str = "ATTACHED") -> dict[str, Any]:
    told = {"session_id": "s1", "state": state, "owner": owner, "epoch": epoch, "state_version": version}
    return {**told, "binding": None}


def test_an_owner_is_known_from_the_first_answer_to_the_last_question(tmp_path: Path) -> None:
    """Between the last question answered with one owner and the first answer with the next, nobody knows."""
    events = [
        *answer(1, 10, 20, seen("n1", 1, 1)),
        *answer(2, 30, 40, seen("n1", 1, 2)),
        *answer(3, 70, 80, seen("n2", 2, 3)),
    ]
    data = build(tmp_path, events)
    (lane,) = data["lanes"]
    n1, n2 = data["nodes"].index("n1"), data["nodes"].index("n2")
    assert [row[:5] for row in lane["own"]] == [[20_000, 30_000, 80_000, n1, 1], [80_000, 80_000, 80_000, n2, 2]]
    assert [row[6:] for row in lane["own"]] == [[1, 2], [3, 3]]


def test_old_news_do_not_move_an_owner_back(tmp_path: Path) -> None:
    """A stale local read after a newer answer changes no lane."""
    events = [
        *answer(1, 10, 20, seen("n1", 1, 1)),
        *answer(2, 30, 40, seen("n2", 2, 2)),
        *answer(3, 50, 60, seen("n1", 1, 1), "get-local"),
    ]
    data = build(tmp_path, events)
    assert [data["nodes"][row[3]] for row in data["lanes"][0]["own"]] == ["n1", "n2"]


def test_a_frozen_session_is_a_segment_of_its_own(tmp_path: Path) -> None:
    """Owner and epoch may stay while the state changes; the lane shows it."""
    events = [*answer(1, 10, 20, seen("n1", 1, 1)), *answer(2, 30, 40, seen("n1", 1, 2, "FROZEN"))]
    data = build(tmp_path, events)
    assert [data["states"][row[5]] for row in data["lanes"][0]["own"]] == ["ATTACHED", "FROZEN"]


def test_every_session_has_a_lane_and_every_op_a_mark(tmp_path: Path) -> None:
    """Nothing is left out of a history of common size, and sessions stand in the order people count."""
    events = history(3, ops=400, sessions=12)
    data = build(tmp_path, events)
    assert [lane["id"] for lane in data["lanes"]] == [f"s{number}" for number in range(12)]
    assert sum(len(lane["ops"]) for lane in data["lanes"]) == 400
    assert data["notes"] == []
    for lane in data["lanes"]:
        assert [op[0] for op in lane["ops"]] == sorted(op[0] for op in lane["ops"])


def test_outcomes_and_reasons_are_told_op_by_op(tmp_path: Path) -> None:
    """ok, refused with its reason, unknown, and never answered are four different things."""
    base = {"f": "renew", "key": "s1", "node": "n2"}
    events: list[dict[str, Any]] = [{**base, "time": n * MS, "type": "invoke", "process": n} for n in range(4)]
    events += [
        {**base, "time": 5 * MS, "type": "ok", "process": 0, "value": seen("n2", 1, 1)},
        {**base, "time": 6 * MS, "type": "fail", "process": 1, "value": {"reason": "NOT_OWNER", "session": None}},
        {**base, "time": 7 * MS, "type": "info", "process": 2, "error": "TIMEOUT"},
    ]
    data = build(tmp_path, events)
    ops = data["lanes"][0]["ops"]
    assert [op[3] for op in ops] == [0, 1, 2, 2]
    assert [op[1] for op in ops] == [5_000, 5_000, 5_000, timeline.OPEN]
    assert [data["reasons"][op[5]] if op[5] >= 0 else None for op in ops] == [None, "NOT_OWNER", "TIMEOUT", None]


def test_sights_are_joined_only_where_they_are_close() -> None:
    """A bar says that a node was seen again and again; a long silence ends it, another epoch begins another."""
    second = 1_000_000_000
    moments = [
        Sight(at, at + MS, "n1", epoch, False, place)
        for place, (at, epoch) in enumerate([(0, 1), (second // 2, 1), (5 * second, 1), (5 * second + MS, 2)])
    ]
    bars = timeline.joined(moments)
    assert [(begin, end, epoch, count) for begin, end, _, epoch, count, _ in bars] == [
        (MS, second // 2, 1, 2),
        (5 * second, 5 * second, 1, 1),
        (5 * second + MS, 5 * second + MS, 2, 1),
    ]


def test_exact_intervals_of_a_simulation_stay_as_they_are() -> None:
    """What is known throughout is not joined with anything."""
    intervals = [Sight(0, 10, "n1", 1, True, 0), Sight(11, 20, "n1", 1, True, 1)]
    assert [bar[:2] for bar in timeline.joined(intervals)] == [(0, 10), (11, 20)]


@pytest.mark.parametrize("judged", [False, True])
def test_two_owners_stand_out(tmp_path: Path, judged: bool) -> None:
    """They are marked where the checker names its events, and also where no checker was asked."""
    events = two_owners()
    verdict = dual_owner.check(events, {}).as_dict()
    assert verdict["valid"] is False
    results = {"valid": False, "checkers": {"dual_owner": verdict} if judged else {}}
    data = build(tmp_path, events, results)
    (row,) = [row for lane in data["lanes"] if lane["id"] == "s1" for row in lane["bad"]]
    assert row[4] == 1 and "an epoch went back" in row[3]
    assert row[0] == events[-2]["time"] // 1_000 and row[1] == events[-1]["time"] // 1_000


def test_errors_of_other_checkers_are_marked_without_that_alarm(tmp_path: Path) -> None:
    """An objection is not two owners; one that names no event of a session has no place."""
    events = history(1, ops=20, sessions=2)
    errors = ["get of s1 at n1 (events 1 to 2, ok): version went back", "the trails differ"]
    results = {"valid": False, "checkers": {"versions": {"valid": False, "errors": errors, "stats": {}}}}
    data = build(tmp_path, events, results)
    bad = [row for lane in data["lanes"] for row in lane["bad"]]
    assert [(data["checkers"][row[2]], row[4]) for row in bad] == [("versions", 0)]


def test_faults_are_bands_with_their_detail(tmp_path: Path) -> None:
    """From taking effect to healing; one that was never healed lasts to the end and says so."""
    maker = Maker(1)
    maker.fault("fault", "partition", ["n1"])
    begun = maker.now
    maker.fault("heal", "partition", [])
    healed = maker.now
    maker.fault("fault", "kill", ["n2"])
    killed = maker.now
    data = build(tmp_path, maker.events)
    kill, partition = data["kinds"].index("kill"), data["kinds"].index("partition")
    assert data["faults"][0] == [partition, begun // 1000, healed // 1000, "n1", '{"form": "halves"}', 0]
    assert data["faults"][1] == [kill, killed // 1000, killed // 1000, "n2", '{"form": "halves"}', 1]


def test_leaders_are_told_by_term(tmp_path: Path) -> None:
    """From when a node says so until it says otherwise."""
    maker = Maker(1)
    for node, role in (("n1", "leader"), ("n2", "follower"), ("n1", "follower"), ("n2", "leader")):
        maker.tell("info", "role", "observer", node=node, value={"term": 7, "role": role})
    data = build(tmp_path, maker.events)
    times = [event["time"] // 1000 for event in maker.events]
    assert [row[:2] for row in data["leaders"]] == [[times[0], times[2]], [times[3], times[3]]]


def test_a_huge_history_is_cut_where_it_matters_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain reads and renewals go first, and the page says how many."""
    monkeypatch.setattr(timeline, "OPS_MAX", 300)
    monkeypatch.setattr(timeline, "LANES_MAX", 5)
    data = build(tmp_path, history(5, ops=400, sessions=10))
    assert any("100 of 400 ops are not drawn" in note for note in data["notes"])
    assert any("5 of 10 sessions have no lane" in note for note in data["notes"])
    refused = sum(op[3] == 1 for lane in data["lanes"] for op in lane["ops"])
    assert refused > 0 and len(data["lanes"]) == 5


def test_ten_thousand_ops_make_a_small_page(tmp_path: Path) -> None:
    """The page of 10,000 ops in 200 sessions stays far below five megabytes."""
    text = ownership_page.render(build(tmp_path, history(7, ops=10_000, sessions=200)))
    assert len(text) < 1_500_000


def test_a_page_loads_nothing_and_markup_in_a_history_stays_text(tmp_path: Path) -> None:
    """No address outside the file, and what a history says never becomes part of the page."""
    events = answer(1, 1, 2, {**seen("n1", 1, 1), "session_id": "</script><script>alert(1)//@JS@"})
    text = ownership_page.render(build(tmp_path, events))
    assert "<script>alert" not in text
    for outside in ("http://", "https://", "src=", "@import"):
        assert outside not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["lanes"][0]["id"] == "</script><script>alert(1)//@JS@"


@pytest.mark.parametrize("seed", range(3))
def test_a_world_that_keeps_the_promise_has_nobody_marked(tmp_path: Path, seed: int) -> None:
    """Lanes of a true history follow its versions: epochs never go back, segments never overlap."""
    run = reference.run(seed, 200)
    data = build(tmp_path, run.history)
    assert not any(lane["bad"] for lane in data["lanes"])
    for lane in data["lanes"]:
        for earlier, later in zip(lane["own"], lane["own"][1:], strict=False):
            assert earlier[0] <= earlier[1] <= earlier[2] == later[0]
            assert earlier[4] <= later[4] and earlier[7] < later[6]


def test_an_owner_takes_over_in_the_middle_of_a_bar(tmp_path: Path) -> None:
    """Sights of two nodes that alternate make overlapping bars; both are kept."""
    maker = Maker(1)
    maker.op(1, "s1")
    for node, epoch in (("n1", 1), ("n2", 2), ("n1", 1), ("n2", 2)):
        maker.packet("s1", node, epoch)
    bars = build(tmp_path, maker.events)["lanes"][0]["data"]
    assert len(bars) == 2 and bars[0][1] > bars[1][0] and [bar[4] for bar in bars] == [2, 2]


def test_what_is_left_of_too_many_ops_covers_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned from everywhere, but whole where somebody objects."""
    monkeypatch.setattr(timeline, "OPS_MAX", 60)
    events = history(5, ops=400, sessions=10)
    error = next(f"x of s4 (event {event['index']})" for event in events if event["key"] == "s4")
    results = {"valid": False, "checkers": {"versions": {"valid": False, "errors": [error], "stats": {}}}}
    data = build(tmp_path, events, results)
    assert [len(lane["ops"]) for lane in data["lanes"] if lane["id"] == "s4"] == [40]
    others = [op[0] for lane in data["lanes"] if lane["id"] != "s4" for op in lane["ops"]]
    assert len(others) == 20 and min(others) < data["end"] * 0.1 and max(others) > data["end"] * 0.85
