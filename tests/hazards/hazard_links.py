"""What both drivers share: links whose every message the schedule moves by hand, and what clients were told."""

from __future__ import annotations

import collections
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from pysyncobj import FAIL_REASON

REASONS = {value: name for name, value in vars(FAIL_REASON).items() if not name.startswith("_")}
OK = "SUCCESS"


class Told:
    """What one client was told, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, str]] = []

    def __call__(self, result: Any, error: int | str) -> None:
        self.calls.append((result, error if isinstance(error, str) else REASONS[error]))

    @property
    def succeeded(self) -> bool:
        return (True, OK) in self.calls


class Links(ABC):
    """Queues of encoded messages, one per direction; nothing moves by itself."""

    ids: tuple[str, ...]

    def _start_links(self) -> None:
        self.queues: dict[tuple[str, str], collections.deque[bytes]] = collections.defaultdict(collections.deque)
        self.up: set[tuple[str, str]] = set()

    @abstractmethod
    def _connected(self, a: str, b: str) -> None: ...

    @abstractmethod
    def _disconnected(self, a: str, b: str) -> None: ...

    @abstractmethod
    def inject(self, a: str, b: str, raw: bytes) -> None: ...

    def send(self, a: str, b: str, raw: bytes) -> bool:
        if (a, b) in self.up:
            self.queues[a, b].append(raw)
        return (a, b) in self.up

    def connect(self, a: str, b: str) -> None:
        if (a, b) not in self.up:
            self.up |= {(a, b), (b, a)}
            self._connected(a, b)
            self._connected(b, a)

    def cut(self, a: str, b: str) -> None:
        """The connection breaks; what was on its way is lost."""
        if (a, b) in self.up:
            self.up -= {(a, b), (b, a)}
            self.queues[a, b].clear()
            self.queues[b, a].clear()
            self._disconnected(a, b)
            self._disconnected(b, a)

    def isolate(self, a: str) -> None:
        for b in self.ids:
            if b != a:
                self.cut(a, b)

    def connect_all(self, ids: Iterable[str] | None = None) -> None:
        chosen = list(ids or self.ids)
        for a in chosen:
            for b in chosen:
                if a < b:
                    self.connect(a, b)

    def take(self, a: str, b: str) -> bytes:
        return self.queues[a, b].popleft()

    def deliver(self, a: str, b: str, count: int | None = None) -> int:
        """Deliver what is queued now from `a` to `b`, at most `count` messages."""
        count = len(self.queues[a, b]) if count is None else min(count, len(self.queues[a, b]))
        for _ in range(count):
            self.inject(a, b, self.take(a, b))
        return count

    def flush(self, only: Iterable[str] | None = None, rounds: int = 60) -> None:
        """Deliver until silence among `only`."""
        members = set(only or self.ids)
        for _ in range(rounds):
            moved = [self.deliver(a, b) for a, b in sorted(self.queues) if a in members and b in members]
            if not any(moved):
                return
