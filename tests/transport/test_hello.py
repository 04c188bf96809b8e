"""The hello: bytes of anybody become a hello or a refusal, and each disagreement has its own reason."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftstore.transport.hello import (
    Hello,
    LocalIdentity,
    Refusal,
    RefusalReason,
    decode_hello,
    decode_refusal,
    dials,
    encode_hello,
    encode_refusal,
    judge,
)
from raftstore.transport.tls import PeerName

LOCAL = LocalIdentity("test", "vpn-2", 22, "ab" * 32)
HELLO = Hello("test", "vpn-1", 11, "ab" * 32, True, 1)
VPN_1 = PeerName("test", "vpn-1")
MEMBERS = ("vpn-1", "vpn-3")


def verdict(hello: Hello, certified: PeerName | None = VPN_1, dialed: str | None = None) -> str | None:
    refusal = judge(hello, LOCAL, MEMBERS, certified=certified, dialed=dialed)
    return None if refusal is None else refusal.reason


def test_a_hello_survives_the_wire() -> None:
    """What is said is what is heard."""
    assert decode_hello(encode_hello(HELLO)) == HELLO
    assert decode_hello(encode_hello(LOCAL.hello(9))) == Hello("test", "vpn-2", 22, "ab" * 32, False, 9)


@pytest.mark.parametrize(
    ("hello", "certified", "dialed", "reason"),
    [
        (HELLO, VPN_1, None, None),
        (HELLO, None, None, None),
        (HELLO._replace(cluster="prod"), VPN_1, None, "WRONG_CLUSTER"),
        (HELLO, PeerName("prod", "vpn-1"), None, "WRONG_CLUSTER"),
        (HELLO, PeerName("test", "vpn-3"), None, "IDENTITY_MISMATCH"),
        (HELLO, VPN_1, "vpn-3", "IDENTITY_MISMATCH"),
        (HELLO._replace(node_id="vpn-2"), PeerName("test", "vpn-2"), None, "SELF_CONNECTION"),
        (HELLO._replace(node_id="vpn-2", incarnation=22), PeerName("test", "vpn-2"), None, "SELF_CONNECTION"),
        (HELLO._replace(node_id="vpn-9"), PeerName("test", "vpn-9"), None, "UNKNOWN_NODE"),
        (HELLO._replace(node_id="vpn-3"), PeerName("test", "vpn-3"), None, "WRONG_DIRECTION"),
        (HELLO._replace(config_digest="cd"), VPN_1, None, "CONFIG_MISMATCH"),
    ],
)
def test_each_disagreement_has_its_reason(
    hello: Hello, certified: PeerName | None, dialed: str | None, reason: str | None
) -> None:
    """A member of this cluster under its own name is admitted, and everybody else is told why not."""
    assert verdict(hello, certified, dialed) == reason


def test_another_protocol_version_is_told_from_garbage() -> None:
    """A node of another release is refused by version, whatever the rest of its hello looks like."""
    refusal = decode_hello(msgpack.packb(["raftstore", 2, {"all": "new"}]))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.PROTOCOL_VERSION
    assert "2 meets 1" in refusal.detail


@pytest.mark.parametrize("field", Hello._fields)
def test_each_field_is_checked(field: str) -> None:
    """A field of the wrong type or shape is named."""
    for value in (None, -1, 1 << 63, "", "a\nb", "x" * 200, [], b"bytes", 1.5):
        if field in ("incarnation", "generation") and value == 1 << 63:
            continue
        refusal = decode_hello(encode_hello(HELLO._replace(**{field: value})))
        assert refusal == Refusal(RefusalReason.MALFORMED_HELLO, f"bad {field} in a hello")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_hello_or_a_refusal(payload: bytes) -> None:
    """Random bytes never raise."""
    assert isinstance(decode_hello(payload), Refusal)
    assert isinstance(decode_refusal(payload), Refusal)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_mutated_hello_never_raises(data: st.DataObject) -> None:
    """One changed, missing or repeated stretch of a good hello is a hello or a refusal."""
    good = encode_hello(HELLO)
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, len(good)))
    heard = decode_hello(good[:start] + data.draw(st.binary(max_size=20)) + good[stop:])
    if isinstance(heard, Hello):
        assert isinstance(judge(heard, LOCAL, MEMBERS, certified=VPN_1, dialed=None), Refusal | None)


def test_deeply_nested_bytes_are_refused() -> None:
    """A tower of arrays is no hello and costs no stack."""
    assert isinstance(decode_hello(b"\x91" * 4096), Refusal)


def test_a_refusal_is_cut_and_made_printable() -> None:
    """Words of the other side cannot forge lines in our log, nor fill it."""
    refusal = Refusal(RefusalReason.CONFIG_MISMATCH, "a\nb\x1b[2J" + "x" * 10_000)
    heard = decode_refusal(encode_refusal(refusal))
    assert heard.reason is RefusalReason.CONFIG_MISMATCH
    assert heard.detail.isprintable()
    assert len(heard.detail) <= 400
    assert decode_refusal(msgpack.packb(["NEW_REASON", "why"])) == (RefusalReason.OTHER, "NEW_REASON: why")


def test_one_node_of_each_pair_dials() -> None:
    """There is exactly one dialer per pair."""
    assert dials("vpn-1", "vpn-2")
    assert not dials("vpn-2", "vpn-1")
    assert not dials("vpn-1", "vpn-1")
