"""Cuts between nodes, by directed pairs: what one sends the other does not get. Data waits, or is lost."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.cluster.hosts import Pair
from jepsen_like.nemeses.fault import LEADER, Detail, Done, named, one_or_leader

FORMS = ("isolate", "deaf", "mute", "one-way", "halves", "bridge", "ring")


class Partition:
    """`isolate` one node; make it `deaf` (hears nobody) or `mute`; cut one direction of one link; two `halves`; halves
    with one node that reaches both (`bridge`); a `ring`, in which every node sees a majority and no two the same."""

    name = "partition"

    def why_not(self, cluster: Cluster) -> str:
        return "" if len(cluster.nodes) > 1 else "one node has no links"

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        order = rng.sample(list(nodes), len(nodes))
        form = rng.choice(FORMS if len(nodes) > 2 else FORMS[:4])
        return {"form": form, "order": order, "target": one_or_leader(rng, nodes)}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        order = list(detail["order"])
        if detail["form"] in FORMS[:4]:
            first = await named(cluster, detail["target"]) if detail["target"] == LEADER else detail["target"]
            order = [first, *(node for node in order if node != first)]
        pairs = pairs_of(detail["form"], order)
        await cluster.cut(pairs)
        told = {"form": detail["form"], "pairs": [list(pair) for pair in sorted(pairs)]}
        return Done(sorted({node for pair in pairs for node in pair}), told)

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await cluster.cut([])

    async def heal(self, cluster: Cluster) -> None:
        await cluster.cut([])


def pairs_of(form: str, order: Sequence[str]) -> set[Pair]:
    """The directed pairs that a form cuts, its roles given in this order of the nodes."""
    first, others = order[0], order[1:]
    half = len(order) // 2
    match form:
        case "isolate":
            return both_ways([first], others)
        case "deaf":
            return {(other, first) for other in others}
        case "mute":
            return {(first, other) for other in others}
        case "one-way":
            return {(first, others[0])}
        case "halves":
            return both_ways(order[:half], order[half:])
        case "bridge":
            return both_ways(order[1 : half + 1], order[half + 1 :])
        case "ring":
            return _ring(order)
        case _:
            raise ValueError(f"no partition {form!r}")


def both_ways(some: Collection[str], others: Collection[str]) -> set[Pair]:
    return {pair for a in some for b in others for pair in ((a, b), (b, a))}


def _ring(order: Sequence[str]) -> set[Pair]:
    """Every node keeps the links to its nearest neighbours on a ring, just enough for a majority with itself."""
    size = len(order)
    reach = (size // 2 + 1) // 2  # on each side
    cut: set[Pair] = set()
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            distance = min((i - j) % size, (j - i) % size)
            if distance > reach:
                cut.add((a, b))
    if size == 3:  # every node of a triangle is its neighbour: leave a line
        cut = both_ways([order[0]], [order[2]])
    return cut
