"""Bindings that committed for callers who were never told: detached again, until that is done or moot.

The first try may be refused, because such a commit is often learnt after a partition, when this node's lease has
lapsed. Nothing depends on it but tidiness: the session is not owned here, whatever becomes of its detach.
(Design: what a caller can learn.)
"""

from __future__ import annotations

from collections.abc import Callable

from raftstore.node.proposals import Answer, Callback, Request
from raftstore.node.replica import LATE_COMMIT, Replica
from raftstore.ownership import SessionRecord
from raftstore.ownership.commands import detach

LATE_BINDINGS_MAX = 65_536  # beyond it a binding stays as it is: bound, and not owned
TRIES_AT_ONCE_MAX = 256  # per tick, beside callers' ops


class LateBindings:
    """What is still to be detached. The node's loop is its only user."""

    def __init__(self, replica: Replica, submit: Callable[[Request, Callback], object]) -> None:
        self._replica = replica
        self._submit = submit
        self._records: dict[str, SessionRecord] = {}
        self._under_way: set[str] = set()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: SessionRecord) -> None:
        """A binding that nobody may act for. What has changed since is somebody else's, and left alone."""
        if self._replica.machine.sessions.get(record.session_id) != record:
            return
        if len(self._records) < LATE_BINDINGS_MAX or record.session_id in self._records:
            self._records[record.session_id] = record
            self._try(record)

    def tick(self) -> None:
        """This node can propose: try again what was refused or not answered."""
        sessions = self._replica.machine.sessions
        tries = 0
        for session_id, record in list(self._records.items()):
            if session_id in self._under_way:
                continue
            if sessions.get(session_id) != record:
                del self._records[session_id]  # detached, or anything else has happened to it since
            elif tries < TRIES_AT_ONCE_MAX:
                tries += 1
                self._try(record)

    def _try(self, record: SessionRecord) -> None:
        session_id, version = record.session_id, record.state_version
        if session_id in self._under_way:
            return  # the next tick sees to it

        def answered(_answer: Answer) -> None:
            self._under_way.discard(session_id)

        self._under_way.add(session_id)
        request = Request(
            "detach",
            session_id,
            lambda seq, deadline: detach(seq, deadline, session_id, version, LATE_COMMIT),
            gives_up=True,
        )
        self._submit(request, answered)
