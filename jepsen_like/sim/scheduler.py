"""Virtual time: a heap of things to do, and nothing else that ever makes time pass.

Every event belongs to the life of one process, or to the world. What belongs to a process that has died never
happens; what belongs to one that is paused happens when it goes on, in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

MS = 1_000_000
INSTANT_EVENTS_MAX = 50_000  # of one instant: whoever does more lets no time pass any more


class Spinning(Exception):  # noqa: N818 - names what happened
    """Something does one thing after the other and never waits."""


class Life:
    """One life of one process, as the scheduler sees it."""

    __slots__ = ("is_dead", "paused_until", "stalled_until", "watch")

    def __init__(self) -> None:
        self.is_dead = False
        self.paused_until = 0  # nothing of the process runs
        self.stalled_until = 0  # its event loop stands still, its threads go on
        self.watch: Callable[[], None] = _nothing  # after each of its events


def _nothing() -> None:
    """Nobody watches."""


class Event:
    """Something that will happen, unless it is cancelled. What `call_later` gives back."""

    __slots__ = ("_cancelled", "args", "callback", "life", "on_loop")

    def __init__(self, life: Life | None, on_loop: bool, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.life = life
        self.on_loop = on_loop
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self._cancelled


class Scheduler:
    """The one clock of the world, in nanoseconds since the run began."""

    def __init__(self) -> None:
        self.now = 0
        self.events_done = 0
        self._heap: list[tuple[int, int, Event]] = []
        self._count = 0

    def at(
        self, when: int, callback: Callable[..., Any], *args: Any, life: Life | None = None, on_loop: bool = False
    ) -> Event:
        """Let `callback` happen at `when`, in that life, on its loop or on a thread of its own."""
        event = Event(life, on_loop, callback, args)
        self._count += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._count, event))
        return event

    def run_until(self, end: int, condition: Callable[[], bool] | None = None) -> bool:
        """Let time pass to `end`, or until `condition` holds, which is asked after every event; whether it does.

        Spinning, when time does not pass.
        """
        heap = self._heap
        instant, begun = -1, 0
        while heap and heap[0][0] <= end:
            when, number, event = heapq.heappop(heap)
            callback = event.callback
            if callback is None:
                continue
            life = event.life
            self.now = when
            if life is not None:
                if life.is_dead:
                    continue
                held = life.paused_until
                if event.on_loop and life.stalled_until > held:
                    held = life.stalled_until
                if held > when:
                    heapq.heappush(heap, (held, number, event))
                    continue
            if when != instant:
                instant, begun = when, self.events_done
            elif self.events_done - begun > INSTANT_EVENTS_MAX:
                raise Spinning(
                    f"{INSTANT_EVENTS_MAX} events at {when}, the last is {getattr(callback, '__qualname__', callback)}"
                )
            callback(*event.args)
            self.events_done += 1
            if life is not None:
                life.watch()
            if condition is not None and condition():
                return True
        self.now = max(self.now, end)
        return condition is not None and condition()
