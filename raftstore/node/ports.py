"""What the core of a node asks of its surroundings: links that send, and somebody to tell the news."""

from __future__ import annotations

from typing import Protocol

from raftstore.node.replica import Observer


class Links(Protocol):
    """The peer links as the core uses them; calls never block and never raise."""

    def send(self, peer_id: str, payload: bytes) -> bool: ...

    def flush(self) -> None:
        """Write what was sent, now."""

    def drop(self, peer_id: str, reason: str) -> None:
        """Close the connection to that peer: what it sent is no message of ours."""


class CoreObserver(Observer, Protocol):
    """The rest of the node, as told by the core."""

    def report(self, kind: str, detail: str) -> None:
        """A security event, or anything else an operator should know."""

    def failed_for_good(self, reason: str, detail: str) -> None:
        """The node stopped serving for good; the process should end and say why."""
