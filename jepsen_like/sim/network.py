"""The network between the nodes: who can hear whom, how long it takes, and what breaks.

Knows machines by node id and directed pairs of them; connections and what travels on them are `links`' affair. What
was sent into a cut waits, as TCP would repeat it, and arrives when the cut heals, unless its connection has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from jepsen_like.sim.scheduler import MS, Scheduler

if TYPE_CHECKING:
    from jepsen_like.sim.links import Connection, SimLinks

Pair = tuple[str, str]
REPEAT_MAX_NS = 400 * MS  # TCP repeats what was lost within so long


class Network:
    """Machines, pairs, and everything that happens to them."""

    def __init__(self, scheduler: Scheduler, rng: Random, node_ids: Sequence[str]) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.node_ids = tuple(node_ids)
        self.usual_ns = (200_000, 800_000)  # latency and jitter where nothing is slow
        self.latency_ns, self.jitter_ns = self.usual_ns
        self.loss = 0.0  # chance that a segment has to be repeated
        self.bytes_per_s = 0  # 0: no limit
        self.slow: dict[str, int] = {}  # nanoseconds more to and from a machine
        self.slow_links: dict[Pair, int] = {}  # and those of one direction
        self.blocked: dict[Pair, int] = {}  # directed pairs, and how many cuts stand between them
        self.listening: dict[str, SimLinks] = {}  # the process that accepts at each machine
        self.machines_off: dict[str, None] = {}
        self.connections: list[Connection] = []
        self.messages = 0
        self.superseded_deliver = False  # whether a connection goes on delivering beside the one that took its place

    # --- what the links ask ----------------------------------------------------------------------------------
    def delay_ns(self, source: str, target: str) -> int:
        delay = self.latency_ns + int(self.rng.random() * self.jitter_ns)
        if self.slow:
            delay += self.slow.get(source, 0) + self.slow.get(target, 0)
        if self.slow_links:
            delay += self.slow_links.get((source, target), 0)
        if self.loss and self.rng.random() < self.loss:
            delay += int(self.rng.random() * REPEAT_MAX_NS)
        return delay

    def is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self.blocked

    def is_off(self, node_id: str) -> bool:
        return node_id in self.machines_off

    # --- cuts ------------------------------------------------------------------------------------------------
    def block(self, pairs: Sequence[Pair]) -> Callable[[], None]:
        """Cut these directed pairs; the returned function heals exactly this cut."""
        for pair in pairs:
            self.blocked[pair] = self.blocked.get(pair, 0) + 1

        def heal() -> None:
            for pair in pairs:
                left = self.blocked.get(pair, 0) - 1
                if left > 0:
                    self.blocked[pair] = left
                else:
                    self.blocked.pop(pair, None)
            self._repeat()

        return heal

    def at_usual_speed(self) -> None:
        self.latency_ns, self.jitter_ns = self.usual_ns

    def heal(self) -> None:
        """Every cut ends, and everything is fast again."""
        self.at_usual_speed()
        self.blocked.clear()
        self.slow.clear()
        self.slow_links.clear()
        self.loss = 0.0
        self.bytes_per_s = 0
        self._repeat()

    def _repeat(self) -> None:
        self.connections = [known for known in self.connections if known.is_alive()]
        for connection in self.connections:
            connection.repeat()

    def break_connections(self, one: str, other: str) -> int:
        """Connections between two machines die with what is on its way; how many."""
        found = 0
        for connection in list(self.connections):
            if connection.is_alive() and connection.is_between(one, other):
                connection.break_off()
                found += 1
        return found

    def forget(self, node_id: str) -> None:
        """No process accepts at that machine any more."""
        self.listening.pop(node_id, None)
