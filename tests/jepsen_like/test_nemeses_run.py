"""Carrying out a plan: what stands in the history, and healing whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from jepsen_like.nemeses import schedule
from jepsen_like.nemeses.fault import Detail, Done, NotNow
from jepsen_like.nemeses.schedule import Nemeses, Planned


class Fake:
    """A nemesis that notes what it is told; `problem` is raised at its start or its healing."""

    def __init__(self, name: str, problem: Exception | None = None) -> None:
        self.name = name
        self.problem = problem
        self.calls: list[str] = []

    def why_not(self, cluster: Any) -> str:
        return ""

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        return {}

    async def start(self, cluster: Any, detail: Detail) -> Done:
        self.calls.append("start")
        if isinstance(self.problem, NotNow):
            raise self.problem
        return Done(["n1"], {"form": "x"}, "drain" if self.name == "leader" else "")

    async def stop(self, cluster: Any, detail: Detail) -> None:
        self.calls.append("stop")

    async def heal(self, cluster: Any) -> None:
        self.calls.append("heal")
        if self.problem is not None and not isinstance(self.problem, NotNow):
            raise self.problem


class Nothing:
    """A cluster to which nothing is done."""

    def __init__(self) -> None:
        self.changing = {"n1"}
        self.damaged: set[str] = set()
        self.without_power: set[str] = set()


def carried_out(monkeypatch: pytest.MonkeyPatch, fakes: Sequence[Fake], *, heals: bool = False) -> list[Any]:
    monkeypatch.setattr(schedule, "NEMESES", {fake.name: fake for fake in fakes})
    told: list[Any] = []
    lanes = [[Planned(0.0, 0.01, fake.name, {})] for fake in fakes]

    async def main() -> None:
        found = Nemeses(Nothing(), lanes, lambda: 1.0, lambda f, value: told.append((f, value)))  # type: ignore[arg-type]
        await (found.heal() if heals else found.run())
        assert found.current == {}

    asyncio.run(main())
    return told


def test_a_fault_stands_in_the_history_when_ordered_and_when_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start and stop are told twice each, with the nodes that were really hit."""
    told = carried_out(monkeypatch, [Fake("kill")])
    assert [(f, value["effective"], value["nodes"]) for f, value in told] == [
        ("fault", False, []),
        ("fault", True, ["n1"]),
        ("heal", False, ["n1"]),
        ("heal", True, ["n1"]),
    ]


def test_a_nemesis_may_name_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkers look for drains by that name, whichever family made them."""
    told = carried_out(monkeypatch, [Fake("leader")])
    assert [value["kind"] for _, value in told] == ["leader", "drain", "drain", "drain"]


def test_a_fault_that_cannot_be_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither stopped nor counted as done, and the history says why."""
    fake = Fake("wipe", NotNow("too much is lost already"))
    told = carried_out(monkeypatch, [fake])
    assert [f for f, _ in told] == ["fault", "skipped"]
    assert told[1][1]["detail"] == {"why": "too much is lost already"}
    assert fake.calls == ["start"]


def test_every_family_is_healed_even_if_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that cannot heal keeps no other from it, and is named."""
    fakes = [Fake("kill", OSError("no such process")), Fake("pause")]
    with pytest.raises(RuntimeError, match="kill: OSError"):
        carried_out(monkeypatch, fakes, heals=True)
    assert [fake.calls for fake in fakes] == [["heal"], ["heal"]]
