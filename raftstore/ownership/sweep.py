"""What is overdue: the rule that the machine applies, and the index by which a leader finds candidates.

The machine looks at each candidate again at its own time, under the version that the leader saw, so a sweep is
harmless whoever sends it and however late. The index is local to a node and derived from the records: it decides
nothing, it only finds. (Ownership model, section 9: strict TTL expiration; section 5: option B.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raftstore.ownership import events
from raftstore.ownership.records import (
    ATTACHED,
    FROZEN,
    RECOVERING,
    TERMINATED,
    NodeRecord,
    Result,
    SessionRecord,
    is_lost,
)
from raftstore.ownership.step import Op, Step, recovering

if TYPE_CHECKING:
    from raftstore.ownership.machine import Machine

TTL_EXPIRED = "TTL_EXPIRED"
REATTACH_WINDOW = "REATTACH_WINDOW"
FREEZE_TIMEOUT = "FREEZE_TIMEOUT"
RESUME_TIMEOUT = "RESUME_TIMEOUT"
OWNER_RESTARTED = "OWNER_RESTARTED"
OWNER_LOST = "OWNER_LOST"

SLOT_MS = 500  # how finely the index files due times: a sweep comes at most this late
RETRY_SLOTS = 2  # a candidate that was offered is offered again after so many slots, in case its sweep was lost
FILED_AT_ONCE = 4_096  # by one call of `due`, of the sessions that were there when the index was made
PAGE_SESSIONS = 512  # of a slot, kept together
VISITS_MAX = 2_048  # records one call of `due` looks at, so that it never stalls a loop


def overdue(record: SessionRecord, nodes: dict[str, NodeRecord], now_ms: int) -> tuple[int, str] | None:
    """The state that the sweep takes the session to and why; None when nothing is due. The first rule that fits:

    TTL passed; reattach window passed; owner lost and policy terminate; freeze stalled; owner restarted, the older
    process certainly dead, and with it the binding. A lost owner under policy deny changes nothing here: the session
    waits for a failover. A session whose owner is a node of another machine is that machine's to end.
    """
    state = record.state
    owner = nodes.get(record.owner)
    if state == TERMINATED or owner is None:
        return None
    if now_ms >= record.expires_at_ms:
        return TERMINATED, TTL_EXPIRED
    if record.reattach_by_ms is not None and now_ms >= record.reattach_by_ms:
        return TERMINATED, REATTACH_WINDOW
    if record.policy == "terminate" and is_lost(owner, now_ms):
        return TERMINATED, OWNER_LOST
    if record.freeze_by_ms is not None and now_ms >= record.freeze_by_ms:
        return RECOVERING, RESUME_TIMEOUT if record.transferred else FREEZE_TIMEOUT
    if state == ATTACHED and record.owner_inc != owner.incarnation and now_ms >= owner.fence_until_ms:
        return RECOVERING, OWNER_RESTARTED
    return None


def sweep(step: Step, _actor: NodeRecord, op: Op) -> Result:
    """Apply a sweep op. A candidate that changed since, or is not due, is passed over without an event."""
    for session_id, version in op[3]:
        record = step.sessions.get(session_id)
        if record is None or record.state_version != version:
            continue
        due = overdue(record, step.nodes, step.now_ms)
        if due is not None:
            _sweep_one(step, op, record, *due)
    return (0, None)


def _sweep_one(step: Step, op: Op, record: SessionRecord, to_state: int, reason: str) -> None:
    if to_state == TERMINATED:
        event = events.TERMINATED_EVENT if reason == OWNER_LOST else events.EXPIRED
        step.commit(op, record, terminated(record, reason), event, reason, None)
        return
    new = recovering(record, record.owner, record.epoch, record.owner_inc, step.soon_ms("reattach_window_ms"), reason)
    event = events.THAWED if record.state == FROZEN else events.DETACHED
    step.commit(op, record, new, event, reason, None)


def terminated(old: SessionRecord, reason: str) -> SessionRecord:
    """The tombstone: kept for ever, so that the identity cannot be forked by creating it again."""
    return old._replace(
        state=TERMINATED,
        state_version=old.state_version + 1,
        binding=None,
        reattach_by_ms=None,
        freeze_by_ms=None,
        target=None,
        reason=reason,
        transferred=False,
    )


def next_due_ms(record: SessionRecord) -> int:
    """The first time at which the record itself becomes overdue, its owner's fate aside."""
    due_ms = record.expires_at_ms
    if record.reattach_by_ms is not None and record.reattach_by_ms < due_ms:
        return record.reattach_by_ms
    if record.freeze_by_ms is not None and record.freeze_by_ms < due_ms:
        return record.freeze_by_ms
    return due_ms


class _Slot:
    """Sessions filed under one time, in bare tuples but for the last few: the garbage collector forgets about those."""

    __slots__ = ("_last", "_pages", "number")

    def __init__(self, number: int) -> None:
        self.number = number  # one object for all sessions that are filed here
        self._pages: list[tuple[str, ...]] = []
        self._last: list[str] = []

    def __len__(self) -> int:
        """Not 0 as long as there are any."""
        return len(self._last) + len(self._pages)

    def add(self, session_id: str) -> None:
        if len(self._last) >= PAGE_SESSIONS:
            self._pages.append(tuple(self._last))
            self._last.clear()
        self._last.append(session_id)

    def pop(self) -> str:
        if not self._last:
            self._last.extend(self._pages.pop())
        return self._last.pop()


class _Stack:
    """Ids that are taken one by one. In a bare tuple: a list is gone through by every full pass of the collector."""

    __slots__ = ("_ids", "_left")

    def __init__(self, ids: tuple[str, ...]) -> None:
        self._ids = ids
        self._left = len(ids)

    def __len__(self) -> int:
        return self._left

    def pop(self) -> str:
        self._left -= 1
        session_id = self._ids[self._left]
        if not self._left:
            self._ids = ()
        return session_id


class DueIndex:
    """Finds overdue sessions without looking at all of them. Feed `note` with every Applied.due_earlier.

    Sessions are filed in slots of SLOT_MS under the time at which they first become overdue. A session whose time
    moves back stays where it is and is filed anew when its slot comes up, so most changes cost one look-up. When a
    node restarts or is lost, all sessions are gone through once, a bounded slice per call.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._slots: dict[int, _Slot] = {}
        self._slot_heap: list[int] = []
        self._filed: dict[str, int] = {}  # the slot that counts for each session
        self._seen_nodes: tuple[tuple[str, int, int, int], ...] = ()
        self._scan = _Stack(())  # sessions still to be gone through because a node restarted or was lost
        self._unfiled = _Stack(machine.sessions.keys())  # filed a part at a time: all at once would hold up a start

    def __len__(self) -> int:
        return len(self._filed)

    def note(self, changed: Iterable[SessionRecord]) -> None:
        """Take notice of records that may be overdue earlier than before, or have ended. Others may be among them.

        To look up one of a million, on every replica, for each transition, costs a fifth of applying it.
        """
        filed = self._filed
        for record in changed:
            if record.state == TERMINATED:
                filed.pop(record.session_id, None)
                continue
            slot = next_due_ms(record) // SLOT_MS + 1
            if slot < filed.get(record.session_id, slot + 1):
                self._file(record.session_id, slot)

    def due(self, now_ms: int, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` sessions that the sweep would change at `now_ms`, with their versions.

        Looks at VISITS_MAX records at most, and files FILED_AT_ONCE; call again soon when that many were due. What was
        offered is offered again a little later, until the machine changes it.
        """
        self._file_some()
        found: list[tuple[str, int]] = []
        visits = self._visit_slots(now_ms, limit, found)
        self._visit_scan(now_ms, limit, found, visits)
        return found

    def _file_some(self) -> None:
        for _ in range(min(FILED_AT_ONCE, len(self._unfiled))):
            session_id = self._unfiled.pop()
            record = None if session_id in self._filed else self._machine.sessions.get(session_id)
            if record is not None:
                self.note((record,))

    def _file(self, session_id: str, slot: int) -> None:
        members = self._slots.get(slot)
        if members is None:
            members = self._slots[slot] = _Slot(slot)
            heapq.heappush(self._slot_heap, slot)
        members.add(session_id)
        self._filed[session_id] = members.number

    def _visit_slots(self, now_ms: int, limit: int, found: list[tuple[str, int]]) -> int:
        visits = 0
        while self._slot_heap and self._slot_heap[0] * SLOT_MS <= now_ms:
            slot = self._slot_heap[0]
            members = self._slots[slot]
            while len(members):
                if visits >= VISITS_MAX or len(found) >= limit:
                    return visits
                visits += 1
                session_id = members.pop()
                if self._filed.get(session_id) == slot:
                    self._judge(session_id, now_ms, found)
            heapq.heappop(self._slot_heap)
            del self._slots[slot]
        return visits

    def _judge(self, session_id: str, now_ms: int, found: list[tuple[str, int]]) -> None:
        """Offer the session if it is overdue, and file it for the next look."""
        record = self._machine.sessions.get(session_id)
        if record is None:
            del self._filed[session_id]  # it went to another machine
            return
        slot = next_due_ms(record) // SLOT_MS + 1
        if overdue(record, self._machine.nodes, now_ms) is not None:
            found.append((session_id, record.state_version))
            slot = now_ms // SLOT_MS + RETRY_SLOTS
        self._file(session_id, max(slot, now_ms // SLOT_MS + 1))

    def _visit_scan(self, now_ms: int, limit: int, found: list[tuple[str, int]], visits: int) -> None:
        nodes = self._machine.nodes
        if not self._scan:
            seen = tuple(
                (
                    node.node_id,
                    node.incarnation,
                    node.lease_until_ms if is_lost(node, now_ms) else 0,
                    node.fence_until_ms if node.fence_until_ms <= now_ms else 0,
                )
                for node in nodes.values()
            )
            if seen == self._seen_nodes:
                return
            self._seen_nodes = seen
            self._scan = _Stack(self._machine.sessions.keys())
        scan = self._scan
        offered = {session_id for session_id, _ in found}
        while scan and visits < VISITS_MAX and len(found) < limit:
            visits += 1
            session_id = scan.pop()
            record = self._machine.sessions.get(session_id)
            if record is None or session_id in offered:
                continue
            if overdue(record, nodes, now_ms) is not None:
                found.append((session_id, record.state_version))
                self._file(session_id, now_ms // SLOT_MS + RETRY_SLOTS)
