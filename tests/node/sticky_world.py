"""A cluster of sticky nodes on virtual time: each has a log of its own, and mapping messages travel between them.

Beside the check of every instant (never two owners), the world keeps what a resource behind the gateways would see:
per session the highest epoch and version, which never go back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sticky_watch import Watch
from virtual_cluster import BINDING, Caller, VirtualNode, World

from raftstore.config import ClusterConfig
from raftstore.node.proposals import Answer, Request
from raftstore.node.requests import Requests
from raftstore.node.sticky.keeper import Sticky
from raftstore.ownership import Machine, MappedNode, MappingRecord, SessionRecord
from raftstore.types import SessionState


def sticky_config(size: int = 3, weights: Mapping[str, int] | None = None, **sessions: int) -> ClusterConfig:
    nodes = [
        {"id": f"vpn-{i}", "peer": f"127.0.0.1:{7400 + i}", "api": f"unix:run/vpn-{i}.sock"} for i in range(1, size + 1)
    ]
    for node in nodes:
        node |= {} if weights is None else {"weight": weights.get(node["id"], 1)}  # type: ignore[dict-item]
    data = {"cluster": "virtual", "strategy": "sticky", "node": nodes, "sessions": sessions}
    return ClusterConfig.from_dict(data, base_dir="/nowhere")


class StickyNode(VirtualNode):
    """One member: its own log, its part in the mapping."""

    world: StickyWorld
    sticky: Sticky
    died_with: Machine | None = None  # what had been applied when it crashed, and so is on its disk

    def crash(self) -> None:
        if self.core is not None:
            self.died_with = self.newest_machine()
        super().crash()

    def wipe(self) -> None:
        """The data directory is gone, and with it all that is known of it."""
        assert self.core is None
        self.disk.wipe()
        self.died_with = None
        for key in [key for key in self.world.told if key[0] == self.node_id]:
            del self.world.told[key]

    def newest_machine(self) -> Machine | None:
        """What this node has on its disk, as far as it was ever applied; also while it is down or reads its log."""
        now = None if self.core is None else self.sticky.machine
        before = self.died_with
        return before if now is None or (before is not None and before.index > now.index) else now

    def on_made(self) -> None:
        self.requests = Requests(self.cor.config)
        self.sticky = Sticky(self.cor, self, self)  # type: ignore[arg-type]
        self.requests.mapping_epoch = self.sticky.epoch

    def on_connected(self, peer_id: str, incarnation: int, fresh: bool) -> None:
        self.sticky.peer_connected(peer_id)

    def on_disconnected(self, peer_id: str) -> None:
        self.sticky.peer_disconnected(peer_id)

    def on_message(self, peer_id: str, payload: bytes) -> None:
        self.sticky.receive(peer_id, payload)

    def audited(self, index: int, first_number: int, events: list[Any], head: bytes) -> None:
        for event in events:
            known = self.world.told.get((self.node_id, event[0]))
            assert known in (None, event), f"{self.node_id} tells event {event[0]} in two ways"
            if known is None:
                assert event[0] == 1 or (self.node_id, event[0] - 1) in self.world.told, "numbers are not dense"
                self.world.told[self.node_id, event[0]] = event
                self.world.watch.told(self, event)

    def submit(self, request: Request) -> Caller:
        """A caller's op; what the gate refuses is an answer that was never proposed."""
        assert request.session_id is not None
        refusal = self.sticky.refusal(request.session_id)
        if refusal is None:
            return super().submit(request)
        caller = Caller()
        caller.answer = Answer(True, refusal.reason, detail=refusal.detail, owner=refusal.owner)
        return caller

    def create(self, session_id: str, ttl_ms: int | None = None) -> Answer:
        return self.do(self.requests.create(session_id, BINDING, ttl_ms, None, None))

    def reattach(self, session_id: str) -> Answer:
        record = self.cor.replica.machine.sessions.get(session_id)
        version = 0 if record is None else record.state_version
        return self.do(self.requests.reattach(session_id, version, BINDING, None, None))

    def change(
        self, nodes: Mapping[str, int], lost: Collection[str] = (), draining: Collection[str] = ()
    ) -> MappingRecord:
        """Begin a mapping change here, and wait until it is in the log."""
        answers: list[Answer] = []
        mapped = [MappedNode(node_id, weight, node_id in draining) for node_id, weight in nodes.items()]
        record = self.sticky.change(mapped, lost, None, answers.append)
        assert self.world.run_until(lambda: bool(answers))
        assert answers[0].reason is None, answers[0]
        return record


class StickyWorld(World):
    """Nodes, virtual time, and what must hold at every instant."""

    nodes: dict[str, StickyNode]  # type: ignore[assignment]

    def __init__(self, seed: int = 1, *, config: ClusterConfig | None = None, size: int = 3, **options: Any) -> None:
        self.told: dict[tuple[str, int], tuple[Any, ...]] = {}  # audit events by node and number
        self.watch = Watch(self)
        super().__init__(seed, config=sticky_config(size) if config is None else config, **options)

    def make_node(self, node_id: str) -> StickyNode:
        return StickyNode(self, node_id)

    @property
    def running(self) -> list[StickyNode]:
        return [node for node in self.nodes.values() if node.core is not None]

    def check_owners(self) -> None:
        super().check_owners()
        for node in self.running:
            for session_id, epoch in node.cor.owned.held():
                if node.owns(session_id, epoch):
                    self.watch.owned(node, session_id, epoch)

    def settled(self) -> bool:
        """All running nodes have the same mapping, and nothing of a change is left."""
        placements = [node.sticky.machine.placement for node in self.running]
        if any(p is None or not p.is_closed for p in placements):
            return False
        if any(n.sticky.left() is None or n.sticky.gate.current is None for n in self.running):
            return False  # one that reads its log, or has just begun to count
        return len({p.mapping for p in placements if p is not None}) == 1 and not any(
            n.sticky.left() for n in self.running
        )

    def wait_settled(self, ms: float = 30_000) -> None:
        assert self.run_until(self.settled, ms), {n.node_id: n.sticky.status() for n in self.running}

    def owner(self, session_id: str) -> StickyNode:
        owner = self.running[0].sticky.gate.owner(session_id)
        assert owner is not None
        return self.nodes[owner]

    def holders(self, session_id: str) -> list[tuple[str, SessionRecord]]:
        """Machines that have the session: owned by their own node, or as a tombstone."""
        found = []
        for node in self.running:
            record = node.sticky.machine.sessions.get(session_id)
            if record is not None and (record.owner == node.node_id or record.state == SessionState.TERMINATED):
                found.append((node.node_id, record))
        return found

    def live_holder(self, session_id: str) -> tuple[str, SessionRecord]:
        """The one machine that has it."""
        found = self.holders(session_id)
        assert len(found) == 1, found
        return found[0]


def ready_sticky(seed: int = 1, **options: Any) -> StickyWorld:
    """A founded, settled cluster."""
    world = StickyWorld(seed, **options)
    world.start_all()
    world.wait_ready()
    world.wait_settled()
    return world


def ids(count: int, prefix: str = "s") -> list[str]:
    return [f"{prefix}{i:04d}" for i in range(count)]
