"""Faults of the network: who hears whom, how late, and which connections die."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from jepsen_like.sim.faults_base import FaultBase
from jepsen_like.sim.scheduler import MS

if TYPE_CHECKING:
    from jepsen_like.sim.process import Machine


class NetworkFaults(FaultBase):
    """Cuts, slowness, broken connections."""

    def _isolate(self, rng: Random, target: Machine) -> str | None:
        return self._cut(rng, "isolate", target, self._both_ways([target.node_id], self._others(target)))

    def _halves(self, rng: Random, target: Machine) -> str | None:
        nodes = list(self.world.config.node_ids)
        rng.shuffle(nodes)
        middle = len(nodes) // 2
        return self._cut(rng, "halves", target, self._both_ways(nodes[:middle], nodes[middle:]))

    def _one_way(self, rng: Random, target: Machine) -> str | None:
        others = self._others(target)
        chosen = others if rng.random() < 0.5 else [rng.choice(others)]
        out = rng.random() < 0.5
        pairs = [(target.node_id, other) if out else (other, target.node_id) for other in chosen]
        return self._cut(rng, "one_way", target, pairs)

    def _bridge(self, rng: Random, target: Machine) -> str | None:
        """Two halves that see one member in common, and not each other."""
        nodes = self._others(target)
        rng.shuffle(nodes)
        middle = len(nodes) // 2
        return self._cut(rng, "bridge", target, self._both_ways(nodes[:middle], nodes[middle:]))

    def _ring(self, rng: Random, target: Machine) -> str | None:
        """Everybody sees a majority, and no two see the same one."""
        nodes = list(self.world.config.node_ids)
        rng.shuffle(nodes)
        count = len(nodes)
        reach = count // 4 if count > 4 else 1
        pairs = []
        for i, one in enumerate(nodes):
            for j, other in enumerate(nodes):
                distance = min((i - j) % count, (j - i) % count)
                if distance > reach or (count == 3 and {i, j} == {0, 2}):
                    pairs.append((one, other))
        return self._cut(rng, "ring", target, [pair for pair in pairs if pair[0] != pair[1]])

    def _break(self, rng: Random, target: Machine) -> str | None:
        others = self._others(target)
        found = self.world.network.break_connections(target.node_id, rng.choice(others))
        return f"{found} connections"

    def _slow_net(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.latency_ns = int(rng.uniform(5, 120) * MS)
        network.jitter_ns = int(rng.uniform(5, 150) * MS)

        return self._until(rng, "slow_net", target, network.at_usual_speed)

    def _slow_link(self, rng: Random, target: Machine) -> str | None:
        """Some links are slow in one direction: what was said in one term arrives in another."""
        nodes, slow = self.world.config.node_ids, self.world.network.slow_links
        longest_ms = 4 * self.world.plan.timing["election_timeout_min_ms"]
        chosen = [(one, other) for one in nodes for other in nodes if one != other and rng.random() < 0.3]
        for pair in chosen:
            slow[pair] = int(rng.uniform(30, longest_ms) * MS)
        if not chosen:
            return None

        def end() -> None:
            for pair in chosen:
                slow.pop(pair, None)

        return self._until(rng, "slow_link", target, end)

    def _gasp(self, rng: Random, target: Machine) -> str | None:
        """A node hears nothing, then everything at once for a moment, then nothing again: its answers come late."""
        others = self._others(target)
        lease_ms = self.world.plan.timing["lease_ttl_ms"]
        deaf_ms = lease_ms * rng.uniform(0.3, 0.8)
        breath_ms = rng.uniform(20, 200)
        inbound = [(other, target.node_id) for other in others]

        heal = self.world.network.block(inbound)

        def over() -> None:
            heal()
            self.world.later(int(breath_ms * MS), self._hold_breath, rng, target)

        return f"deaf for {self._until(rng, 'gasp', target, over, deaf_ms)}, a breath of {breath_ms:.0f} ms"

    def _hold_breath(self, rng: Random, target: Machine) -> None:
        if not self.world.is_ending:
            lease_ms = self.world.plan.timing["lease_ttl_ms"]
            self._cut(rng, "gasp", target, self._both_ways([target.node_id], self._others(target)), 2 * lease_ms)
            self.world.note_reach()

    def _churn(self, rng: Random, target: Machine) -> str | None:
        """Connections break one after the other: what was asked over them is asked again, and may have arrived."""
        nodes, breaks = self.world.config.node_ids, rng.randint(10, 40)
        for _ in range(breaks):
            self.world.later(rng.randint(0, 3_000) * MS, self._break_one, rng, nodes)
        return f"{breaks} connections"

    def _break_one(self, rng: Random, nodes: Sequence[str]) -> None:
        if not self.world.is_ending:
            one, other = rng.sample(nodes, 2)
            self.world.network.break_connections(one, other)

    def _loss(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.loss = rng.choice((0.02, 0.1, 0.3))
        return self._until(rng, "loss", target, lambda: setattr(network, "loss", 0.0))

    def _bandwidth(self, rng: Random, target: Machine) -> str | None:
        network = self.world.network
        network.bytes_per_s = rng.choice((10_000, 60_000))
        return self._until(rng, "bandwidth", target, lambda: setattr(network, "bytes_per_s", 0))

    def _slow_peer(self, rng: Random, target: Machine) -> str | None:
        slow = self.world.network.slow
        slow[target.node_id] = int(rng.uniform(20, 400) * MS)
        return self._until(rng, "slow_peer", target, lambda: slow.pop(target.node_id, None))  # type: ignore[arg-type]

    def _late_hello(self, rng: Random, target: Machine) -> str | None:
        """Connections break while the network is slow: old and new ones stand side by side."""
        for other in self.world.config.node_ids:
            if other != target.node_id and rng.random() < 0.7:
                self.world.network.break_connections(target.node_id, other)
        return self._slow_net(rng, target)
