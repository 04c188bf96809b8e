"""Power loss in every call of every operation: nothing acknowledged is lost, nothing is changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_disk import FakeDisk, PowerLoss
from storage_histories import (
    Expected,
    Operation,
    check,
    count_calls,
    go_on,
    receive,
    run_until_power_loss,
    write_snapshot,
)
from storage_scenes import DATA, entries, entry, open_store

from raftstore.storage.values import Entry, HardState


def script() -> Iterator[Operation]:
    """Each operation, and what must hold once it has returned."""
    now = Expected()

    def hard_state(*fields: object) -> Operation:
        nonlocal now
        state = HardState(*fields)  # type: ignore[arg-type]
        now = replace(now, hard_state=state)
        return (lambda store: store.set_hard_state(state)), now

    def append(*new: Entry) -> Operation:
        nonlocal now
        now = replace(now, log=[*now.log, *new])
        return (lambda store: (store.append(new), store.sync(), store.mark())), now

    def truncate(index: int) -> Operation:
        nonlocal now
        now = replace(now, log=[item for item in now.log if item[1] < index])
        return (lambda store: (store.truncate_from(index), store.sync())), now

    def snapshot(index: int, term: int) -> Operation:
        nonlocal now
        now = replace(now, snapshot=(index, term))
        return (lambda store: write_snapshot(store, index, term)), now

    yield hard_state(1, "n1", True)
    yield append(*entries(1, 3))
    yield append(entry(4, 1, 1500))
    yield append(entry(5, 1, 1700), entry(6, 1, 1700))
    yield append(*entries(7, 9, size_bytes=900))  # the second segment begins
    yield hard_state(2, None, True)
    yield truncate(8)
    yield append(*entries(8, 12, term=2, size_bytes=800))
    yield snapshot(6, 1)
    yield (lambda store: store.drop_through(6)), now
    yield append(*entries(13, 20, term=2, size_bytes=900))
    yield snapshot(18, 2)
    yield (lambda store: store.drop_through(18)), now
    yield hard_state(3, "n2", False)
    yield (lambda store: receive(store, 19, 2)), replace(now, snapshot=(19, 2))
    now = replace(now, snapshot=(19, 2))
    yield append(*entries(21, 22, term=3))
    now = replace(now, snapshot=(40, 3), log=[])
    yield (lambda store: receive(store, 40, 3)), now
    yield append(*entries(41, 43, term=3, size_bytes=1900))
    yield truncate(42)
    yield append(entry(42, 3))


@pytest.mark.parametrize("mode", ["none", "all", "some"])
def test_power_loss_in_any_call_loses_nothing_acknowledged(mode: str) -> None:
    """Whatever call the power fails in, whatever unsynced bytes survive, the start finds what was promised."""
    total = count_calls(script())
    assert total > 80
    for call in range(1, total + 1):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk, script())
        for seed in range(6 if mode == "some" else 1):
            rng = random.Random(f"{call}/{seed}")
            after = disk.restart(rng, mode)
            _, found = open_store(after, seed=seed)
            check(found, allowed)
            go_on(after.restart(rng), found, rng)


def test_power_loss_during_recovery_loses_nothing() -> None:
    """The start after a power loss may itself be cut short in any call, again and again."""
    total = count_calls(script())
    for call in range(3, total, 5):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk, script())
        rng = random.Random(call)
        for stop in range(1, 9):
            disk = disk.restart(rng)
            disk.crash_at = stop
            try:
                _, found = open_store(disk, seed=stop)
            except PowerLoss:
                continue
            check(found, allowed)
        _, found = open_store(disk.restart(rng))
        check(found, allowed)


def test_what_a_killed_process_left_in_memory_is_durable_once_recovered() -> None:
    """A killed process leaves unsynced bytes readable; what the next start returns survives a power loss after it."""
    for call in range(1, count_calls(script()) + 1):
        disk = FakeDisk()
        disk.crash_at = call
        allowed = run_until_power_loss(disk, script())
        disk = disk.kill()
        _, found = open_store(disk)
        check(found, allowed)
        _, again = open_store(disk.restart(random.Random(call)))
        assert (again.entries, again.hard_state) == (found.entries, found.hard_state)


def test_what_is_readable_after_a_failed_sync_is_durable_once_recovered() -> None:
    """After a failed sync bytes can be read that never reached the disk; the next start writes them again."""
    for call in range(1, count_calls(script()) + 1):
        disk = FakeDisk()
        disk.fail_at = call
        try:
            allowed = run_until_power_loss(disk, script())
        except Exception:
            disk = disk.kill()
            _, found = open_store(disk)
            _, again = open_store(disk.restart(random.Random(call)))
            assert (again.entries, again.hard_state) == (found.entries, found.hard_state)
        else:
            assert allowed
    assert disk.exists(DATA)
