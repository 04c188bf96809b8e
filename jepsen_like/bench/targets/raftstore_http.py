"""raftstore through the HTTP API: `raftstore run` in another process, its client here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.targets.base import Refused
from jepsen_like.bench.targets.raftstore_embedded import BINDING
from raftstore.client.client import Client
from raftstore.errors import Rejected
from raftstore.types import Session


class Http:
    """One client as it is shipped: calls beyond CALLS_AT_ONCE_MAX wait their turn."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._client = Client(given["endpoint"])

    async def open(self) -> None:
        await self._client.status()

    async def close(self) -> None:
        await self._client.close()

    async def create(self, session_id: str) -> Session:
        return await self._client.create(session_id, binding=BINDING)

    async def change(self, session_id: str, version: Session) -> Session:
        try:
            return await self._client.reattach(session_id, expected_version=version.state_version, binding=BINDING)
        except Rejected as outcome:
            raise Refused(str(outcome)) from None

    async def read(self, session_id: str) -> Session:
        return await self._client.get(session_id)

    async def read_local(self, session_id: str) -> Session:
        return await self._client.get(session_id, consistency="local")

    async def leader(self) -> str | None:
        found = (await self._client.status())["leader"]
        return None if found is None else str(found)

    def counters(self) -> Mapping[str, int]:
        return {}


def target(given: Mapping[str, Any]) -> Http:
    return Http(given)
