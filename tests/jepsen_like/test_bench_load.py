"""The benchmark's callers, on a peer made of a dictionary."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from jepsen_like.bench.load import FAILURES_MAX, MIXED, RACERS, Load, TooManyFailures
from jepsen_like.bench.targets.base import STATE_BYTES, Refused, state_of
from jepsen_like.bench.targets.etcd_wire import Wire
from jepsen_like.bench.targets.raftstore_http import Http
from jepsen_like.bench.targets.redis_wire import Redis
from jepsen_like.bench.targets.stock import Stock

SECONDS = 0.02


class Dictionary:
    """A peer in memory that counts what it is asked; every `fails_every`th change is lost."""

    def __init__(self, fails_every: int = 0) -> None:
        self.versions: dict[str, int] = {}
        self.asked: dict[str, int] = {"change": 0, "read": 0, "read-local": 0}
        self._fails_every = fails_every

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def create(self, session_id: str) -> int:
        self.versions[session_id] = 1
        return 1

    async def change(self, session_id: str, version: int) -> int:
        await asyncio.sleep(0)
        self.asked["change"] += 1
        if self._fails_every and self.asked["change"] % self._fails_every == 0:
            raise ConnectionResetError("lost")
        if self.versions[session_id] != version:
            raise Refused(session_id)
        self.versions[session_id] += 1
        return version + 1

    async def read(self, session_id: str) -> int:
        await asyncio.sleep(0)
        self.asked["read"] += 1
        return self.versions[session_id]

    async def read_local(self, session_id: str) -> int:
        self.asked["read-local"] += 1
        await asyncio.sleep(0)
        return self.versions[session_id]

    def owns(self, session_id: str, version: int) -> bool:
        return self.versions[session_id] == version

    async def leader(self) -> str | None:
        return None

    def counters(self) -> Mapping[str, int]:
        return {}


def run(target: Dictionary, kind: str, callers: int) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        load = Load(target)
        await load.prepare(callers)
        return await load.run(kind, callers, SECONDS)

    return asyncio.run(work())


def test_each_caller_moves_a_session_of_its_own() -> None:
    """As many sessions as callers, ids of 32 characters; every success is one version and one latency."""
    target = Dictionary()
    told = run(target, "transition", 5)
    assert len(target.versions) == 5
    assert {len(session_id) for session_id in target.versions} == {32}
    assert sum(target.versions.values()) - 5 == told["ops"] == sum(told["latency"]["counts"].values()) > 0
    assert (told["refused"], told["failures"]) == (0, {})


def test_racers_share_a_session_and_the_losers_are_refused() -> None:
    """Only wins are counted as ops, and each is one version of the one session."""
    target = Dictionary()
    told = run(target, "race", RACERS)
    moved = [version for version in target.versions.values() if version > 1]
    assert moved == [told["ops"] + 1]
    assert told["refused"] > 0


def test_a_mix_is_a_mix() -> None:
    """Half transitions, the rest reads of both kinds in the stated shares."""
    target = Dictionary()
    told = run(target, "mixed", 1)
    assert sum(target.asked.values()) == told["ops"]
    assert abs(target.asked["change"] * 2 - told["ops"]) <= len(MIXED)
    assert abs(target.asked["read-local"] * 10 - told["ops"]) <= 10 * len(MIXED)


def test_failures_are_counted_by_name_and_the_callers_go_on() -> None:
    """A lost answer is neither a success nor a refusal."""
    told = run(Dictionary(fails_every=50), "transition", 2)
    assert told["failures"]["ConnectionResetError"] > 0
    assert told["ops"] > told["failures"]["ConnectionResetError"]


def test_too_many_failures_end_the_measurement() -> None:
    """Its figures would mean nothing."""
    target = Dictionary(fails_every=1)

    async def work() -> None:
        load = Load(target)
        await load.prepare(FAILURES_MAX + 1)
        with pytest.raises(TooManyFailures, match="lost"):
            await load.run("transition", FAILURES_MAX + 1, 60)

    asyncio.run(work())
    assert target.asked["change"] == FAILURES_MAX + 1


def test_owns_is_asked_without_any_waiting() -> None:
    """Many calls between two looks at the clock."""
    assert run(Dictionary(), "owns", 1)["ops"] >= 1_000


@pytest.mark.parametrize("target", [Wire, Http, Redis, Stock])
def test_who_answers_over_the_network_has_no_owns(target: type) -> None:
    """The question is one of memory: nothing stands in for it, and a load of it says so."""
    peer: Any = object.__new__(target)
    with pytest.raises(ValueError, match=r"no owns\(\)"):
        asyncio.run(Load(peer).run("owns", 1, 0.1))


def test_a_state_has_the_stated_size() -> None:
    """And differs from one version to the next."""
    assert len(state_of(1)) == len(state_of(10**9)) == STATE_BYTES
    assert state_of(1) != state_of(2)
