"""May this node touch the session? Asked before any proposal, answered from memory (ownership model, section 2.1).

Why a yes makes no second owner. The session maps here, and either this node's machine holds it, or every mapping since
the last settled one maps it here: then every other node that could hold it has said that it does not, under an epoch
by which it never can (see `ownership.placement`). What cannot be shown is refused: also where a peer goes by another
mapping, though the log would allow it, because then two operators mean two things.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from raftstore.ownership import MappingRecord, Placement
from raftstore.routing import Mapping, MappingNode
from raftstore.types import Reason


def to_mapping(record: MappingRecord) -> Mapping:
    """The mapping of a record as something that can be asked. InvalidArgument when it cannot be one."""
    return Mapping(record.epoch, tuple(MappingNode(*node) for node in record.nodes))


class Refusal(NamedTuple):
    """Why not. `owner` is the right node where the session maps elsewhere."""

    reason: Reason
    detail: str
    owner: str | None = None


class Gate:
    """The mappings that count, ready to be asked. The node's loop is its only user."""

    def __init__(self, node_id: str, ttl_max_ms: int) -> None:
        self._node_id = node_id
        self._ttl_max_ms = ttl_max_ms
        self._placement: Placement | None = None
        self._current: Mapping | None = None
        self._trail: list[Mapping] = []
        self._others: dict[str, Mapping] = {}  # peers that go by another mapping

    @property
    def current(self) -> Mapping | None:
        """The adopted mapping; None before the first."""
        return self._current

    def set_placement(self, placement: Placement | None) -> None:
        """The machine's placement changed."""
        self._placement = placement
        if placement is None:
            return
        self._current = to_mapping(placement.mapping)
        self._trail = [to_mapping(passed) for passed in placement.trail]
        self._others = {peer: m for peer, m in self._others.items() if m.epoch >= self._current.epoch}

    def peer_says(self, peer_id: str, record: MappingRecord | None) -> None:
        """The mapping by which a peer goes, as it told it. An older one is no disagreement: it will adopt the newer."""
        placement = self._placement
        if record is None or placement is None or record == placement.mapping:
            self._others.pop(peer_id, None)
        elif record.epoch >= placement.mapping.epoch:
            self._others[peer_id] = to_mapping(record)

    def owner(self, session_id: str) -> str | None:
        """Where the adopted mapping sends the session; None before the first mapping."""
        return None if self._current is None else self._current.owner(session_id)

    def refusal(self, session_id: str, held: Container[str], connected: Container[str]) -> Refusal | None:
        """Why an op on the session must not be proposed here; None when it may.

        `held` are the sessions in this node's machine, `connected` the peers with a link.
        """
        if self._current is None:
            return self.unsettled()
        owner = self._current.owner(session_id)
        if owner is None or owner != self._node_id:
            return self._elsewhere(owner, connected)
        if self._others:
            disagreeing = self._disagreeing(session_id)
            if disagreeing is not None:
                return disagreeing
        if session_id in held or (self._trail and all(m.owner(session_id) == owner for m in self._trail)):
            return None
        return self.unsettled()

    def _elsewhere(self, owner: str | None, connected: Container[str]) -> Refusal:
        epoch = self._placement.mapping.epoch if self._placement is not None else 0
        detail = f"the session maps to {owner} (mapping epoch {epoch}): ask there"
        if owner not in connected:
            detail = (
                f"the session maps to {owner} (mapping epoch {epoch}), not connected to {self._node_id}: "
                f"it is unavailable until {owner} is back, or its TTL has ended, within {self._ttl_max_ms} ms; if it "
                f"will never run again, set a mapping without it (raftstore mapping set --lost {owner})"
            )
        return Refusal(Reason.OWNERSHIP_CONFLICT, detail, owner)

    def _disagreeing(self, session_id: str) -> Refusal | None:
        for peer_id, mapping in self._others.items():
            theirs = mapping.owner(session_id)
            if theirs != self._node_id:
                ours = self._current.epoch if self._current is not None else 0
                detail = (
                    f"{self._node_id} (mapping epoch {ours}) and {peer_id} (epoch {mapping.epoch}, the session at "
                    f"{theirs}) disagree: settle it with a mapping of a higher epoch (raftstore mapping set)"
                )
                return Refusal(Reason.MAPPING_UNSETTLED, detail)
        return None

    @property
    def has_rival(self) -> bool:
        """Whether some peer goes by another mapping of the same epoch: that does not settle by itself."""
        current = self._current
        return current is not None and any(mapping.epoch == current.epoch for mapping in self._others.values())

    def disagrees(self, session_id: str) -> bool:
        """Whether some peer goes by a mapping that sends the session elsewhere."""
        return self._disagreeing(session_id) is not None

    def unsettled(self) -> Refusal:
        """Why it is not certain here what other nodes may hold."""
        placement = self._placement
        if placement is None:
            detail = f"{self._node_id} has no mapping yet: it waits until all nodes of cluster.conf are connected"
            return Refusal(Reason.MAPPING_UNSETTLED, detail)
        waits = ", ".join(placement.waits_for(self._node_id))
        epoch = placement.mapping.epoch
        if waits:
            detail = f"mapping epoch {epoch} is unsettled: {self._node_id} waits for {waits}, who may hold it"
        elif placement.mapping.lost:
            lost = ", ".join(placement.mapping.lost)
            detail = f"mapping epoch {epoch}: {lost} was declared lost; sessions that it may have held expire first"
        else:
            detail = f"mapping epoch {epoch} is about to be settled: try again"
        return Refusal(Reason.MAPPING_UNSETTLED, detail)
