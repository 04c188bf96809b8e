"""Callbacks into the embedder's code: on its own loop, never on the node's.

A callback that raises is the embedder's mistake: it is logged with its name and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from raftstore.types import OpId, Session

log = logging.getLogger("raftstore.callbacks")

FencedCallback = Callable[[str, int, str], object]  # session id, epoch, reason
AssignedCallback = Callable[[Session], object]
LateCommitCallback = Callable[[OpId, Session], bool]


class Dispatcher:
    """Calls the embedder back on the loop that started the node. May be used from any thread."""

    def __init__(self) -> None:
        self.on_fenced: list[FencedCallback] = []
        self.on_assigned: list[AssignedCallback] = []
        self.on_late_commit: LateCommitCallback | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def deliver_to(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        """Each of these (session id, epoch) is owned here no more."""
        if lost and self.on_fenced:
            self._post(lambda: self._call_fenced(lost, reason))

    def _call_fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        for callback in list(self.on_fenced):
            for session_id, epoch in lost:
                _guarded(lambda c=callback, s=session_id, e=epoch: c(s, e, reason))  # type: ignore[misc]

    def assigned(self, session: Session) -> None:
        if self.on_assigned:
            self._post(lambda: [_guarded(lambda c=c: c(session)) for c in list(self.on_assigned)])  # type: ignore[misc]

    def committed_late(self, op_id: OpId, session: Session, decide: Callable[[bool], None]) -> None:
        """Ask whether a late commit is confirmed; `decide` is called once, on the embedder's loop."""
        callback = self.on_late_commit
        if callback is None or not self._post(lambda: decide(_guarded(lambda: callback(op_id, session)) is True)):
            decide(False)

    def _post(self, task: Callable[[], object]) -> bool:
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(task)
        except RuntimeError:  # closed: nobody is left there to be told
            return False
        return True


def _guarded(callback: Callable[[], object]) -> object:
    try:
        return callback()
    except Exception:  # whatever the embedder's code does, the others must be called
        log.exception("a callback of the embedder raised")
        return None
