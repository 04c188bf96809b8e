"""What a nemesis is: one family of faults, planned from a seed, done to a cluster, and undone.

A plan is plain data, so that the same seed gives the same plan and a report can show it; what only the running cluster
knows (who leads) is filled in when the fault starts, and told in the event. `stop` must undo the fault whatever became
of it, and `heal` must leave nothing of any fault of the family, called at any time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from jepsen_like.cluster.cluster import Cluster

Detail = dict[str, Any]  # plain JSON

LEADER = "leader"  # in place of a node's id: whoever leads when the fault starts


class Done(NamedTuple):
    """What was really done: to whom, and under which kind it stands in the history."""

    nodes: list[str]
    detail: Detail
    kind: str = ""  # another one than the nemesis's name


class NotNow(Exception):  # noqa: N818 - an outcome: the fault is left out, and the history says why
    """The fault would go beyond what the cluster promises to survive, or its object is not there."""


class Nemesis(Protocol):
    """One family of faults. Has no state between calls but what it did to the cluster."""

    name: str

    def why_not(self, cluster: Cluster) -> str:
        """Why this machine cannot do it; empty when it can."""

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        """One fault; the same for the same state of `rng`."""

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        """Returns when the fault has taken effect."""

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        """Returns when the fault is undone, though the cluster may still suffer from it."""

    async def heal(self, cluster: Cluster) -> None:
        """Undo whatever is left of all faults of this family."""


async def named(cluster: Cluster, target: str) -> str:
    """A node's id from a plan's word for it."""
    if target != LEADER:
        return target
    leader = await cluster.leader()
    if leader is None:
        raise NotNow("nobody leads")
    return leader


def one_or_leader(rng: random.Random, nodes: Sequence[str]) -> str:
    """A random node, every third time whoever leads."""
    node = rng.choice(list(nodes))
    return LEADER if rng.random() < 0.33 else node


def minority(rng: random.Random, nodes: Sequence[str]) -> list[str]:
    """One node or more, fewer than half; of a single node, that one."""
    most = max(1, (len(nodes) - 1) // 2)
    return sorted(rng.sample(list(nodes), rng.randint(1, most)))
