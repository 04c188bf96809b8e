"""The ownership machine: committed entries in, results and audit events out. Pure and total.

`apply` knows no clock, no disk, no randomness; time is what the entry says. Whatever bytes an entry holds, it
returns and never raises, and equal entries give equal state, results and audit bytes on every replica. Here is the
order of checks that do not look at sessions (1 to 7 of `transitions`), cluster time, exactly-once results and the
hash chain. (Design, sections 3 to 5; ownership model, sections 6 to 9.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from raftstore.ownership import batches, commands, events, nodes, placement, reading, snapshot
from raftstore.ownership import records as r
from raftstore.ownership.params import DEFAULTS, Params, lease_length_ms
from raftstore.ownership.placement import Placement
from raftstore.ownership.records import Mark, NodeRecord, Result, SessionRecord, to_session
from raftstore.ownership.remembered import Remembered
from raftstore.ownership.sessions import Sessions
from raftstore.ownership.shapes import is_well_formed, readable_id
from raftstore.ownership.step import Op, Step, Tally
from raftstore.ownership.sweep import sweep
from raftstore.ownership.transitions import TABLE, change, create, refusal_of_reattach
from raftstore.types import Reason, Session, SessionState

Handler = Callable[[Step, NodeRecord, Op], Result]

HANDLERS: Final[dict[int, Handler]] = {
    commands.CONFIGURE: nodes.configure,
    commands.JOIN: nodes.join_again,
    commands.RENEW_LEASE: nodes.renew_lease,
    commands.DRAIN: nodes.drain,
    commands.LEAVE: nodes.leave,
    commands.CREATE: create,
    commands.SWEEP: sweep,
    commands.ADOPT: placement.adopt,
    commands.CONFIRM: placement.confirm,
    commands.SETTLE: placement.settle,
    commands.CLOSE: placement.close,
    commands.CREATE_MAPPED: create,
    commands.ADMIT: placement.admit,
    commands.FORGET: placement.forget,
    commands.RECLAIM: placement.reclaim,
    **dict.fromkeys(TABLE, change),
}
_WITHOUT_LEASE: Final = (commands.JOIN, commands.RENEW_LEASE)
_MALFORMED: Final[Result] = (r.MALFORMED, None)

GroupResults = tuple[str, int, list[tuple[int, Result]]]


class Applied(NamedTuple):
    """What one entry did. `groups` holds (node_id, incarnation, [(seq, result)...]) in the order of the entry."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    now_ms: int  # cluster time of the entry
    groups: list[GroupResults]
    events: list[events.Event]
    events_packed: bytes  # what the chain covers; empty when there are no events
    changed: list[SessionRecord]  # records after each change, in order; a session may occur more than once
    due_earlier: list[SessionRecord]  # of those: what may be overdue earlier than before, and what has ended
    node_changed: bool  # a node joined, drained or left, or the parameters changed
    head: bytes
    resumed: bool  # the batch carried a clock resume: every lease was re-armed


class Machine:
    """The replicated ownership state. Not thread-safe; the node's loop is its only user."""

    def __init__(self) -> None:
        self.params: Params = dict(DEFAULTS)
        self.clock_ms = 0  # cluster time: the highest seen
        self.last_wall_ms = 0  # wall time of the last batch
        self.index = 0  # of the last entry applied
        self.head = events.GENESIS_HEAD
        self.event_seq = 0  # events so far, over the whole history
        self.sessions = Sessions()  # in order of creation; removed only by `forget`
        self.nodes: dict[str, NodeRecord] = {}
        self.remembered: dict[str, Remembered] = {}  # of each node's current incarnation
        self.tally = Tally()
        self.placement: Placement | None = None  # of the sticky strategy
        self.departed: dict[str, Mark] = {}  # of sessions that went to other machines

    # -- applying ------------------------------------------------------------------------------------------------

    def apply(self, index: int, term: int, data: bytes) -> Applied:
        """Apply the committed entry at `index`. Total in `data`; ValueError if `index` does not grow (a bug)."""
        if index <= self.index:
            raise ValueError(f"entry {index} offered after {self.index} was applied")
        batch = batches.decode_batch(data)
        if batch is None:
            step = self._step(index, self.last_wall_ms)
            step.note(events.MALFORMED_BATCH)
            return self._finish(step, [], False)
        stamp_ms, wall_ms, jump_ms, groups = batch
        before_ms = self.clock_ms
        self.clock_ms = max(before_ms, stamp_ms)
        step = self._step(index, wall_ms)
        if jump_ms is not None:
            self._resume_clock(step, before_ms, jump_ms)
        self.last_wall_ms = wall_ms
        results = [self._apply_group(step, *group) for group in groups]
        return self._finish(step, results, jump_ms is not None)

    def _step(self, index: int, wall_ms: int) -> Step:
        return Step(
            index=index,
            now_ms=self.clock_ms,
            wall_ms=wall_ms,
            number=self.event_seq,
            params=self.params,
            sessions=self.sessions,
            nodes=self.nodes,
            tally=self.tally,
            placement=self.placement,
            departed=self.departed,
        )

    def _finish(self, step: Step, groups: list[GroupResults], resumed: bool) -> Applied:
        self.index = step.index
        self.sessions.pack_some()
        self.placement = step.placement
        packed = b""
        if step.events:
            self.event_seq = step.number
            packed = events.pack_events(step.events)
            self.head = events.chain_next(self.head, step.index, packed)
        return Applied(
            step.index,
            step.now_ms,
            groups,
            step.events,
            packed,
            step.changed,
            step.due_earlier,
            step.node_changed,
            self.head,
            resumed,
        )

    def _resume_clock(self, step: Step, before_ms: int, jump_ms: int) -> None:
        """Cluster time goes on after a stop. Leases that had not lapsed start anew: real time passed unseen.

        The jump is bounded by the parameter and, where the last entry's wall time is known, by the wall time since
        then, so that two leaders that resume one after the other do not count the same stop twice.
        """
        bound_ms = int(self.params["clock_resume_max_ms"])
        if self.last_wall_ms > 0:
            bound_ms = min(bound_ms, max(0, step.wall_ms - self.last_wall_ms))
        jump_ms = min(jump_ms, bound_ms)
        step.now_ms = self.clock_ms = min(self.clock_ms + jump_ms, commands.NUMBER_MAX)
        nodes.rearm(self.nodes, before_ms, self.clock_ms, lease_length_ms(self.params))
        step.node_changed = True
        step.note(events.CLOCK_RESUMED, detail=str(jump_ms))

    def _apply_group(self, step: Step, node_id: str, incarnation: int, low_seq: int, ops: list[Any]) -> GroupResults:
        step.node_id, step.incarnation = node_id, incarnation
        node = self.nodes.get(node_id)
        if node is not None and node.incarnation == incarnation:
            memory = self.remembered[node_id]
            memory.forget_below(low_seq)
            memory.make_room()
        results: list[tuple[int, Result]] = []
        for op in ops:
            if not is_well_formed(op):
                kind, seq = readable_id(op)
                step.refuse_op(kind, seq, r.MALFORMED, None, None)
                results.append((seq, _MALFORMED))
                continue
            node = self.nodes.get(node_id)
            if node is None or node.incarnation != incarnation:
                results.append((op[1], self._newcomer(step, node, low_seq, op)))
            else:
                results.append((op[1], self._apply_op(step, node, op)))
        step.node_id, step.incarnation = None, 0
        return (node_id, incarnation, results)

    def _apply_op(self, step: Step, node: NodeRecord, op: Op) -> Result:
        """An op of the node's current incarnation: checks 3 to 7, then the op itself."""
        memory = self.remembered[node.node_id]
        seq = op[1]
        result = memory.results.get(seq)
        if result is not None:
            return result
        if seq < memory.low_seq:
            return step.refuse(op, r.REQUEST_EXPIRED, None, _session_of(op))
        kind = op[0]
        if op[2] < step.now_ms:
            result = step.refuse(op, r.REQUEST_EXPIRED, None, _session_of(op))
        elif node.left or (node.lease_until_ms <= step.now_ms and kind not in _WITHOUT_LEASE):
            result = step.refuse(op, r.NODE_NOT_LIVE, None, _session_of(op))
        else:
            result = HANDLERS[kind](step, node, op)
        memory.results[seq] = result
        return result

    def _newcomer(self, step: Step, node: NodeRecord | None, low_seq: int, op: Op) -> Result:
        """An op of a process that is not the node's current incarnation: only a join can be granted."""
        if op[0] != commands.JOIN or (node is not None and step.incarnation in node.former):
            return nodes.stranger(step, node, step.incarnation, op, _session_of(op))
        if op[1] < low_seq or op[2] < step.now_ms:
            return step.refuse(op, r.REQUEST_EXPIRED)
        assert step.node_id is not None
        result = nodes.join(step, node, step.node_id, step.incarnation, op)
        if result[0] == r.OK:
            self.remembered[step.node_id] = Remembered(low_seq, {op[1]: result})
        return result

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, session_id: str) -> Session | None:
        """The session as this replica knows it, tombstones included."""
        record = self.sessions.get(session_id)
        return None if record is None else to_session(record)

    def result_of(self, node_id: str, incarnation: int, seq: int) -> Result | None:
        """The first result of an op, while it is remembered: how a node learns of what a snapshot covered."""
        node = self.nodes.get(node_id)
        if node is None or node.incarnation != incarnation:
            return None
        return self.remembered[node_id].results.get(seq)

    def lease_until_ms(self, node_id: str) -> int:
        """Cluster time at which the lease of the node's current incarnation lapses; 0 for an unknown node."""
        node = self.nodes.get(node_id)
        return 0 if node is None else node.lease_until_ms

    def sessions_of(self, owner: str) -> Iterator[SessionRecord]:
        """Records owned by a node, tombstones excluded. Looks at every session."""
        return (s for s in self.sessions.values() if s.owner == owner and s.state != r.TERMINATED)

    def list_sessions(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        owner: str | None = None,
        state: SessionState | None = None,
    ) -> reading.Page:
        """One page of sessions in order of creation, from behind `after` on."""
        return reading.list_sessions(self.sessions, after, limit, owner, state)

    def list_nodes(self) -> list[reading.NodeView]:
        """Every node that ever joined, by id, as of the machine's clock."""
        return reading.list_nodes(self.nodes, self.tally, self.clock_ms)

    def explain(self, session_id: str, actor: str, incarnation: int, now_ms: int) -> Reason | None:
        """Why a reattach by that node would be refused at `now_ms`; None if it would not."""
        record, node = self.sessions.get(session_id), self.nodes.get(actor)
        return r.REASONS[refusal_of_reattach(record, node, incarnation, now_ms)]

    # -- snapshots -----------------------------------------------------------------------------------------------

    def freeze_state(self) -> snapshot.FrozenState:
        """The state as of now, which takes next to no time; to be read by another thread, and released after that."""
        return snapshot.FrozenState(self)

    def state_digest(self) -> bytes:
        """SHA-256 over the canonical bytes of the whole state: equal exactly when two replicas agree."""
        state = self.freeze_state()
        try:
            return snapshot.digest(state)
        finally:
            state.release()


def _session_of(op: Op) -> str | None:
    """The session that a well-formed op is about."""
    kind = op[0]
    return op[3] if commands.CREATE <= kind < commands.SWEEP or kind >= commands.CREATE_MAPPED else None
