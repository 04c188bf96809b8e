"""The load of the demo: clients that reattach again and again, wherever the answers send them.

A caller knows one node and the version that it saw last. It follows the node that a refusal names, takes the version
that a refusal shows, and turns to the next node when its own is dead: all that a real client would do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, Session

PAUSE_S = 0.06  # between two reattaches of one caller: a few hundred a second from all of them
AGAIN_S = 0.02  # after a refusal


class Caller:
    """One client with its session."""

    def __init__(self, clients: Mapping[str, Client], session: Session, binding: Callable[[], Binding]) -> None:
        self._clients = clients
        self._binding = binding
        self.session = session  # as it was seen last
        self.node = session.owner
        self.accepted = 0
        self.redirects = 0
        self.longest_wait_ms = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop, then to the end of the op under way."""
        wanted = time.perf_counter()
        while not stop.is_set():
            accepted = await self._try()
            if accepted:
                self.longest_wait_ms = max(self.longest_wait_ms, (time.perf_counter() - wanted) * 1000)
            await asyncio.sleep(PAUSE_S if accepted else AGAIN_S)
            if accepted:
                wanted = time.perf_counter()

    async def _try(self) -> bool:
        session = self.session
        try:
            self.session = await self._clients[self.node].reattach(
                session.session_id, expected_version=session.state_version, binding=self._binding()
            )
        except Rejected as refusal:
            if refusal.owner is not None and refusal.owner != self.node:
                self.node = refusal.owner
                self.redirects += 1
            if refusal.session is not None and refusal.session.state_version > session.state_version:
                self.session = refusal.session
            return False
        except (Unreachable, NoAnswer):
            self.node = self._next_node()
            return False
        except (Unavailable, OutcomeUnknown):
            return False
        self.accepted += 1
        return True

    def _next_node(self) -> str:
        """Any node will do: it knows the right one."""
        nodes = list(self._clients)
        return nodes[(nodes.index(self.node) + 1) % len(nodes)]


class Load:
    """Callers at work. `async with` starts them and lets each end its last op."""

    def __init__(self, callers: list[Caller]) -> None:
        self.callers = callers
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(caller.run(self._stop)) for caller in self.callers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if problem is not None:
            for task in self._tasks:
                task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        if problem is None:
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    @property
    def accepted(self) -> int:
        return sum(caller.accepted for caller in self.callers)

    @property
    def longest_wait_ms(self) -> float:
        return max(caller.longest_wait_ms for caller in self.callers)
