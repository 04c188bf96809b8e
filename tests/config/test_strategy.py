"""strategy in cluster.conf: how many nodes it allows, and on what its nodes must agree before they talk."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from raftstore.config import STICKY_NODES_MAX, ClusterConfig, key_table
from raftstore.routing import NODES_MAX, Mapping
from raftstore.transport.hello import Hello, LocalIdentity, RefusalReason, judge
from tests.config.scenes import config, nodes_of, problem_of, three_nodes


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 9, 63, 64])
def test_sticky_clusters_have_any_number_of_nodes(count: int) -> None:
    """Where nothing waits for a majority, two nodes are as good as three, and as many will do as a mapping can hold."""
    found = ClusterConfig.from_dict({"cluster": "c", "strategy": "sticky", "node": nodes_of(count)})
    assert (found.is_sticky, len(found.nodes)) == (True, count)
    assert Mapping.of(1, found.weights).owner("s") in found.node_ids


def test_a_sticky_cluster_is_bounded_by_its_mapping() -> None:
    """A node table that no mapping could hold is refused when it is read, not when the cluster is founded."""
    assert STICKY_NODES_MAX == NODES_MAX
    sticky = {"cluster": "c", "strategy": "sticky"}
    text = problem_of(sticky | {"node": nodes_of(NODES_MAX + 1)})
    assert text == "cluster.conf: node: 65 nodes are too many for one mapping (use at most 64)"
    assert "cluster.conf: node: no nodes" in problem_of(sticky | {"node": []})


def test_the_shared_digest_is_that_of_earlier_versions() -> None:
    """A cluster that is upgraded node by node stays one: what is hashed, and how, has not changed."""
    c = config(partition_policy="terminate", timing={"lease_ttl_ms": 4000})
    said: dict[str, Any] = {"cluster": "test", "strategy": "shared", "partition_policy": "terminate"}
    said["nodes"] = [(f"vpn-{i}", f"127.0.0.1:{7400 + i}", 1) for i in (1, 2, 3)]
    for spec in key_table():
        table, _, key = spec.name.rpartition(".")
        if table:
            values = said.setdefault(table, {})
            values |= {key: spec.default} if spec.shared else {}
    said["timing"]["lease_ttl_ms"] = 4000
    assert c.digest() == hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def test_the_sticky_digest_leaves_out_the_nodes() -> None:
    """Nodes are added to a running sticky cluster by restarts with a longer table: old and new table must get along."""
    base = config(strategy="sticky").digest()
    assert base != config().digest()
    weighted, moved, renamed, grown = (three_nodes() | {"strategy": "sticky"} for _ in range(4))
    weighted["node"][0]["weight"] = 7
    moved["node"][1]["peer"] = "10.0.0.9:1"
    renamed["node"][2]["id"] = "other"
    grown["node"].append({"id": "vpn-4", "peer": "127.0.0.1:7404"})
    for data in (weighted, moved, renamed, grown):
        assert ClusterConfig.from_dict(data).digest() == base
        assert ClusterConfig.from_dict(data | {"cluster": "another"}).digest() != base
    weighted["strategy"] = "shared"
    assert ClusterConfig.from_dict(weighted).digest() not in (base, config().digest())


def test_nodes_of_different_strategies_refuse_each_other() -> None:
    """A node of the other strategy is turned away at the link, with the two nodes and what to do."""
    shared, sticky = config().digest(), config(strategy="sticky").digest()
    for ours, theirs in ((shared, sticky), (sticky, shared)):
        hello, local = Hello("test", "vpn-1", 1, theirs, True, 1), LocalIdentity("test", "vpn-2", 2, ours)
        refusal = judge(hello, local, {"vpn-1", "vpn-3"}, certified=None, dialed=None)
        assert refusal is not None
        assert refusal.reason is RefusalReason.CONFIG_MISMATCH
        assert refusal.detail == (
            f"vpn-2 has configuration {ours[:12]}, vpn-1 has {theirs[:12]} (make cluster.conf the same)"
        )


@pytest.mark.parametrize("strategy", ["shared", "sticky"])
def test_a_cluster_without_any_weight_is_refused(strategy: str) -> None:
    """Where every weight is 0 no session would have a node; one weight is enough."""
    data = three_nodes() | {"strategy": strategy}
    for node in data["node"]:
        node["weight"] = 0
    assert problem_of(data) == (
        "cluster.conf: node.weight: 0 on every node: no session would belong anywhere (give one node a weight)"
    )
    data["node"][2]["weight"] = 1
    assert ClusterConfig.from_dict(data).weights == {"vpn-1": 0, "vpn-2": 0, "vpn-3": 1}
