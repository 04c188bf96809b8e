"""The audit trail: one event for everything, JSON and back, and the chain that an auditor recomputes."""

from __future__ import annotations

import json
from itertools import groupby

import pytest

from raftstore.ownership import chain_next, event_as_dict, event_from_dict
from raftstore.ownership import commands as c
from raftstore.ownership.events import EVENT_NAMES, FIELDS, GENESIS_HEAD, pack_events

B1 = ("t1", "udp", "198.51.100.7:51820")


def story(driver):
    """A history in which every kind of event occurs; returns all events."""
    events = []

    def do(*args, **kwargs):
        driver.do(*args, **kwargs)
        events.extend(driver.applied.events)

    do("a", c.configure, {"lease_ttl_ms": 3_000, "partition_policy": "deny"})
    do("a", c.join)
    for op in (
        (c.create, "s", B1, 600_000),
        (c.reattach, "s", 1, B1),
        (c.detach, "s", 2, "NO_DELIVERY"),
        (c.renew, "s", 3, 600_000),
        (c.freeze, "s", 4, "DRAIN", "b"),
        (c.thaw, "s", 5),
        (c.freeze, "s", 6, "MIGRATION", "b"),
        (c.transfer, "s", 7),
        (c.thaw, "s", 8),
    ):
        do("a", *op)
    do("b", c.resume, "s", 8, B1)
    do("a", c.create, "t", B1, 1_000)
    do("b", c.terminate, "s", 9, "POLICY")
    driver.now_ms += 1_000
    do("a", c.sweep, [("t", 1)])
    do("c", c.drain)
    do("c", c.leave)
    mapping = (1, [("a", 1, False), ("d", 1, False)], ["a", "d"], [])
    do("a", c.adopt, *mapping)
    do("a", c.confirm, "d", 1, driver.machine.placement.mapping.digest(), 7, ["a", "d"])
    do("a", c.settle, 1)
    do("a", c.adopt, 2, mapping[1], ["a", "d", "e"], [])
    for peer in "de":
        do("a", c.confirm, peer, 2, driver.machine.placement.mapping.digest(), 7, ["a", "d"])
    do("a", c.settle, 2)
    do("a", c.close, 2)
    do("a", c.create_mapped, "u", B1, 600_000, None, 2)
    do("a", c.freeze, "u", 1, "MAPPING", "d")
    do("a", c.transfer, "u", 2)
    do("a", c.reclaim, "u", 3, 2)
    do("a", c.resume, "u", 4, None)
    do("a", c.freeze, "u", 5, "MAPPING", "d")
    do("a", c.transfer, "u", 6)
    do("a", c.forget, "u", 7, "d", 2)
    do("a", c.admit, "u", 2, "d", 4, 9, 0, "deny", 1_000, 900_000, None, None, 2)
    events.extend(driver.batch(jump=5).events)
    events.extend(driver.raw(b"nonsense").events)
    return events


def test_every_kind_of_event_occurs_with_a_running_number(driver):
    """Events are numbered without a gap over the whole history."""
    first = driver.machine.event_seq + 1
    events = story(driver)
    assert [event[0] for event in events] == list(range(first, first + len(events)))
    assert {event_as_dict(event)["event"] for event in events} == set(EVENT_NAMES[1:])
    assert driver.machine.event_seq == events[-1][0]


def test_events_survive_json_exactly(driver):
    """The JSON form is invertible, other keys beside it are ignored."""
    for event in story(driver):
        line = json.loads(json.dumps({**event_as_dict(event), "head": "00", "time": "2030-01-01"}))
        assert event_from_dict(line) == event


def test_an_auditor_recomputes_the_chain_from_json_lines_alone(new_driver):
    """All lines with one index, packed in order, give that batch's bytes; the heads follow."""
    driver = new_driver("")
    events = []
    for node in "abc":
        driver.do(node, c.join)
        events.extend(driver.applied.events)
    events.extend(story(driver))
    lines = [json.dumps(event_as_dict(event)) for event in events]
    head = GENESIS_HEAD
    for index, batch in groupby((event_from_dict(json.loads(line)) for line in lines), key=lambda event: event[1]):
        head = chain_next(head, index, pack_events(list(batch)))
    assert head == driver.machine.head


def test_a_batch_without_events_leaves_the_head(driver):
    """Lease renewals and empty batches do not touch the chain; a refused renewal does."""
    head = driver.machine.head
    driver.do("a", c.renew_lease)
    driver.batch()
    assert driver.machine.head == head
    assert driver.applied.events_packed == b""
    driver.pass_ms(4_000)
    driver.do("a", c.renew_lease)
    assert driver.machine.head == head
    driver.do("a", c.renew_lease, inc=9)
    assert driver.machine.head == driver.applied.head != head


def test_a_refusal_names_the_op_the_actor_and_the_session_as_it_stands(driver):
    """Who asked for what, when, and why not."""
    driver.session("attached")
    driver.do("b", c.reattach, "s", 1, B1)
    shown = event_as_dict(driver.applied.events[0])
    assert shown == {
        "number": driver.machine.event_seq,
        "index": driver.index,
        "at_ms": 1_000,
        "wall_ms": 0,
        "event": "Refused",
        "session_id": "s",
        "node": "b",
        "op": "reattach",
        "incarnation": f"{202:016x}",
        "seq": driver.seq,
        "from_state": "ATTACHED",
        "to_state": "ATTACHED",
        "owner": "a",
        "epoch": 1,
        "state_version": 1,
        "reason": "OWNERSHIP_CONFLICT",
        "detail": None,
    }


def test_a_refusal_before_the_session_is_looked_at_still_names_it(driver):
    """Late, fenced and unknown senders leave a trace that can be searched by session."""
    for kwargs in ({"deadline": 1}, {"inc": 9}):
        driver.do("a", c.reattach, "s", 1, B1, **kwargs)
        assert event_as_dict(driver.applied.events[0])["session_id"] == "s"


def test_a_change_of_owner_says_by_what(driver):
    """TRANSFER or FAILOVER, and from whom."""
    driver.session("transferred")
    shown = event_as_dict(driver.applied.events[0])
    assert (shown["event"], shown["reason"], shown["owner"], shown["detail"]) == ("OwnerChanged", "TRANSFER", "b", "a")
    driver.session("attached", "t")
    driver.pass_ms(4_000, alive="c")
    driver.do("c", c.failover, "t", 1)
    shown = event_as_dict(driver.applied.events[0])
    assert (shown["event"], shown["reason"], shown["owner"], shown["epoch"]) == ("OwnerChanged", "FAILOVER", "c", 2)


def test_a_session_that_comes_or_goes_says_from_whom_and_to_whom(driver):
    """The two halves of a move, each in the trail of its own log, with the version and epoch that they share."""
    shown = [event_as_dict(event) for event in story(driver)]
    (gone,) = (line for line in shown if line["event"] == "SessionHandedOver")
    (come,) = (line for line in shown if line["event"] == "SessionAdmitted")
    assert (gone["session_id"], gone["op"], gone["from_state"], gone["to_state"]) == ("u", "forget", "FROZEN", None)
    assert (gone["owner"], gone["epoch"], gone["state_version"]) == ("d", 4, 7)
    assert (come["session_id"], come["op"], come["from_state"], come["to_state"]) == ("u", "admit", None, "FROZEN")
    assert (come["owner"], come["epoch"], come["state_version"], come["detail"]) == ("a", 4, 9, "d")


def test_the_trail_tells_each_step_of_a_mapping_in_words(driver):
    """Which nodes with which weights, who confirmed, and when it was certain."""
    told = [(e["event"], e["detail"]) for e in map(event_as_dict, story(driver)) if e["event"].startswith("Mapping")]
    assert told == [
        ("MappingAdopted", "epoch 1: a=1 d=1"),
        ("MappingConfirmed", "epoch 1: d"),
        ("MappingSettled", "epoch 1"),
        ("MappingAdopted", "epoch 2: a=1 d=1"),
        ("MappingConfirmed", "epoch 2: d"),
        ("MappingConfirmed", "epoch 2: e"),
        ("MappingSettled", "epoch 2"),
        ("MappingClosed", "epoch 2"),
    ]
    driver.do("a", c.adopt, 3, [("a", 3, False), ("d", 2, True)], ["a"], ["e", "f"])
    assert event_as_dict(driver.applied.events[0])["detail"] == "epoch 3: a=3 d=2,draining; lost e f"


def test_an_undecodable_batch_is_one_event_and_changes_nothing_else(driver):
    """Neither the clock nor any session moves."""
    driver.session("attached")
    before = (dict(driver.machine.sessions), dict(driver.machine.nodes), driver.machine.clock_ms)
    applied = driver.raw(b"\xc1\xc1")
    assert [event_as_dict(event)["event"] for event in applied.events] == ["MalformedBatch"]
    assert (driver.machine.sessions, driver.machine.nodes, driver.machine.clock_ms) == before


def test_a_malformed_op_is_refused_alone(driver):
    """Its neighbours in the batch are applied, in order."""
    good = c.create(900, 2**50, "s", B1, 600_000), c.create(902, 2**50, "t", B1, 600_000)
    applied = driver.batch(("a", 101, 0, [good[0], b"\x93\x0b\xcd\x03\x85\xc0", good[1]]))
    assert [(seq, code) for seq, (code, _) in applied.groups[0][2]] == [(900, 0), (901, 16), (902, 0)]
    assert [event_as_dict(event)["event"] for event in applied.events] == [
        "SessionCreated",
        "Refused",
        "SessionCreated",
    ]


@pytest.mark.parametrize("field", FIELDS)
def test_nonsense_is_no_event(driver, field):
    """A line with a part missing or of another type is refused."""
    driver.session("attached")
    shown = event_as_dict(driver.applied.events[0])
    for bad in (2.5, [], {}, True):
        with pytest.raises(ValueError, match="not an audit event"):
            event_from_dict({**shown, field: bad})
    del shown[field]
    with pytest.raises(ValueError, match="not an audit event"):
        event_from_dict(shown)


def test_a_record_says_since_which_entry_its_owner_owns_it(driver):
    """Creation and changes of owner set the log index; everything else leaves it."""
    driver.do("a", c.create, "s", B1, 600_000, None)
    created = driver.index
    driver.do("a", c.reattach, "s", 1, B1, None)
    driver.do("a", c.freeze, "s", 2, "MIGRATION", "b")
    assert driver.machine.sessions["s"].owned_since == created
    driver.do("a", c.transfer, "s", 3)
    moved = driver.index
    driver.do("b", c.resume, "s", 4, B1)
    assert driver.machine.sessions["s"].owned_since == moved
