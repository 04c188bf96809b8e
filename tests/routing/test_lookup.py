"""Owners are decided by bounds and found by exact costs only where these leave it open: the same owners, always."""

from __future__ import annotations

import random
from fractions import Fraction
from hashlib import sha256

import pytest

from raftstore.routing import NODES_MAX, Mapping
from raftstore.routing.mapping import _BEYOND, _BUCKET_BITS, _BUCKET_SHIFT, _LEAST, _MOST, _SHARE_BITS, cost


def test_the_bounds_by_bucket_hold_at_every_edge() -> None:
    """A bucket's bounds hold at both of its ends, and so in between, where the cost only falls."""
    assert len(_MOST) == len(_LEAST) == 2**_BUCKET_BITS
    for bucket, (least, most) in enumerate(zip(_LEAST, _MOST, strict=True)):
        first, last = bucket << _BUCKET_SHIFT, ((bucket + 1) << _BUCKET_SHIFT) - 1
        assert least <= cost(last) <= cost(first) <= most
        assert most * (2**_SHARE_BITS + 1) < _BEYOND


WEIGHTS = [
    {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
    {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
    {"a": 3, "b": 1, "c": 3, "d": 7, "e": 1000, "f": 1},
    {"a": 1000, "b": 999, "c": 998, "d": 997, "e": 996},
    {"a": 1, "b": 0, "c": 1000},
    {"a": 7},
    {f"n{i}": 1 + i % 7 for i in range(NODES_MAX)},
]


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: " ".join(str(v) for v in [*w.values()][:6]))
def test_owners_agree_with_a_plain_reading_of_the_formula(weights: dict[str, int]) -> None:
    """Deciding by bounds is a shortcut: it finds what comparing the exact fractions of all nodes finds."""
    mapping = Mapping.of(1, weights)
    for session in (f"session-{i}" for i in range(10_000 // len(weights))):
        hashes = {node: mixed(u64(session) ^ u64(f"node\0{node}")) for node in weights}
        assert mapping.owner(session) == plain_owner(hashes, weights)


def test_near_ties_and_ties_go_where_the_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs in the ratio of the weights or one step beside it, and equal hashes: bounds never guess."""
    rng = random.Random(8)
    exact = 0
    for _ in range(3_000):
        weights = {
            node: rng.choice([1, 1, 2, 3, 10, 999, 1000, rng.randint(1, 1000)]) for node in "abcde"[: rng.randint(2, 5)]
        }
        hashes = tied(weights, rng)
        owner = plain_owner(hashes, weights)
        assert owner_by(monkeypatch, hashes, weights) == owner, (weights, hashes)
        ratio = Fraction(cost(hashes[owner]), weights[owner])
        exact += any(Fraction(cost(hashes[n]), weights[n]) == ratio for n in weights if n != owner)
    assert exact > 500, "true ties must be among them"


# Two nodes whose bounds lie between the true ratio and what rounding the shares makes of it: the first hash at the
# beginning of its bucket, the second at the end.
ROUNDED = [
    (497, 11002293889666121728, 4, 18370182880044253183),
    (551, 2134706223373615104, 1, 18374686479671623679),
    (4, 18352168481534771200, 981, 5228679167377145855),
    (2, 18374686479671623680, 873, 3341670923508908031),
]


@pytest.mark.parametrize(("weight_a", "hash_a", "weight_b", "hash_b"), ROUNDED)
def test_rounded_shares_decide_nothing(
    weight_a: int, hash_a: int, weight_b: int, hash_b: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares are rounded down: what is nearer than that error is left to the exact costs."""
    hashes, weights = {"a": hash_a, "b": hash_b}, {"a": weight_a, "b": weight_b}
    assert plain_owner(hashes, weights) == owner_by(monkeypatch, hashes, weights) == "b"


def owner_by(monkeypatch: pytest.MonkeyPatch, hashes: dict[str, int], weights: dict[str, int]) -> str | None:
    """The owner in a mapping whose nodes have these hashes for the session."""
    seeds = {node: unmixed(h) ^ u64("x") for node, h in hashes.items()}
    monkeypatch.setattr("raftstore.routing.mapping._seed", seeds.__getitem__)
    return Mapping.of(1, weights).owner("x")


def tied(weights: dict[str, int], rng: random.Random) -> dict[str, int]:
    """A hash per node so that cost / weight is the same for all, or off by one step of cost or hash."""
    per_weight = rng.choice(
        [rng.randint(1, 64), rng.randint(1, (8 << 32) // max(weights.values())), rng.getrandbits(28)]
    )
    hashes = {
        node: hash_costing(per_weight * weight + rng.choice([0, 0, 0, -1, 1])) for node, weight in weights.items()
    }
    if rng.random() < 0.3:  # at the edge of a bucket
        hashes = {n: h >> _BUCKET_SHIFT << _BUCKET_SHIFT for n, h in hashes.items()}
    return {n: min(max(h + rng.choice([0, 0, -1, 1]), 0), 2**64 - 1) for n, h in hashes.items()}


def hash_costing(target: int) -> int:
    """The least hash that costs no more than that."""
    h = 0
    for bit in reversed(range(64)):
        if cost(h + (1 << bit) - 1) > target:
            h += 1 << bit
    return h


def u64(text: str) -> int:
    return int(sha256(text.encode()).hexdigest()[:16], 16)


def mixed(x: int) -> int:
    a = x * 0xFF51AFD7ED558CCD % 2**64
    return (a ^ a >> 33) * 0xC4CEB9FE1A85EC53 % 2**64


def unmixed(h: int) -> int:
    """What `mixed` makes this hash of."""
    a = h * pow(0xC4CEB9FE1A85EC53, -1, 2**64) % 2**64
    return (a ^ a >> 33) * pow(0xFF51AFD7ED558CCD, -1, 2**64) % 2**64


def plain_owner(hashes: dict[str, int], weights: dict[str, int]) -> str:
    def key(node: str) -> tuple[Fraction, int, str]:
        return Fraction(cost(hashes[node]), weights[node]), -hashes[node], node

    return min((node for node, weight in weights.items() if weight), key=key)
