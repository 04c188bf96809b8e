"""Snapshots: the state frozen, packed elsewhere, and read back to go on as if nothing had been."""

from __future__ import annotations

import threading

import msgpack
import pytest

from raftstore.ownership import commands as c
from raftstore.ownership import invariants, restore
from raftstore.ownership.records import Mark, SessionRecord
from raftstore.ownership.snapshot import DEPARTED, HEADER, PLACEMENT, RESULTS, SESSIONS, SLICE_RECORDS, TRAILER
from raftstore.storage.values import Limits

B1 = ("t1", "udp", "198.51.100.7:51820")


def history(driver):
    """Something of everything."""
    driver.do("a", c.configure, {"sessions_max": 99_999, "partition_policy": "terminate"})
    for state in ("attached", "recovering", "frozen", "transferred", "terminated"):
        driver.session(state, state)
    driver.do("c", c.drain)
    driver.do("c", c.join, inc=333)
    driver.do("b", c.reattach, "attached", 1, B1)


def test_a_restored_machine_is_the_same_and_goes_on_alike(driver):
    """State, head, numbers and remembered results are kept; the same entries then give the same bytes."""
    history(driver)
    twin = restore(list(driver.machine.freeze_state().chunks()))
    assert twin.state_digest() == driver.machine.state_digest()
    assert list(twin.sessions) == list(driver.machine.sessions)
    assert invariants.check(twin) == []
    assert (twin.tally.owned, twin.tally.attached) == (
        {k: v for k, v in driver.machine.tally.owned.items() if v},
        {k: v for k, v in driver.machine.tally.attached.items() if v},
    )
    begin = len(driver.entries)
    driver.do("a", c.thaw, "frozen", 2)
    driver.do("b", c.resume, "transferred", 3)
    driver.raw(driver.entries[begin - 1][1])  # a retry of what happened before the snapshot
    assert driver.applied.events == []
    for index, data in driver.entries[begin:]:
        applied = twin.apply(index, 1, data)
    assert applied == driver.applied
    assert twin.state_digest() == driver.machine.state_digest()


def test_a_frozen_state_is_not_touched_by_what_follows(driver):
    """It can be written by another thread, later, while the machine goes on."""
    history(driver)
    frozen = driver.machine.freeze_state()
    digest = driver.machine.state_digest()
    driver.do("a", c.reattach, "attached", 1, B1)
    driver.do("a", c.configure, {"sessions_max": 7})
    driver.do("b", c.leave)
    driver.batch(("a", 101, 10_000, []))
    chunks: list[bytes] = []
    writer = threading.Thread(target=lambda: chunks.extend(frozen.chunks()))
    writer.start()
    writer.join()
    assert restore(chunks).state_digest() == digest
    assert frozen.index < driver.machine.index


def test_many_sessions_and_results_come_in_slices(driver):
    """No chunk holds more than a slice, so a packing thread lets others run."""
    ops = [c.create(1_000 + n, 2**50, f"s{n}", B1, 600_000) for n in range(2 * SLICE_RECORDS + 1)]
    driver.batch(("a", 101, 0, ops))
    chunks = list(driver.machine.freeze_state().chunks())
    assert len(chunks) >= 1 + 3 + 3 + 1
    assert restore(chunks).state_digest() == driver.machine.state_digest()


def test_a_slice_of_the_largest_records_is_a_chunk_that_can_be_stored(driver):
    """Every text as long as it can be, every number as large."""
    text, number = "~" * c.ID_CHARS_MAX, c.NUMBER_MAX
    binding = "\n".join(["~" * c.BINDING_FIELD_CHARS_MAX] * 3)
    largest = SessionRecord(
        text, 4, text, number, number, binding, number, number, number, number, text, text, c.INCARNATION_MAX,
        c.SEQ_MAX, True, "terminate", number,
    )  # fmt: skip
    for n in range(SLICE_RECORDS):
        driver.machine.sessions[f"{n:~>{c.ID_CHARS_MAX}}"] = largest._replace(session_id=f"{n:~>{c.ID_CHARS_MAX}}")
    driver.machine.remembered["a"].results = {c.SEQ_MAX - n: (0, largest) for n in range(SLICE_RECORDS)}
    sizes = [len(chunk) for chunk in driver.machine.freeze_state().chunks()]
    assert sum(size > 1_000_000 for size in sizes) == 2
    assert max(sizes) <= Limits().snapshot_chunk_bytes_max


def sticky(new_driver):
    """Node a alone in its log, with a mapping, sessions here, away and gone, and a peer declared lost."""
    driver = new_driver("a")
    digest = None
    for epoch, nodes, lost in ((1, "abc", ""), (2, "ab", "c")):
        driver.do("a", c.adopt, epoch, [(node, 1, node == "b") for node in nodes], "abc", lost)
        digest = driver.machine.placement.mapping.digest()
        driver.do("a", c.confirm, "b", epoch, digest, 2**64 - 1, "ab")
        driver.do("a", c.confirm, "c", epoch, digest, 7, "ad")
        driver.do("a", c.settle, epoch)
    for sid in ("here", "away", "gone", "too"):
        driver.do("a", c.create_mapped, sid, B1, 600_000, None, 2)
        if sid != "here":
            driver.do("a", c.freeze, sid, 1, "MAPPING", "b")
            driver.do("a", c.transfer, sid, 2)
    for sid in ("gone", "too"):
        driver.do("a", c.forget, sid, 3, "b", 2)
    driver.do("a", c.admit, "come", 2, "b", 2, 5, 0, "deny", 5, 900_000, None, None, 2)
    assert (set(driver.machine.sessions), set(driver.machine.departed)) == ({"here", "away", "come"}, {"gone", "too"})
    return driver


def test_what_a_node_knows_of_mappings_and_of_departed_sessions_is_kept(new_driver):
    """Read back it is the same, and goes on alike."""
    driver = sticky(new_driver)
    twin = restore(list(driver.machine.freeze_state().chunks()))
    assert twin.placement == driver.machine.placement
    assert twin.departed == driver.machine.departed
    assert twin.tally.owned == {k: v for k, v in driver.machine.tally.owned.items() if v}
    assert twin.state_digest() == driver.machine.state_digest()
    assert invariants.check(twin) == []
    assert (twin.placement.involved, twin.placement.gone) == (("a", "b", "c", "d"), (7,))
    begin = len(driver.entries)
    driver.do("a", c.forget, "away", 3, "b", 2)
    driver.do("a", c.create_mapped, "gone", B1, 600_000, None, 2)
    driver.do("a", c.adopt, 3, [("a", 1, False)], "ab", "")
    for index, data in driver.entries[begin:]:
        applied = twin.apply(index, 1, data)
    assert applied == driver.applied
    assert twin.state_digest() == driver.machine.state_digest()


def test_a_frozen_mapping_is_not_touched_by_what_follows(new_driver):
    """Placement and marks are frozen with the rest."""
    driver = sticky(new_driver)
    frozen, digest = driver.machine.freeze_state(), driver.machine.state_digest()
    driver.do("a", c.forget, "away", 3, "b", 2)
    driver.do("a", c.adopt, 3, [("a", 1, False)], "ab", "")
    assert restore(frozen.chunks()).state_digest() == digest != driver.machine.state_digest()


def test_placement_and_marks_are_part_of_the_digest(new_driver):
    """Two machines that differ in nothing else differ."""
    driver = sticky(new_driver)
    digests = {driver.machine.state_digest()}
    place = driver.machine.placement
    for name, value in (
        ("store_id", 5), ("trail", (place.mapping,)), ("confirmed", ()), ("stores", ()), ("gone", ()),
        ("involved", ("a",)), ("opens_at_ms", 5), ("mapping", place.mapping._replace(epoch=9)),
    ):  # fmt: skip
        assert getattr(place, name) != value
        driver.machine.placement = place._replace(**{name: value})
        digests.add(driver.machine.state_digest())
    driver.machine.placement = place
    mark = Mark(3, 2)
    others = (
        {"gone": mark},
        {"gone": mark, "too": Mark(4, 2)},
        {"gone": mark, "too": Mark(3, 1)},
        {"gone": mark, "to": mark},
    )
    for marks in others:
        driver.machine.departed = marks
        digests.add(driver.machine.state_digest())
    assert len(digests) == 1 + 8 + len(others)


def test_a_machine_without_a_mapping_is_written_as_it_always_was(driver):
    """No chunk and no count of what it does not have: a snapshot of a shared log is what it was, byte by byte."""
    history(driver)
    chunks = [msgpack.unpackb(chunk) for chunk in driver.machine.freeze_state().chunks()]
    results = sum(len(memory.results) for memory in driver.machine.remembered.values())
    assert {chunk[0] for chunk in chunks} == {HEADER, SESSIONS, RESULTS, TRAILER}
    assert chunks[-1] == [TRAILER, len(driver.machine.sessions), results]
    assert [len(chunks[0]), chunks[0][:3]] == [10, [0, "raftstore-ownership", 1]]


def test_many_marks_come_in_slices(new_driver):
    """As many as sessions can come to be."""
    driver = sticky(new_driver)
    driver.machine.departed = {f"s{n}": Mark(n + 1, n + 2) for n in range(2 * SLICE_RECORDS + 1)}
    chunks = list(driver.machine.freeze_state().chunks())
    assert [msgpack.unpackb(chunk)[0] for chunk in chunks].count(DEPARTED) == 3
    assert restore(chunks).departed == driver.machine.departed


def test_a_snapshot_with_a_part_of_the_placement_missing_or_wrong_is_refused(new_driver):
    """Each chunk left out or doubled, each mark and each field of the placement replaced."""
    driver = sticky(new_driver)
    chunks = list(driver.machine.freeze_state().chunks())
    kinds = [msgpack.unpackb(chunk)[0] for chunk in chunks]
    for n, kind in enumerate(kinds):
        assert refuses(chunks[:n] + chunks[n + 1 :])
        assert kind == PLACEMENT or refuses(chunks[: n + 1] + chunks[n:])
    place, marks = kinds.index(PLACEMENT), kinds.index(DEPARTED)
    wrong = (
        ["gone", 0, 2], ["gone", None, 2], ["gone", 2**53, 2], ["gone", 3, 0], ["gone", 3, None], ["gone", 3, 2**53],
        ["gone", 3], ["", 3, 2], ["here", 3, 2], ["too", 3, 2], ["too", 3, 2, 2], "x", None,
    )  # fmt: skip
    for bad in wrong:
        assert refuses([*chunks[:marks], msgpack.packb([DEPARTED, [bad, ["too", 3, 2]]]), *chunks[marks + 1 :]])
    assert not refuses(
        [*chunks[:marks], msgpack.packb([DEPARTED, [["gone", 3, 2], ["too", 3, 2]]]), *chunks[marks + 1 :]]
    )
    fields = msgpack.unpackb(chunks[place])[1]
    refused = 0
    for n in range(len(fields)):
        for value in (None, 2.5, "x", [[1]], [[[]]], {}, True):
            changed = msgpack.packb([PLACEMENT, [*fields[:n], value, *fields[n + 1 :]]])
            refused += refuses([*chunks[:place], changed, *chunks[place + 1 :]])
        assert refuses(
            [*chunks[:place], msgpack.packb([PLACEMENT, fields[:n] + fields[n + 1 :]]), *chunks[place + 1 :]]
        )
    assert refused >= 8 * 5
    for n, value in (
        (3, [1]),
        (4, [[1, 7]]),
        (4, [["b", "x"]]),
        (4, [["b"]]),
        (5, ["x"]),
        (6, [1]),
        (1, "x"),
        (7, "x"),
    ):
        changed = msgpack.packb([PLACEMENT, [*fields[:n], value, *fields[n + 1 :]]])
        assert refuses([*chunks[:place], changed, *chunks[place + 1 :]])


def test_an_empty_machine_has_a_snapshot_too(new_driver):
    """Before the first entry as well as after."""
    machine = new_driver("").machine
    assert restore(machine.freeze_state().chunks()).state_digest() == machine.state_digest()


def test_chunks_missing_added_or_out_of_order_are_refused(driver):
    """What is not exactly one state is none."""
    history(driver)
    chunks = list(driver.machine.freeze_state().chunks())
    wrong = [[], chunks + chunks[-1:], chunks[::-1], [b"junk"], chunks[:-1] + [b"\xc0"]]
    wrong += [chunks[:n] + chunks[n + 1 :] for n in range(len(chunks))]
    wrong += [chunks[:n] + chunks[n : n + 1] + chunks[n:] for n in range(len(chunks))]
    for case in wrong:
        with pytest.raises(ValueError, match="snapshot"):
            restore(case)


def test_a_chunk_with_a_wrong_field_is_refused_or_read_but_never_fatal(driver):
    """Each field of a header and of a session is replaced by foreign values."""
    history(driver)
    chunks = list(driver.machine.freeze_state().chunks())
    header, sessions = msgpack.unpackb(chunks[0]), msgpack.unpackb(chunks[1])
    refused = 0
    for value in (None, -1, 2.5, "x", b"x", [], [[]], {}):
        for place in range(len(header)):
            changed = [*header[:place], value, *header[place + 1 :]]
            refused += refuses([msgpack.packb(changed), *chunks[1:]])
        for place in range(len(sessions[1][0])):
            record = [*sessions[1][0][:place], value, *sessions[1][0][place + 1 :]]
            refused += refuses([chunks[0], msgpack.packb([1, [record, *sessions[1][1:]]]), *chunks[2:]])
    assert refused > 150


def refuses(chunks: list[bytes]) -> int:
    try:
        restore(chunks)
    except ValueError:
        return 1
    return 0
