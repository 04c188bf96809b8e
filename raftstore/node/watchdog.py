"""A thread that watches the node's loop: when that stands still for too long, the node is fenced from outside.

`owns` needs no watchdog: it is false by itself once the loop's last pulse is too old. This one makes sure that the
embedder is told, and that nothing is owned when the loop wakes up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from raftstore.ports import Clock


class Watchdog:
    """Calls `on_stall(stalled_ms)` from its own thread, once for each time the loop stands still."""

    def __init__(
        self,
        *,
        clock: Clock,
        stall_max_ms: int,
        last_pulse_ns: Callable[[], int],
        on_stall: Callable[[int], None],
    ) -> None:
        self._clock = clock
        self._stall_max_ns = stall_max_ms * 1_000_000
        self._last_pulse_ns = last_pulse_ns
        self._on_stall = on_stall
        self._stop = threading.Event()
        self._told_for_ns = -1
        self._thread = threading.Thread(target=self._run, name="raftstore-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """One look at the loop's pulse."""
        pulse_ns = self._last_pulse_ns()
        stalled_ns = self._clock.now_ns() - pulse_ns
        if stalled_ns > self._stall_max_ns and pulse_ns != self._told_for_ns:
            self._told_for_ns = pulse_ns
            self._on_stall(stalled_ns // 1_000_000)

    def _run(self) -> None:
        while not self._stop.wait(self._stall_max_ns / 4e9):
            self.look()
