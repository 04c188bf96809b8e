"""Power cuts: the disk forgets what was not synced, and the machine is gone in the same moment."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.fault import Detail, Done, NotNow, minority, named, one_or_leader


class Power:
    """One node, a minority, or all at once: what a majority had synced must be there afterwards."""

    name = "power"

    def why_not(self, cluster: Cluster) -> str:
        return cluster.unavailable.get("power", "" if cluster.disks is not None else "the disks were not set up for it")

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        form = rng.choice(("one", "minority", "all", "all"))
        targets = {"minority": minority(rng, nodes), "all": sorted(nodes)}.get(form, [one_or_leader(rng, nodes)])
        return {"form": form, "targets": targets}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        disks = cluster.disks
        assert disks is not None
        nodes = [await named(cluster, target) for target in detail["targets"]]
        nodes = [node for node in nodes if disks.is_on(node) and node not in cluster.changing]
        if not nodes:
            raise NotNow("no such disk is on")
        cluster.may_end.update(nodes)
        disks.cut_power(nodes)
        for node in nodes:
            cluster.kill(node)
        for node in nodes:
            disks.unmount(node)
        cluster.without_power.update(nodes)
        return Done(nodes, {"form": detail["form"]})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        if cluster.disks is None:
            return
        for node in cluster.nodes:
            cluster.disks.mount(node)
        cluster.without_power.clear()
        cluster.start_all()
