"""raftstore as a gateway embeds it: the node lives in the callers' process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.targets.base import Refused
from raftstore.config import ClusterConfig
from raftstore.errors import Rejected
from raftstore.node.collector import calm_collector
from raftstore.node.node import Node
from raftstore.types import Binding, Session

BINDING = Binding("t1", "udp", "198.51.100.7:51820")


class Embedded:
    """`own_thread`: the node on an event loop and thread of its own, as by default, or on the callers'."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._node = Node(ClusterConfig.load(given["config"]), given["node"], own_thread=given["own_thread"])

    async def open(self) -> None:
        await self._node.start()
        calm_collector()

    async def close(self) -> None:
        await self._node.stop()

    async def create(self, session_id: str) -> Session:
        return await self._node.create(session_id, binding=BINDING)

    async def change(self, session_id: str, version: Session) -> Session:
        try:
            return await self._node.reattach(session_id, expected_version=version.state_version, binding=BINDING)
        except Rejected as outcome:
            raise Refused(str(outcome)) from None

    async def read(self, session_id: str) -> Session:
        return await self._node.get(session_id)

    async def read_local(self, session_id: str) -> Session:
        return await self._node.get(session_id, consistency="local")

    def owns(self, session_id: str, version: Session) -> bool:
        return self._node.owns(session_id, version.epoch)

    async def leader(self) -> str | None:
        found = self._node.status()["leader"]
        return None if found is None else str(found)

    def counters(self) -> Mapping[str, int]:
        return {}


def target(given: Mapping[str, Any]) -> Embedded:
    return Embedded(given)
