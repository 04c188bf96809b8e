"""A node loses its disk, and comes back as nothing but its name and certificate. One at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.disk import back
from jepsen_like.nemeses.fault import Detail, Done, NotNow, named, one_or_leader


class Wipe:
    """Killed, emptied, and started again when the fault stops."""

    name = "wipe"

    def why_not(self, cluster: Cluster) -> str:
        if cluster.is_sticky:
            return "a sticky node keeps its sessions alone: without its disk they are gone"
        return "" if len(cluster.nodes) > 2 else "without a majority elsewhere everything would be lost"

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        return {"target": one_or_leader(rng, nodes)}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        node = await named(cluster, detail["target"])
        if cluster.lost_disks or cluster.changing or cluster.without_power:
            raise NotNow("another disk has been lost and is not replaced yet")
        cluster.kill(node)
        cluster.wipe(node)
        return Done([node], {})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)
        await back(cluster)

    async def heal(self, cluster: Cluster) -> None:
        cluster.start_all()
