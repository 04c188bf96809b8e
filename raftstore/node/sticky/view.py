"""What a sticky node says of its mapping: for people and the API. Reads, changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from raftstore.ownership import MappingRecord, Placement

if TYPE_CHECKING:
    from raftstore.node.sticky.keeper import Sticky


def sticky_status(sticky: Sticky, known: Collection[str], taken: int) -> dict[str, Any]:
    """The mapping, how far it is settled, and what each peer says, as plain JSON types.

    `known` are the nodes of cluster.conf, `taken` is the number of sessions that this process has admitted.
    """
    placement = sticky.machine.placement
    others = [node_id for node_id in known if node_id != sticky.node_id]
    if placement is None:
        missing = [node_id for node_id in others if node_id not in sticky.peers]
        return {"epoch": 0, "nodes": [], "settled": False, "closed": False, "waits_for": missing}
    before = placement.previous
    return {
        "epoch": placement.mapping.epoch,
        "digest": placement.mapping.digest().hex(),
        "nodes": _nodes(placement.mapping),
        "lost": list(placement.mapping.lost),
        "previous": None if before is None else {"epoch": before.epoch, "nodes": _nodes(before)},
        "settled": placement.is_settled,
        "closed": placement.is_closed,
        "waits_for": placement.waits_for(sticky.node_id),
        "opens_in_ms": 0 if placement.is_settled else max(0, placement.opens_at_ms - sticky.now_ms()),
        "leaving": sticky.left(),
        "taken": taken,
        "departed": len(sticky.machine.departed),
        "peers": {peer_id: _peer(sticky, placement, peer_id) for peer_id in others},
    }


def _nodes(record: MappingRecord) -> list[dict[str, Any]]:
    return [node._asdict() for node in record.nodes]


def _peer(sticky: Sticky, placement: Placement, peer_id: str) -> dict[str, Any]:
    peer = sticky.peers.get(peer_id)
    mapping = None if peer is None else peer.mapping
    return {
        "connected": peer is not None,
        "epoch": None if mapping is None else mapping.epoch,
        "agrees": None if mapping is None else mapping == placement.mapping,
        "settled": peer is not None and peer.settled,
    }
