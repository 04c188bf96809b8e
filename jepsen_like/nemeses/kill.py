"""SIGKILL and a new process: whatever was not on disk is gone."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.fault import Detail, Done, minority, named, one_or_leader


class Kill:
    """One node, a minority, or all at once; down until the fault stops. `flap`: up again at once."""

    name = "kill"

    def why_not(self, cluster: Cluster) -> str:
        return ""

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        form = rng.choice(("one", "one", "minority", "all", "flap"))
        targets = {"minority": minority(rng, nodes), "all": sorted(nodes)}.get(form, [one_or_leader(rng, nodes)])
        return {"form": form, "targets": targets}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        nodes = [await named(cluster, target) for target in detail["targets"]]
        for node in nodes:
            cluster.kill(node)
        if detail["form"] == "flap":
            for node in nodes:
                cluster.start(node)
        return Done(nodes, {"form": detail["form"]})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        cluster.start_all()
