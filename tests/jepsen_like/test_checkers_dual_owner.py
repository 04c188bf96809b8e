"""Two owners are found however they are seen, and only when it is certain."""

from __future__ import annotations

from typing import Any

import pytest

from jepsen_like.checkers import dual_owner, unconfirmed
from tests.jepsen_like import reference
from tests.jepsen_like.reference import MS, TEST

Event = dict[str, Any]


def owns(node: str, begin: int, end: int, epoch: int = 1, key: str = "s") -> Event:
    value = {"from": begin * MS, "to": end * MS, "epoch": epoch}
    return {
        "time": end * MS,
        "type": "ok",
        "process": "dataplane",
        "f": "owns",
        "key": key,
        "node": node,
        "value": value,
    }


def seen(node: str, at: int, epoch: int = 1, f: str = "owns", **more: Any) -> Event:
    value = {"epoch": epoch, **({"owns": True} if f == "owns" else {}), **more}
    return {"time": at * MS, "type": "ok", "process": "dataplane", "f": f, "key": "s", "node": node, "value": value}


def verdict(*events: Event, **test: Any) -> Any:
    history = sorted(events, key=lambda event: event["time"])
    return dual_owner.check([event | {"index": i} for i, event in enumerate(history)], TEST | test)


def test_owners_one_after_the_other_are_fine() -> None:
    """Intervals may touch; a new owner has a new epoch; an owner may come and go under one epoch."""
    assert verdict(owns("n1", 0, 5), owns("n1", 6, 9), owns("n2", 9, 12, 2), owns("n1", 12, 13, 3)).valid is True


@pytest.mark.parametrize(
    "events",
    [
        (owns("n1", 0, 5), owns("n2", 4, 9, 2)),
        (owns("n1", 0, 9), owns("n2", 4, 5, 2)),
        (owns("n1", 0, 9), owns("n1", 1, 2), owns("n2", 3, 4, 2)),
        (owns("n1", 4, 5), owns("n2", 4, 5, 2)),
        (owns("n1", 0, 9), owns("n2", 4, 4, 2)),
        (owns("n1", 0, 9), seen("n2", 4, 2)),
        (owns("n1", 0, 9), seen("n2", 4, 2, "packet")),
        (owns("n1", 0, 9), seen("n2", 4, 2, asked=3 * MS)),
    ],
)
def test_two_owners_at_once_are_found(events: tuple[Event, ...]) -> None:
    """Overlapping by any length, one within the other, or a single look within an interval."""
    result = verdict(*events)
    assert result.valid is False
    assert "two owners at once" in result.errors[0]


def test_the_error_names_both_owners_and_their_events() -> None:
    """A person can look them up in the history."""
    error, _ = verdict(owns("n1", 0, 5), owns("n2", 4, 9, 2)).errors  # the other is of the epochs
    assert error == (
        "s: two owners at once: n1 (epoch 1, event 0, 0.000000 s to 0.005000 s) "
        "and n2 (epoch 2, event 1, 0.004000 s to 0.009000 s)"
    )


def test_sessions_do_not_mix() -> None:
    """Two nodes may own two sessions."""
    assert verdict(owns("n1", 0, 5, key="s"), owns("n2", 0, 5, key="t")).valid is True


@pytest.mark.parametrize("f", ["owns", "packet"])
def test_an_epoch_that_goes_back_is_found(f: str) -> None:
    """An owner that acts after its successor has begun."""
    result = verdict(seen("n1", 1, 1, f), seen("n2", 2, 2, f), seen("n1", 3, 1, f))
    assert result.valid is False
    assert "an epoch went back: n1 (epoch 1, event 2" in result.errors[0]


def test_the_same_epoch_at_two_nodes_is_found_whenever_it_was() -> None:
    """A fencing token that two nodes hold protects nothing, though they never met."""
    result = verdict(seen("n1", 1, 1, "packet"), seen("n2", 900_000, 1, "packet"))
    assert result.valid is False
    assert "two nodes under one epoch" in result.errors[0]


def test_a_successor_that_began_within_the_old_owners_interval_is_found_by_epoch_too() -> None:
    """Intervals and single looks are compared by epoch as well."""
    assert verdict(seen("n2", 3, 2), owns("n1", 0, 5)).valid is False
    assert verdict(owns("n2", 3, 4, 2), seen("n1", 5, 1)).valid is False


def test_what_may_have_been_in_order_is_no_error() -> None:
    """A moment lies anywhere in its window, and clocks of observers differ: certain or nothing."""
    late = (seen("n2", 10, 2, "packet"), seen("n1", 12, 1, "packet", asked=9 * MS))
    assert verdict(*late).valid is True
    certain = (seen("n2", 10, 2, "packet"), seen("n1", 14, 1, "packet", asked=11 * MS))
    assert verdict(*certain).valid is False
    assert verdict(*certain, clock_uncertainty_ms=2).valid is True


def test_a_look_that_found_no_owner_says_nothing() -> None:
    """`owns` false is what a fenced node answers."""
    no = seen("n2", 4, 2) | {"value": {"owns": False, "epoch": 2}}
    result = verdict(owns("n1", 0, 9), no)
    assert (result.valid, result.stats["sights"]) == (True, 1)


def test_nobody_looked_is_unknown() -> None:
    """No look at the data path is no proof."""
    assert verdict().valid == "unknown"


def test_many_sights_are_judged_in_seconds() -> None:
    """A hundred thousand packets of one session."""
    packets = [seen(f"n{i // 1_000 % 3}", i, i // 1_000, "packet") for i in range(100_000)]
    assert verdict(*packets).valid is True


# -- bindings that nobody confirmed -----------------------------------------------------------------------------------


def bind(kind: str, at: int, done: int, process: int = 1, version: int = 1, f: str = "reattach") -> list[Event]:
    base = {"process": process, "f": f, "key": "s", "node": "n1"}
    session = {"state_version": version, "epoch": 1, "state": "ATTACHED", "owner": "n1", "binding": "t1"}
    invoke = {"time": at * MS, "type": "invoke", "value": {"binding": "t1"}}
    return [base | invoke, base | {"time": done * MS, "type": kind, "value": session if kind == "ok" else None}]


def judged(*events: Event, **test: Any) -> bool | str:
    history = sorted(events, key=lambda event: event["time"])
    return unconfirmed.check([event | {"index": i} for i, event in enumerate(history)], TEST | test).valid


def test_a_node_acts_on_what_was_acknowledged_or_still_waits() -> None:
    """From the moment of the commit, which comes before the answer."""
    assert judged(*bind("ok", 1, 5), seen("n1", 4), seen("n1", 9)) is True
    assert judged(*bind("info", 1, 5), seen("n1", 4)) is True


def test_a_late_commit_that_is_owned_is_found() -> None:
    """Its caller was told that nobody knows; nothing may be built on it."""
    late = (*bind("info", 1, 5), seen("n1", 9))
    assert judged(*late) is False
    assert judged(*late, give_up_delay_ms=10) is True
    assert judged(*late, callers_in_process=False) is True
    said = {"time": 6 * MS, "type": "info", "process": "embedder", "f": "confirmed", "key": "s", "node": "n1"}
    assert judged(*late, said | {"value": {"epoch": 1, "state_version": 1}}) is True
    assert judged(*late, said | {"value": {"epoch": 2, "state_version": 1}}) is False
    assert judged(*late, said | {"node": "n2"}) is False
    assert judged(*late, said | {"time": 10 * MS}) is False


def test_a_binding_that_was_refused_or_given_up_founds_nothing() -> None:
    """After a detach the former binding is over, and a late commit behind it is none to act on."""
    assert judged(*bind("fail", 1, 5), seen("n1", 9)) is False
    ended = bind("ok", 6, 7, version=2, f="detach")
    assert judged(*bind("ok", 1, 5), *ended, seen("n1", 7)) is True
    assert judged(*bind("ok", 1, 5), *ended, seen("n1", 9)) is False
    assert judged(*bind("ok", 1, 5), *ended, owns("n1", 4, 7)) is True
    assert judged(*bind("ok", 1, 5), *ended, owns("n1", 4, 9)) is False
    assert judged(*bind("ok", 1, 5), *ended, *bind("ok", 8, 9, version=3), seen("n1", 9)) is True


def test_an_epoch_that_nobody_was_given_is_found() -> None:
    """The binding that was acknowledged had another epoch."""
    assert judged(*bind("ok", 1, 5), seen("n1", 9, 2)) is False


def test_the_tiny_world_has_one_owner_at_a_time() -> None:
    """Valid histories pass both checkers."""
    for seed in range(30):
        history = reference.run(seed).history
        assert dual_owner.check(history, TEST).valid is True
        assert unconfirmed.check(history, TEST).valid is True
