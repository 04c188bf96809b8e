"""SIGSTOP and SIGCONT: time goes on, nothing runs, and requests queue up. Beyond the lease, the owner is a zombie.

Or a little of both, many times a second: a process that gets too little of the processor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.fault import Detail, Done, minority, named, one_or_leader


class Pause:
    """One node, a minority, or all at once; `starve` one of them."""

    name = "pause"

    def why_not(self, cluster: Cluster) -> str:
        return ""

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        form = rng.choice(("one", "one", "one", "minority", "all", "starve"))
        targets = {"minority": minority(rng, nodes), "all": sorted(nodes)}.get(form, [one_or_leader(rng, nodes)])
        return {"form": form, "targets": targets}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        nodes = [await named(cluster, target) for target in detail["targets"]]
        nodes = [node for node in nodes if cluster.is_running(node) and node not in cluster.changing]
        for node in nodes:
            if detail["form"] == "starve":
                cluster.starve(node)
            else:
                cluster.pause(node)
        return Done(nodes, {"form": detail["form"]})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        await cluster.feed()
        for node in cluster.nodes:
            if cluster.is_paused(node):
                cluster.resume(node)
