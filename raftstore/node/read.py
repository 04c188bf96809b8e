"""One caller's linearizable read, from its question to "read the replica now" or why not.

Nothing is proposed, so giving up is always without effect. Knows the core, which asks the leader for many reads at
once, and the loop's timers; how questions and answers cross between threads is the bridge's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raftstore.errors import Unavailable
from raftstore.node.core import Core
from raftstore.types import Reason

ASK_AGAIN_S = 0.02  # after the leader that was asked is gone


class Read:
    """Delivers one answer: None once reading this replica is linearizable, or the refusal."""

    __slots__ = ("_core", "_deliver", "_expiry", "_is_over", "_loop", "_timeout_ms")

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Unavailable | None], object],
        timeout_ms: int,
    ) -> None:
        self._core = core
        self._loop = loop
        self._deliver = deliver
        self._timeout_ms = timeout_ms
        self._is_over = False
        self._expiry = loop.call_later(timeout_ms / 1000, self._expired)

    def ask(self) -> None:
        """Begin, or ask the next leader."""
        if self._is_over:
            return
        try:
            self._core.read(self._confirmed)
        except Unavailable as refusal:
            self._end(refusal)

    def _confirmed(self, good: bool) -> None:
        if self._is_over:
            return
        if good:
            self._end(None)
        else:
            self._loop.call_later(ASK_AGAIN_S, self.ask)

    def _expired(self) -> None:
        detail = f"{self._core.node_id}: no majority confirmed the read within {self._timeout_ms} ms"
        self._end(Unavailable(Reason.NO_QUORUM, detail))

    def _end(self, answer: Unavailable | None) -> None:
        self._is_over = True
        self._expiry.cancel()
        self._deliver(answer)
