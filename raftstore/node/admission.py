"""Why a node takes no op of a caller right now: the refusals before any proposal, which never have an effect.

The order is that of what an operator must know first: the process, the majority, the cluster's parameters, the lease,
the disk, the queue. (Ownership model, section 5: fail closed. Design: what a caller can learn.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftstore.errors import Unavailable
from raftstore.types import Reason

if TYPE_CHECKING:
    from raftstore.node.core import Core


class Admission:
    """The rules, asked of one core on its loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._configured = False

    def why_refused(self) -> Unavailable | None:
        """None when ops are taken."""
        core = self._core
        node_id = core.node_id
        if core.stopped is not None:
            return self.stopped()
        if core.is_stopping:
            return Unavailable(Reason.NODE_STOPPING, f"{node_id} is stopping")
        if not core.raft.has_quorum:
            return self.no_quorum()
        if not self._is_configured():
            return Unavailable(Reason.LEASE_LOST, f"{node_id}: the cluster's parameters are not committed yet")
        if not core.lease.is_held:
            return Unavailable(Reason.LEASE_LOST, f"{node_id} has not (re)gained its lease yet")
        storage = core.why_storage_refuses()
        if storage is not None:
            return Unavailable(Reason.OVERLOADED, f"{node_id}: {storage}")
        if core.proposals.is_full:
            waiting = len(core.proposals)
            return Unavailable(Reason.OVERLOADED, f"{node_id}: {waiting} ops wait (limits.pending_ops_max)")
        return None

    def why_unread(self) -> Unavailable | None:
        """The same for a linearizable read, which needs the majority and nothing of this node's."""
        core = self._core
        if core.stopped is not None:
            return self.stopped()
        if not core.raft.has_quorum:
            return self.no_quorum()
        if core.reads.is_full:
            return Unavailable(Reason.OVERLOADED, f"{core.node_id}: too many reads wait")
        return None

    def stopped(self) -> Unavailable:
        return Unavailable(Reason.NODE_STOPPING, f"{self._core.node_id} has stopped: {self._core.stopped}")

    def no_quorum(self) -> Unavailable:
        node_id, raft = self._core.node_id, self._core.raft
        missing = [peer for peer in raft.peer_ids if not raft.is_connected(peer)]
        if missing:
            detail = f"{node_id} knows no leader; not connected to {', '.join(missing)}"
        else:
            detail = f"{node_id} knows no leader; an election may be under way"
        return Unavailable(Reason.NO_QUORUM, detail)

    def _is_configured(self) -> bool:
        """Whether the machine works by our configuration: no session may be made under other parameters."""
        if not self._configured:
            self._configured = not self._core.leader.differs(self._core.replica.machine.params)
        return self._configured
