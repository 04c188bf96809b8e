"""The promise, watched at every instant: who owns what, who leads, and nobody twice.

A tracker follows one process's list of owned sessions and turns it into exact intervals of the world's time; the
`Promise` holds all of them against each other the moment any begins or grows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepsen_like.sim.clock import SimClock
from jepsen_like.sim.scheduler import Scheduler
from raftstore.node.owned import EPOCH_BITS, EPOCH_MASK

Record = Callable[..., object]


class Held(dict[str, Any]):
    """The dictionary of owned sessions, which notes that it was changed."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.is_changed = True

    def __setitem__(self, key: str, value: Any) -> None:
        self.is_changed = True
        super().__setitem__(key, value)

    def pop(self, *args: Any) -> Any:
        self.is_changed = True
        return super().pop(*args)

    def clear(self) -> None:
        self.is_changed = True
        super().clear()


class Interval:
    """A node owns a session under an epoch, from then until then as far as anybody can say now."""

    __slots__ = ("end", "epoch", "node_id", "start")

    def __init__(self, node_id: str, epoch: int, start: int, end: int) -> None:
        self.node_id = node_id
        self.epoch = epoch
        self.start = start
        self.end = end


class Promise:
    """All trackers of one world."""

    def __init__(self, scheduler: Scheduler, record: Record, violation: Callable[[str, str], None]) -> None:
        self.scheduler = scheduler
        self.record = record
        self.violation = violation
        self.leaders: dict[int, str] = {}
        self.intervals = 0
        self.one_log = True  # whether all nodes share one
        self._open: dict[str, dict[str, Interval]] = {}  # session: process name: interval

    def claim(self, name: str, session_id: str, interval: Interval) -> None:
        """From now until its end that process owns the session: does any other?"""
        claims = self._open.setdefault(session_id, {})
        now = self.scheduler.now
        for other_name, other in claims.items():
            if other_name != name and other.end > now:
                detail = (
                    f"{session_id} is owned by {other.node_id} (epoch {other.epoch}) and {interval.node_id} "
                    f"(epoch {interval.epoch}) at {now}"
                )
                self.violation("dual_owner", detail)
        claims[name] = interval

    def release(self, name: str, session_id: str, end: int) -> None:
        interval = self._open[session_id].pop(name)
        if end > interval.start:
            self.intervals += 1
            value = {"owns": True, "epoch": interval.epoch, "from": interval.start, "to": end}
            self.record("dataplane", "ok", "owns", key=session_id, value=value, node=interval.node_id)

    def lead(self, term: int, node_id: str) -> None:
        if not self.one_log:
            return
        other = self.leaders.setdefault(term, node_id)
        if other != node_id:
            self.violation("leaders", f"{other} and {node_id} both lead term {term}")


class Tracker:
    """What one process owns. `look` after everything that may have changed it."""

    def __init__(self, promise: Promise, name: str, node_id: str, clock: SimClock, owned: Any) -> None:
        self._promise = promise
        self._name = name
        self._node_id = node_id
        self._clock = clock
        self._owned = owned
        self._until = -1
        self._mine: dict[str, Interval] = {}
        self.unfenced: dict[tuple[str, int], int] = {}  # rights lost of which the embedder must hear, and since when
        self._held = owned._held = Held(owned._held)

    def look(self) -> None:
        owned, held = self._owned, self._held
        if held.is_changed or owned._own_until_ns != self._until:
            held.is_changed = False
            self._until = owned._own_until_ns
            if held or self._mine:
                self._compare()

    def _compare(self) -> None:
        now, until, world_ns = self._promise.scheduler.now, self._until, self._clock.world_ns
        for session_id in list(self._mine):
            held, interval = self._held.get(session_id), self._mine[session_id]
            if interval.end <= now or held is None or held & EPOCH_MASK != interval.epoch:
                self._end(session_id, min(now, interval.end))
                if interval.end > now and session_id not in self._owned._giving_up:
                    self.unfenced[session_id, interval.epoch] = now
        for session_id, held_until in self._held.items():
            epoch, expires_ns = held_until & EPOCH_MASK, held_until >> EPOCH_BITS
            end = world_ns(min(until, expires_ns))
            mine = self._mine.get(session_id)
            if end <= now:
                if mine is not None:
                    self._end(session_id, now)
            elif mine is None:
                mine = self._mine[session_id] = Interval(self._node_id, epoch, now, end)
                self._promise.claim(self._name, session_id, mine)
            elif mine.end != end:
                mine.end = end
                self._promise.claim(self._name, session_id, mine)

    def _end(self, session_id: str, end: int) -> None:
        del self._mine[session_id]
        self._promise.release(self._name, session_id, end)

    def fenced(self, session_id: str, epoch: int) -> None:
        """The embedder was told that it may not act under this epoch any more."""
        self.unfenced.pop((session_id, epoch), None)

    def rate_changed(self) -> None:
        """The clock goes at another rate: the ends lie elsewhere."""
        self._held.is_changed = True
        self.look()

    def die(self) -> None:
        """The process is gone."""
        now = self._promise.scheduler.now
        for session_id, interval in list(self._mine.items()):
            self._end(session_id, min(now, interval.end))
