"""Membership changes. There are none in raftstore, and a run that asks for them is told so."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.fault import Detail, Done, NotNow

WHY_NOT = "the program under test has no membership changes: its configuration names all nodes"


class Member:
    """Named, so that it is not missed without a word."""

    name = "member"

    def why_not(self, cluster: Cluster) -> str:
        return WHY_NOT

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        return {}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        raise NotNow(WHY_NOT)

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        """Nothing was done."""

    async def heal(self, cluster: Cluster) -> None:
        """Nothing was done."""
