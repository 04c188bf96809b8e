"""The gate alone: what it lets through by which mappings, without a cluster around it."""

from __future__ import annotations

from sticky_world import ids

from raftstore.node.sticky.gate import Gate
from raftstore.ownership import MappedNode, MappingRecord, Placement
from raftstore.types import Reason

A, B, C = "vpn-1", "vpn-2", "vpn-3"
TTL_MAX_MS = 600_000


def mapping(epoch: int, *node_ids: str) -> MappingRecord:
    return MappingRecord(epoch, tuple(MappedNode(n, 1, False) for n in node_ids), tuple(node_ids), ())


def placement(*trail: MappingRecord, confirmed: tuple[str, ...] = ()) -> Placement:
    involved = tuple(sorted({n for record in trail for n in record.node_ids}))
    return Placement(trail[-1], 1, trail, confirmed, (), (), involved, 0)


def gate(*trail: MappingRecord) -> Gate:
    made = Gate(A, TTL_MAX_MS)
    made.set_placement(placement(*trail))
    return made


def test_before_the_first_mapping_nothing_is_served() -> None:
    """There is nobody to send a caller to either."""
    refusal = Gate(A, TTL_MAX_MS).refusal("s", {}, {})
    assert refusal is not None and refusal.reason is Reason.MAPPING_UNSETTLED and refusal.owner is None
    assert Gate(A, TTL_MAX_MS).owner("s") is None


def test_only_what_all_mappings_since_the_settled_one_send_here_is_served_unseen() -> None:
    """One of them in between that sends it elsewhere is enough to wait; what is held is served all the same."""
    records = (mapping(1, A, B), mapping(2, B, C), mapping(3, A, B))
    made = gate(*records)
    between = next(s for s in ids(50) if gate(records[0]).owner(s) == A)
    refusal = made.refusal(between, {}, {})
    assert refusal is not None and refusal.reason is Reason.MAPPING_UNSETTLED
    assert f"{B}, {C}" in refusal.detail
    assert made.refusal(between, {between}, {}) is None
    assert gate(records[0], records[2]).refusal(between, {}, {}) is None
    made.set_placement(placement(records[2]))
    assert made.refusal(between, {}, {}) is None


def test_who_is_sent_to_a_node_that_is_down_hears_until_when_and_what_to_do() -> None:
    """Which node, how long at most, and what an operator can do if it never comes back."""
    made = gate(mapping(1, B))
    refusal = made.refusal("s", {}, {B})
    assert refusal is not None and (refusal.owner, refusal.detail[-9:]) == (B, "ask there")
    refusal = made.refusal("s", {}, {C})
    assert refusal is not None and (refusal.reason, refusal.owner) == (Reason.OWNERSHIP_CONFLICT, B)
    for said in (f"not connected to {A}", f"until {B} is back", f"within {TTL_MAX_MS} ms", f"mapping set --lost {B}"):
        assert said in refusal.detail


def test_an_empty_trail_makes_nothing_certain() -> None:
    """A node that begins with a mapping which others had before it serves what it holds, and nothing else."""
    made = Gate(A, TTL_MAX_MS)
    made.set_placement(placement(mapping(1, A))._replace(trail=()))
    assert made.refusal("s", {}, {}) is not None
    assert made.refusal("s", {"s"}, {}) is None


def test_an_older_mapping_of_a_peer_is_no_disagreement() -> None:
    """It will adopt the newer one; the log knows what it may hold until then."""
    made = gate(mapping(1, A, B), mapping(2, A))
    made.peer_says(B, mapping(1, A, B))
    here = next(s for s in ids(50) if gate(mapping(1, A, B)).owner(s) == A)
    there = next(s for s in ids(50) if gate(mapping(1, A, B)).owner(s) == B)
    assert made.refusal(here, {}, {}) is None
    assert made.refusal(there, {there}, {}) is None and not made.disagrees(there)


def test_what_a_peer_said_counts_until_it_says_otherwise_or_is_behind() -> None:
    """Also when it said it before this node adopted a mapping of the same epoch, and has gone since."""
    made = gate(mapping(1, A, B))
    made.peer_says(B, mapping(2, B))
    assert made.disagrees("s")
    made.set_placement(placement(mapping(2, A)))
    refusal = made.refusal("s", {"s"}, {})
    assert refusal is not None and "disagree" in refusal.detail and B in refusal.detail
    made.peer_says(B, mapping(2, A))
    assert made.refusal("s", {"s"}, {}) is None
    made.peer_says(B, mapping(2, B))
    made.set_placement(placement(mapping(3, A)))
    assert made.refusal("s", {"s"}, {}) is None
    made.peer_says(B, None)
    assert not made.disagrees("s")
