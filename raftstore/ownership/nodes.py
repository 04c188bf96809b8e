"""Node ops: how a process becomes, stays and ceases to be a node that may act as owner.

A node id stands for one process at a time, its current incarnation. When a newer one joins, ops of the older are
refused from then on, but until the older one's lease has lapsed nobody may bind its sessions: `fence_until_ms`.

A lease may be renewed after it lapsed: that is safe, because the holder counts its own right from before it sent
the renewal and so has fenced itself long ago, and whatever was taken over meanwhile stays with the new owner.
A process that said `leave` is out for good; its node id comes back only with a new incarnation.
(Design: time and leases. Ownership model, sections 3 and 5.)
"""

from __future__ import annotations

from raftstore.ownership import events
from raftstore.ownership.params import lease_length_ms
from raftstore.ownership.records import LIMIT_EXCEEDED, NODE_FENCED, NODE_NOT_LIVE, NodeRecord, Result
from raftstore.ownership.step import Op, Step

NODES_MAX = 128  # node ids in the state; beyond it a join is refused
FORMER_INCARNATIONS_MAX = 16  # older incarnations that are recognised as such, per node

_OK: Result = (0, None)


def join(step: Step, node: NodeRecord | None, node_id: str, incarnation: int, op: Op) -> Result:
    """A process begins (or confirms) its life as this node. Made sure of before: not a former incarnation, not late."""
    until_ms = step.now_ms + lease_length_ms(step.params)
    if node is None:
        if len(step.nodes) >= NODES_MAX:
            return step.refuse(op, LIMIT_EXCEEDED)
        joined = NodeRecord(node_id, incarnation, until_ms, 0, False, False, ())
    elif node.incarnation == incarnation:
        joined = node._replace(lease_until_ms=max(node.lease_until_ms, until_ms))
    else:
        former = (*node.former, node.incarnation)[-FORMER_INCARNATIONS_MAX:]
        fence_ms = max(node.fence_until_ms, node.lease_until_ms)  # leave has ended the lease of one that left
        joined = NodeRecord(node_id, incarnation, until_ms, fence_ms, False, False, former)
    _put(step, joined)
    step.note(events.NODE_JOINED, op[0], op[1])
    return _OK


def join_again(step: Step, actor: NodeRecord, op: Op) -> Result:
    """A second join of the current incarnation: renews its lease and changes nothing else."""
    return join(step, actor, actor.node_id, actor.incarnation, op)


def renew_lease(step: Step, actor: NodeRecord, op: Op) -> Result:
    """The lease runs in full from the entry's time on. No event: it would bury the trail."""
    until_ms = max(actor.lease_until_ms, step.now_ms + lease_length_ms(step.params))
    step.nodes[actor.node_id] = actor._replace(lease_until_ms=until_ms)
    return _OK


def drain(step: Step, actor: NodeRecord, op: Op) -> Result:
    """The node creates, fails over and is given no more sessions, until a new incarnation joins."""
    _put(step, actor._replace(draining=True))
    step.note(events.NODE_DRAINING_EVENT, op[0], op[1])
    return _OK


def leave(step: Step, actor: NodeRecord, op: Op) -> Result:
    """The process vouches that it acts for no session any more: its lease ends now, its sessions may be taken over."""
    _put(step, actor._replace(left=True, lease_until_ms=min(actor.lease_until_ms, step.now_ms)))
    step.note(events.NODE_LEFT, op[0], op[1])
    return _OK


def configure(step: Step, _actor: NodeRecord, op: Op) -> Result:
    """Set cluster parameters; leases that run already keep their length."""
    step.params.update(op[3])
    step.node_changed = True
    step.note(events.CONFIGURED, op[0], op[1], " ".join(f"{key}={value}" for key, value in op[3]))
    return _OK


def stranger(step: Step, node: NodeRecord | None, incarnation: int, op: Op, session_id: str | None) -> Result:
    """An op of a process that is not the node's current incarnation, unless it is a join that may be granted."""
    fenced = node is not None and incarnation in node.former
    return step.refuse(op, NODE_FENCED if fenced else NODE_NOT_LIVE, None, session_id)


def rearm(nodes: dict[str, NodeRecord], before_ms: int, now_ms: int, lease_ms: int) -> None:
    """Cluster time stood still while real time passed, or jumped: nothing that ran before may count as lapsed now.

    Every lease and fence that had not lapsed at `before_ms` runs in full from `now_ms`, or for what was left of it
    where that is longer. Lapsed ones stay lapsed.
    """

    def again(until_ms: int) -> int:
        return until_ms if until_ms <= before_ms else now_ms + max(lease_ms, until_ms - before_ms)

    for node_id, node in nodes.items():
        nodes[node_id] = node._replace(
            lease_until_ms=again(node.lease_until_ms), fence_until_ms=again(node.fence_until_ms)
        )


def _put(step: Step, node: NodeRecord) -> None:
    step.nodes[node.node_id] = node
    step.node_changed = True
