"""An asyncio event loop on virtual time: one per life of a process.

What asyncio and the node ask of a loop is here; what touches files, sockets or signals is not. Work for other threads
(`run_in_executor`) runs a little later as an event of its own, and takes as long as the disk that it used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from jepsen_like.sim.scheduler import Event, Life, Scheduler

THREAD_SWITCH_NS = 20_000  # until work handed to a thread begins
TASKS_KEPT = 256  # how many tasks are remembered before the finished ones are let go
CLOSE_TRIES = 4  # a coroutine that awaits while it is closed is closed again


class SimLoop:
    """See above. `rate` is nanoseconds of the process's own clock per million of the world's."""

    def __init__(self, scheduler: Scheduler, life: Life, on_error: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._on_error = on_error
        self.life = life
        self.rate = 1_000_000
        self.clock: Callable[[], int] = lambda: scheduler.now
        self.is_in_thread = False  # while a thread's work is done; `thread_now` is the instant it has come to
        self.thread_now: Callable[[], int] = lambda: scheduler.now
        self.on_thread_begin: Callable[[int], None] = lambda when: None
        self._tasks: list[asyncio.Task[Any]] = []

    # --- what runs when --------------------------------------------------------------------------------------
    def run(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something on this loop, now."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]  # a duck
        try:
            callback(*args)
        except Exception as problem:  # as on a real loop: the others go on, and somebody is told
            self._on_error(f"{type(problem).__name__}: {problem}")
        finally:
            asyncio._set_running_loop(None)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self._scheduler.at(self._scheduler.now, self.run, callback, *args, life=self.life, on_loop=True)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        when = self.thread_now() if self.is_in_thread else self._scheduler.now
        return self._scheduler.at(when, self.run, callback, *args, life=self.life, on_loop=True)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        world_ns = int(delay * 1e9) * 1_000_000 // self.rate + 1
        when = self._scheduler.now + world_ns
        return self._scheduler.at(when, self.run, callback, *args, life=self.life, on_loop=True)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_later(when - self.time(), callback, *args)

    def time(self) -> float:
        return self.clock() / 1e9

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        when = self._scheduler.now + THREAD_SWITCH_NS
        self._scheduler.at(when, self._work, future, func, args, life=self.life)
        return future

    def begin_thread(self, when: int) -> None:
        """A thread's piece of work begins: what it posts is posted when it has come so far."""
        self.is_in_thread = True
        self.on_thread_begin(when)

    def end_thread(self) -> int:
        """It is done; when."""
        self.is_in_thread = False
        return self.thread_now()

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        problem: BaseException | None = None
        result = None
        self.begin_thread(self._scheduler.now)
        try:
            result = func(*args)
        except Exception as error:
            problem = error
        done_at = self.end_thread()
        self._scheduler.at(done_at, self.run, _finish, future, result, problem, life=self.life, on_loop=True)

    # --- futures and tasks -----------------------------------------------------------------------------------
    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", self))

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=cast("asyncio.AbstractEventLoop", self), name=name or "task")
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a process that dies leaves them pending
        self._tasks.append(task)
        if len(self._tasks) > TASKS_KEPT:
            self._tasks = [known for known in self._tasks if not known.done()]
        return task

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task from outside of the loop."""
        return self.create_task(work)

    def die(self) -> None:
        """The process is gone: nothing of it runs again, and what it was doing is let go."""
        self.life.is_dead = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            coroutine = task.get_coro()
            for _ in range(CLOSE_TRIES):
                if task.done() or coroutine is None:
                    break
                try:
                    coroutine.close()
                    break
                except Exception:  # it waited for something while it was thrown out, or minded
                    continue

    # --- what asyncio asks -----------------------------------------------------------------------------------
    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.life.is_dead

    def is_closed(self) -> bool:
        return self.life.is_dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.life.is_dead:
            self._on_error(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: Event) -> None:
        """asyncio's own timers tell; ours need not."""


def _finish(future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
    if future.done():
        return
    if problem is not None:
        future.set_exception(problem)
    else:
        future.set_result(result)
