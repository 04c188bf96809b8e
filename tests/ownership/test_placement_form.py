"""Ops of the sticky strategy as values: each bound of each argument."""

from __future__ import annotations

import pytest

from raftstore.ownership import batches
from raftstore.ownership import commands as c
from raftstore.ownership.placement import INVOLVED_MAX, NODES_MAX
from raftstore.ownership.shapes import SHAPES, is_well_formed

B1 = ("t1", "udp", "198.51.100.7:51820")


def equal(ids):
    """Nodes of equal weight."""
    return [(node_id, 1, False) for node_id in ids]


GOOD = [
    c.adopt(1, 9, 1, equal("ab"), "ab", "c"),
    c.adopt(1, 9, 1, [(f"n{n}", 1, n > 0) for n in range(NODES_MAX)], [], []),
    c.confirm(1, 9, "b", 1, bytes(32), 2**64 - 1, "abc"),
    c.settle(1, 9, 1),
    c.close(1, 9, 1),
    c.create_mapped(1, 9, "s", B1, 5, "deny", 1),
    c.create_mapped(1, 9, "s", None, 5, None, 0),
    c.admit(1, 9, "s", 1, "b", 1, 1, 0, "deny", 0, 1, None, None, 1),
    c.admit(1, 9, "s", 1, "b", 2, 3, 4, "terminate", 5, 6, "WHY", "b", 0),
    c.forget(1, 9, "s", 1, "b", 1),
    c.reclaim(1, 9, "s", 1, 1),
]
N = [["a", 1, False], ["b", 1, False]]
DIGEST = bytes(32)
BAD = [
    *([30, 1, 9, epoch, N, [], []] for epoch in (0, -1, 2**53, None, "1", True)),
    *([30, 1, 9, 1, nodes, [], []] for nodes in ([], N[::-1], [N[0], N[0]], [["a", 1]], [["a", -1, False]], None)),
    *([30, 1, 9, 1, nodes, [], []] for nodes in ([["a", 1, 0]], [["a b", 1, False]], [[1, 1, False]])),
    [30, 1, 9, 1, [["a", True, False]], [], []],
    [30, 1, 9, 1, [[f"n{n:03}", 1, False] for n in range(NODES_MAX + 1)], [], []],
    *([30, 1, 9, 1, N, sources, []] for sources in (["b", "a"], ["a", "a"], [1], None, "ab", [""])),
    [30, 1, 9, 1, N, [f"n{n:03}" for n in range(INVOLVED_MAX + 1)], []],
    *([30, 1, 9, 1, N, [], lost] for lost in (["a"], ["b"], ["d", "c"], ["c", "c"], None)),
    [30, 1, 9, 1, N, [], [f"n{n:03}" for n in range(INVOLVED_MAX + 1)]],
    *([31, 1, 9, peer, 1, DIGEST, 1, []] for peer in ("", None, 1, "a b")),
    *([31, 1, 9, "b", epoch, DIGEST, 1, []] for epoch in (-1, None, 2**53)),
    *([31, 1, 9, "b", 1, digest, 1, []] for digest in (DIGEST[1:], DIGEST + b"x", "x" * 32, None)),
    *([31, 1, 9, "b", 1, DIGEST, store, []] for store in (-1, None, True)),
    *([31, 1, 9, "b", 1, DIGEST, 1, others] for others in (None, ["b", "a"], [1], ["x"] * 2)),
    *([kind, 1, 9, epoch] for kind in (32, 33) for epoch in (-1, None, 2**53, True)),
    *([40, 1, 9, "s", None, ttl, None, 1] for ttl in (0, -1, None)),
    *([40, 1, 9, "s", None, 5, None, epoch] for epoch in (-1, None, 2**53)),
    [40, 1, 9, "s", ["t"], 5, None, 1],
    [40, 1, 9, "s", None, 5, "x", 1],
    *(
        [41, 1, 9, *good[:place], bad, *good[place + 1 :]]
        for good in (["s", 1, "b", 2, 3, 4, "deny", 5, 6, None, None, 1],)
        for place, values in enumerate(
            (
                ("", None, 1), (-1, None, 2**53), ("", None), (0, 4, -1, None), (1, 2**53, None), (-1, None, 2**53),
                ("x", None, 1), (6, 7, -1, None), (5, 4, 2**53, None), ("", 1, "a b", "WHY"), ("", 1, "a b", "e"),
                (-1, None, 2**53, True),
            )
        )
        for bad in values
    ),
    *([42, 1, 9, "s", 1, taker, 1] for taker in ("", None, 1)),
    *([kind, 1, 9, sid, 1, *(["b"] if kind == 42 else []), 1] for kind in (42, 43) for sid in ("", None)),
    *([kind, 1, 9, "s", n, *(["b"] if kind == 42 else []), 1] for kind in (42, 43) for n in (-1, None, 2**53)),
    *([kind, 1, 9, "s", 1, *(["b"] if kind == 42 else []), n] for kind in (42, 43) for n in (-1, None, 2**53, True)),
]  # fmt: skip


@pytest.mark.parametrize("op", GOOD)
def test_every_constructor_makes_a_well_formed_op(op):
    """What the constructors pack from valid arguments is understood; shorter or longer it is not."""
    items = batches.unpack(op)
    assert is_well_formed(items)
    assert items[0] in c.OP_NAMES
    assert not is_well_formed(items[:-1])
    assert not is_well_formed([*items, None])


@pytest.mark.parametrize("op", BAD, ids=repr)
def test_an_op_with_a_value_beyond_its_bounds_is_malformed(op):
    """Each bound of each argument, one at a time: nothing else is wrong with it, its length above all."""
    assert len(op) == SHAPES[op[0]][0]
    assert not is_well_formed(op)


def test_the_constructors_bring_ids_into_order():
    """Equal mappings are equal bytes, in whatever order their parts were given."""
    assert c.adopt(1, 9, 1, equal("cab"), "ba", "ed") == c.adopt(1, 9, 1, equal("abc"), "ab", "de")
    assert c.confirm(1, 9, "b", 1, DIGEST, 1, "cb") == c.confirm(1, 9, "b", 1, DIGEST, 1, "bc")
