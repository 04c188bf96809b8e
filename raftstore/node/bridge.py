"""Between callers' threads and event loops and the node's own: requests in, answers out, many at a time.

The node's loop runs in its own thread, so that a blocking embedder cannot stall it. Waking another loop costs a
system call; so whatever has gathered crosses over together. Both queues are bounded by the node's own bound on
pending ops: what is beyond it is answered OVERLOADED by the node's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

Task = Callable[[], None]


class Inbox:
    """Calls for the node's loop from anywhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, then: Task) -> None:
        self._loop = loop
        self._then = then  # after a group of tasks
        self._tasks: deque[Task] = deque()
        self._woken = False

    def post(self, task: Task) -> None:
        """Run `task` on the node's loop, in order. RuntimeError when that loop is closed."""
        self._tasks.append(task)
        if not self._woken:
            self._wake()

    def _wake(self) -> None:
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._woken = False  # closed: whoever comes next must hear of it too, rather than wait for ever
            raise

    def _drain(self) -> None:
        self._woken = False  # before the queue is read: whoever appends from here on wakes us again
        tasks = self._tasks
        try:
            while tasks:
                tasks.popleft()()
        finally:
            if tasks and not self._woken:
                self._wake()  # one that raised must not hold up the others
            self._then()


class Outlet:
    """Answers for the futures of one caller's loop. Used on the node's loop only."""

    def __init__(self, node_loop: asyncio.AbstractEventLoop, caller_loop: asyncio.AbstractEventLoop) -> None:
        self._node_loop = node_loop
        self._caller_loop = caller_loop
        self._answers: list[tuple[asyncio.Future[Any], Any]] = []

    def answer(self, future: asyncio.Future[Any], result: Any) -> None:
        if not self._answers:
            self._node_loop.call_soon(self.flush)
        self._answers.append((future, result))

    def flush(self) -> None:
        """Let what has gathered cross over now, rather than at the loop's next turn."""
        if not self._answers:
            return
        answers, self._answers = self._answers, []
        with contextlib.suppress(RuntimeError):  # a closed loop: nobody is left there to be told
            self._caller_loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if not future.done():
            future.set_result(result)
