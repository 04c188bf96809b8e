"""Leadership that is handed over: by an operator's order, and by a node that stops.

The Raft node is sans-I/O and tells nobody when its role changes, so whoever waits for that looks again and again.
(Raft dissertation, section 3.10.)
"""

from __future__ import annotations

import asyncio

from raftstore.errors import Unavailable
from raftstore.node.core import Core
from raftstore.raft.seams import LEADER
from raftstore.types import Reason

LOOK_AGAIN_S = 0.02


async def transfer_leadership(core: Core, to: str | None) -> str:
    """Hand leadership to `to`, or to the best candidate; who leads then. Unavailable when it cannot be done."""
    raft, node_id = core.raft, core.node_id
    if raft.role != LEADER:
        leader = raft.leader_id or "no node"
        raise Unavailable(Reason.NO_QUORUM, f"{node_id} is not the leader ({leader} is): ask there")
    if to == node_id:
        return to
    chosen = raft.transfer_leadership(to)
    if chosen is None:
        raise Unavailable(Reason.NO_QUORUM, f"{to or 'no node'} is connected and caught up: nobody can take over")
    term = raft.term
    core.ask_step()
    deadline_ns = core.clock.now_ns() + 2 * core.config.timing.election_timeout_max_ms * 1_000_000
    while core.clock.now_ns() < deadline_ns:
        await asyncio.sleep(LOOK_AGAIN_S)
        if raft.term != term and raft.leader_id is not None:
            return str(raft.leader_id)
    raise Unavailable(Reason.NO_QUORUM, f"{chosen} did not take over in time; {node_id} goes on leading")


async def give_up_leadership(core: Core, within_ms: int) -> None:
    """The same for a node that stops: to the best candidate, if there is one and it is quick enough."""
    raft = core.raft
    if raft.role != LEADER or raft.transfer_leadership() is None:
        return
    core.ask_step()
    deadline_ns = core.clock.now_ns() + within_ms * 1_000_000
    while raft.role == LEADER and core.clock.now_ns() < deadline_ns and core.stopped is None:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_AGAIN_S)


async def regains_quorum(core: Core, within_ms: int) -> bool:
    """Whether there is a leader to say goodbye to; waits for an election that may be under way."""
    raft = core.raft
    deadline_ns = core.clock.now_ns() + within_ms * 1_000_000
    while not raft.has_quorum and raft.connected_count + 1 >= raft.quorum and core.stopped is None:
        if core.clock.now_ns() >= deadline_ns:
            break
        await asyncio.sleep(LOOK_AGAIN_S)
    return raft.has_quorum
