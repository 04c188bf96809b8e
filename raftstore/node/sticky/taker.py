"""The taking side of a mapping change: asks every node that may hold sessions of this one until it has none left.

It asks rather than is sent to, because so a session's TTL can be counted from before it asked: it never grows on its
way. What arrives is acknowledged only when it is in this node's log (durable before visible).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raftstore.node.proposals import Answer, Request
from raftstore.node.sticky.giver import Log
from raftstore.node.sticky.messages import Row
from raftstore.ownership import admit, confirm
from raftstore.ownership.commands import NUMBER_MAX
from raftstore.ownership.placement import has
from raftstore.ports import Clock
from raftstore.routing import Mapping
from raftstore.types import Reason

ASK_AGAIN_NS = 1_000_000_000  # when a peer has not answered for so long


@dataclass(slots=True)
class _Asking:
    """What is under way with one peer."""

    number: int = 0  # of the pull that waits for its answer; 0 for none
    asked_ns: int = 0
    asked_ms: int = 0  # the same in cluster time: TTLs count from here
    admitting: int = 0
    have: list[tuple[str, int]] = field(default_factory=list)
    declined: list[tuple[str, int]] = field(default_factory=list)


class Taker:
    """Pulls from the involved nodes. The node's loop is its only user."""

    def __init__(self, log: Log, clock: Clock, first_number: int, is_busy: Callable[[str], bool]) -> None:
        self._log = log
        self._is_busy = is_busy  # of this node's giving side
        self._clock = clock
        self._mapping: Mapping | None = None
        self._asking: dict[str, _Asking] = {}
        self._number = first_number  # differs per process: no answer to a former one is taken for this one's
        self.taken = 0  # sessions admitted since the node started

    def begin(self, mapping: Mapping) -> None:
        """A mapping was adopted: answers that belong to the one before have no effect any more."""
        self._mapping = mapping
        self._asking = {}

    def peer_gone(self, peer_id: str) -> None:
        self._asking.pop(peer_id, None)

    def ask(self, peer_id: str) -> None:
        """Pull from a peer that goes by our mapping, unless an answer is awaited or being worked on."""
        asking = self._asking.setdefault(peer_id, _Asking())
        now = self._clock.now_ns()
        waits = asking.number != 0 and now - asking.asked_ns < ASK_AGAIN_NS
        placement = self._log.machine.placement
        if waits or asking.admitting or placement is None:
            return
        self._number += 1
        asking.number, asking.asked_ns, asking.asked_ms = self._number, now, self._log.now_ms()
        self._log.send(
            peer_id,
            {
                "type": "pull",
                "number": self._number,
                "digest": placement.mapping.digest(),
                "store_id": placement.store_id,
                "have": asking.have,
                "declined": asking.declined,
            },
        )

    def handed(self, peer_id: str, message: dict[str, Any]) -> None:
        """The answer to a pull: admit what came, decide what is in doubt, or note that nothing is left."""
        asking = self._asking.get(peer_id)
        if asking is None or asking.number == 0 or message["number"] != asking.number:
            return
        asking.number = 0
        asking.have, asking.declined = [], []
        for session_id, version, moved_at in message["doubtful"]:
            self._judge(asking, session_id, version, moved_at)
        rows = [row for row in message["rows"] if self._owner(row.session_id) == self._log.node_id]
        for row in rows:
            self._take(peer_id, asking, row)
        if message["done"] and not message["rows"] and not message["doubtful"]:
            self._confirm(peer_id, message["store_id"], message["involved"])
        elif not asking.admitting and (asking.have or asking.declined):
            self.ask(peer_id)  # otherwise with the next tick: nothing could be taken

    def _owner(self, session_id: str) -> str | None:
        return None if self._mapping is None else self._mapping.owner(session_id)

    def _has(self, session_id: str, version: int, moved_at: int | None) -> bool:
        """Whether that version of the session is in this node's log, or has gone on from here."""
        machine = self._log.machine
        return has(machine.sessions.get(session_id), machine.departed.get(session_id), version, moved_at)

    def _judge(self, asking: _Asking, session_id: str, version: int, moved_at: int) -> None:
        """A transfer of an earlier mapping: it came, or it never will, because the session maps elsewhere now."""
        if self._has(session_id, version, moved_at):
            asking.have.append((session_id, version))
        elif self._owner(session_id) != self._log.node_id:
            asking.declined.append((session_id, version))

    def _take(self, peer_id: str, asking: _Asking, row: Row) -> None:
        sid, version = row.session_id, row.version
        if self._is_busy(sid):
            return  # a tombstone comes back while it is being forgotten here: only afterwards is it sure what is here
        if self._has(sid, version, row.moved_at):
            asking.have.append((sid, version))
            return
        assert self._mapping is not None
        at_epoch = self._mapping.epoch
        created_ms = max(0, asking.asked_ms - row.age_ms)
        expires_ms = min(max(created_ms + 1, asking.asked_ms + row.left_ms), NUMBER_MAX)
        asking.admitting += 1

        def build(seq: int, deadline_ms: int) -> bytes:
            return admit(
                seq, deadline_ms, sid, at_epoch, peer_id, row.epoch, version, row.nonce, row.policy, created_ms,
                expires_ms, row.reason, row.owner, row.moved_at or 0,
            )  # fmt: skip

        self._log.submit(Request("admit", sid, build), self._admitted(peer_id, asking, row))

    def _admitted(self, peer_id: str, asking: _Asking, row: Row) -> Callable[[Answer], None]:
        def answered(answer: Answer) -> None:
            asking.admitting -= 1
            if self._has(row.session_id, row.version, row.moved_at):
                self.taken += 1
                asking.have.append((row.session_id, row.version))
            elif answer.reason in (Reason.LIMIT_EXCEEDED, Reason.INVALID_TRANSITION):
                detail = f"{row.session_id} version {row.version} of {peer_id}: {answer.reason}"
                self._log.report("SESSION_NOT_ADMITTED", detail)
            if not asking.admitting and asking.have and self._asking.get(peer_id) is asking:
                self.ask(peer_id)  # otherwise with the next tick: nothing could be taken

        return answered

    def _confirm(self, peer_id: str, store_id: int, involved: list[str]) -> None:
        placement = self._log.machine.placement
        assert placement is not None and self._mapping is not None
        epoch, digest = placement.mapping.epoch, placement.mapping.digest()
        if epoch != self._mapping.epoch:
            return  # what was answered belongs to the mapping before

        def build(seq: int, deadline_ms: int) -> bytes:
            return confirm(seq, deadline_ms, peer_id, epoch, digest, store_id, involved)

        def answered(answer: Answer) -> None:
            if answer.reason is None:
                self._log.wake()
            elif answer.reason is Reason.NODE_FENCED:
                detail = f"{peer_id} comes with another data directory (or one declared lost): it must not take part"
                self._log.report("PEER_STORE_CHANGED", detail)

        self._log.submit(Request("confirm", None, build), answered)
