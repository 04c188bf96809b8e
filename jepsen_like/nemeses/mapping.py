"""Mappings that change under load, in the sticky strategy: weights go up and down, and sessions move accordingly."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

from jepsen_like.cluster.cluster import CALL_TIMEOUT_S, Cluster
from jepsen_like.nemeses.fault import Detail, Done, NotNow
from raftstore.client import Client
from raftstore.errors import RaftstoreError

HEAL_WAIT_S = 25.0
POLL_S = 0.2
WEIGHTS = (0, 1, 1, 2, 5)


class Mapping:
    """One change, told to one node; sometimes a second one, told to another node at the same time, that conflicts."""

    name = "mapping"

    def why_not(self, cluster: Cluster) -> str:
        return "" if cluster.is_sticky else "the strategy is not sticky: the mapping is a hint and never changes"

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        def change() -> Detail:
            weights = {node: rng.choice(WEIGHTS) for node in nodes}
            weights[rng.choice(list(nodes))] = 1  # not all may be zero
            return {"at": rng.choice(list(nodes)), "weights": weights}

        return {"changes": [change() for _ in range(2 if rng.random() < 0.25 else 1)]}

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        said = {}
        for change in detail["changes"]:
            node = change["at"]
            if not cluster.is_running(node) or cluster.is_paused(node):
                continue
            async with Client(cluster.endpoint(node), timeout_s=CALL_TIMEOUT_S) as client:
                try:
                    said[node] = f"epoch {(await client.change_mapping(change['weights'])).get('epoch')}"
                except RaftstoreError as refusal:
                    said[node] = str(refusal)
        if not said:
            raise NotNow("the nodes that were to be told do not run")
        return Done(sorted(said), {"said": said})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        """Nothing: a mapping stays until the next one."""

    async def heal(self, cluster: Cluster) -> None:
        """A last change, that every node can follow: conflicting ones are settled by a later one only."""
        if not cluster.is_sticky:
            return
        async with asyncio.timeout(HEAL_WAIT_S):
            while not await self._settle(cluster):  # noqa: ASYNC110 - nodes come up when they come up
                await asyncio.sleep(POLL_S)

    async def _settle(self, cluster: Cluster) -> bool:
        """Whether the change was made, at the node that knows the highest epoch. False while some do not answer."""
        epochs: dict[str, int] = {}
        for node in cluster.nodes:
            async with Client(cluster.endpoint(node), timeout_s=CALL_TIMEOUT_S) as client:
                with contextlib.suppress(RaftstoreError):
                    epochs[node] = (await client.mapping())["epoch"] or 0
        if len(epochs) < len(cluster.nodes):
            return False
        highest = max(sorted(epochs), key=lambda node: epochs[node])
        async with Client(cluster.endpoint(highest), timeout_s=CALL_TIMEOUT_S) as client:
            with contextlib.suppress(RaftstoreError):
                await client.change_mapping(dict.fromkeys(cluster.nodes, 1))
                return True
        return False
