"""What the scenes of the sticky strategy share: the mapping as this process computes it, and what the nodes hold.

The expected place of every session is computed here, beforehand, from the same public formula that a load balancer
would use; the nodes are then asked what they hold, and both are compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from raftstore.cli.demo_cluster import DemoCluster
from raftstore.cli.demo_stage import Stage, Voice
from raftstore.errors import Rejected, Unavailable
from raftstore.routing import Mapping as NodeMapping
from raftstore.routing import MappingNode
from raftstore.types import Session, SessionState

PAGE = 1_000
MOVE_VERSIONS = 3  # freeze, transfer, resume
SHOWN = 3  # of what went wrong, so that a table stays a table


class Held(NamedTuple):
    """A session and the node in whose log it was found."""

    node: str
    session: Session


Holdings = Mapping[str, list[Held]]  # by session id: a live one must be in one log


class StickyStage(Stage):
    """Three nodes under a mapping that this process follows."""

    lease_ttl_ms = 1_200
    watch_lanes = 4

    def __init__(self, cluster: DemoCluster, say: Voice, title: Voice) -> None:
        super().__init__(cluster, say, title)
        self.mapping = NodeMapping.of(1, cluster.config.weights)
        self.sessions: dict[str, Session] = {}  # as they were acknowledged last

    def _owner(self, session_id: str) -> str:
        owner = self.mapping.owner(session_id)
        assert owner is not None
        return owner

    def _of(self, *node_ids: str) -> list[Session]:
        """The sessions that map to those nodes now."""
        return [session for session in self.sessions.values() if self._owner(session.session_id) in node_ids]

    def _others(self, node_id: str) -> list[str]:
        return [other for other in self.cluster.node_ids if other != node_id]

    # --- asking --------------------------------------------------------------------------------------------------
    async def _create(self, session_ids: Iterable[str]) -> list[Session]:
        """Sessions created where they map to."""
        ids = list(session_ids)
        sessions = await asyncio.gather(
            *(self.clients[self._owner(sid)].create(sid, binding=self._binding()) for sid in ids)
        )
        self.sessions.update(zip(ids, sessions, strict=True))
        return sessions

    async def _refusal(self, node_id: str, session_id: str) -> Rejected | Unavailable | None:
        """Why that node does not answer for the session; None when it does."""
        try:
            await self.clients[node_id].get(session_id)
        except (Rejected, Unavailable) as refusal:
            return refusal
        return None

    async def _owning(self, sessions: Iterable[Session]) -> int:
        """How many of these sessions are owned, as their nodes say."""
        answers = await asyncio.gather(*(self.clients[s.owner].owns(s.session_id, s.epoch) for s in sessions))
        return sum(answers)

    async def _holdings(self) -> Holdings:
        """What all nodes have in their logs."""
        found: dict[str, list[Held]] = {}
        for node_id in self.cluster.node_ids:
            for session in await self._log_of(node_id):
                found.setdefault(session.session_id, []).append(Held(node_id, session))
        return found

    async def _log_of(self, node_id: str) -> list[Session]:
        """All sessions that one node has in its log."""
        sessions: list[Session] = []
        while True:
            after = sessions[-1].session_id if sessions else None
            page = await self.clients[node_id].list_sessions(limit=PAGE, after=after)
            sessions += page
            if len(page) < PAGE:
                return sessions

    async def _at_rest(self) -> Holdings:
        """The same once every session that was transferred has been taken up by its new node."""

        async def rested() -> Holdings | None:
            found = await self._holdings()
            frozen = any(held.session.state == SessionState.FROZEN for copies in found.values() for held in copies)
            return None if frozen else found

        holdings: Holdings = await self._until("every session that moved is taken up", rested)
        return holdings

    # --- changing ------------------------------------------------------------------------------------------------
    def _next(self, weights: Mapping[str, int], draining: Collection[str] = (), step: int = 1) -> NodeMapping:
        """The mapping that follows, as this process computes it."""
        nodes = tuple(MappingNode(node_id, weight, node_id in draining) for node_id, weight in weights.items())
        return NodeMapping(self.mapping.epoch + step, nodes)

    async def _change(self, at: str, mapping: NodeMapping) -> None:
        await self.clients[at].change_mapping(
            {node.node_id: node.weight for node in mapping.nodes},
            draining=[node.node_id for node in mapping.nodes if node.draining],
            epoch=mapping.epoch,
        )

    async def _settled(self, mapping: NodeMapping) -> None:
        """Returns when every node has closed that mapping: all that had to move has moved."""

        async def closed() -> bool:
            views = [await self.clients[node_id].mapping() for node_id in self.cluster.node_ids]
            return all(view["epoch"] == mapping.epoch and view["settled"] and view["closed"] for view in views)

        await self._until(f"mapping epoch {mapping.epoch} is settled on every node", closed)

    async def _released(self, *node_ids: str) -> None:
        """Returns when restarted nodes have released what a former process had bound: its lease has lapsed by then."""

        async def lapsed() -> bool:
            logs = [await self._log_of(node_id) for node_id in node_ids]
            return not any(session.state == SessionState.ATTACHED for log in logs for session in log)

        await self._until("restarted nodes release the bindings of their former processes", lapsed)

    # --- comparing -----------------------------------------------------------------------------------------------
    def _wrong(
        self, holdings: Holdings, new: NodeMapping, *, busy: Collection[str] = (), restarted: Collection[str] = ()
    ) -> list[str]:
        """What is not as it must be after the change from `self.mapping` to `new`: nothing, if all was kept.

        `busy` are sessions that clients used meanwhile: their versions went on, their epochs must be right as well.
        Those of `restarted` nodes may have lost their binding, which is one version more.
        """
        problems = [f"{sid}: nobody created it" for sid in holdings if sid not in self.sessions]
        for session_id, before in self.sessions.items():
            copies = holdings.get(session_id, [])
            if len(copies) != 1:
                problems.append(f"{session_id}: in {len(copies)} logs")
                continue
            node, after = copies[0]
            moves = self.mapping.owner(session_id) != new.owner(session_id)
            versions = after.state_version - before.state_version - (MOVE_VERSIONS if moves else 0)
            if node != new.owner(session_id) or after.owner != node:
                problems.append(f"{session_id}: owner {after.owner} at {node}, maps to {new.owner(session_id)}")
            elif after.epoch != before.epoch + moves:
                problems.append(f"{session_id}: epoch {before.epoch} -> {after.epoch}")
            elif session_id in busy or (versions == 1 and before.owner in restarted and after.binding is None):
                continue
            elif versions or not (moves or after == before):
                problems.append(f"{session_id}: version {before.state_version} -> {after.state_version}")
        return problems

    def _take_over(self, holdings: Holdings, mapping: NodeMapping) -> None:
        """From now on this is how things stand."""
        self.mapping = mapping
        self.sessions = {session_id: copies[0].session for session_id, copies in holdings.items()}


def shown(problems: list[str]) -> str:
    """The first of them, for a table; nothing when there are none."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "".join(f"; {problem}" for problem in problems[:SHOWN]) + more


def weights_text(mapping: NodeMapping) -> str:
    """ "vpn-1=1 vpn-2=1,draining"."""
    return " ".join(f"{n.node_id}={n.weight}{',draining' if n.draining else ''}" for n in mapping.nodes)
