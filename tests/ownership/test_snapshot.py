"""Snapshots: the state frozen, packed elsewhere, and read back to go on as if nothing had been."""

from __future__ import annotations

import threading

import msgpack
import pytest

from raftstore.ownership import commands as c
from raftstore.ownership import invariants, restore
from raftstore.ownership.snapshot import SLICE_RECORDS

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
