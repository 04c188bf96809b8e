"""A cluster that is disturbed while it is being founded: links come and go, members restart, directories are lost.

At no time are more members forgetful (their directory lost, not caught up again) than a cluster of that size may lose.
Whether the cluster gets anywhere is luck then; that nothing is forked or lost is not: all nodes tell one history, and
what was acknowledged stands in it.
"""

from __future__ import annotations

from random import Random

import pytest
from test_cluster_schedules import Told, judge
from virtual_cluster import BINDING, MS, VirtualNode, World, requests_of

SEEDS = range(1, 41)
DRIFT_PPM = 10_000


class Founding:
    """The members of one new cluster, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        size = self.rng.choice((3, 5))
        self.may_forget = (size - 1) // 2
        self.world = World(seed, size=size, drift_ppm=DRIFT_PPM)
        self.nodes = list(self.world.nodes.values())
        ids = list(self.world.nodes)
        self.pairs = [(a, b) for i, b in enumerate(ids) for a in ids[:i]]
        self.forgetful: set[str] = set()
        self.told: list[Told] = []

    def begin(self) -> None:
        self.world.cut_pairs |= {frozenset(pair) for pair in self.pairs if self.rng.random() < 0.2}
        for node in self.nodes:
            if self.rng.random() < 0.8:
                node.start()

    def disturb(self) -> None:
        self.world.run(self.rng.expovariate(1 / 40))
        node, chance = self.rng.choice(self.nodes), self.rng.random()
        if chance < 0.22:
            self._flip_link()
        elif chance < 0.28 and node.core is not None:
            node.crash()
        elif chance < 0.42 and node.core is None:
            node.restart()
        elif chance < 0.50:
            self._lose_directory(node)
        elif chance < 0.54:
            node.pause(self.rng.choice((20, 400, 2_000)))
        elif chance < 0.58:
            node.sync_ms = self.rng.choice((1.0, 30.0, 300.0))
        elif node.core is not None and node.paused_until <= self.world.now:
            self._create(node)

    def _flip_link(self) -> None:
        one, other = self.rng.choice(self.pairs)
        pair = frozenset((one, other))
        if pair in self.world.cut_pairs:
            self.world.cut_pairs.discard(pair)
            self.world.connect(one, other)
            return
        self.world.cut_pairs.add(pair)
        noticed = self.world.now + self.rng.choice((0, 0, 300)) * MS
        self.world.at(noticed, None, self.world.nodes[one].lose_peer, other, True)
        self.world.at(noticed, None, self.world.nodes[other].lose_peer, one, True)

    def _lose_directory(self, node: VirtualNode) -> None:
        nodes = self.world.nodes
        self.forgetful = {n for n in self.forgetful if (core := nodes[n].core) is None or core.raft.is_learner}
        if len(self.forgetful | {node.node_id}) > self.may_forget:
            return
        self.forgetful.add(node.node_id)
        if node.core is not None:
            node.crash()
        node.disk.wipe()
        if self.rng.random() < 0.7:
            node.restart()

    def _create(self, node: VirtualNode) -> None:
        request = requests_of(self.world).create(f"s{len(self.told)}", BINDING, None, None, None)
        deadline_ms = node.cor.cluster_clock.now_ms() + 2_000
        self.told.append(Told(node.node_id, node.cor.incarnation, request, node.submit(request), deadline_ms))

    def end(self) -> bool:
        """All is well again. Whether somebody leads."""
        for node in self.nodes:
            node.sync_ms = 1.0
            assert node.failed is None, node.failed
            if node.core is None:
                node.restart()
        self.world.heal()
        self.world.run(6_000)
        self.world.heal()
        return self.world.leader is not None


def found(seed: int) -> bool:
    cluster = Founding(seed)
    cluster.begin()
    for _ in range(cluster.rng.randint(40, 160)):
        cluster.disturb()
    if not cluster.end():
        return False
    cluster.world.wait_ready()
    cluster.world.run(3_000)
    cluster.world.wait_equal()
    judge(cluster.world, cluster.told)
    return True


@pytest.mark.parametrize("seed", SEEDS)
def test_a_disturbed_founding_forks_nothing_and_loses_nothing(seed: int) -> None:
    """Members that lost their directory in the middle of it never elect a leader by what they have forgotten."""
    found(seed)


def test_a_founding_without_a_loss_ends_with_a_leader() -> None:
    """Restarts and cuts alone never keep a cluster from beginning to serve."""
    for seed in range(1, 11):
        cluster = Founding(seed)
        cluster.may_forget = 0
        cluster.begin()
        for _ in range(100):
            cluster.disturb()
        assert cluster.end(), seed
