"""No peer: an event loop that has nothing to do, in a process of its own.

How late its timer fires is what the machine alone does to a loop while other processes want its processors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.targets.raftstore_scale import Pulse


class IdleLoop:
    """Only watched: it answers nothing that a target does."""

    def __init__(self) -> None:
        self._pulse = Pulse()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def watch(self) -> dict[str, Any]:
        """From now on."""
        self._pulse.begin()
        return {}

    async def watched(self) -> dict[str, Any]:
        """What was seen since then."""
        return self._pulse.take()


def target(_given: Mapping[str, Any]) -> IdleLoop:
    return IdleLoop()
