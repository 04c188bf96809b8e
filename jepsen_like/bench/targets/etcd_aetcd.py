"""etcd through aetcd, the asyncio client that a Python user would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aetcd

from jepsen_like.bench.targets.base import Refused, state_of


class Aetcd:
    """The version is etcd's own: how often the key was written."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._client = aetcd.Client(host="127.0.0.1", port=given["port"])

    async def open(self) -> None:
        await self._client.connect()

    async def close(self) -> None:
        await self._client.close()

    async def create(self, session_id: str) -> int:
        return await self.change(session_id, 0)

    async def change(self, session_id: str, version: int) -> int:
        key, transactions = session_id.encode(), self._client.transactions
        succeeded, _ = await self._client.transaction(
            compare=[transactions.version(key) == version],
            success=[transactions.put(key, state_of(version + 1))],
            failure=[],
        )
        if not succeeded:
            raise Refused(session_id)
        return version + 1

    async def read(self, session_id: str) -> int:
        return await self._get(session_id, serializable=False)

    async def read_local(self, session_id: str) -> int:
        return await self._get(session_id, serializable=True)

    async def _get(self, session_id: str, serializable: bool) -> int:
        found = await self._client.get(session_id.encode(), serializable=serializable)
        return 0 if found is None else int(found.version)

    async def leader(self) -> str | None:
        found = (await self._client.status()).leader
        return None if found is None else str(found.name)

    def counters(self) -> Mapping[str, int]:
        return {}


def target(given: Mapping[str, Any]) -> Aetcd:
    return Aetcd(given)
