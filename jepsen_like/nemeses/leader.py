"""Leadership that moves under load, and restarts in good order: what operators do every day."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import CALL_TIMEOUT_S, Cluster
from jepsen_like.nemeses.fault import Detail, Done, NotNow
from raftstore.client import Client
from raftstore.errors import RaftstoreError

DRAIN_WAIT_S = 4.0
BETWEEN_S = 1.0  # two restarts of a rolling one


class Leader:
    """`transfer`: leadership goes to another node. `restart`: one by one, SIGTERM and a new process. `drain`: the same
    for one node, after its sessions have been moved away."""

    name = "leader"

    def why_not(self, cluster: Cluster) -> str:
        return ""

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        form = rng.choice(("transfer", "transfer", "restart", "drain"))
        order = rng.sample(list(nodes), len(nodes))
        return {"form": form, "order": order[:1] if form == "drain" else order}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        if cluster.is_sticky and detail["form"] != "restart":
            raise NotNow("every sticky node leads itself, and only a new mapping moves sessions")
        if detail["form"] == "transfer":
            return await self._transfer(cluster, detail["order"])
        done = []
        for node in detail["order"]:
            if node in cluster.changing or not cluster.is_running(node) or cluster.is_paused(node):
                continue
            if detail["form"] == "drain":
                await self._drain(cluster, node)
            await cluster.stop(node)
            if node not in cluster.changing:
                cluster.start(node)
            done.append(node)
            await asyncio.sleep(BETWEEN_S)
        kind = "drain" if detail["form"] == "drain" else ""
        return Done(done, {"form": detail["form"]}, kind)

    async def _transfer(self, cluster: Cluster, order: Sequence[str]) -> Done:
        leader = await cluster.leader()
        if leader is None:
            raise NotNow("nobody leads")
        target = next(node for node in order if node != leader or len(order) == 1)
        said = "done"
        async with Client(cluster.endpoint(leader), timeout_s=CALL_TIMEOUT_S) as client:
            try:
                await client.transfer_leadership(target)
            except RaftstoreError as refusal:
                said = str(refusal)
        return Done([leader, target], {"form": "transfer", "said": said})

    async def _drain(self, cluster: Cluster, node: str) -> None:
        async with Client(cluster.endpoint(node), timeout_s=DRAIN_WAIT_S) as client:
            with contextlib.suppress(RaftstoreError):
                await client.drain()

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)

    async def heal(self, cluster: Cluster) -> None:
        cluster.start_all()
