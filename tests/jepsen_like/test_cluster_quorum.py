"""Who can reach a majority, as the runner knows it: the history tells nodes that lack one by it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.cluster.hosts import LoopbackHosts, Pair
from jepsen_like.cluster.programs import Raftstore
from jepsen_like.nemeses.partition import pairs_of

NODES = ["n1", "n2", "n3", "n4", "n5"]


class Paper(Cluster):
    """A cluster of which only the plan exists: `down` and `paused` say what does not run."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Raftstore(), NODES, LoopbackHosts(NODES, 1), directory)
        self.down: set[str] = set()
        self.paused: set[str] = set()

    def is_running(self, node: str) -> bool:
        return node not in self.down

    def is_paused(self, node: str) -> bool:
        return node in self.paused


def lacking(cluster: Cluster) -> list[str]:
    return [node for node, has in cluster.with_quorum().items() if not has]


@pytest.mark.parametrize(
    ("form", "without"),
    [
        ("isolate", ["n1"]),
        ("deaf", ["n1"]),
        ("mute", ["n1"]),
        ("one-way", []),
        ("halves", ["n1", "n2"]),
        ("bridge", []),
        ("ring", []),
    ],
)
def test_a_partition_takes_the_majority_from_whom_it_should(form: str, without: list[str], tmp_path: Path) -> None:
    """A node lacks a majority when neither it, nor any node that it reaches both ways, reaches one."""
    cluster = Paper(tmp_path)
    cluster.cuts = frozenset(pairs_of(form, NODES))
    assert lacking(cluster) == without


def test_nodes_that_do_not_run_count_for_nobody(tmp_path: Path) -> None:
    """Two of five may be down or paused; with three gone nobody has a majority."""
    cluster = Paper(tmp_path)
    cluster.down, cluster.paused = {"n1"}, {"n2"}
    assert lacking(cluster) == ["n1", "n2"]
    cluster.paused = {"n2", "n3"}
    assert lacking(cluster) == NODES


def test_who_gains_is_told_before_and_who_loses_after(tmp_path: Path) -> None:
    """While a cut changes, nobody is said to lack a majority who may still have one, or have one already."""
    cluster = Paper(tmp_path)
    told: list[list[str]] = []
    at_work: list[list[str]] = []

    async def cut(pairs: Collection[Pair]) -> None:
        at_work.append(lacking(cluster))

    cluster.hosts.cut = cut  # type: ignore[method-assign]
    cluster.on_change = lambda: told.append(lacking(cluster))

    async def main() -> None:
        await cluster.cut(pairs_of("isolate", NODES))
        await cluster.cut(pairs_of("isolate", NODES[::-1]))
        await cluster.cut([])

    asyncio.run(main())
    assert at_work == [[], [], []]
    assert told == [[], ["n1"], [], ["n5"], [], []]
