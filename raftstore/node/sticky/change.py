"""An operator's change of the mapping: what may be asked for, and the record that comes of it. Pure.

A change is an explicit operation with the next epoch (ownership model, section 2.1: SessionID to node). It goes through
a node that knows the present mapping; the others learn of it from their peers. Going back is a change like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from raftstore.errors import InvalidArgument
from raftstore.node.sticky.gate import to_mapping
from raftstore.ownership import MappedNode, MappingRecord, Placement


def founding(weights: Mapping[str, int]) -> MappingRecord:
    """The first mapping, as cluster.conf has it."""
    nodes = tuple(MappedNode(node_id, weight, False) for node_id, weight in sorted(weights.items()))
    return MappingRecord(1, nodes, tuple(sorted(weights)), ())


def next_mapping(
    placement: Placement,
    nodes: Iterable[MappedNode],
    lost: Collection[str],
    *,
    epoch: int | None,
    known: Collection[str],
    connected: Collection[str],
    here: str,
) -> MappingRecord:
    """The mapping that follows on `placement`. InvalidArgument for what must not be asked for.

    `known` are the nodes of this node's cluster.conf, `connected` those with a link to it.
    """
    current = placement.mapping
    following = current.epoch + 1
    if epoch is not None and epoch != following:
        raise InvalidArgument(
            "epoch", f"is {epoch}, but the mapping stands at {current.epoch}: the next is {following}"
        )
    listed = tuple(sorted(nodes))
    ids = [node.node_id for node in listed]
    _check_known("nodes", ids, known, here)
    _check_known("lost", lost, known, here)
    _check_lost(lost, ids, connected, here)
    still_lost: set[str] = set() if placement.is_closed else set(current.lost)
    back = sorted(still_lost.intersection(ids))
    if back:
        problem = (
            f"{back[0]} was declared lost in epoch {current.epoch}, which is not settled: it can come back after that"
        )
        raise InvalidArgument("nodes", problem)
    sources = {*placement.involved, *current.node_ids, *ids}
    all_lost = still_lost.union(lost)
    record = MappingRecord(following, listed, tuple(sorted(sources - all_lost)), tuple(sorted(all_lost)))
    if not any(node.takes_sessions for node in to_mapping(record).nodes):
        raise InvalidArgument(
            "nodes", "no node would take sessions: one needs a weight above 0 and must not be draining"
        )
    return record


def _check_known(field: str, ids: Iterable[str], known: Collection[str], here: str) -> None:
    for node_id in ids:
        if node_id not in known:
            names = ", ".join(sorted(known))
            remedy = "; add it there and restart" if field == "nodes" else ""
            raise InvalidArgument(field, f"no node {node_id!r} in the cluster.conf of {here} (known: {names}){remedy}")


def _check_lost(lost: Collection[str], ids: Collection[str], connected: Collection[str], here: str) -> None:
    for node_id in lost:
        if node_id == here or node_id in connected:
            raise InvalidArgument("lost", f"{node_id} runs: only a node that will never run again can be declared lost")
        if node_id in ids:
            raise InvalidArgument("lost", f"{node_id} is also in nodes: a lost node is in no mapping")
