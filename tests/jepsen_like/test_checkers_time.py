"""Cluster time and the ends of sessions: a trail written by hand, and one rule broken at a time."""

from __future__ import annotations

from typing import Any

import pytest

from jepsen_like.checkers import cluster_time
from jepsen_like.checkers.trail import FIELDS

Event = dict[str, Any]
MS = 1_000_000
TEST = {"ttl_default_ms": 9_000, "clock_resume_max_ms": 5_000, "max_clock_drift_ppm": 10_000}


def event(at_ms: int, name: str, op: str | None = None, seq: int = 0, **more: Any) -> Event:
    """An audit event of session s at node n1."""
    fields = dict.fromkeys(FIELDS) | {"at_ms": at_ms, "event": name, "op": op, "seq": seq}
    return fields | {"session_id": "s", "node": "n1", "incarnation": "07", "state_version": seq} | more


def asked(f: str, seq: int, ttl_ms: int | None) -> list[Event]:
    """What a caller asked for, and was told."""
    value = {"ttl_ms": ttl_ms, "op_id": f"n1:07:{seq}"}
    base = {"time": 10_000 * MS, "process": seq, "f": f, "key": "s", "node": "n1"}
    return [base | {"type": "invoke", "value": value}, base | {"type": "ok", "value": None}]


def judge(*events: Event, history: list[Event] | None = None, **test: Any) -> list[str]:
    lines = [line | {"number": number, "index": number} for number, line in enumerate(events, start=1)]
    finals = {"n1": {"events": lines, "sessions": [], "head": "", "index": 0}}
    return cluster_time.check(history or asked("create", 1, 4_000), TEST | test, finals).errors


CREATED = event(1_000, "SessionCreated", "create", 1)
EXPIRED = event(5_010, "Expired", "sweep", 9, reason="TTL_EXPIRED")


def test_a_session_that_lives_until_its_end_is_fine() -> None:
    """Up to the last millisecond, and the sweep may be late."""
    assert judge(CREATED, event(4_999, "Reattached", "reattach", 2), EXPIRED) == []


@pytest.mark.parametrize("at_ms", [5_000, 5_001])
def test_an_op_at_or_after_the_end_is_found(at_ms: int) -> None:
    """Whether or not the sweep has come by."""
    (error,) = judge(CREATED, event(at_ms, "Reattached", "reattach", 2))
    assert f"at {at_ms} ms, and its TTL ended at 5000 ms" in error


def test_a_ttl_that_is_called_over_too_early_is_found() -> None:
    """By the reason of the sweep; another window may well be over."""
    (error,) = judge(CREATED, event(4_999, "Expired", "sweep", 9, reason="TTL_EXPIRED"))
    assert "was called over, and ends at 5000 ms" in error
    assert judge(CREATED, event(4_000, "Expired", "sweep", 9, reason="REATTACH_WINDOW")) == []


def test_a_renewal_moves_the_end() -> None:
    """By what it asked for; without a wish of its own by the default; of an unknown wish nothing is known."""
    renewed, late = event(3_000, "Renewed", "renew", 2), event(5_500, "Detached", "detach", 3)
    created = asked("create", 1, 4_000)
    assert judge(CREATED, renewed, late, history=created + asked("renew", 2, 3_000)) == []
    assert judge(CREATED, renewed, late, history=created + asked("renew", 2, None)) == []
    assert judge(CREATED, renewed, late, history=created) == []
    assert len(judge(CREATED, renewed, late, history=created + asked("renew", 2, 2_000))) == 1


def test_of_a_trail_with_gaps_no_end_is_known() -> None:
    """What is missing may be a renewal."""
    late = event(5_500, "Detached", "detach", 3)
    assert len(judge(CREATED, late)) == 1
    finals = {"n1": {"events": [CREATED | {"number": 1}, late | {"number": 3}], "sessions": [], "head": "", "index": 0}}
    assert cluster_time.check(asked("create", 1, 4_000), TEST, finals).valid is True


def test_time_that_goes_back_is_found() -> None:
    """A stamp before the one before it."""
    (error,) = judge(CREATED, event(999, "NodeJoined", session_id=None))
    assert error == "audit event 2 is stamped before event 1"


def test_a_jump_beyond_the_bound_is_found() -> None:
    """Up to the bound it may be: the whole cluster had stopped."""
    resumed = event(7_000, "ClockResumed", session_id=None, detail="5000")
    assert judge(CREATED, resumed) == []
    (error,) = judge(CREATED, resumed | {"detail": "5001"})
    assert "jumped by 5001 ms, 5000 are allowed" in error


def test_time_that_outruns_the_run_is_found() -> None:
    """The run lasted ten seconds, and clocks are wrong by one percent at most."""
    assert judge(CREATED, event(12_000, "NodeJoined", session_id=None)) == []
    (error,) = judge(CREATED, event(12_200, "NodeJoined", session_id=None))
    assert "cluster time went on by 11200 ms" in error


def test_nothing_to_read_is_unknown_but_for_sticky_nodes() -> None:
    """Their sessions travel between cluster times."""
    assert cluster_time.check([], TEST, {}).valid == "unknown"
    assert cluster_time.check([], TEST | {"strategy": "sticky"}, {}).valid is True
