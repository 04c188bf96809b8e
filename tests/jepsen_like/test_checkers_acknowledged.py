"""What callers were told against what the logs hold. And whatever one spoils in a random run, its checker finds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from jepsen_like.checkers import acknowledged, trail
from jepsen_like.checkers.compose import check_all
from tests.jepsen_like import reference
from tests.jepsen_like.damage import answers, copied, everywhere, gapped, is_change, place_of
from tests.jepsen_like.reference import NODES, TEST, Run

Event = dict[str, Any]


def of_acknowledged(run: Run, **test: Any) -> Any:
    return acknowledged.check(run.history, TEST | test, run.finals)


@pytest.fixture(params=[True, False], ids=["ids", "no ids"])
def either(request: pytest.FixtureRequest) -> Run:
    """A run whose history knows op ids, and one whose history does not."""
    return reference.run(23, ops=300, know_ids=request.param)


def test_valid_runs_pass_with_and_without_ids(either: Run) -> None:
    """And over a gap."""
    verdict = of_acknowledged(either)
    assert (verdict.valid, verdict.errors) == (True, [])
    assert verdict.stats["ok"] > 40
    gapped(either, "n1")
    assert of_acknowledged(either).valid is True


def acknowledged_place(run: Run, f: str = "renew") -> tuple[Event, int]:
    """An acknowledged op and the place of its transition."""
    answer = answers(run, "ok", f)[2]
    version = answer["value"]["state_version"]
    is_its = lambda e: is_change(e) and (e["session_id"], e["state_version"]) == (answer["key"], version)  # noqa: E731
    return answer, place_of(run, is_its)


def test_an_acknowledged_op_that_is_nowhere_is_found(either: Run) -> None:
    """All replicas agree that it never happened; its caller knows better."""
    answer, place = acknowledged_place(either)
    everywhere(either, lambda lines: lines.pop(place))
    errors = of_acknowledged(either).errors
    assert any(error.startswith(f"renew of {answer['key']}") and "acknowledged" in error for error in errors)


@pytest.mark.parametrize("outcome", ["committed", "rejected", "unavailable", "unknown"])
def test_what_a_node_says_of_an_op_later_must_be_so(outcome: str) -> None:
    """Asked for one that stands in the log, and for one that does not."""
    run = reference.run(23, ops=300, know_ids=True)
    _, place = acknowledged_place(run)
    there = trail.op_id(run.finals["n1"]["events"][place])
    for one_id, is_there in ((there, True), ("n1:0000000000000000:99", False)):
        said = {"type": "info", "process": "observer", "f": "outcome", "node": "n1", "key": None}
        value = {"op_id": one_id, "outcome": outcome}
        last = run.history[-1]
        history = [*run.history, said | {"value": value, "time": last["time"], "index": len(run.history)}]
        verdict = acknowledged.check(history, TEST, run.finals)
        assert verdict.valid is (outcome == "unknown" or is_there == (outcome == "committed"))


def test_an_acknowledged_op_that_happened_twice_is_found(either: Run) -> None:
    """A retry must not count."""
    _, place = acknowledged_place(either)
    everywhere(either, lambda lines: lines.insert(place + 1, dict(lines[place])))
    assert any("has 2 transitions" in error for error in of_acknowledged(either).errors)


def test_an_acknowledged_op_that_one_node_lacks_is_found(either: Run) -> None:
    """At its end, where the numbers do not show it, or in a node that has nothing."""
    del either.finals["n2"]["events"][-40:]
    assert any("which n2 does not have" in error for error in of_acknowledged(either).errors)
    either.finals["n2"]["events"] = []
    assert any("which n2 does not have" in error for error in of_acknowledged(either).errors)
    assert of_acknowledged(either, strategy="sticky").valid is False  # each of its logs is whole, and n1 and n3 agree


def test_an_acknowledged_op_that_somebody_else_made_is_found(either: Run) -> None:
    """Under its version stands another node's transition."""
    answer, place = acknowledged_place(either)
    other = next(node for node in NODES if node != answer["node"])
    everywhere(either, lambda lines: lines[place].update(node=other))
    assert any(f"was made by renew of {other}" in error for error in of_acknowledged(either).errors)


@pytest.mark.parametrize("f", ["create", "reattach", "renew", "detach", "migrate"])
def test_a_refused_op_that_happened_is_found(either: Run, f: str) -> None:
    """By its id, or by doing exactly what it asked for."""
    answer = answers(either, "ok", f)[1]
    answer.update(type="fail", value={"reason": "NO_QUORUM", "session": None})
    verdict = of_acknowledged(either)
    assert verdict.valid is False
    assert any(error.startswith(f"{f} of {answer['key']}") and "refused" in error for error in verdict.errors)


def test_an_unknown_op_that_came_after_its_deadline_is_found(either: Run) -> None:
    """The stamp of its entry is what counts."""
    answer = answers(either, "ok", "reattach")[1]
    later = [e for e in either.history if e["process"] == answer["process"] and e["index"] > answer["index"]]
    for event in later:
        event["process"] += 1_000_000  # a process ends with an op of unknown outcome
    answer.update(type="info", value=None, deadline_ms=10**9)
    assert of_acknowledged(either).valid is True
    answer["deadline_ms"] = 1
    assert any("after the deadline 1 ms" in error for error in of_acknowledged(either).errors)


def test_an_unknown_op_that_happened_twice_is_found() -> None:
    """At most once."""
    run = reference.run(23, ops=300)
    ids = {e["op_id"] for e in run.history if e["type"] == "info" and "op_id" in e}
    place = place_of(run, lambda e: is_change(e) and trail.op_id(e) in ids, nth=0)
    everywhere(run, lambda lines: lines.insert(place + 1, dict(lines[place])))
    assert any("2 transitions under" in error for error in of_acknowledged(run).errors)


def test_what_nodes_do_by_themselves_is_nobodys_op(either: Run) -> None:
    """A session resumed without a binding, or a late commit undone, proves nothing against a refused op."""
    history = [e for e in either.history if not isinstance(e["process"], int)]
    event = either.finals["n1"]["events"][0]
    base = {"process": 1, "key": "s0", "node": "n1", "time": 0, "index": 0}
    for f, reason in (("resume", None), ("detach", "LATE_COMMIT")):
        done = event | {"event": "Resumed", "op": f, "session_id": "s0", "node": "n1", "state_version": 4}
        either.finals.update({node: {"events": [done | {"detail": None, "reason": reason}]} for node in NODES})
        ask = [base | {"type": "invoke", "f": f, "value": {"expected_version": 3}}]
        ask += [base | {"type": "fail", "f": f, "value": {"reason": "VERSION_MISMATCH", "session": None}}]
        assert acknowledged.check(history + ask, TEST, either.finals).valid is True


# -- anything ----------------------------------------------------------------------------------------------------------


def spoil_answer(run: Run, rng: Random) -> bool:
    """One field of one acknowledged answer."""
    chosen = rng.choice([e for e in run.history if e["type"] == "ok" and isinstance(e["process"], int)])
    field = rng.choice(("state_version", "epoch", "owner", "state", "binding"))
    old = chosen["value"][field]
    new = old + rng.choice((-1, 1)) if isinstance(old, int) else "ATTACHED" if field == "state" else "other"
    chosen["value"] = chosen["value"] | {field: new}
    return bool(new != old)


def spoil_event(run: Run, rng: Random) -> bool:
    """One field of one event at one node."""
    event = rng.choice(run.finals[rng.choice(NODES)]["events"])
    name = rng.choice(("at_ms", "seq", "epoch", "state_version", "index"))
    event[name] += 1
    return True


def forget_op(run: Run, rng: Random) -> bool:
    """One acknowledged transition is in no log."""
    done = [e for e in run.history if e["type"] == "ok" and e["f"] in ("reattach", "renew", "detach")]
    answer = rng.choice(done)
    at = (answer["key"], answer["value"]["state_version"])
    place = place_of(run, lambda e: e["event"] != "Refused" and (e["session_id"], e["state_version"]) == at)
    everywhere(run, lambda lines: lines.pop(place))
    return True


def lie_about_outcome(run: Run, rng: Random) -> bool:
    """One that happened is called refused."""
    done = [e for e in run.history if e["type"] == "ok" and e["f"] in ("create", "reattach", "renew", "migrate")]
    rng.choice(done).update(type="fail", value={"reason": "LEASE_LOST", "session": None})
    return True


def second_owner(run: Run, rng: Random) -> bool:
    """Another node answers for a session while its owner does."""
    seen = [e for e in run.history if e["f"] in ("owns", "packet") and "from" not in e["value"]]
    if not seen:
        return False
    chosen = rng.choice(seen)
    other = rng.choice([node for node in NODES if node != chosen["node"]])
    run.history.insert(chosen["index"] + 1, chosen | {"node": other})
    return True


SPOILERS = {
    "answer": (spoil_answer, {"versions", "linearizable"}),
    "event": (spoil_event, {"audit_chain"}),
    "forgotten": (forget_op, {"acknowledged", "versions"}),
    "outcome": (lie_about_outcome, {"acknowledged"}),
    "owner": (second_owner, {"dual_owner"}),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_one_thing_spoiled_is_found_by_the_checker_for_it(name: str) -> None:
    """In random runs that pass, one random change of a kind is always found, and by whom it should be."""
    spoil, finders = SPOILERS[name]
    tried = 0
    for seed in range(60):
        made = reference.run(seed, ops=120, know_ids=seed % 2 == 0)
        assert check_all(made.history, TEST, made.finals).valid is True, f"seed {seed}"
        run = copied(made)
        if spoil(run, Random(seed)):
            tried += 1
            verdict = check_all(run.history, TEST, run.finals)
            found = {checker for checker, told in verdict.stats.items() if told["valid"] is False}
            assert verdict.valid is False, f"seed {seed}"
            assert finders & found, f"seed {seed}: found by {found}"
    assert tried > 30


@pytest.mark.parametrize(("reason", "valid"), [("MIGRATION", False), ("DRAIN", True), ("MAPPING", True)])
def test_a_move_that_the_node_made_by_itself_is_not_that_of_a_refused_migration(reason: str, valid: bool) -> None:
    """Refused because the node stops, and then its drain moved the session from the same version to the same target."""
    run = reference.run(23, ops=300, know_ids=False)
    answer = next(a for a in answers(run, "ok", "migrate") if a["value"]["state"] == "FROZEN")
    session_id, version = answer["key"], answer["value"]["state_version"]
    answer.update(type="fail", error="NODE_STOPPING", value={"reason": "NODE_STOPPING", "session": None})
    at = (session_id, version - 1)
    frozen = place_of(run, lambda e: is_change(e) and (e["session_id"], e["state_version"]) == at)
    everywhere(run, lambda lines: lines[frozen].update(reason=reason))
    errors = [e for e in of_acknowledged(run).errors if session_id in e]
    assert (errors == []) is valid, errors
