"""One batch being applied: its time, the state it works on, and what it leaves behind (events, changed records).

Knows how a transition or a refusal is written down: once in the state, once in the audit trail. Knows nothing of
what is allowed: `transitions`, `nodes` and `sweep` decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftstore.ownership import events
from raftstore.ownership.params import Params
from raftstore.ownership.records import (
    ATTACHED,
    CREATED_AT,
    EPOCH_AT,
    EXPIRES_AT,
    FROZEN,
    NONCE_AT,
    OWNED_SINCE_AT,
    REASON_TEXTS,
    RECOVERING,
    VERSION_AT,
    Mark,
    NodeRecord,
    Result,
    Row,
    SessionRecord,
)

if TYPE_CHECKING:
    from raftstore.ownership.placement import Placement
    from raftstore.ownership.sessions import Sessions

Op = list[Any]  # [kind, seq, deadline_ms, ...arguments], well-formed

_new: Final = tuple.__new__  # a NamedTuple without the cost of its own constructor


class Tally:
    """How many sessions each owner has, tombstones excluded, and how many of them are bound. Derived, not state."""

    __slots__ = ("attached", "owned")

    def __init__(self) -> None:
        self.attached: dict[str, int] = {}
        self.owned: dict[str, int] = {}

    def add(self, record: SessionRecord, by: int) -> None:
        """Count a record in (1) or out (-1)."""
        self.count(record.owner, record.state, by)

    def count(self, owner: str, state: int, by: int) -> None:
        """Count so many sessions of an owner in one state in, or out when `by` is negative."""
        if state <= FROZEN:
            self.owned[owner] = self.owned.get(owner, 0) + by
        if state == ATTACHED:
            self.attached[owner] = self.attached.get(owner, 0) + by


class Step:
    """The working context of one batch. `node_id` and `incarnation` are those of the group at work."""

    __slots__ = (
        "changed",
        "departed",
        "due_earlier",
        "events",
        "incarnation",
        "index",
        "node_changed",
        "node_id",
        "nodes",
        "now_ms",
        "number",
        "params",
        "placement",
        "sessions",
        "tally",
        "wall_ms",
    )

    def __init__(
        self,
        *,
        index: int,
        now_ms: int,
        wall_ms: int,
        number: int,
        params: Params,
        sessions: Sessions,
        nodes: dict[str, NodeRecord],
        tally: Tally,
        placement: Placement | None,
        departed: dict[str, Mark],
    ) -> None:
        # Held as objects, whatever they are declared as: compiled, each event would otherwise make integers of its own.
        self.index: Any = index
        self.now_ms: Any = now_ms
        self.wall_ms: Any = wall_ms
        self.incarnation: Any = 0
        self.number = number  # of the last event so far
        self.params = params
        self.sessions = sessions
        self.nodes = nodes
        self.tally = tally
        self.placement = placement
        self.departed = departed
        self.node_id: str | None = None
        self.events: list[events.Event] = []
        self.changed: list[SessionRecord] = []
        self.due_earlier: list[SessionRecord] = []
        self.node_changed = False

    def soon_ms(self, param: str) -> int:
        """The time that lies one parameter's length ahead."""
        now_ms: int = self.now_ms
        return now_ms + int(self.params[param])

    def commit(
        self, op: Op, old: SessionRecord | None, new: SessionRecord, event: int, reason: str | None, detail: str | None
    ) -> Result:
        """Write a transition down: the record, its event, the tally."""
        if old is not None and old.owner != new.owner:
            new = new._replace(owned_since=self.index)
        row: Row = new
        sid, state, owner = new.session_id, new.state, new.owner
        self.sessions[sid] = new
        self.changed.append(new)
        if old is None or state != ATTACHED or new.expires_at_ms < old.expires_at_ms:
            self.due_earlier.append(new)
        from_state = 0
        if old is None:
            self.tally.add(new, 1)
        else:
            from_state = old.state
            if from_state != state or old.owner != owner:
                self.tally.add(old, -1)
                self.tally.add(new, 1)
        self.number = number = self.number + 1
        self.events.append(
            (
                number, self.index, self.now_ms, self.wall_ms, event, sid, self.node_id, op[0], self.incarnation,
                op[1], from_state, state, owner, row[EPOCH_AT], row[VERSION_AT], reason, detail,
            )
        )  # fmt: skip
        return (0, new)

    def remove(self, op: Op, record: SessionRecord, event: int, taker: str, at_epoch: int) -> Result:
        """A session has gone to another machine. A mark of it stays, so that it cannot begin anew."""
        sid, state, _, epoch, version = record[:5]
        del self.sessions[sid]
        self.departed[sid] = Mark(version, at_epoch)
        self.tally.add(record, -1)
        self.number = number = self.number + 1
        self.events.append(
            (
                number, self.index, self.now_ms, self.wall_ms, event, sid, self.node_id, op[0], self.incarnation,
                op[1], state, 0, taker, epoch, version, None, None,
            )
        )  # fmt: skip
        return (0, record)

    def refuse(self, op: Op, code: int, record: SessionRecord | None = None, sid: str | None = None) -> Result:
        """Write a refusal down: nothing changes but the audit trail. The result carries the current record."""
        self.refuse_op(op[0], op[1], code, record, sid)
        return (code, record)

    def refuse_op(self, kind: int, seq: int, code: int, record: SessionRecord | None, sid: str | None) -> None:
        """The event of a refusal, for ops that may not even be well-formed."""
        self.number = number = self.number + 1
        if record is None:
            state, owner, epoch, version = 0, None, 0, 0
        else:
            sid, state, owner, epoch, version = record[:5]
        self.events.append(
            (
                number, self.index, self.now_ms, self.wall_ms, events.REFUSED, sid, self.node_id, kind,
                self.incarnation, seq, state, state, owner, epoch, version, REASON_TEXTS[code], None,
            )
        )  # fmt: skip

    def note(self, event: int, kind: int = 0, seq: int = 0, detail: str | None = None) -> None:
        """An event that concerns no session."""
        self.number = number = self.number + 1
        self.events.append(
            (
                number, self.index, self.now_ms, self.wall_ms, event, None, self.node_id, kind,
                self.incarnation, seq, 0, 0, None, 0, 0, None, detail,
            )
        )  # fmt: skip


# -- successors of a record: each is the whole record, state_version + 1 -------------------------------------------


def attached(old: SessionRecord, owner: str, epoch: Any, owner_inc: Any, binding: str, nonce: Any) -> SessionRecord:
    """Bound to a transport of `owner`."""
    row: Row = old
    return _new(
        SessionRecord,
        (
            old.session_id, ATTACHED, owner, epoch, old.state_version + 1, binding, row[CREATED_AT], row[EXPIRES_AT],
            None, None, None, None, owner_inc, nonce, False, old.policy, row[OWNED_SINCE_AT],
        ),
    )  # fmt: skip


def recovering(
    old: SessionRecord, owner: str, epoch: Any, owner_inc: Any, reattach_by_ms: int, reason: str | None
) -> SessionRecord:
    """Bound to nothing; may reattach at `owner` until `reattach_by_ms`."""
    row: Row = old
    return _new(
        SessionRecord,
        (
            old.session_id, RECOVERING, owner, epoch, old.state_version + 1, None, row[CREATED_AT], row[EXPIRES_AT],
            reattach_by_ms, None, None, reason, owner_inc, row[NONCE_AT], False, old.policy, row[OWNED_SINCE_AT],
        ),
    )  # fmt: skip
