"""The sticky mapping: the same everywhere, balanced by weight, and moving no session that need not move."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from raftstore.config import WEIGHT_MAX
from raftstore.errors import InvalidArgument
from raftstore.routing import FORMULA, NODES_MAX, Mapping, MappingNode, is_genuine, mint, minted_node, moved
from raftstore.routing.mapping import EPOCH_MAX, LOG_TABLE, cost

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text())
DOCS = Path(__file__).parents[2] / "docs" / "routing.md"
SESSIONS = [f"session-{i}" for i in range(100_000)]


def equal(count: int, epoch: int = 1) -> Mapping:
    return Mapping.of(epoch, {f"vpn-{i}": 1 for i in range(1, count + 1)})


# ---- vectors


@pytest.mark.parametrize("vector", VECTORS["mappings"], ids=lambda v: f"epoch {v['epoch']}")
def test_vectors_of_owners_and_digests(vector: dict[str, Any]) -> None:
    """What other languages check against is what this one computes."""
    mapping = Mapping(vector["epoch"], tuple(MappingNode(*node) for node in vector["nodes"]))
    assert mapping.digest() == vector["digest"]
    assert {session: mapping.owner(session) for session in vector["owners"]} == vector["owners"]


def test_vectors_of_costs_and_minted_ids() -> None:
    """The steps on the way have vectors too, so that a difference is found where it arises."""
    assert VECTORS["formula"] == FORMULA
    assert {k: LOG_TABLE[int(k)] for k in VECTORS["log_table"]} == VECTORS["log_table"]
    assert {h: cost(int(h, 16)) for h in VECTORS["cost"]} == VECTORS["cost"]
    for vector in VECTORS["minted"]:
        nonce, key = bytes.fromhex(vector["nonce"]), vector["key"] and bytes.fromhex(vector["key"])
        session = mint(vector["node"], lambda n, nonce=nonce: nonce[:n], key)  # type: ignore[misc]  # bound default
        assert session == vector["session"]
        assert is_genuine(session, key)
        assert minted_node(session, ["vpn-1", "vpn-2"]) == vector["node"]


def test_the_documentation_shows_the_same_vectors() -> None:
    """A reader of the page and a reader of the file check against the same numbers."""
    blocks = [part.split("```")[0] for part in DOCS.read_text().split("```json\n")[1:]]
    assert VECTORS in [json.loads(block) for block in blocks]


# ---- the formula


def test_the_log_table_is_the_floor_of_true_logarithms() -> None:
    """Another language may compute the table in any exact way: these are the rounded-down logarithms."""
    with localcontext() as context:
        context.prec = 60
        for k, entry in enumerate(LOG_TABLE):
            true = (Decimal(256 + k) / 256).ln() / Decimal(2).ln() * 2**32
            assert entry == int(true + Decimal("1e-40")), k
    assert len(LOG_TABLE) == 257


def test_a_larger_hash_never_costs_more() -> None:
    """Equal weights compare hashes alone; that is only right because the cost falls with the hash, and never is 0."""
    rng = random.Random(1)
    edges = [0, 2**64 - 1, *((1 << bit) + d for bit in range(2, 64) for d in (-1, 0, 1))]
    hashes = sorted({*edges, *(rng.getrandbits(64) for _ in range(5_000))})
    costs = [cost(h) for h in hashes]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 1
    assert costs[0] * WEIGHT_MAX < 2**63, "products fit into 64 bits everywhere"


@pytest.mark.parametrize("factor", [2, 1000])
def test_only_relative_weights_count(factor: int) -> None:
    """All weights times the same number is the same mapping."""
    old = Mapping.of(1, {"a": 1, "b": 1, "c": 1})
    new = Mapping.of(2, {"a": factor, "b": factor, "c": factor})
    assert not list(moved(old, new, SESSIONS[:5_000]))


# ---- balance


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_equal_nodes_get_equal_shares(count: int) -> None:
    """Of 100,000 sessions every node has its share within 3 %."""
    shares = Counter(map(equal(count).owner, SESSIONS))
    assert len(shares) == count
    for owned in shares.values():
        assert abs(owned * count / len(SESSIONS) - 1) < 0.03, shares


def test_shares_follow_weights() -> None:
    """A node of weight 4 has four times the sessions of one of weight 1, within 5 %."""
    weights = {"vpn-1": 1, "vpn-2": 2, "vpn-3": 3, "vpn-4": 4}
    shares = Counter(map(Mapping.of(1, weights).owner, SESSIONS))
    for node, weight in weights.items():
        assert abs(shares[node] / len(SESSIONS) / (weight / 10) - 1) < 0.05, shares


# ---- what moves


@pytest.mark.parametrize("form", ["counted", "random"])
@pytest.mark.parametrize("weight", [1, 1000])
def test_a_fourth_node_takes_its_share_and_nothing_moves_between_the_others(form: str, weight: int) -> None:
    """From 3 to 4 equal nodes 22 to 28 % of 100,000 sessions move, all to the new node, from each old one alike."""
    rng = random.Random(9)
    sessions = SESSIONS if form == "counted" else [rng.randbytes(16).hex() for _ in range(100_000)]
    names = ["vpn-1", "vpn-2", "vpn-3", "vpn-4"]
    old, new = Mapping.of(1, dict.fromkeys(names[:3], weight)), Mapping.of(2, dict.fromkeys(names, weight))
    changes = list(moved(old, new, sessions))
    assert 0.22 <= len(changes) / len(sessions) <= 0.28
    assert {after for _, _, after in changes} == {"vpn-4"}
    left = Counter(before for _, before, _ in changes)
    assert all(0.22 / 3 <= left[name] / len(sessions) <= 0.28 / 3 for name in names[:3]), left


def test_changes_among_unequal_weights_move_no_session_between_other_nodes() -> None:
    """Whatever the weights, a node that comes, goes or changes is one end of every move."""
    rng = random.Random(10)
    for _ in range(40):
        weights = {f"vpn-{i}": rng.choice([1, 2, 5, 100, 1000, rng.randint(1, 1000)]) for i in range(rng.randint(2, 8))}
        changed = rng.choice(list(weights))
        weight = rng.choice([w for w in (0, 1, weights[changed] + 1, 500, 1000) if w <= WEIGHT_MAX])
        old, new = Mapping.of(1, weights), Mapping.of(2, weights | {changed: weight})
        ends = {
            after if weight > weights[changed] else before for _, before, after in moved(old, new, SESSIONS[:1_000])
        }
        assert ends <= {changed}, (weights, changed, weight)


@pytest.mark.parametrize("how", ["removed", "drained", "weight 0"])
def test_a_node_that_goes_moves_its_own_sessions_alone(how: str) -> None:
    """Removing, draining and weight 0 move exactly what was on that node, and come to the same."""
    kept = (MappingNode("vpn-1"), MappingNode("vpn-3"))
    gone = {"removed": (), "drained": (MappingNode("vpn-2", 1, True),), "weight 0": (MappingNode("vpn-2", 0),)}[how]
    old, new = equal(3), Mapping(2, kept + gone)
    sessions = SESSIONS[:20_000]
    expected = [s for s in sessions if old.owner(s) == "vpn-2"]
    changes = list(moved(old, new, sessions))
    assert [session for session, _, _ in changes] == expected
    assert {before for _, before, _ in changes} == {"vpn-2"}
    assert {after for _, _, after in changes} == {"vpn-1", "vpn-3"}


@pytest.mark.parametrize(("weight", "grows"), [(1, False), (2, False), (4, True), (1000, True)])
def test_a_changed_weight_moves_sessions_to_or_from_that_node_alone(weight: int, grows: bool) -> None:
    """More weight only draws sessions to the node, less only lets them go."""
    old = Mapping.of(1, {"a": 3, "b": 3, "c": 3})
    new = Mapping.of(2, {"a": 3, "b": weight, "c": 3})
    changes = list(moved(old, new, SESSIONS[:10_000]))
    assert changes
    assert {after if grows else before for _, before, after in changes} == {"b"}


def test_a_minted_session_stays_with_its_node_until_that_takes_none() -> None:
    """A new node moves no minted id; draining its node sends it where any other id of that name would go."""
    rng = random.Random(2)
    sessions = [mint("vpn-2", rng.randbytes) for _ in range(200)]
    assert {equal(count).owner(s) for s in sessions for count in (2, 3, 5)} == {"vpn-2"}
    drained = Mapping(2, (MappingNode("vpn-1"), MappingNode("vpn-2", 1, True), MappingNode("vpn-3")))
    assert {drained.owner(s) for s in sessions} == {"vpn-1", "vpn-3"}


def test_what_only_looks_minted_is_placed_like_any_other() -> None:
    """The right beginning and length are not the form: such ids are spread over all nodes."""
    prefix = mint("vpn-2", random.Random(3).randbytes)[:10]
    assert len({equal(5).owner(f"{prefix}{i:039d}Z") for i in range(100)}) == 5


def test_nobody_owns_what_no_node_takes() -> None:
    """Without a node that takes sessions the answer is none, never a guess."""
    mapping = Mapping(1, (MappingNode("a", 0), MappingNode("b", 5, True)))
    assert mapping.owner("alice") is None
    assert mapping.owner(mint("b", random.Random(4).randbytes)) is None


# ---- epochs, digests, bounds


def test_only_a_higher_epoch_succeeds() -> None:
    """A mapping never goes back, and never replaces one of its own epoch, not even an equal one."""
    assert equal(3, epoch=2).succeeds(equal(3, epoch=1))
    assert not equal(4, epoch=1).succeeds(equal(3, epoch=1))
    assert not equal(3, epoch=1).succeeds(equal(3, epoch=2))


def test_the_digest_tells_every_difference_and_no_order() -> None:
    """Order of nodes is nothing; epoch, weight, draining and membership each change the digest."""
    base = Mapping(1, (MappingNode("a"), MappingNode("b")))
    same = Mapping(1, (MappingNode("b"), MappingNode("a")))
    assert (same, same.digest()) == (base, base.digest())
    others = [
        Mapping(2, base.nodes),
        Mapping(1, (MappingNode("a"),)),
        Mapping(1, (MappingNode("a"), MappingNode("b", 2))),
        Mapping(1, (MappingNode("a"), MappingNode("b", 1, True))),
    ]
    assert len({base.digest(), *(m.digest() for m in others)}) == 5


BAD: list[tuple[Any, Any, str]] = [
    (0, [("a", 1, False)], "epoch"),
    (True, [("a", 1, False)], "epoch"),
    (EPOCH_MAX + 1, [("a", 1, False)], "epoch"),
    (1, [], "nodes"),
    (1, [(f"n{i}", 1, False) for i in range(NODES_MAX + 1)], "nodes"),
    (1, [("a", 1, False), ("a", 2, False)], "nodes"),
    (1, [("a b", 1, False)], "node_id"),
    (1, [("", 1, False)], "node_id"),
    (1, [("a", -1, False)], "weight"),
    (1, [("a", WEIGHT_MAX + 1, False)], "weight"),
    (1, [("a", 1.0, False)], "weight"),
    (1, [("a", 1, 0)], "draining"),
]


@pytest.mark.parametrize(("epoch", "nodes", "field"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_cannot_be_a_mapping_is_refused(epoch: Any, nodes: Any, field: str) -> None:
    """Every bound is checked where the mapping is made, by the name of the field."""
    with pytest.raises(InvalidArgument) as caught:
        Mapping(epoch, tuple(MappingNode(*node) for node in nodes))
    assert caught.value.field == field


def test_a_mapping_is_frozen() -> None:
    """Nobody changes a mapping that others compute with."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        equal(3).epoch = 2  # type: ignore[misc]  # that it is refused is what is tested
