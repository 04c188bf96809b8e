"""A whole cluster of `Core`s in one thread on virtual time: links, storage and clocks are simulated, the rest is real.

Storage forgets what was not durable when a node crashes; a cut loses what is on its way; a paused node's clock goes on
while nothing of it runs. At every event the world asks every node, running or paused, what it owns: two owners of one
session at one instant fail the test at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from virtual_disk import VirtualDisk

from raftstore.config import ClusterConfig
from raftstore.errors import Unavailable
from raftstore.node.core import Core
from raftstore.node.proposals import Answer, Request
from raftstore.node.requests import Requests
from raftstore.ownership import SessionRecord
from raftstore.types import Binding

MS = 1_000_000
BINDING = Binding("t1", "udp", "198.51.100.7:4500")


class Handle:
    """What `call_later` gives back."""

    def __init__(self, when: int) -> None:
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class World:
    """Virtual time, the network, and the check that no session ever has two owners."""

    def __init__(
        self, seed: int, *, size: int = 3, policy: str = "deny", drift_ppm: int = 0, config: ClusterConfig | None = None
    ) -> None:
        self.rng = Random(seed)
        self.now = 10**12
        self.config = make_config(size, policy) if config is None else config
        self.drift_ppm = drift_ppm
        self.cut_pairs: set[frozenset[str]] = set()
        self.owner_checks = 0
        self.snapshots_installed = 0
        self.history: dict[int, tuple[Any, ...]] = {}  # audit events by number, as every node told them
        self._events: list[tuple[int, int, tuple[VirtualNode, int] | None, Handle, Callable[..., Any], Any]] = []
        self._count = 0
        self.nodes = {node_id: self.make_node(node_id) for node_id in self.config.node_ids}

    def make_node(self, node_id: str) -> VirtualNode:
        return VirtualNode(self, node_id)

    def at(self, when: int, node: VirtualNode | None, callback: Callable[..., Any], *args: Any) -> Handle:
        """Run `callback` at `when`, in the life of `node` that exists now."""
        self._count += 1
        handle = Handle(when)
        life = None if node is None else (node, node.life)
        heapq.heappush(self._events, (when, self._count, life, handle, callback, args))
        return handle

    def run(self, ms: float) -> None:
        self.run_until(lambda: False, ms)

    def run_until(self, condition: Callable[[], bool], ms: float = 30_000) -> bool:
        """Let time pass until `condition` holds, at most `ms`; whether it does."""
        end = self.now + int(ms * MS)
        while self._events and self._events[0][0] <= end:
            if condition():
                return True
            when, _, life, handle, callback, args = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if handle.cancelled():
                continue
            if life is not None and life[0].life != life[1]:
                continue  # that process has died
            if life is not None and life[0].paused_until > self.now:
                self.at(life[0].paused_until, life[0], lambda h=handle, c=callback, a=args: h.cancelled() or c(*a))
                continue
            callback(*args)
            self.check_owners()
        if not condition():
            self.now = end
            self.check_owners()
        return condition()

    def check_owners(self) -> None:
        """The promise: never two."""
        owners: dict[str, str] = {}
        for node in self.nodes.values():
            if node.core is None:
                continue
            for session_id, epoch in node.core.owned.held():
                if node.core.owned.owns(session_id, epoch):
                    self.owner_checks += 1
                    other = owners.setdefault(session_id, node.node_id)
                    assert other == node.node_id, f"{session_id} is owned by {other} and {node.node_id} at {self.now}"

    # --- faults ------------------------------------------------------------------------------------------------
    def cut(self, group: Sequence[str], *, notice_ms: float = 0) -> None:
        """Separate `group` from the others. Both sides notice after `notice_ms`."""
        for one in group:
            for other in self.nodes:
                if other not in group:
                    self.cut_pairs.add(frozenset((one, other)))
                    for node, peer in ((one, other), (other, one)):
                        self.at(self.now + int(notice_ms * MS), None, self.nodes[node].lose_peer, peer, True)

    def heal(self) -> None:
        self.cut_pairs.clear()
        for node in self.nodes.values():
            for peer in self.nodes:
                self.connect(node.node_id, peer)

    def connect(self, one: str, other: str) -> None:
        """Make a link between two running nodes that have none."""
        a, b = self.nodes[one], self.nodes[other]
        if one == other or frozenset((one, other)) in self.cut_pairs or a.core is None or b.core is None:
            return
        if other in a.links and one in b.links:
            return
        a.lose_peer(other, False)
        b.lose_peer(one, False)
        self._count += 1
        hellos = (a.core.is_fresh(), b.core.is_fresh())
        a.links[other] = b.links[one] = self._count
        a.on_connected(other, b.core.incarnation, hellos[1])
        b.on_connected(one, a.core.incarnation, hellos[0])

    def start_all(self) -> None:
        for node in self.nodes.values():
            if node.core is None:
                node.start()
        self.heal()

    # --- views -------------------------------------------------------------------------------------------------
    @property
    def leader(self) -> str | None:
        """The node that leads the highest term among the running ones."""
        leading = [n for n in self.nodes.values() if n.core is not None and n.core.raft.is_leader_ready]
        return max(leading, key=lambda n: n.cor.raft.term).node_id if leading else None

    def wait_ready(self) -> None:
        """Every running node can serve."""
        running = [n for n in self.nodes.values() if n.core is not None]
        assert self.run_until(lambda: all(n.cor.why_refused() is None for n in running)), [
            str(n.cor.why_refused()) for n in running
        ]

    def wait_equal(self) -> None:
        """All running replicas have applied the same and agree on it."""
        running = [n.cor for n in self.nodes.values() if n.core is not None]

        def equal() -> bool:
            return len({c.raft.last_applied for c in running}) == len({c.raft.last_log_index for c in running}) == 1

        assert self.run_until(equal)
        assert len({c.replica.machine.state_digest() for c in running}) == 1


class VirtualNode:
    """One member: its disk survives crashes, its core does not."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = VirtualDisk()
        self.core: Core | None = None
        self.links: dict[str, int] = {}
        self._arrivals: dict[int, int] = {}
        self.paused_until = 0
        self.life = 0  # counts crashes: what a dead process had planned never happens
        self.sync_ms = 1.0
        self.wall_offset_ms = 0
        self.drift_ppm = world.rng.randint(-world.drift_ppm, world.drift_ppm)
        self._clock_base = world.rng.randrange(10**12)
        self.fenced_log: list[tuple[str, int, str]] = []
        self.assigned_log: list[str] = []
        self.late_log: list[str] = []
        self.reports: list[str] = []
        self.failed: str | None = None

    @property
    def cor(self) -> Core:
        assert self.core is not None
        return self.core

    # --- Clock
    def now_ns(self) -> int:
        return self._clock_base + self.world.now * (1_000_000 + self.drift_ppm) // 1_000_000

    def wall_ms(self) -> int:
        return self.world.now // MS + 1_700_000_000_000 + self.wall_offset_ms

    # --- the loop that Core sees
    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Handle:
        return self.world.at(self.world.now, self, callback, *args)

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> Handle:
        real_ns = int(delay_s * 1e9) * 1_000_000 // (1_000_000 + self.drift_ppm)
        return self.world.at(self.world.now + real_ns + 1, self, callback, *args)

    # --- Links
    def send(self, peer_id: str, payload: bytes) -> bool:
        link = self.links.get(peer_id)
        if link is None:
            return False
        arrival = max(self.world.now + int(self.world.rng.uniform(0.2, 2.0) * MS), self._arrivals.get(link, 0))
        self._arrivals[link] = arrival  # a link delivers in order
        self.world.at(arrival, self.world.nodes[peer_id], self._deliver, peer_id, link, payload)
        return True

    def _deliver(self, peer_id: str, link: int, payload: bytes) -> None:
        peer = self.world.nodes[peer_id]
        broken = frozenset((self.node_id, peer_id)) in self.world.cut_pairs
        if not broken and peer.links.get(self.node_id) == link and peer.core is not None:
            peer.on_message(self.node_id, payload)

    def flush(self) -> None:
        """Messages are on their way as soon as they are sent."""

    def drop(self, peer_id: str, reason: str) -> None:
        self.lose_peer(peer_id, False)

    def lose_peer(self, peer_id: str, only_if_cut: bool) -> None:
        if only_if_cut and frozenset((self.node_id, peer_id)) not in self.world.cut_pairs:
            return
        if self.links.pop(peer_id, None) is not None and self.core is not None:
            self.on_disconnected(peer_id)

    def on_connected(self, peer_id: str, incarnation: int, fresh: bool) -> None:
        self.cor.peer_connected(peer_id, incarnation, fresh)

    def on_disconnected(self, peer_id: str) -> None:
        self.cor.peer_disconnected(peer_id)

    def on_message(self, peer_id: str, payload: bytes) -> None:
        self.cor.receive(peer_id, payload)

    # --- life
    def start(self) -> None:
        disk = self.disk
        self.core = Core(
            self.world.config,
            self.node_id,
            self.world.rng.getrandbits(62) | 1,
            loop=self,  # type: ignore[arg-type]
            clock=self,
            rng=Random(self.world.rng.getrandbits(32)),
            journal=disk.open(self),
            machine=disk.machine(),
            snapshots=disk,
            links=self,
            observer=self,
            learner=self.world.rng.getrandbits(62) | 1,
        )
        self.failed = None
        self.on_made()
        self.core.start()

    def on_made(self) -> None:
        """The core exists and has not begun."""

    def crash(self) -> None:
        """Power loss: the process is gone, and with it what was not durable."""
        self.core = None
        self.life += 1
        self.paused_until = 0
        self.disk.crash()
        for peer in list(self.links):
            del self.links[peer]
            self.world.nodes[peer].lose_peer(self.node_id, False)

    def restart(self) -> None:
        self.start()
        for peer in self.world.nodes:
            self.world.connect(self.node_id, peer)

    def pause(self, ms: float) -> None:
        self.paused_until = self.world.now + int(ms * MS)

    # --- CoreObserver
    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        self.fenced_log += [(session_id, epoch, reason) for session_id, epoch in lost]

    def assigned(self, record: SessionRecord) -> None:
        self.assigned_log.append(record.session_id)

    def committed_late(self, pending: Any, record: SessionRecord) -> None:
        self.late_log.append(record.session_id)
        self.cor.detach_late(record)

    def audited(self, index: int, first_number: int, events: list[Any], head: bytes) -> None:
        assert [e[0] for e in events] == list(range(first_number, first_number + len(events)))
        for event in events:
            known = self.world.history.setdefault(event[0], event)
            assert known == event, f"{self.node_id} tells event {event[0]} differently"

    def superseded(self, incarnation: int) -> None:
        self.cor.fail("NODE_FENCED", "a newer process has joined")

    def report(self, kind: str, detail: str) -> None:
        self.reports.append(kind)

    def failed_for_good(self, reason: str, detail: str) -> None:
        self.failed = f"{reason}: {detail}"

    # --- callers
    def submit(self, request: Request) -> Caller:
        """A caller's op, or its refusal."""
        caller = Caller()
        caller.refused = self.cor.why_not_taken()
        if caller.refused is None:
            caller.seq = self.cor.submit(request, caller.answered)
        return caller

    def do(self, request: Request) -> Answer:
        """An op to its answer; AssertionError when it is refused before it is proposed."""
        caller = self.submit(request)
        assert caller.refused is None, caller.refused
        assert self.world.run_until(lambda: caller.answer is not None)
        assert caller.answer is not None
        return caller.answer

    def owns(self, session_id: str, epoch: int | None = None) -> bool:
        return self.core is not None and self.core.owned.owns(session_id, epoch)

    def record(self, session_id: str) -> SessionRecord:
        return self.cor.replica.machine.sessions[session_id]


class Caller:
    """One who waits for an answer."""

    def __init__(self) -> None:
        self.seq = 0
        self.answer: Answer | None = None
        self.refused: Unavailable | None = None

    def answered(self, answer: Answer) -> None:
        assert self.answer is None, "answered twice"
        self.answer = answer


def make_config(size: int = 3, policy: str = "deny") -> ClusterConfig:
    nodes = [
        {"id": f"vpn-{i}", "peer": f"127.0.0.1:{7400 + i}", "api": f"unix:run/vpn-{i}.sock"} for i in range(1, size + 1)
    ]
    data = {"cluster": "virtual", "partition_policy": policy, "node": nodes}
    return ClusterConfig.from_dict(data, base_dir="/nowhere")


def ready_world(seed: int = 1, **options: Any) -> World:
    """A cluster whose nodes all serve."""
    world = World(seed, **options)
    world.start_all()
    world.wait_ready()
    return world


def requests_of(world: World) -> Requests:
    return Requests(world.config)
