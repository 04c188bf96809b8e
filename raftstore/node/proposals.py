"""Requests of this process on their way: from the caller to the log and back.

An op keeps its number (seq) until it is answered. It is sent to whoever leads, again to the next leader if that one
is lost, and answered by this node's own replica when the entry that holds it is applied: there are no answers on
the wire that could be lost or mixed up (H11, H16). The machine applies each number once and refuses what it sees
after the deadline, so sending again is safe and giving up is final.

What a caller learns (design: what a caller can learn): a result of the machine; or, once this replica's clock has
passed the deadline without having seen the op, that it never will be applied; or, when its own patience ends before
that, that the outcome is unknown. An op of unknown outcome stays in a bounded table until it is decided.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from raftstore.types import Reason

UNKNOWN_OPS_MAX = 65_536  # undecided ops remembered after their caller was told; with that many no new op is taken
DECIDED_OPS_MAX = 4_096  # decided late: kept for those who ask


class Answer(NamedTuple):
    """What became of an op: `reason` is None when it was committed; `record` is the session as of then.

    Not `decided`: nobody here knows yet whether it will be applied.
    """

    decided: bool
    reason: Reason | None
    record: Any = None
    log_index: int = 0
    detail: str = ""
    owner: str | None = None  # the node to ask instead


_new: Final = tuple.__new__


def committed_or_rejected(reason: Reason | None, record: Any, log_index: int) -> Answer:
    """What the machine decided, as an Answer without the cost of its own constructor."""
    return _new(Answer, (True, reason, record, log_index, "", None))


Callback = Callable[[Answer], None]
Build = Callable[[int, int], bytes]  # (seq, deadline_ms) -> packed op


class Request:
    """One op, ready to be numbered. (Not a dataclass: compiled, what that generates is not.)"""

    __slots__ = ("binds", "build", "gives_up", "kind", "session_id", "timeout_ms")

    def __init__(
        self,
        kind: str,
        session_id: str | None,
        build: Build,
        timeout_ms: int | None = None,
        *,
        binds: bool = False,
        gives_up: bool = False,
    ) -> None:
        self.kind = kind
        self.session_id = session_id
        self.build = build
        self.timeout_ms = timeout_ms  # None: that of the configuration
        self.binds = binds  # makes this node act for the session when it commits
        self.gives_up = gives_up  # ends this node's ownership when it commits


class Ticket:
    """What a caller holds of its op."""

    __slots__ = ("answer", "deliver", "request", "seq")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.deliver: Callable[[Answer], object] | None = None  # None once the caller has left
        self.seq = 0  # once it has been proposed
        self.answer: Answer | None = None

    def answered(self, answer: Answer) -> None:
        """The one answer is known. On the node's loop."""
        self.answer = answer
        if self.deliver is not None:
            self.deliver(answer)


class Pending:
    """One op that is not decided yet. Deadline in cluster time, patience in local monotonic time."""

    __slots__ = ("begun_ns", "callback", "deadline_ms", "group", "op", "patience_ns", "proposed", "request", "seq")

    def __init__(
        self,
        seq: int,
        op: bytes,
        request: Request,
        callback: Callback | None,
        deadline_ms: int,
        patience_ns: int,
        begun_ns: int,
    ) -> None:
        self.seq = seq
        self.op = op
        self.request = request
        self.callback = callback
        self.deadline_ms = deadline_ms
        self.patience_ns = patience_ns
        self.begun_ns = begun_ns
        self.group: _Group | None = None
        self.proposed = False  # it has left this queue at least once


class _Group:
    """Ops that were sent together; a place in the pipeline is free again when all are answered."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size


class Proposals:
    """The ops of one incarnation. Not thread-safe: the node's loop is its only user."""

    def __init__(self, *, pending_ops_max: int, groups_in_flight_max: int) -> None:
        self._pending_ops_max = pending_ops_max
        self._groups_in_flight_max = groups_in_flight_max
        self._next_seq = 1
        self._pending: dict[int, Pending] = {}  # by seq, in order
        self._unsent: deque[Pending] = deque()
        self._patience: list[tuple[int, int]] = []  # heap of (patience_ns, seq)
        self._groups_in_flight = 0
        self._unknown: OrderedDict[int, Pending] = OrderedDict()
        self._decided: OrderedDict[int, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= self._pending_ops_max or len(self._unknown) >= UNKNOWN_OPS_MAX

    @property
    def unsent_count(self) -> int:
        return len(self._unsent)

    @property
    def low_seq(self) -> int:
        """Every number below is answered or given up: the machine may forget it, and refuses it from then on."""
        for seq in self._pending:
            return seq
        return self._next_seq

    def submit(
        self, request: Request, callback: Callback | None, *, deadline_ms: int, patience_ns: int, begun_ns: int
    ) -> Pending:
        """Take an op. The caller has checked `is_full`."""
        seq = self._next_seq
        self._next_seq += 1
        op = request.build(seq, deadline_ms)
        pending = Pending(seq, op, request, callback, deadline_ms, patience_ns, begun_ns)
        self._pending[seq] = pending
        self._unsent.append(pending)
        heapq.heappush(self._patience, (patience_ns, seq))
        return pending

    def take(self, ops_max: int, bytes_max: int) -> list[bytes]:
        """The next group to send, in order; empty when nothing waits or enough is in flight."""
        if not self._unsent or self._groups_in_flight >= self._groups_in_flight_max:
            return []
        ops: list[bytes] = []
        size = 0
        members: list[Pending] = []
        while self._unsent and len(ops) < ops_max:
            pending = self._unsent[0]
            if pending.seq not in self._pending:
                self._unsent.popleft()  # given up before it was ever sent
                continue
            size += len(pending.op)
            if size > bytes_max and ops:
                break
            self._unsent.popleft()
            pending.proposed = True
            members.append(pending)
            ops.append(pending.op)
        if members:
            group = _Group(len(members))
            for pending in members:
                pending.group = group
            self._groups_in_flight += 1
        return ops

    def send_again(self) -> None:
        """The leader changed or the link to it broke: everything unanswered goes out again, in order."""
        for pending in self._pending.values():
            pending.group = None
        self._groups_in_flight = 0
        self._unsent = deque(self._pending.values())

    def settle(self, seq: int, answer: Answer) -> tuple[Pending | None, bool]:
        """This replica applied op `seq`: the op, and whether its caller still waits (False: it was told "unknown")."""
        pending = self._pending.pop(seq, None)
        if pending is not None:
            self._leave_group(pending)
            return pending, True
        late = self._unknown.pop(seq, None)
        if late is not None:
            self._remember(seq, answer)
        return late, False

    def out_of_patience(self, now_ns: int, clock_ms: int) -> list[tuple[Pending, Answer]]:
        """The ops whose time is up, with an answer as definite as can be; `clock_ms` is this replica's clock.

        Past the deadline by that clock: certainly never applied. Never sent: withdrawn, certainly never applied.
        Otherwise unknown: kept until decided.
        """
        answers: list[tuple[Pending, Answer]] = []
        while self._patience and self._patience[0][0] <= now_ns:
            _, seq = heapq.heappop(self._patience)
            pending = self._pending.pop(seq, None)
            if pending is None:
                continue
            self._leave_group(pending)
            if not pending.proposed:
                answer = Answer(True, Reason.NO_QUORUM, detail="no leader took it before its deadline")
            elif pending.deadline_ms < clock_ms:
                answer = Answer(True, Reason.REQUEST_EXPIRED)
            else:
                answer = Answer(False, Reason.DEADLINE_PASSED)
                self._unknown[seq] = pending
            answers.append((pending, answer))
        return answers

    def decide_unknown(self, clock_ms: int) -> list[Pending]:
        """Ops of unknown outcome that can no longer be applied: this replica's clock has passed their deadline."""
        dead = [p for p in self._unknown.values() if p.deadline_ms < clock_ms]
        for pending in dead:
            del self._unknown[pending.seq]
            self._remember(pending.seq, Answer(True, Reason.REQUEST_EXPIRED))
        return dead

    def give_up(self, seq: int) -> None:
        """The caller has left: nobody is told any more, as if its patience had ended."""
        pending = self._pending.pop(seq, None)
        if pending is not None:
            self._leave_group(pending)
            pending.callback = None
            self._unknown[seq] = pending

    @property
    def next_seq(self) -> int:
        return self._next_seq

    def undecided(self) -> list[int]:
        """Numbers of the ops whose fate is not known here, in order: those somebody waits for, and the others."""
        return sorted((*self._pending, *self._unknown))

    def give_up_below(self, seq: int) -> list[Pending]:
        """A snapshot took the place of entries that may have held these: their fate cannot be known here any more.

        Of those that nobody waits for; an op that somebody waits for is never forgotten by the machine.
        """
        lost = [p for p in self._unknown.values() if p.seq < seq]
        for pending in lost:
            del self._unknown[pending.seq]
            self._remember(pending.seq, Answer(False, Reason.DEADLINE_PASSED, detail="covered by a snapshot"))
        return lost

    def next_patience_ns(self) -> int | None:
        """When `out_of_patience` has something to do at the earliest."""
        while self._patience and self._patience[0][1] not in self._pending:
            heapq.heappop(self._patience)
        return self._patience[0][0] if self._patience else None

    def abandon(self) -> list[Pending]:
        """The node stops or failed: every op that waits. The caller answers them."""
        waiting, self._pending = list(self._pending.values()), {}
        self._unsent.clear()
        self._patience.clear()
        return waiting

    def outcome(self, seq: int) -> Answer | None:
        """What became of an op whose caller was told that it is unknown: None if this node does not know it."""
        decided = self._decided.get(seq)
        if decided is not None:
            return decided
        if seq in self._unknown or seq in self._pending:
            return Answer(False, None)
        return None

    def _remember(self, seq: int, answer: Answer) -> None:
        self._decided[seq] = answer
        if len(self._decided) > DECIDED_OPS_MAX:
            self._decided.popitem(last=False)

    def _leave_group(self, pending: Pending) -> None:
        group = pending.group
        if group is not None:
            pending.group = None
            group.left -= 1
            if group.left == 0:
                self._groups_in_flight -= 1
