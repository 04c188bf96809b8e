"""Audit trails: the chain, and versions. Valid ones pass, and each kind of damage is found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from jepsen_like.checkers import acknowledged, audit_chain, trail, versions
from jepsen_like.history import HistoryError
from raftstore.ownership import commands, events, records
from tests.jepsen_like import reference
from tests.jepsen_like.damage import answers, copied, everywhere, gapped, is_change, place_of
from tests.jepsen_like.reference import TEST, Run

Event = dict[str, Any]


@pytest.fixture(scope="module")
def made() -> Run:
    """A run of the tiny world with some hundred events."""
    return reference.run(21, ops=300)


@pytest.fixture
def run(made: Run) -> Run:
    return copied(made)


# -- the format, written down twice ------------------------------------------------------------------------------------


def test_the_second_copy_of_the_format_agrees_with_the_first() -> None:
    """A number that changed in the code under test would break every auditor's files."""
    assert trail.FIELDS == events.FIELDS
    assert {name: code for code, name in enumerate(events.EVENT_NAMES) if code} == trail.EVENTS
    assert {None: 0} | {name: code for code, name in commands.OP_NAMES.items()} == trail.OPS
    assert {name: code for code, name in enumerate(records.STATE_NAMES)} == trail.STATES


def test_the_second_spelling_of_an_event_agrees_with_the_first(made: Run) -> None:
    """Byte for byte: the chain heads are the same."""
    for event in made.finals["n1"]["events"]:
        assert trail.fields(event) == events.event_from_dict(event)


# -- the chain ---------------------------------------------------------------------------------------------------------


def chain(run: Run, **test: Any) -> Any:
    return audit_chain.check(run.history, TEST | test, run.finals)


def test_equal_whole_trails_pass(run: Run) -> None:
    """With and without stated heads, from files with headers, and over an explained gap."""
    assert chain(run).valid is True
    for event in run.finals["n1"]["events"]:
        event.pop("head", None)
    assert chain(run).valid is True
    run.finals["n2"]["events"].insert(0, {"audit": 1, "node": "n2", "first": 1, "prev_head": bytes(32).hex()})
    assert chain(run).valid is True
    gapped(run, "n3")
    assert chain(run).valid is True


def test_a_trail_that_begins_later_is_checked_from_its_header(run: Run) -> None:
    """Old files may be gone: the header says where the chain stood."""
    lines = run.finals["n2"]["events"]
    end = next(place for place, event in enumerate(lines) if "head" in event and place > 20)
    header = {"audit": 1, "first": end + 2, "prev_head": lines[end]["head"]}
    lines[: end + 1] = [header]
    assert chain(run).valid is True
    header["prev_head"] = bytes(32).hex()
    assert "does not follow" in chain(run).errors[0]


def test_a_changed_field_breaks_the_chain_and_the_agreement(run: Run) -> None:
    """Any field of any event."""
    rng = Random(1)
    for name in trail.FIELDS[2:]:
        broken = copied(run)
        event = rng.choice(broken.finals["n2"]["events"])
        event[name] = {"event": "Renewed", "op": "leave", "incarnation": "00000000000000ff"}.get(
            name,
            "FROZEN" if name.endswith("_state") else (event[name] + 1 if isinstance(event[name], int) else "other"),
        )
        verdict = chain(broken)
        assert verdict.valid is False, name
        if event != run.finals["n2"]["events"][event["number"] - 1]:
            assert any("differ in " + name in error for error in verdict.errors), name


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: lines.pop(40), "audit event 42 where 41 was due"),
        (lambda lines: lines.insert(40, dict(lines[40])), "audit event 41 where 42 was due"),
        (lambda lines: lines.insert(40, lines.pop(45)), "where 41 was due"),
        (lambda lines: lines[40].update(head="00" * 32), "does not follow"),
        (lambda lines: lines[-1].update(head="00" * 32), "does not follow"),
        (lambda lines: lines[60].update(index=1), "log index 1 after"),
    ],
)
def test_damage_to_one_trail_is_found(run: Run, damage: Callable[[list[Event]], Any], found: str) -> None:
    """A line removed, doubled, moved; a head that is made up; an index that goes back."""
    damage(run.finals["n2"]["events"])
    verdict = chain(run)
    assert verdict.valid is False
    assert any(found in error and "n2" in error for error in verdict.errors), verdict.errors


def test_an_event_that_is_missing_everywhere_is_found_by_the_state(run: Run) -> None:
    """The replicated head covers what the files no longer show."""
    for final in run.finals.values():
        del final["events"][-1]
        final["events"][-1].pop("head", None)
    assert any("the chain head of its state" in error for error in chain(run).errors)


def test_states_that_differ_at_the_same_event_are_found(run: Run) -> None:
    """Even where trails are equal."""
    run.finals["n3"]["head"] = "11" * 32
    assert any("n1 and n3 have different chain heads" in error for error in chain(run).errors)


def test_events_beyond_the_state_are_found(run: Run) -> None:
    """A trail cannot know more than the state it comes from."""
    run.finals["n3"]["index"] = 3
    assert any("n3: events up to log index" in error for error in chain(run).errors)


def test_sticky_nodes_have_logs_of_their_own(run: Run) -> None:
    """They need not agree; each chain must hold."""
    other = reference.run(22).finals["n2"]
    run.finals["n2"] = other
    assert chain(run).valid is False
    assert chain(run, strategy="sticky").valid is True
    other["events"][3]["detail"] = "other"
    assert chain(run, strategy="sticky").valid is False


def test_no_trail_is_unknown() -> None:
    """Nothing was shown."""
    assert audit_chain.check([], TEST, {"n1": {"sessions": []}}).valid == "unknown"
    assert acknowledged.check([], TEST, {}).valid == "unknown"


def test_an_event_without_its_fields_is_no_event(run: Run) -> None:
    """The checker fails, which `compose` makes unknown."""
    del run.finals["n1"]["events"][4]["epoch"]
    with pytest.raises(ValueError, match="n1: audit event 5 without epoch"):
        chain(run)


# -- versions ----------------------------------------------------------------------------------------------------------


def of_versions(run: Run, **test: Any) -> Any:
    return versions.check(run.history, TEST | test, run.finals)


def test_versions_of_a_valid_run_make_one_line(run: Run) -> None:
    """Told, logged and ended alike; also where one node has a gap."""
    assert of_versions(run).valid is True
    gapped(run, "n1")
    assert of_versions(run).valid is True


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"state_version": 2}, "after version"),
        ({"state_version": 1}, "after version"),
        ({"epoch": 1}, "to owner"),
        ({"owner": "n9"}, "to owner"),
        ({"from_state": "FROZEN"}, "begins in FROZEN"),
    ],
)
def test_a_transition_that_does_not_follow_is_found(run: Run, change: Event, found: str) -> None:
    """Version not plus one, epoch and owner not together, a state from nowhere; on all replicas alike."""
    keys = {"state_version": lambda v: v + change["state_version"], "epoch": lambda v: v + 1}

    def spoil(lines: list[Event]) -> None:
        event = lines[place_of(run, lambda e: is_change(e) and e["from_state"] == "ATTACHED")]
        event.update({name: keys[name](event[name]) if name in keys else value for name, value in change.items()})

    everywhere(run, spoil)
    verdict = of_versions(run)
    assert verdict.valid is False
    assert any(found in error for error in verdict.errors), verdict.errors


def test_a_transition_that_is_missing_or_twice_is_found(run: Run) -> None:
    """One event per transition, though the chain was made to fit."""
    place = place_of(run, is_change, nth=30)
    for change in (lambda lines: lines.pop(place), lambda lines: lines.insert(place, dict(lines[place]))):
        broken = copied(run)
        everywhere(broken, change)
        assert chain(broken).valid is True
        assert any("after version" in error for error in of_versions(broken).errors)


def test_a_session_does_not_go_on_after_its_end(run: Run) -> None:
    """TERMINATED is final."""

    def spoil(lines: list[Event]) -> None:
        event = lines[place_of(run, is_change)]
        event["to_state"] = "TERMINATED"

    everywhere(run, spoil)
    assert any("after the end of the session" in error for error in of_versions(run).errors)


@pytest.mark.parametrize("field", ["state", "owner", "epoch", "binding"])
def test_an_answer_that_differs_from_the_log_is_found(run: Run, field: str) -> None:
    """Under one version stands one state, whoever tells of it."""
    bound = {}
    for event in answers(run, "ok", "get"):
        bound.setdefault((event["key"], event["value"]["state_version"]), []).append(event)
    twice = next(events for events in bound.values() if len(events) > 1)
    twice[0]["value"] = twice[0]["value"] | {field: 77 if field == "epoch" else "other"}
    verdict = of_versions(run)
    assert verdict.valid is False
    assert any(f"{twice[0]['key']} version" in error for error in verdict.errors)


def test_an_op_that_adds_more_than_its_versions_is_found(run: Run) -> None:
    """Plus one, for a migration plus two, for a create from nothing."""
    for f in ("reattach", "migrate", "create"):
        broken = copied(run)
        event = answers(broken, "ok", f)[0]
        event["value"] = event["value"] | {"state_version": event["value"]["state_version"] + 1}
        assert any(error.startswith(f"{f} of") for error in of_versions(broken).errors)


def test_a_read_that_shows_the_past_is_found(run: Run) -> None:
    """Of linearizable reads; a local one may."""
    creation = answers(run, "ok", "create")[0]
    late = [e for e in answers(run, "ok", "get") if e["key"] == creation["key"] and e["value"]["state_version"] > 4][-1]
    late["value"] = creation["value"]
    assert any("version 1, after" in error for error in of_versions(run).errors)
    for event in run.history:
        if event["process"] == late["process"] and event["f"] == "get":
            event["f"] = "get-local"
    assert of_versions(run).valid is True


def test_a_refusal_without_a_reason_is_found(run: Run) -> None:
    """VERSION_MISMATCH against the version that was expected."""
    invoke, done = [dict(e) for e in run.history if e["process"] == run.history[1]["process"]][:2]
    fail = {"type": "fail", "f": "renew", "process": 9_999, "key": "zz"}
    session = {"state_version": 3, "epoch": 1, "state": "ATTACHED", "owner": "n1", "binding": "t"}
    run.history.append(invoke | fail | {"type": "invoke", "value": {"expected_version": 3}})
    run.history.append(done | fail | {"value": {"reason": "VERSION_MISMATCH", "session": session}})
    assert any("though version 3 was expected and stands" in error for error in of_versions(run).errors)


def test_a_node_that_ends_with_less_than_was_told_is_found(run: Run) -> None:
    """A session that went back, or is gone; under the sticky strategy some node must have it."""
    told = max((e for e in answers(run, "ok", "get")), key=lambda e: e["value"]["state_version"])
    for keep in (True, False):
        broken = copied(run)
        sessions = broken.finals["n3"]["sessions"]
        (session,) = [s for s in sessions if s["session_id"] == told["key"]]
        sessions.remove(session)
        if keep:
            old = next(e["value"] for e in answers(run, "ok", "create") if e["key"] == told["key"])
            sessions.append(dict(old))
        assert any("n3 ended with" in error for error in of_versions(broken).errors)
        assert not any("n3 ended with" in error for error in of_versions(broken, strategy="sticky").errors)


def test_a_session_that_moved_between_sticky_logs_is_one_line() -> None:
    """Frozen and transferred in one log, admitted and resumed in the other; a fork is a version that occurs twice."""
    made = [("SessionCreated", None, "ATTACHED", "n1", 1), ("Frozen", "ATTACHED", "FROZEN", "n1", 1)]
    made += [("OwnerChanged", "FROZEN", "FROZEN", "n2", 2), ("Resumed", "FROZEN", "ATTACHED", "n2", 2)]
    base = {"at_ms": 0, "wall_ms": 0, "session_id": "s", "op": "create", "incarnation": "0" * 16, "reason": None}
    lines = [
        base | {"event": name, "from_state": old, "to_state": new, "owner": owner, "epoch": epoch, "state_version": v}
        for v, (name, old, new, owner, epoch) in enumerate(made, start=1)
    ]
    lines = [line | {"node": "n1", "seq": v, "detail": None} for v, line in enumerate(lines)]
    admitted = lines[2] | {"event": "SessionAdmitted", "op": "admit"}

    def final(*events: Event) -> Event:
        return {"events": [e | {"number": n, "index": n} for n, e in enumerate(events, start=1)]}

    sticky = TEST | {"strategy": "sticky"}
    assert versions.check([], sticky, {"n1": final(*lines[:3]), "n2": final(admitted, lines[3])}).valid is True
    forked = {"n1": final(*lines), "n2": final(admitted, lines[3])}
    assert versions.check([], sticky, forked).valid is False


def test_a_history_that_cannot_be_paired_is_refused(run: Run) -> None:
    """No checker guesses."""
    with pytest.raises(HistoryError):
        versions.check(run.history[5:] + run.history[:5], TEST, run.finals)
