"""Between callers' threads and event loops and the node's own: requests in, answers out, many at a time.

The node's loop runs in its own thread, so that a blocking embedder cannot stall it. Waking another loop costs a
system call; so whatever has gathered crosses over together. Both queues are bounded by the node's own bound on
pending ops: what is beyond it is answered OVERLOADED by the node's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import InvalidStateError
from functools import partial
from typing import Any, TypeVar

from raftstore.errors import Unavailable
from raftstore.types import Reason

T = TypeVar("T")
Task = Callable[[], object]
Deliver = Callable[[Any], None]

CALL_WAIT_S = 10.0  # for an answer of the node's thread to a blocking call


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
        _answer(future, result)


class Bridge:
    """The node's loop as everybody else sees it. With a `thread_name` the loop runs in a thread of that name."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread_name: str | None, then: Task) -> None:
        self.loop = loop
        self.inbox = Inbox(loop, then)
        self._outlets: dict[asyncio.AbstractEventLoop, Outlet] = {}
        self._waiting: dict[asyncio.Future[Any], Any] = {}  # of callers, with what they hear if the loop ends first
        self._running: set[ThreadFuture[Any]] = set()  # coroutines that somebody waits for
        self._node_thread: threading.Thread | None = None
        if thread_name is not None:
            self._node_thread = threading.Thread(target=loop.run_forever, name=thread_name, daemon=True)
            self._node_thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the node's loop and wait for it here. Unavailable when that loop ends before it."""
        if self.loop is asyncio.get_running_loop():
            return await work
        done = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._running.add(done)
        try:
            return await asyncio.wrap_future(done)
        finally:
            self._running.discard(done)

    async def ask(self, begin: Callable[[Deliver], object], if_it_ends: T) -> T:
        """Begin something on the node's loop and wait here for the one answer that it delivers there.

        The answer is `if_it_ends` when that loop ends before it could begin or answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting[future] = if_it_ends  # before anything is posted: the loop may end at once
        try:
            if loop is self.loop:
                begin(partial(_answer, future))
            else:
                outlet = self.outlet_to(loop)
                try:
                    self.inbox.post(partial(begin, partial(outlet.answer, future)))
                except RuntimeError:
                    return if_it_ends
            return await future
        finally:
            del self._waiting[future]

    def call(self, function: Callable[[], T]) -> T:
        """Run a quick function on the node's thread and wait for it: the replica is touched nowhere else.

        Unavailable when that thread does not get to it within CALL_WAIT_S.
        """
        if _running_loop() is self.loop:
            return function()
        done: ThreadFuture[T] = ThreadFuture()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as problem:
                done.set_exception(problem)

        try:
            self.inbox.post(run)
        except RuntimeError:
            raise _ended() from None
        try:
            return done.result(CALL_WAIT_S)
        except TimeoutError:
            if done.done():  # it is the function's own
                raise
            problem = f"the node's event loop has not answered for {CALL_WAIT_S:g} s"
            raise Unavailable(Reason.OVERLOADED, problem) from None

    def outlet_to(self, loop: asyncio.AbstractEventLoop) -> Outlet:
        outlet = self._outlets.get(loop)
        if outlet is None:
            for closed in [known for known in self._outlets if known.is_closed()]:
                del self._outlets[closed]
            outlet = self._outlets[loop] = Outlet(self.loop, loop)
        return outlet

    def flush_outlets(self) -> None:
        for outlet in list(self._outlets.values()):
            outlet.flush()

    async def close(self) -> None:
        """End the node's thread, if it has one. Its loop can then no longer be used, and nobody waits for it."""
        thread, self._node_thread = self._node_thread, None
        if thread is None:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        self.loop.close()
        for running in list(self._running):
            with contextlib.suppress(InvalidStateError):  # it has just ended by itself
                running.set_exception(_ended())
        for future, answer in list(self._waiting.items()):
            with contextlib.suppress(RuntimeError):  # its loop has ended too
                future.get_loop().call_soon_threadsafe(_answer, future, answer)


def _ended() -> Unavailable:
    return Unavailable(Reason.NODE_STOPPING, "the node's event loop has ended")


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if not future.done():
        future.set_result(answer)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
