"""Packets late, out of order, lost and doubled, between all nodes alike."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.cluster.proxy import Shape
from jepsen_like.nemeses.fault import Detail, Done

KEPT_ON_LOOPBACK = ("delay_ms", "jitter_ms")


class Packet:
    """Some of: delay, jitter, loss, duplication, reordering."""

    name = "packet"

    def why_not(self, cluster: Cluster) -> str:
        return cluster.unavailable.get("packet", "")

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        detail = {
            "delay_ms": rng.choice((0, 0, 5, 30, 120)),
            "jitter_ms": rng.choice((0, 5, 30, 120)),
            "loss": rng.choice((0.0, 0.01, 0.05, 0.2)),
            "duplicate": rng.choice((0.0, 0.02, 0.2)),
            "reorder": rng.choice((0.0, 0.02, 0.2)),
        }
        return detail if any(detail.values()) else {**detail, "loss": 0.1}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        can_all = cluster.hosts.kind == "namespaces"
        kept = {name: value for name, value in detail.items() if can_all or name in KEPT_ON_LOOPBACK}
        await cluster.shape(Shape(**kept))
        return Done(list(cluster.nodes), kept)

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        await cluster.shape(Shape())
