"""Defects of the sticky strategy: a session that is handed from log to log and stays where it was, or comes twice.

Seeds of these run with the workload `sticky`; under any other nothing of it is ever called.
"""

from __future__ import annotations

from typing import Any

from jepsen_like.sim.defects import Mutant, attribute, replaced, several
from raftstore.node.proposals import Request
from raftstore.node.sticky.gate import Gate
from raftstore.node.sticky.giver import Giver, is_away
from raftstore.node.sticky.keeper import Sticky
from raftstore.node.sticky.messages import BATCH_MAX
from raftstore.node.sticky.taker import Taker
from raftstore.ownership import commands, placement
from raftstore.ownership import machine as machines


def _serves_what_maps_here(original: Any) -> Any:
    """The node that the mapping names serves, whether or not the others have said what they hold."""

    def refusal(self: Any, session_id: str, held: Any, connected: Any) -> Any:
        if self.owner(session_id) == self._node_id:
            return None
        return original(self, session_id, held, connected)

    return refusal


def _hands_over_as_it_is(original: Any) -> Any:
    """Sessions travel without freeze and transfer: they are still bound, and owned, where they come from."""

    def rows(self: Any, peer_id: str) -> Any:
        records = (self._log.machine.sessions.get(session_id) for session_id in self._leaving.get(peer_id, {}))
        epoch = self._epoch()  # as if each had been transferred under the present mapping
        return [self._row(record._replace(owner_inc=epoch)) for record in records if record is not None][:BATCH_MAX]

    return rows


def _takes_back(original: Any) -> Any:
    """What was given to one node, and maps to another by now, is taken back without asking the one that has it."""

    def next_step(self: Any, record: Any, target: str) -> Any:
        if not is_away(record, self._log.node_id) or record.owner == target:
            return original(self, record, target)
        sid, version, epoch = record.session_id, record.state_version, self._epoch()
        return Request("reclaim", sid, lambda seq, d: commands.reclaim(seq, d, sid, version, epoch))

    return next_step


def _has_nothing(original: Any) -> Any:
    """Asked whether a session of an earlier mapping came, a node says that it did not."""

    def judge(self: Any, asking: Any, session_id: str, version: int, moved_at: int) -> None:
        if self._owner(session_id) == self._log.node_id:
            original(self, asking, session_id, version, moved_at)
        else:
            asking.declined.append((session_id, version))

    return judge


def _settles_alone(step: Any, actor: Any, op: Any) -> Any:
    """A mapping counts as settled without the others' confirmation."""
    now = step.placement
    if now is not None and op[3] == now.mapping.epoch:
        step.placement = now._replace(confirmed=tuple(sorted(now.involved)))
    return placement.settle(step, actor, op)


def _asks_nobody(original: Any) -> Any:
    def settle(self: Any, held: Any) -> None:
        if held.is_settled:
            original(self, held)
        else:
            self._propose("settle", lambda seq, d: commands.settle(seq, d, held.mapping.epoch), lambda _: None)

    return settle


def _done_at_once(original: Any) -> Any:
    """A node says that it has nothing for the other while it is still looking, or still has."""

    def answer(self: Any, peer_id: str) -> None:
        leaving, self._leaving = self._leaving, {}
        doubtful, self._doubtful = self._doubtful, {}
        scanning, self.is_scanning = self.is_scanning, False
        try:
            original(self, peer_id)
        finally:
            self._leaving, self._doubtful, self.is_scanning = leaving, doubtful, scanning

    return answer


STICKY_MUTANTS: dict[str, Mutant] = {
    "sticky-serves-unasked": attribute(Gate, "refusal", _serves_what_maps_here),
    "sticky-hands-over-unfrozen": attribute(Giver, "_rows", _hands_over_as_it_is),
    "sticky-takes-back-unasked": attribute(Giver, "_next_step", _takes_back),
    "sticky-denies-what-it-has": attribute(Taker, "_judge", _has_nothing),
    "sticky-settles-unconfirmed": several(
        lambda: replaced(machines.HANDLERS, commands.SETTLE, _settles_alone),
        attribute(Sticky, "_settle", _asks_nobody),
    ),
    "sticky-done-too-early": attribute(Giver, "_answer", _done_at_once),
}
