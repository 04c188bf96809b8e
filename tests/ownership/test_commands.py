"""The wire form: what callers may say, and how groups and batches are put together."""

from __future__ import annotations

import msgpack
import pytest

from raftstore.errors import InvalidArgument
from raftstore.ownership import batches
from raftstore.ownership import commands as c
from raftstore.ownership.shapes import is_well_formed
from raftstore.types import Binding

B1 = Binding("t1", "udp", "198.51.100.7:51820")

GOOD_OPS = [
    c.configure(1, 9, {"lease_ttl_ms": 5, "partition_policy": "deny"}),
    c.join(1, 9),
    c.renew_lease(1, 9),
    c.drain(1, 9),
    c.leave(1, 9),
    c.create(1, 9, "s", B1, 5),
    c.create(1, 9, "s", None, 5, "terminate"),
    c.reattach(1, 9, "s", 1, B1),
    c.reattach(1, 9, "s", 1, B1, 7),
    c.detach(1, 9, "s", 1, "WHY"),
    c.renew(1, 9, "s", 1, 5),
    c.freeze(1, 9, "s", 1, "MIGRATION", "b"),
    c.transfer(1, 9, "s", 1),
    c.resume(1, 9, "s", 1),
    c.resume(1, 9, "s", 1, B1),
    c.thaw(1, 9, "s", 1),
    c.failover(1, 9, "s", 1, B1),
    c.terminate(1, 9, "s", 1, "WHY", True),
    c.sweep(1, 9, [("s", 1)]),
]
FOREIGN = [None, True, -1, 1.5, float("nan"), 2**64 - 1, "", "x" * 200, "\x00", "é", b"s", [], [[]], {"a": 1}, {}]


@pytest.mark.parametrize("op", GOOD_OPS)
def test_every_constructor_makes_a_well_formed_op(op):
    """What the constructors pack from valid arguments is what the machine understands."""
    assert is_well_formed(batches.unpack(op))
    assert batches.unpack(op)[0] in c.OP_NAMES


@pytest.mark.parametrize("op", GOOD_OPS)
def test_an_op_with_a_part_missing_added_or_of_another_kind_is_malformed_or_valid_never_an_error(op):
    """Each item of each op is replaced by everything foreign: the check answers, and shorter or longer ops fail it."""
    items = batches.unpack(op)
    assert not is_well_formed(items[:-1])
    assert not is_well_formed(items + [None])
    for place in range(len(items)):
        for value in FOREIGN:
            changed = batches.unpack(msgpack.packb([*items[:place], value, *items[place + 1 :]]))
            assert is_well_formed(changed) in (True, False)
            if place < 2 and value != 2**64 - 1:
                assert not is_well_formed(changed)


@pytest.mark.parametrize("bad", [None, 1, "", "x" * 65, "a b", "tab\t", "nul\0", "ü", b"s", "line\n"])
def test_bad_session_ids_are_named(bad):
    """Empty, too long, with spaces, control or other characters, or no text at all."""
    with pytest.raises(InvalidArgument) as caught:
        c.validate_session_id(bad)
    assert caught.value.field == "session_id"


@pytest.mark.parametrize("bad", [None, True, -1, 2**53, 1.0, "1"])
def test_bad_versions_are_named(bad):
    """Versions are real integers from 0 to 2**53 - 1."""
    with pytest.raises(InvalidArgument) as caught:
        c.validate_version(bad)
    assert caught.value.field == "expected_version"


def test_good_values_pass_unchanged():
    """The bounds themselves are allowed."""
    assert c.validate_session_id("x" * 64) == "x" * 64
    assert c.validate_version(2**53 - 1) == 2**53 - 1
    assert c.validate_ttl_ms(5, 5) == 5
    assert c.validate_nonce(None) is None
    assert c.validate_nonce(0) == 0
    assert c.validate_policy(None) is None
    assert c.validate_policy("deny") == "deny"
    assert c.validate_node_id("vpn-1") == "vpn-1"
    assert c.validate_reason("NO_DELIVERY") == "NO_DELIVERY"
    assert c.validate_binding(["t1", "udp", "198.51.100.7:51820"]) == B1


@pytest.mark.parametrize("bad", [None, "abc", [], ["a", "b"], ["a", "b", ""], ["a", "b", "x" * 129], ["a", "b", "\n"]])
def test_bad_bindings_are_named(bad):
    """Three fields, each 1 to 128 printable ASCII characters."""
    with pytest.raises(InvalidArgument, match="binding"):
        c.validate_binding(bad)


@pytest.mark.parametrize("bad", [0, -1, 6, True, None, 2.0])
def test_bad_ttls_are_named(bad):
    """From 1 to the maximum that is given."""
    with pytest.raises(InvalidArgument, match="ttl_ms"):
        c.validate_ttl_ms(bad, 5)


def test_bad_policies_are_named():
    """Only the two policies exist."""
    with pytest.raises(InvalidArgument, match="policy"):
        c.validate_policy("maybe")


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_joining_packed_groups_gives_the_batch_that_packing_all_at_once_would(count):
    """The leader concatenates; the bytes are those of one msgpack value, whatever the sizes."""
    op = c.join(1, 9)
    group = batches.pack_group("a", 2**64 - 1, 3, [op] * count)
    whole = msgpack.packb([1, 5, 6, None, [["a", 2**64 - 1, 3, [[2, 1, 9]] * count]]])
    assert batches.join_batch(5, 6, None, [group]) == whole
    assert batches.encode_batch(5, 6, None, [("a", 2**64 - 1, 3, [op] * count)]) == whole
    assert batches.is_well_formed_group(group, "a", 2**64 - 1, 70_000) == count


def test_a_group_must_be_its_senders_and_within_the_bound():
    """A leader takes no group in another's name, too large, cut short or with something behind it."""
    group = batches.pack_group("a", 7, 0, [c.join(1, 9)] * 3)
    assert batches.is_well_formed_group(group, "a", 7, 3) == 3
    assert batches.is_well_formed_group(group, "b", 7, 3) is None
    assert batches.is_well_formed_group(group, "a", 8, 3) is None
    assert batches.is_well_formed_group(group, "a", 7, 2) is None
    assert batches.is_well_formed_group(group[:-1], "a", 7, 3) is None
    assert batches.is_well_formed_group(group + b"\xc0", "a", 7, 3) is None
    assert batches.is_well_formed_group(b"", "a", 7, 3) is None
    assert batches.is_well_formed_group(b"\xc0", "a", 7, 3) is None


def test_a_group_that_was_let_through_never_spoils_its_batch():
    """Nesting, foreign types and bad UTF-8 inside an op: either refused at the door or one malformed op in the log."""
    deep = [b"\x91" * depth + b"\xc0" for depth in (1, 100, 500, 505, 508, 510, 511, 512, 1_020, 1_024, 5_000)]
    odd = [
        b"\xa1\xff",
        b"\x81\x90\xc0",
        b"\xd4\xff\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc1",
        b"\xcb\x7f\xf8" + bytes(6),
    ]
    for inner in deep + odd:
        group = batches.pack_group("a", 7, 0, [inner])
        admitted = batches.is_well_formed_group(group, "a", 7, 9) is not None
        assert not admitted or batches.decode_batch(batches.join_batch(1, 1, None, [group])) is not None
    assert batches.is_well_formed_group(batches.pack_group("a", 7, 0, [b"\xa1\xff"]), "a", 7, 9) == 1
