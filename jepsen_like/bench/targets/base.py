"""What the load asks of a peer. A session is a 32-character id and about STATE_BYTES of state with a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

STATE_BYTES = 100


class Refused(Exception):  # noqa: N818 - an outcome of a race, not a defect
    """Another caller's transition came first: nothing was changed."""


class Target(Protocol):
    """One peer as seen from the process of callers beside one of its nodes. Versions are the peer's own."""

    async def open(self) -> None:
        """Connect, or start the node that lives in this process; returns once ops can succeed."""

    async def close(self) -> None: ...

    async def create(self, session_id: str) -> Any:
        """A new session; its version."""

    async def change(self, session_id: str, version: Any) -> Any:
        """One transition, if the session still has that version; the new version. Raises Refused."""

    async def read(self, session_id: str) -> Any:
        """The version, linearizable."""

    async def read_local(self, session_id: str) -> Any:
        """The version as this node has it, however old."""

    async def leader(self) -> str | None:
        """The name of the node that leads, where the callers can know it."""

    def counters(self) -> Mapping[str, int]:
        """What the node in this process has counted, ever growing; empty where it lives elsewhere."""


@runtime_checkable
class DataPath(Protocol):
    """What a target has beside the rest when its node answers the data path from memory."""

    def owns(self, session_id: str, version: Any) -> bool:
        """Whether this node may act for the session now, without any I/O."""


def state_of(number: int) -> bytes:
    """STATE_BYTES that differ from one transition to the next."""
    return b"t1|udp|198.51.100.7:51820|ATTACHED|%016d|" % number + b"." * (STATE_BYTES - 52)


assert len(state_of(1)) == STATE_BYTES
