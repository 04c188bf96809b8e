"""Workloads: from one seed the same ops, with arguments that the API takes."""

from __future__ import annotations

import random

import pytest

from jepsen_like.workloads.base import OPS_PER_KEY, Book
from jepsen_like.workloads.catalogue import WORKLOADS
from jepsen_like.workloads.raftstore_caller import arguments

NODES = ["n1", "n2", "n3"]


def session(key: str, owner: str = "n1", state: str = "ATTACHED", version: int = 3) -> dict[str, object]:
    return {"session_id": key, "owner": owner, "state": state, "epoch": 1, "state_version": version, "binding": "t"}


def ops(name: str, seed: int) -> list[object]:
    """What a worker would ask, with a book in which every kind of session stands."""
    workload, rng, book = WORKLOADS[name], random.Random(seed), Book(WORKLOADS[name].sessions)
    for i, key in enumerate(book.keys[:-1]):
        book.learn(session(key, NODES[i % 3], ("ATTACHED", "RECOVERING", "FROZEN")[i // 3 % 3]))
    return [workload.next_op(rng, NODES[i % 3], NODES, book) for i in range(300)]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_one_seed_asks_the_same(name: str) -> None:
    """The same seed draws the same ops; another one draws others."""
    assert ops(name, 1) == ops(name, 1) != ops(name, 2)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_ops_have_the_arguments_that_they_need(name: str) -> None:
    """Every change but a creation names a version, and every binding is one that no other op has."""
    bindings = []
    for op in ops(name, 3):
        assert op is not None
        if op.f not in ("create", "get", "get-local"):  # type: ignore[attr-defined]
            assert op.args["expected_version"] >= 1  # type: ignore[attr-defined]
        binding = op.args.get("binding")  # type: ignore[attr-defined]
        given = arguments(op)  # type: ignore[arg-type]
        assert ("binding" in given) == (binding is not None)
        bindings += [] if binding is None else [binding]
    assert len(set(bindings)) == len(bindings) > 0


def test_the_book_keeps_the_newest() -> None:
    """What was seen later does not count, only what has the higher version."""
    book = Book(2)
    book.learn(session("s0", version=5))
    book.learn(session("s0", version=4, owner="n2"))
    book.learn(None)
    assert book.seen["s0"]["state_version"] == 5
    assert book.owned_by("n1") == ["s0"]


def test_a_session_with_many_ops_is_replaced() -> None:
    """After its share of ops a new session takes its place, and both are remembered."""
    book = Book(1)
    for _ in range(OPS_PER_KEY):
        assert book.keys == ["s0"]
        book.count("s0")
    assert book.keys == ["s1"] and book.all_keys == ["s0", "s1"]


def test_an_ended_session_is_replaced_soon() -> None:
    """A session that is over gets a few more ops, to see that it stays so, and then makes room."""
    book = Book(1)
    book.learn(session("s0", state="TERMINATED"))
    for _ in range(OPS_PER_KEY // 10 + 1):
        book.count("s0")
    assert book.keys == ["s1"]
