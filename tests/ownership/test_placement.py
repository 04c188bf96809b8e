"""A node without a shared log: the mappings it goes through, step by step."""

from __future__ import annotations

from raftstore.ownership import MappedNode, MappingRecord
from raftstore.ownership import commands as c
from raftstore.ownership.placement import GONE_MAX, INVOLVED_MAX, NODES_MAX, TRAIL_MAX

B1 = ("t1", "udp", "198.51.100.7:51820")


def equal(ids):
    """Nodes of equal weight."""
    return [(node_id, 1, False) for node_id in ids]


def test_without_a_mapping_nothing_of_it_is_granted(node):
    """In a log that nodes share, ops of the sticky strategy change nothing, whatever epoch they name."""
    node.ok(c.create, "t", B1, 600_000)
    node.ok(c.terminate, "t", 1, "POLICY")
    node.ok(c.create, "u", B1, 600_000)
    for epoch in (0, 1):
        node.refused("VERSION_MISMATCH", c.settle, epoch)
        node.refused("VERSION_MISMATCH", c.close, epoch)
        node.refused("VERSION_MISMATCH", c.confirm, "b", epoch, bytes(32), 22, [])
        handed = (c.admit, "s", epoch, "b", 2, 5, 0, "deny", 500, 700_000, None, None, 1)
        node.refused("OWNERSHIP_CONFLICT", *handed)
    node.refused("OWNERSHIP_CONFLICT", c.create_mapped, "s", B1, 600_000, None, 1)
    for sid, version in (("t", 2), ("u", 1)):
        node.refused("OWNERSHIP_CONFLICT", c.forget, sid, version, "b")
    node.refused("OWNERSHIP_CONFLICT", c.reclaim, "u", 1)
    assert (node.place, node.machine.departed) == (None, {})


def test_the_first_mapping_leaves_everything_uncertain_until_all_have_confirmed(node):
    """An empty trail; those of the mapping and those its maker names are waited for."""
    node.adopt(4, "abc", "de")
    place = node.place
    assert place.mapping == MappingRecord(4, tuple(MappedNode(*n) for n in equal("abc")), ("d", "e"), ())
    assert (place.trail, place.confirmed, place.stores, place.gone) == ((), (), (), ())
    assert (place.store_id, place.opens_at_ms) == (101, 0)
    assert place.involved == ("a", "b", "c", "d", "e")
    assert place.waits_for("a") == ["b", "c", "d", "e"]
    assert not place.is_settled
    assert not place.is_closed


def test_a_mapping_is_replaced_by_a_higher_epoch_only(settled):
    """Equal and lower epochs are refused, be they the same mapping or another."""
    settled.adopt(5)
    for epoch, ids in ((5, "abc"), (5, "ab"), (4, "abc"), (1, "ac")):
        settled.refused("VERSION_MISMATCH", c.adopt, epoch, equal(ids), "", "")
    settled.adopt(6, "ab")
    assert settled.place.mapping.epoch == 6


def test_involved_are_all_of_whom_any_mapping_spoke_until_it_is_closed(settled):
    """Nodes, sources and those before, and whom a peer names when it confirms; after `close` the mapping's own."""
    settled.adopt(2, "ab", "d")
    assert settled.place.involved == ("a", "b", "c", "d")
    settled.ok(*settled.confirm("b", "be"))
    assert settled.place.involved == ("a", "b", "c", "d", "e")
    assert settled.place.waits_for("a") == ["c", "d", "e"]
    settled.settle()
    assert not settled.place.is_closed
    settled.twice(c.close, 2)
    assert settled.place.is_closed
    assert settled.place.involved == ("a", "b")
    settled.adopt(3, "bc")
    assert settled.place.involved == ("a", "b", "c")


def test_too_many_involved_are_refused(node):
    """The bound holds for what a mapping brings and for what a peer names; nothing is dropped silently."""
    names = sorted(f"n{number}" for number in range(INVOLVED_MAX))
    node.refused("LIMIT_EXCEEDED", c.adopt, 1, equal("a"), names, [])
    node.ok(c.adopt, 1, equal("ab"), names[: INVOLVED_MAX - 2], [])
    node.refused("LIMIT_EXCEEDED", *node.confirm("b", ["z"]))
    assert node.place.confirmed == ()
    node.ok(*node.confirm("b", names[:3]))


def test_a_settled_mapping_begins_a_trail_and_the_next_ones_extend_it(settled):
    """What all of the trail send here cannot have been elsewhere since the first of them was settled."""
    first = settled.place.mapping
    assert settled.place.trail == (first,)
    settled.adopt(2, "ab")
    second = settled.place.mapping
    settled.adopt(3, "ac")
    assert settled.place.trail == (first, second, settled.place.mapping)
    settled.settle()
    assert settled.place.trail == (settled.place.mapping,)


def test_an_unsettled_first_mapping_never_counts_in_a_trail(node):
    """Before anything was settled, no number of mappings makes a trail."""
    node.adopt(1)
    node.adopt(2)
    assert node.place.trail == ()


def test_a_trail_that_is_too_long_is_worth_nothing(settled):
    """It is not cut, which would lose its first mapping: it is empty, until the newest is settled."""
    for epoch in range(2, TRAIL_MAX + 1):
        settled.adopt(epoch)
        assert len(settled.place.trail) == epoch
    for epoch in range(TRAIL_MAX + 1, TRAIL_MAX + 4):
        settled.adopt(epoch)
        assert settled.place.trail == ()
    settled.settle()
    assert settled.place.trail == (settled.place.mapping,)


def test_a_confirmation_counts_for_the_very_mapping_only(settled):
    """Another epoch, or the same epoch with another digest, confirms nothing."""
    settled.adopt(2)
    digest = settled.place.mapping.digest()
    other = settled.place.mapping._replace(sources=("c",)).digest()
    for epoch, named in ((1, digest), (3, digest), (2, other), (2, bytes(32))):
        settled.refused("VERSION_MISMATCH", c.confirm, "b", epoch, named, 22, [])
    settled.twice(*settled.confirm("b"))
    assert settled.place.confirmed == ("b",)
    settled.adopt(3)
    assert settled.place.confirmed == ()


def test_a_confirmation_of_somebody_who_is_not_waited_for_changes_nothing(settled):
    """Strangers and the node itself: no mark of them stays."""
    settled.adopt(2)
    before = settled.place
    settled.ok(*settled.confirm("e"))
    settled.ok(c.confirm, "a", *settled.confirm("b")[2:])
    assert settled.place == before


def test_in_whatever_order_peers_confirm_the_state_is_the_same(settled):
    """What is kept of them is in order, so that digests do not tell who was first."""
    settled.adopt(2, "abcde")
    for peer in "edcb":
        settled.ok(*settled.confirm(peer, "yxz"[: "edcb".index(peer)]))
    assert settled.place.confirmed == ("b", "c", "d", "e")
    assert settled.place.stores == (("b", 22), ("c", 33), ("d", 44), ("e", 55))
    assert settled.place.involved == ("a", "b", "c", "d", "e", "x", "y", "z")


def test_a_lost_node_is_not_waited_for_once_that_is_settled(settled):
    """From then on what it held is over; until then every later mapping has to name it again."""
    settled.adopt(2, "ac", "", "b")
    settled.ok(*settled.confirm("c"))
    settled.driver.now_ms = settled.place.opens_at_ms
    settled.driver.do("a", c.renew_lease)
    settled.ok(c.settle, 2)
    assert settled.place.involved == ("a", "b", "c")
    settled.adopt(3, "ac")
    assert settled.place.involved == ("a", "c")
    settled.adopt(4, "acd")
    assert settled.place.involved == ("a", "c", "d")


def test_a_peer_is_bound_to_its_data_directory(settled):
    """Known under one store id, it is fenced under another, and goes on under the old one."""
    settled.adopt(2)
    settled.refused("NODE_FENCED", *settled.confirm("b", store=23))
    settled.ok(*settled.confirm("b"))
    settled.refused("NODE_FENCED", *settled.confirm("b", store=23))
    assert settled.place.store_of("b") == 22
    assert settled.place.store_of("d") is None


def test_a_node_that_was_declared_lost_confirms_nothing_and_its_disk_never_again(settled):
    """Under its own name or another's; with a new data directory it may take part again."""
    settled.adopt(2, "ac", "abc", "b")
    assert settled.place.waits_for("a") == ["c"]
    assert (settled.place.gone, settled.place.store_of("b")) == ((22,), None)
    for store in (22, 23):
        settled.refused("NODE_FENCED", *settled.confirm("b", store=store))
    settled.refused("NODE_FENCED", *settled.confirm("c", store=22))
    settled.adopt(3)
    settled.refused("NODE_FENCED", *settled.confirm("b", store=22))
    settled.ok(*settled.confirm("b", store=23))
    assert settled.place.store_of("b") == 23


def test_as_many_lost_data_directories_are_remembered_as_the_bound_says(node):
    """The newest stay."""
    names = [f"n{number:03}" for number in range(GONE_MAX + 2)]
    epoch = 0
    for place in range(0, len(names), NODES_MAX // 2):
        some = names[place : place + NODES_MAX // 2]
        epoch += 2
        node.ok(c.adopt, epoch, [*equal("a"), *((name, 1, False) for name in some)], [], [])
        digest = node.place.mapping.digest()
        for name in some:
            node.driver.do("a", c.confirm, name, epoch, digest, 1_000 + int(name[1:]), [])
        node.ok(c.adopt, epoch + 1, equal("a"), [], some)
        node.driver.now_ms += int(node.machine.params["ttl_max_ms"])
        node.driver.do("a", c.renew_lease)
        node.ok(c.settle, epoch + 1)
        node.ok(c.close, epoch + 1)
    assert node.place.gone == tuple(range(1_002, 1_000 + len(names)))


def test_a_mapping_is_settled_when_all_involved_have_confirmed(settled):
    """Not earlier, not for another epoch, and only once."""
    settled.adopt(2)
    settled.refused("INVALID_TRANSITION", c.settle, 2)
    settled.ok(*settled.confirm("b"))
    settled.refused("INVALID_TRANSITION", c.settle, 2)
    settled.refused("INVALID_TRANSITION", c.close, 2)
    settled.ok(*settled.confirm("c"))
    for epoch in (0, 1, 3):
        settled.refused("VERSION_MISMATCH", c.settle, epoch)
        settled.refused("VERSION_MISMATCH", c.close, epoch)
    settled.twice(c.settle, 2)


def test_a_node_alone_waits_for_nobody(node):
    """A mapping of one node is settled at once, and not before it says so."""
    node.adopt(1, "a")
    assert not node.place.is_settled
    assert not node.place.is_closed
    node.twice(c.settle, 1)
    assert node.place.is_closed


def test_what_a_lost_node_held_is_open_after_the_longest_ttl_to_the_millisecond(settled):
    """One millisecond before it is not."""
    settled.driver.do("a", c.configure, {"ttl_max_ms": 2_500})
    settled.adopt(2, "ac", "", "b")
    settled.ok(*settled.confirm("c"))
    opens = settled.place.opens_at_ms
    assert opens == settled.driver.now_ms + 2_500
    settled.driver.now_ms = opens - 1
    settled.refused("INVALID_TRANSITION", c.settle, 2)
    settled.driver.now_ms = opens
    settled.ok(c.settle, 2)


def test_the_wait_for_a_lost_node_outlives_later_mappings_until_one_is_settled(settled):
    """Setting another mapping does not open earlier what one before must wait for."""
    settled.adopt(2, "ac", "", "b")
    opens = settled.place.opens_at_ms
    settled.driver.now_ms += 1_000
    settled.adopt(3, "ac", "")
    assert settled.place.opens_at_ms == opens
    assert settled.place.waits_for("a") == ["b", "c"]
    settled.adopt(4, "ac", "", "b")
    assert settled.place.opens_at_ms == opens + 1_000
    settled.ok(*settled.confirm("c"))
    settled.driver.now_ms = settled.place.opens_at_ms
    settled.driver.do("a", c.renew_lease)
    settled.ok(c.settle, 4)
    settled.adopt(5, "ac")
    assert settled.place.opens_at_ms == 0


def test_the_digest_is_over_every_part_of_a_mapping():
    """Two mappings that differ anywhere have different digests; equal ones have equal ones, on every node."""
    base = MappingRecord(1, (MappedNode("a", 1, False), MappedNode("b", 1, False)), ("a",), ("c",))
    others = [
        base._replace(epoch=2),
        base._replace(nodes=base.nodes[:1]),
        base._replace(nodes=(MappedNode("a", 2, False), base.nodes[1])),
        base._replace(nodes=(MappedNode("a", 1, True), base.nodes[1])),
        base._replace(sources=()),
        base._replace(lost=()),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 1 + len(others)
    assert base.digest().hex() == "82e6cccfc798161db7fbaca94f6319c7f40eb9cf81c075b9783c255c72b1a5c7"
