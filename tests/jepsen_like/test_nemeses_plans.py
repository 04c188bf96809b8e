"""Plans of faults: from one seed the same, within bounds, and each family once at a time."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from jepsen_like.nemeses.clock import RATE_PPM_MAX, Clock
from jepsen_like.nemeses.partition import FORMS, pairs_of
from jepsen_like.nemeses.schedule import CALM_AT_END_S, NEMESES, parse_names, plan

NODES = ["n1", "n2", "n3", "n4", "n5"]


def test_one_seed_gives_one_plan() -> None:
    """The same seed orders the same faults, to the last detail; another seed orders others."""
    first, again, other = (plan(list(NEMESES), NODES, seed, 60) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_plan_is_plain_data() -> None:
    """A plan can be written into a file and read back."""
    lanes = [[fault._asdict() for fault in lane] for lane in plan(list(NEMESES), NODES, 3, 120)]
    assert json.loads(json.dumps(lanes)) == lanes


@pytest.mark.parametrize("seed", range(20))
def test_a_family_is_never_in_both_lanes_at_once(seed: int) -> None:
    """Faults of one family do not overlap, so that the end of one is not the end of another."""
    first, second = plan(list(NEMESES), NODES, seed, 300)
    for a in first:
        for b in second:
            assert a.name != b.name or a.until_s <= b.at_s or b.until_s <= a.at_s, (a, b)


@pytest.mark.parametrize("seed", range(10))
def test_faults_end_before_the_run_does(seed: int) -> None:
    """The last seconds of a run are calm, and each lane has one fault at a time."""
    for lane in plan(["kill", "pause", "partition"], NODES, seed, 30):
        assert lane
        assert all(fault.until_s <= 30 - CALM_AT_END_S for fault in lane)
        assert all(a.until_s < b.at_s for a, b in itertools.pairwise(lane))


def test_one_family_makes_one_lane() -> None:
    """With a single family there is nothing to overlap with."""
    assert len(plan(["kill"], NODES, 1, 60)) == 1
    assert plan([], NODES, 1, 60) == []


def test_names_are_parsed() -> None:
    """Families by name, all of them, or none; an unknown name is refused with those that there are."""
    assert parse_names("kill, pause,kill") == ["kill", "pause"]
    assert parse_names("all") == list(NEMESES)
    assert parse_names("none") == []
    with pytest.raises(ValueError, match=r"no nemesis 'kil' \(there are: partition, kill"):
        parse_names("kil")


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("form", FORMS)
def test_a_partition_cuts_what_its_name_says(form: str, size: int) -> None:
    """Each form leaves exactly the nodes connected that it should."""
    nodes = [f"n{i}" for i in range(size)]
    cut = pairs_of(form, nodes)
    reached = {a: {b for b in nodes if (a, b) not in cut and (b, a) not in cut} for a in nodes}
    majority = size // 2 + 1
    assert cut and all(a != b for a, b in cut)
    match form:
        case "isolate":
            assert reached["n0"] == {"n0"} and len(reached["n1"]) == size - 1
        case "deaf":
            assert all((other, "n0") in cut and ("n0", other) not in cut for other in nodes[1:])
        case "mute":
            assert all(("n0", other) in cut and (other, "n0") not in cut for other in nodes[1:])
        case "one-way":
            assert cut == {("n0", "n1")}
        case "halves":
            assert len(reached["n0"]) == size // 2 and len(reached[nodes[-1]]) == majority
        case "bridge":
            assert reached["n0"] == set(nodes) and all(len(reached[n]) < size for n in nodes[1:])
        case "ring":
            assert all(len(reached[n]) >= majority for n in nodes if size > 3)
            assert any(len(reached[n]) < size for n in nodes)


def test_a_ring_gives_every_node_a_majority_of_its_own() -> None:
    """In a ring of five every node sees three, and no two see the same three."""
    cut = pairs_of("ring", NODES)
    seen = [frozenset(b for b in NODES if (a, b) not in cut) for a in NODES]
    assert {len(view) for view in seen} == {3}
    assert len(set(seen)) == 5


def test_clocks_stay_within_the_bound() -> None:
    """However rates are drawn, no two nodes differ by more than what the cluster is configured for."""
    rng = random.Random(1)
    for _ in range(200):
        rates = Clock().plan(rng, NODES)["rate_ppm"].values()
        assert max(rates) - min(rates) <= 2 * RATE_PPM_MAX < 10_000
