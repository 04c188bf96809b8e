"""What callers ask of a running node: their ops and reads, from the question to the one answer each gets.

Knows in which order a node refuses (the mapping first, then what keeps it from taking any op), and what becomes of an
op whose caller has left. What is proposed and how it is decided stands in `core` and `proposals`; how answers cross to
the callers' threads, in `bridge`.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from raftstore.config import ClusterConfig
from raftstore.errors import OutcomeUnknown, RaftstoreError, Rejected, Unavailable
from raftstore.node.answers import BEFORE_PROPOSAL, result_or_raise
from raftstore.node.core import Core
from raftstore.node.proposals import Answer, Request, Ticket
from raftstore.node.read import Read
from raftstore.node.replica import LATE_COMMIT
from raftstore.node.sticky.keeper import Sticky
from raftstore.ownership import Machine, SessionRecord
from raftstore.types import OpId, Reason, Session


class Callers(ABC):
    """The part of a node that callers meet. On the node's loop, unless a method says otherwise."""

    core: Core
    _loop: asyncio.AbstractEventLoop

    def __init__(self, config: ClusterConfig, node_id: str, incarnation: int) -> None:
        self.config = config
        self.node_id = node_id
        self.incarnation = incarnation
        self.counters: Counter[str] = Counter()
        self.is_open = False
        self.sticky: Sticky | None = None
        self._counting = threading.Lock()  # of refusals: callers' threads give some of them

    @abstractmethod
    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None: ...

    @abstractmethod
    def _late(self, op_id: OpId, record: SessionRecord) -> None: ...

    @property
    def machine(self) -> Machine:
        return self.core.replica.machine

    def op_id(self, ticket: Ticket) -> OpId:
        return OpId(self.node_id, self.incarnation, ticket.seq)

    def end_of_inputs(self) -> None:
        """Callers' ops that came together have all been submitted."""
        if self.is_open:
            self.core.end_of_inputs()

    @property
    def known_refusal(self) -> tuple[Reason, str] | None:
        """What every op would be refused with, as one before it has found; None when one has to ask. Any thread."""
        return self.core.known_refusal if self.sticky is None else None

    def count_refusal(self, reason: Reason) -> None:
        """An op was refused here before any proposal. Any thread."""
        with self._counting:
            self.counters[f"refused:{reason}"] += 1

    def begin(self, ticket: Ticket, deliver: Callable[[Answer], object]) -> None:
        """Submit a caller's op; `deliver` is called once with the answer, on the node's loop."""
        ticket.deliver = deliver
        self.submit(ticket)

    def submit(self, ticket: Ticket) -> None:
        """Propose a caller's op, or answer why not. Never raises."""
        request = ticket.request
        answered = ticket.answered if self.sticky is None else partial(self._answered, self.sticky, ticket)
        if self.sticky is not None and request.session_id is not None:
            elsewhere = self.sticky.refusal(request.session_id)
            if elsewhere is not None:
                self.count_refusal(elsewhere.reason)
                answered(Answer(True, elsewhere.reason, detail=elsewhere.detail, owner=elsewhere.owner))
                return
        refusal = self.core.why_not_taken()
        if refusal is not None:  # told, not raised: without a majority every caller comes here at once
            self.count_refusal(refusal.reason)
            answered(Answer(True, refusal.reason, detail=refusal.detail))
            return
        ticket.seq = self.core.submit(request, answered)

    @staticmethod
    def _answered(sticky: Sticky, ticket: Ticket, answer: Answer) -> None:
        session_id = ticket.request.session_id
        if answer.reason is Reason.OWNERSHIP_CONFLICT and session_id:
            answer = answer._replace(owner=sticky.gate.owner(session_id))
        ticket.answered(answer)

    async def execute(self, request: Request, *, begun: bool = False) -> Session | None:
        """One op of the node's own procedures, also while it refuses callers' ops because it stops.

        `begun`: an earlier step has had its effect, so this one is proposed in any case; what would be a refusal before
        a proposal is then OutcomeUnknown, because the whole did happen in part.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()

        def deliver(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        ticket = Ticket(request)
        if (begun or self.core.is_stopping) and self.core.stopped is None:
            ticket.seq = self.core.submit(request, deliver)
        else:
            self.begin(ticket, deliver)
        answer = await future
        if begun and answer.decided and answer.reason in BEFORE_PROPOSAL:
            raise OutcomeUnknown(self.op_id(ticket), answer.reason)
        return result_or_raise(answer, self.op_id(ticket))

    def caller_left(self, ticket: Ticket) -> None:
        """The caller was cancelled: it will never be told, so a binding that commits for it is not owned."""
        ticket.deliver = None
        if ticket.answer is None:
            self.core.proposals.give_up(ticket.seq)
        elif ticket.request.binds and ticket.answer.decided and ticket.answer.reason is None:
            record = ticket.answer.record
            if self.core.owned.strike(record.session_id) and self.machine.sessions.get(record.session_id) != record:
                self.fenced([(record.session_id, record.epoch)], LATE_COMMIT)  # of a later caller, who must hear of it
            self._late(OpId(self.node_id, self.incarnation, ticket.seq), record)

    def read(
        self,
        session_id: str,
        linearizable: bool,
        timeout_ms: int | None,
        deliver: Callable[[RaftstoreError | None], object],
    ) -> None:
        """Deliver None once this replica may be read about the session, or why not."""
        elsewhere = None if self.sticky is None else self.sticky.refusal(session_id)
        if elsewhere is not None and elsewhere.reason is Reason.OWNERSHIP_CONFLICT:
            deliver(Rejected(elsewhere.reason, owner=elsewhere.owner, detail=elsewhere.detail))
        elif elsewhere is not None:
            deliver(Unavailable(elsewhere.reason, elsewhere.detail))
        elif linearizable:
            timeout = self.config.timing.op_timeout_ms if timeout_ms is None else timeout_ms
            Read(self.core, self._loop, deliver, timeout).ask()
        else:
            deliver(None)
