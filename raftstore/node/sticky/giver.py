"""The giving side of a mapping change: sessions that map to another node leave by freeze, transfer, and a proof.

Level-triggered: for each session that maps elsewhere the next op is whatever its record needs next, so an interruption
anywhere, a restart included, goes on from where the log stands.

    ATTACHED, RECOVERING      freeze, target the new node            `owns` is false from the proposal on
    FROZEN, not transferred   transfer, or thaw if it was to go elsewhere
    FROZEN, transferred here  resume, and begin again
    transferred to the node   may travel: nothing but `forget` and `reclaim` changes it here any more
    TERMINATED                may travel as the tombstone that it is

(Ownership model, section 3: freeze, commit, transfer, resume; the last step is the new node's.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from raftstore.node.proposals import Answer, Build, Request
from raftstore.node.sticky.messages import BATCH_MAX, Row
from raftstore.ownership import Machine, SessionRecord, forget, freeze, reclaim, resume, thaw, transfer
from raftstore.routing import Mapping
from raftstore.types import SessionState

SCAN_SLICE = 2_000  # sessions looked at in one go after a mapping change, so that the loop never stalls


class Log(Protocol):
    """The node's own log as the sticky parts use it: one machine, ops of the node itself."""

    node_id: str

    @property
    def machine(self) -> Machine: ...

    def now_ms(self) -> int:
        """Cluster time of this node."""

    def submit(self, request: Request, callback: Callable[[Answer], None]) -> None:
        """Propose an op; `callback` is called once with what is known of it."""

    def send(self, peer_id: str, message: dict[str, Any]) -> None: ...

    def wake(self) -> None:
        """The placement may have changed: consider what follows from it."""

    def report(self, kind: str, detail: str) -> None: ...


class Giver:
    """Sessions of this node on their way out. The node's loop is its only user."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mapping: Mapping | None = None
        self._scan: Iterator[str] = iter(())
        self._leaving: dict[str, dict[str, None]] = {}  # by target: still to be given, in order
        self._doubtful: dict[str, dict[str, None]] = {}  # by taker of an earlier mapping: may it have them?
        self._busy: set[str] = set()  # an op of ours on them is not decided
        self._unsure: dict[str, int] = {}  # of these: those whose op nobody waits for, and when it can be no more
        self._before: set[str] = set()  # of these: those whose op is older than the mapping
        self._held: dict[str, int] = {}  # pulls that wait for an answer: peer and number
        self.is_scanning = False

    # --- a new mapping -------------------------------------------------------------------------------------
    def begin(self, mapping: Mapping) -> None:
        """A mapping was adopted (or the node has just started with one): find what must leave."""
        self._mapping = mapping
        self._leaving, self._doubtful, self._held = {}, {}, {}
        self._before = set(self._busy)
        self._scan = iter(list(self._log.machine.sessions))
        self.is_scanning = True

    def scan(self) -> None:
        """Look at the next slice. No session that maps elsewhere can appear behind it: the epoch forbids it.

        Nor is one sorted in on which an op of the mapping before is under way: a transfer may come of it that must be
        in doubt, or a reclaim.
        """
        if not self.is_scanning:
            return
        piece = list(islice(self._scan, SCAN_SLICE))
        for session_id in piece:
            if session_id not in self._before:
                self._sort_in(session_id)
        if len(piece) < SCAN_SLICE and not self._before:
            self.is_scanning = False
            self.answer_held()

    def tick(self) -> None:
        """Ops whose outcome was unknown are decided once the machine's clock has passed their deadline."""
        clock_ms = self._log.machine.clock_ms
        for session_id in [session_id for session_id, end_ms in self._unsure.items() if end_ms < clock_ms]:
            del self._unsure[session_id]
            self._decided(session_id)

    def _answered(self, session_id: str, answer: Answer) -> None:
        if answer.decided:
            self._decided(session_id)
        else:
            self._unsure[session_id] = self._log.now_ms()  # its deadline is past, and no entry has that time yet

    def _decided(self, session_id: str) -> None:
        self._busy.discard(session_id)
        if session_id in self._before:
            self._before.discard(session_id)
            self._sort_in(session_id)

    def _sort_in(self, session_id: str) -> None:
        record = self._log.machine.sessions.get(session_id)
        assert self._mapping is not None
        if record is None:
            return
        target = self._mapping.owner(session_id)
        if target is not None and target != self._log.node_id:
            self._leaving.setdefault(target, {})[session_id] = None
        if is_away(record, self._log.node_id) and record.owner != target:
            self._doubtful.setdefault(record.owner, {})[session_id] = None

    def is_busy(self, session_id: str) -> bool:
        """Whether an op on the session is under way that this side has proposed, and whose outcome is open."""
        return session_id in self._busy

    def left_for(self, peer_id: str) -> int:
        """How many sessions are still to be given to that node."""
        return len(self._leaving.get(peer_id, ()))

    def left(self) -> dict[str, int]:
        """The same by node, of those with any."""
        return {peer_id: len(sessions) for peer_id, sessions in sorted(self._leaving.items()) if sessions}

    # --- a peer's pull ---------------------------------------------------------------------------------------
    def pulled(self, peer_id: str, number: int, have: list[list[Any]], declined: list[list[Any]]) -> None:
        """A peer with our mapping asks for its sessions. What it has is forgotten, what it declined taken back."""
        for session_id, version in have:
            self._forget(session_id, version, peer_id)
        for session_id, version in declined:
            self._reclaim(session_id, version, peer_id)
        self._held[peer_id] = number
        self._answer(peer_id)

    def peer_gone(self, peer_id: str) -> None:
        self._held.pop(peer_id, None)

    def lost(self, peer_id: str) -> None:
        """That node was declared lost, and with it what had been transferred to it: who knows what became of it."""
        for session_id in list(self._doubtful.get(peer_id, ())):
            record = self._log.machine.sessions.get(session_id)
            if record is not None and is_away(record, self._log.node_id) and record.owner == peer_id:
                self._forget(session_id, record.state_version, peer_id)

    def _answer(self, peer_id: str) -> None:
        """Answer a pull with what may travel now; when there is nothing yet, later."""
        number = self._held.get(peer_id)
        if number is None:
            return
        doubtful = self._doubts(peer_id)
        rows = [] if doubtful or self._is_stranger(peer_id) else self._rows(peer_id)  # its answer must fit one message
        done = not (self.is_scanning or self._leaving.get(peer_id) or self._doubtful.get(peer_id))
        if not (rows or doubtful or done):
            return
        del self._held[peer_id]
        placement = self._log.machine.placement
        assert placement is not None
        self._log.send(
            peer_id,
            {
                "type": "handed",
                "number": number,
                "store_id": placement.store_id,
                "rows": rows,
                "doubtful": doubtful,
                "done": done,
                "involved": placement.involved,
            },
        )

    def _is_stranger(self, peer_id: str) -> bool:
        """Whether this log does not know the peer's data directory yet: if that were lost, nobody would miss it."""
        placement = self._log.machine.placement
        return placement is None or placement.store_of(peer_id) is None

    def answer_held(self) -> None:
        """The placement has changed: a pull that waits may be answered by it."""
        for peer_id in list(self._held):
            self._answer(peer_id)

    def _rows(self, peer_id: str) -> list[Row]:
        """Up to BATCH_MAX sessions that may travel; those behind them are made ready meanwhile."""
        leaving = self._leaving.get(peer_id, {})
        rows: list[Row] = []
        for session_id in list(islice(leaving, 2 * BATCH_MAX)):
            record = self._log.machine.sessions.get(session_id)
            if record is None:
                del leaving[session_id]
            elif session_id in self._busy:
                continue
            elif record.state == SessionState.TERMINATED or record.owner == peer_id:
                if len(rows) < BATCH_MAX:
                    rows.append(self._row(record))
            else:
                self._advance(session_id, peer_id)
        return rows

    def _row(self, record: SessionRecord) -> Row:
        now_ms = self._log.now_ms()
        is_over = record.state == SessionState.TERMINATED
        return Row(
            record.session_id,
            record.epoch,
            record.state_version,
            record.nonce,
            record.policy,
            max(0, now_ms - record.created_at_ms),
            record.expires_at_ms - now_ms,
            *((record.reason, record.owner, None) if is_over else (None, None, record.owner_inc)),
        )

    def _doubts(self, peer_id: str) -> list[tuple[str, int, int]]:
        doubtful = self._doubtful.get(peer_id, {})
        marks: list[tuple[str, int, int]] = []
        for session_id in list(islice(doubtful, BATCH_MAX)):
            record = self._log.machine.sessions.get(session_id)
            if record is None or record.owner != peer_id or not is_away(record, self._log.node_id):
                del doubtful[session_id]  # also where its tombstone has come back, whose owner is that very peer
            elif session_id not in self._busy:
                marks.append((session_id, record.state_version, record.owner_inc))
        return marks

    def _epoch(self) -> int:
        """Of the mapping by which this was judged: under another one the machine refuses it."""
        return 0 if self._mapping is None else self._mapping.epoch

    # --- single sessions ---------------------------------------------------------------------------------------
    def _advance(self, session_id: str, target: str) -> None:
        """Propose what the session needs next, if nothing is under way for it."""
        record = self._log.machine.sessions.get(session_id)
        if record is None or session_id in self._busy:
            return
        request = self._next_step(record, target)
        if request is None:
            return
        self._busy.add(session_id)

        def answered(answer: Answer) -> None:
            self._answered(session_id, answer)
            if answer.reason is None:
                self._went_on(session_id)
            # refused, or not known: the peer pulls again, and the record says what is needed then

        self._log.submit(request, answered)

    def _went_on(self, session_id: str) -> None:
        for target, sessions in self._leaving.items():
            if session_id in sessions:
                self._advance(session_id, target)
                record = self._log.machine.sessions.get(session_id)
                if target in self._held and record is not None and record.owner == target:
                    self._answer(target)
                return

    def _next_step(self, record: SessionRecord, target: str) -> Request | None:
        sid, version, here = record.session_id, record.state_version, self._log.node_id
        if record.state == SessionState.TERMINATED or is_away(record, self._log.node_id):
            return None
        if record.state != SessionState.FROZEN:
            return Request("freeze", sid, lambda seq, d: freeze(seq, d, sid, version, "MAPPING", target), gives_up=True)
        if record.transferred:
            return Request("resume", sid, lambda seq, d: resume(seq, d, sid, version)) if record.owner == here else None
        if record.target == target:
            return Request("transfer", sid, lambda seq, d: transfer(seq, d, sid, version), gives_up=True)
        return Request("thaw", sid, lambda seq, d: thaw(seq, d, sid, version))

    def _forget(self, session_id: str, version: int, taker: str) -> None:
        record = self._log.machine.sessions.get(session_id)
        if record is None or record.state_version != version or session_id in self._busy:
            return
        at_epoch = self._epoch()
        self._submit_for(session_id, "forget", lambda seq, d: forget(seq, d, session_id, version, taker, at_epoch))

    def _reclaim(self, session_id: str, version: int, peer_id: str) -> None:
        """Only what maps elsewhere now: by this very mapping, which the peer goes by as well, it can never admit it."""
        record = self._log.machine.sessions.get(session_id)
        if (
            record is None
            or record.state_version != version
            or record.owner != peer_id
            or self._mapping is None
            or self._mapping.owner(session_id) == peer_id
            or session_id in self._busy
        ):
            return
        at_epoch = self._epoch()
        self._submit_for(session_id, "reclaim", lambda seq, d: reclaim(seq, d, session_id, version, at_epoch))

    def _submit_for(self, session_id: str, kind: str, build: Build) -> None:
        self._busy.add(session_id)

        def answered(answer: Answer) -> None:
            self._answered(session_id, answer)
            for sessions in (*self._leaving.values(), *self._doubtful.values()):
                if session_id in sessions and session_id not in self._log.machine.sessions:
                    del sessions[session_id]
            self.answer_held()

        self._log.submit(Request(kind, session_id, build), answered)


def is_away(record: SessionRecord, node_id: str) -> bool:
    """Whether the session was given from that node to another machine."""
    return record.owner != node_id and record.state == SessionState.FROZEN and record.transferred
