"""Defects in the ownership machine: the rules that decide who may do what to a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, patched, replaced, several
from jepsen_like.sim.defects_node import answers_of_former_processes
from raftstore.node import leader
from raftstore.node.replica import Replica
from raftstore.ownership import batches, commands, events, nodes, transitions
from raftstore.ownership import machine as machines
from raftstore.ownership import records as r
from raftstore.ownership import step as steps
from raftstore.ownership.machine import Machine
from raftstore.ownership.records import ATTACHED, FROZEN, OK, RECOVERING, is_lost
from raftstore.ownership.remembered import Remembered
from raftstore.ownership.sweep import FREEZE_TIMEOUT, _sweep_one, overdue

LATER_MS = 1_000


def _row(kind: int, **changes: Any) -> Mutant:
    return lambda: replaced(transitions.TABLE, kind, transitions.TABLE[kind]._replace(**changes))


def _failover_early(step: Any, actor: Any, op: Any, record: Any) -> int:
    """The owner counts as lost while its lease still runs."""
    if record.owner == actor.node_id:
        return int(r.INVALID_TRANSITION)
    if record.state_version != op[4]:
        return int(r.VERSION_MISMATCH)
    lost = is_lost(step.nodes.get(record.owner), step.now_ms + LATER_MS)
    return OK if lost else int(r.OWNER_STILL_LIVE)


def _any_version(authority: Callable[..., int]) -> Callable[..., int]:
    def without(step: Any, actor: Any, op: Any, record: Any) -> int:
        return authority(step, actor, [*op[:4], record.state_version, *op[5:]], record)

    return without


def _no_deadline(original: Any) -> Any:
    def apply_op(self: Machine, step: Any, node: Any, op: Any) -> Any:
        return original(self, step, node, [op[0], op[1], commands.NUMBER_MAX, *op[3:]])

    return apply_op


def _forgets_results(original: Any) -> Any:
    def apply_op(self: Machine, step: Any, node: Any, op: Any) -> Any:
        result = original(self, step, node, op)
        self.remembered[node.node_id] = Remembered()
        return result

    return apply_op


def _former_is_current(original: Any) -> Any:
    def newcomer(self: Machine, step: Any, node: Any, low_seq: int, op: Any) -> Any:
        if node is not None and op[0] != commands.JOIN:
            return self._apply_op(step, node, op)
        return original(self, step, node, low_seq, op)

    return newcomer


def _any_sender(original: Any) -> Any:
    """A leader takes a group whatever process of its sender made it."""

    def is_well_formed(data: bytes, node_id: str, incarnation: int, ops_max: int) -> Any:
        made_by = batches.unpack(b"\x91" + data)
        return original(data, node_id, made_by[0][1] if type(made_by) is list else incarnation, ops_max)

    return is_well_formed


def _transfer_same_epoch(step: Any, actor: Any, op: Any, record: Any) -> Any:
    lowered = record._replace(epoch=record.epoch - 1)
    return transitions._transfer(step, actor, op, lowered)


def _failover_same_epoch(step: Any, actor: Any, op: Any, record: Any) -> Any:
    return transitions._failover(step, actor, op, record._replace(epoch=record.epoch - 1))


def _sweep_blindly(step: Any, _actor: Any, op: Any) -> Any:
    """Every candidate is taken for what the leader saw, whatever has become of it since."""
    for session_id, _ in op[3]:
        record = step.sessions.get(session_id)
        if record is not None and record.state in (ATTACHED, RECOVERING, FROZEN):
            due = overdue(record, step.nodes, step.now_ms)
            _sweep_one(step, op, record, *(due or (RECOVERING, FREEZE_TIMEOUT)))
    return (0, None)


def _no_event(kind: int) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def commit(self: Any, op: Any, old: Any, new: Any, event: int, *rest: Any) -> Any:
            result = original(self, op, old, new, event, *rest)
            if event == kind:
                self.events.pop()
                self.number -= 1
            return result

        return commit

    return make


def _version_stays(original: Any) -> Any:
    def renew(step: Any, actor: Any, op: Any, record: Any) -> Any:
        return original(step, actor, op, record._replace(state_version=record.state_version - 1))

    return renew


_transfer_row = transitions.TABLE[commands.TRANSFER]
_reattach_row = transitions.TABLE[commands.REATTACH]
_admits_frozen = tuple(OK if state == FROZEN else code for state, code in enumerate(_reattach_row.admits))

OWNERSHIP_MUTANTS: dict[str, Mutant] = {
    "failover-before-lapse": _row(commands.FAILOVER, authority=_failover_early),
    "failover-without-version": _row(
        commands.FAILOVER, authority=_any_version(transitions.TABLE[commands.FAILOVER].authority)
    ),
    "reattach-without-version": _row(commands.REATTACH, authority=_any_version(_reattach_row.authority)),
    "deadline-not-checked": attribute(Machine, "_apply_op", _no_deadline),
    "op-id-not-remembered": attribute(Machine, "_apply_op", _forgets_results),
    "old-incarnation-accepted": several(
        attribute(Machine, "_newcomer", _former_is_current),
        attribute(leader, "is_well_formed_group", _any_sender),
        attribute(Replica, "apply", answers_of_former_processes),
    ),
    "transfer-keeps-epoch": _row(commands.TRANSFER, effect=_transfer_same_epoch),
    "failover-keeps-epoch": _row(commands.FAILOVER, effect=_failover_same_epoch),
    "frozen-may-bind": _row(commands.REATTACH, admits=_admits_frozen),
    "sweep-without-looking": lambda: replaced(machines.HANDLERS, commands.SWEEP, _sweep_blindly),
    "audit-event-dropped": attribute(steps.Step, "commit", _no_event(events.DETACHED)),
    "version-not-raised": _row(commands.RENEW, effect=_version_stays(transitions.TABLE[commands.RENEW].effect)),
    "lease-not-rearmed": lambda: patched(nodes, "rearm", lambda *_: None),
    "ttl-not-checked": lambda: patched(
        transitions, "standing", lambda record, now_ms: r.SESSION_TERMINATED if record.state == r.TERMINATED else OK
    ),
}
