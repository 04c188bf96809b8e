"""Clocks: wall clocks that jump anywhere, monotonic clocks that run too fast or too slow within the bound.

The bound is between two nodes, so each stays within half of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.cluster.programs import MAX_CLOCK_DRIFT_PPM
from jepsen_like.nemeses.fault import Detail, Done

RATE_PPM_MAX = MAX_CLOCK_DRIFT_PPM * 45 // 100
JUMPS_MS = (-86_400_000, -3_600_000, -61_000, -900, 900, 61_000, 3_600_000, 86_400_000)


class Clock:
    """Each node gets a jump of its wall clock or none, and a rate of its monotonic clocks."""

    name = "clock"

    def why_not(self, cluster: Cluster) -> str:
        return cluster.unavailable.get("clock", "")

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        jumps = {node: rng.choice(JUMPS_MS) if rng.random() < 0.6 else 0 for node in nodes}
        extremes = rng.random() < 0.5
        rates = {}
        for node in nodes:
            rates[node] = rng.choice((-1, 1)) * RATE_PPM_MAX if extremes else rng.randint(-RATE_PPM_MAX, RATE_PPM_MAX)
        return {"jump_ms": jumps, "rate_ppm": rates}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        for node in cluster.nodes:
            cluster.shims[node].jump_wall(detail["jump_ms"][node])
            cluster.shims[node].run_at(detail["rate_ppm"][node])
        return Done(list(cluster.nodes), detail)

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        for shim in cluster.shims.values():
            shim.heal_clock()
