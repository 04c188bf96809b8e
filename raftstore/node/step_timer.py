"""The one timer of a node's steps, set anew as seldom as it can be: an event loop's timers are not free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raftstore.ports import Clock

EARLY_NS = 20_000_000  # it may fire this much too early: setting it anew at every step would cost more


class StepTimer:
    """Calls `fire` at the instant that was set last, or up to EARLY_NS before. The node's loop is its only user."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self._set_ns = 0

    def set(self, due_ns: int) -> None:
        """`due_ns` in local monotonic nanoseconds; who is called sets it again."""
        if self._handle is not None:
            if self._set_ns <= due_ns <= self._set_ns + EARLY_NS and not self._handle.cancelled():
                return
            self._handle.cancel()
        self._set_ns = due_ns
        delay_ms = max(0, -(-(due_ns - self._clock.now_ns()) // 1_000_000))  # up: uvloop rounds, and would fire early
        self._handle = self._loop.call_later(delay_ms / 1_000, self._fired)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _fired(self) -> None:
        self._handle = None
        self._fire()
