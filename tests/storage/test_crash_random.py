"""Random histories of a data directory, each stopped by power losses and kills: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
import storage_histories as known
from fake_disk import FakeDisk, PowerLoss
from storage_scenes import entry, open_store

from raftstore.storage.values import HardState

HISTORIES = 60
STOPS = 12


class History:
    """A random row of operations as Raft could ask for them: what is committed is never truncated."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = known.Expected()
        self.term = self.committed = 0
        self.operations: list[known.Operation] = []
        self.vote()
        steps = [self.append] * 4 + [self.vote, self.truncate, self.snapshot, self.receive]
        for _ in range(self.rng.randint(5, 40)):
            self.rng.choice(steps)()

    @property
    def last_index(self) -> int:
        return self.now.log[-1][1] if self.now.log else self.now.snapshot[0]

    def vote(self) -> None:
        self.term += 1
        state = HardState(self.term, self.rng.choice((None, "n2")), True)
        self.now = replace(self.now, hard_state=state)
        self.operations.append((lambda store: store.set_hard_state(state), self.now))

    def append(self) -> None:
        first, count = self.last_index + 1, self.rng.randint(1, 6)
        sizes = [self.rng.choice((20, 400, 900, 1900)) for _ in range(count)]
        new = [entry(first + number, self.term, size) for number, size in enumerate(sizes)]
        with_mark = self.rng.random() < 0.5
        self.now = replace(self.now, log=[*self.now.log, *new])
        done = self.now
        self.operations.append((lambda store: (store.append(new), store.sync(), with_mark and store.mark()), done))

    def truncate(self) -> None:
        lowest = self.committed + 1
        if self.last_index < lowest or not self.now.log or self.now.log[0][1] > lowest:
            return
        index = self.rng.randint(lowest, self.last_index)
        self.now = replace(self.now, log=[item for item in self.now.log if item[1] < index])
        self.operations.append((lambda store: (store.truncate_from(index), store.sync()), self.now))

    def snapshot(self) -> None:
        beyond = [item for item in self.now.log if item[1] > self.now.snapshot[0]]
        if not beyond:
            return
        _, index, term = self.rng.choice(beyond)
        drop = self.rng.randint(0, index)
        self.committed = max(self.committed, index)
        self.now = replace(self.now, snapshot=(index, term))
        self.operations.append((lambda store: known.write_snapshot(store, index, term), self.now))
        self.operations.append((lambda store: store.drop_through(drop), self.now))

    def receive(self) -> None:
        index, term = self.rng.randint(self.committed + 1, max(self.committed, self.last_index) + 10), self.term
        is_held = any(item[1:] == (index, term) for item in self.now.log)
        log = [item for item in self.now.log if item[1] > index] if is_held else []
        self.committed = index
        self.now = replace(self.now, snapshot=(index, term), log=log)
        self.operations.append((lambda store: known.receive(store, index, term), self.now))


def open_and_stop(disk: FakeDisk, call: int) -> None:
    """Start, and lose power in that call if the start makes so many."""
    disk.crash_at = call
    with contextlib.suppress(PowerLoss):
        open_store(disk, seed=call)[0].abandon()


@pytest.mark.parametrize("first_seed", range(0, HISTORIES, 10))
def test_no_history_loses_what_it_acknowledged(first_seed: int) -> None:
    """Stopped in any call, with recoveries stopped in turn, the start finds what was promised, and can go on."""
    for seed in range(first_seed, first_seed + 10):
        history = History(seed)
        total = known.count_calls(history.operations)
        for call in history.rng.sample(range(1, total + 1), min(total, STOPS)):
            rng = random.Random(f"{seed}/{call}")
            disk = FakeDisk()
            disk.crash_at = call
            allowed = known.run_until_power_loss(disk, history.operations)
            if rng.random() < 0.3:
                open_and_stop(disk.kill(), disk.calls + rng.randint(1, 12))
            disk = disk.restart(rng)
            if rng.random() < 0.4:
                open_and_stop(disk, rng.randint(1, 10))
                disk = disk.restart(rng)
            _, found = open_store(disk, seed=call)
            known.check(found, allowed)
            known.go_on(disk.restart(rng), found, rng)
