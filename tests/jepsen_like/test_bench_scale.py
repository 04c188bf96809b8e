"""The trial of very many sessions: at a small size on real processes, and what its figures are judged to mean."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepsen_like.bench.histogram import Histogram
from jepsen_like.bench.targets.raftstore_scale import Pulse
from jepsen_like.bench.trials import TRIALS, sized
from jepsen_like.bench.trials.scale import Scale, joined, share_beside_snapshots, stalls, summed
from jepsen_like.bench.trials.scale_findings import findings

MS = 1_000_000


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Where sockets have room for their names."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as path:
        yield Path(path)


def load(per_second: float = 100.0, quiet_ms: int = 1, snapshot_ms: int = 2) -> dict[str, Any]:
    return {
        "per_second": per_second,
        "told": {},
        "latency": {
            "quiet": Histogram([quiet_ms * MS]).as_json(),
            "snapshot": Histogram([snapshot_ms * MS]).as_json(),
        },
    }


def figures() -> dict[str, Any]:
    stall = {"worst_ms": {"quiet": 30.0, "snapshot": 40.0}, "idle_ms": 20.0, "snapshot_ms": [2_000.0, 3_000.0]}
    return {
        "sessions": 1_000_000,
        "moved": 100_000,
        "fill": {"per_second": 10_000.0},
        "memory": {"per_session": {"n1": 400.0, "n2": 601.0}},
        "throughput": {
            "few": [100.0, 110.0],
            "many": [95.0, 99.0],
            "ratio": 0.92,
            "all_in_turn": 80.0,
            "beside_snapshots": [0.25],
        },
        "snapshot_full": {**load(), **stall, "worst_ms": {"quiet": 70.0, "snapshot": 60.0}},
        "snapshot_light": {**load(), **stall},
        "expiry": {**load(), **stall, "swept_seconds": 4.0},
        "drain": {"seconds": 31.0, "moved": 100_000, "failed": 0, "before": load(200.0), "meanwhile": load(150.0)},
        "restart_one": {"seconds": 9.0, "sessions": 1_000_000, "meanwhile": load()},
        "restart_all": {"seconds": 16.0},
        "wiped": {"seconds": 20.0, "sessions": 1_000_000, "meanwhile": load()},
    }


def test_every_promise_about_many_sessions_has_a_row_and_the_worst_node_counts() -> None:
    """Memory of the node that takes most, the stall beside the one without a snapshot, others' latency in a drain."""
    rows = findings(figures())
    assert {row.target for row in rows} == {"6"} and len(rows) == 9
    assert [row.is_met for row in rows] == [False, True, False, True, True, False, True, False, True]
    assert rows[0].measured == 601.0
    assert (
        "70 ms without one, an idle loop beside it 20 ms" in rows[2].note
        and "p99.9 of a transition 2.0 ms, without 1.0 ms" in rows[2].note
    )
    assert "150/s" in rows[5].note and "before 200/s" in rows[5].note


def test_memory_that_a_machine_does_not_tell_is_said_to_be_unknown() -> None:
    """Never silently absent, and not met by accident."""
    row = findings({**figures(), "memory": {"per_session": {}}})[0]
    assert row.measured is None and row.is_met is None and row.note == "not told here"


def test_measurements_of_several_nodes_add_up_and_those_after_each_other_are_averaged() -> None:
    """Rates of nodes are summed, rates of the same callers over time are not."""
    one = {**load(), "ops": 50, "seconds": 0.5, "told": {"NO_QUORUM": 2}}
    both = summed([one, {**one, "told": {"NO_QUORUM": 1, "SESSION_FROZEN": 4}}])
    assert both["per_second"] == 200.0 and both["told"] == {"NO_QUORUM": 3, "SESSION_FROZEN": 4}
    later = joined([both, {**both, "per_second": 100.0}])
    assert later["per_second"] == 150.0 and later["told"] == {"NO_QUORUM": 6, "SESSION_FROZEN": 8}
    assert Histogram.from_json(later["latency"]["quiet"]).total == 4


def test_what_was_done_beside_a_snapshot_is_told_as_a_share_of_all() -> None:
    """A snapshot takes its part of the processors: who compares rates must know of it."""
    found = load()
    assert share_beside_snapshots(found) == 0.5
    found["latency"] = {"quiet": Histogram([1, 2, 3]).as_json(), "snapshot": Histogram([]).as_json()}
    assert share_beside_snapshots(found) == 0.0
    assert "being written: 25%" in findings(figures())[1].note


def test_the_worst_stall_of_all_nodes_counts_for_each_of_both_times() -> None:
    """With a snapshot under way and without one."""
    seen = [
        {"worst_ms": {"quiet": 3.0, "snapshot": 9.0}, "idle_ms": 1.0, "snapshot_ms": [5.0]},
        {"worst_ms": {"quiet": 4.0, "snapshot": 1.0}, "idle_ms": 2.0, "snapshot_ms": []},
    ]
    assert stalls(seen) == {"worst_ms": {"quiet": 4.0, "snapshot": 9.0}, "idle_ms": 2.0, "snapshot_ms": [5.0]}


def test_a_pause_counts_for_the_snapshot_that_it_touches() -> None:
    """Begun before, during or at the end of it; afterwards not."""

    async def main() -> None:
        pulse = Pulse()
        pulse.begin()
        pulse._due_ns -= 9 * MS
        pulse._turned()
        assert pulse.worst_ns["snapshot"] == 0 and pulse.worst_ns["quiet"] >= 7 * MS
        pulse.begun, pulse.is_writing = 1, True  # what froze the state is part of the pause that ends now
        pulse._due_ns -= 9 * MS
        pulse._turned()
        pulse.is_writing = False
        assert pulse.take()["worst_ms"]["snapshot"] >= 7
        pulse._due_ns -= 9 * MS
        pulse._turned()
        assert pulse.take()["worst_ms"]["snapshot"] >= 7  # it ended since the last turn
        pulse._due_ns -= 9 * MS
        pulse._turned()
        assert pulse.take()["worst_ms"]["snapshot"] == 0

    asyncio.run(main())


def test_a_snapshot_counts_only_under_the_watch_that_saw_all_of_it() -> None:
    """One that ended before, or began before, says nothing about the stalls that were looked at."""

    async def main() -> None:
        pulse = Pulse()
        pulse.snapshot_begins()(True)  # before any watch
        early = pulse.snapshot_begins()
        pulse.begin()
        early(True)
        assert pulse.take()["snapshot_ms"] == []
        pulse.begin()
        late = pulse.snapshot_begins()
        assert pulse.take()["snapshot_ms"] == []
        late(True)
        pulse.begin()
        pulse.snapshot_begins()(True)
        pulse.snapshot_begins()(False)  # it failed
        assert len(pulse.take()["snapshot_ms"]) == 1

    asyncio.run(main())


def test_its_size_is_chosen_by_the_number_of_sessions() -> None:
    """As --sessions does; quick is small."""
    assert sized("scale", quick=False, given={"sessions": 5_000, "kills": 3}) == Scale(sessions=5_000)
    quick = sized("scale", quick=True, given={"sessions": None})
    assert isinstance(quick, Scale) and quick.sessions < 100_000 == TRIALS["scale"].moved  # type: ignore[attr-defined]
    assert quick.estimate_seconds < TRIALS["scale"].estimate_seconds


def test_the_trial_at_its_smallest_finds_everything(short_directory: Path) -> None:
    """All phases on real nodes: filled, compared, snapshots, expiry, drain, restarts; every row has a value."""
    said: list[str] = []
    small = Scale(
        sessions=3_000, moved=400, callers=16, seconds=0.3, rounds=1, snapshot_every_entries=100, due_after_ms=2_000
    )
    result = asyncio.run(small.run(short_directory, said.append))
    assert all(row.measured is not None for row in result.findings)
    found = result.figures
    assert found["drain"]["moved"] == 400 and found["drain"]["failed"] == 0
    assert found["wiped"]["sessions"] == found["restart_one"]["sessions"] == 3_400  # tombstones of the expired included
    assert found["snapshot_full"]["snapshot_ms"] and found["snapshot_light"]["snapshot_ms"]
    assert any("restart" in line for line in said)
