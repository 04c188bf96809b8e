"""Session ids that name their node: their form, their check, and what is not one."""

from __future__ import annotations

import os
import random

import pytest

from raftstore.errors import InvalidArgument
from raftstore.ownership.commands import validate_session_id
from raftstore.routing import KEY_BYTES_MIN, is_genuine, is_minted, mint, minted_node, minted_prefix
from raftstore.routing.mint import MINTED_CHARS

KEY = bytes(range(KEY_BYTES_MIN))
NODES = [f"vpn-{i}" for i in range(1, 8)]


@pytest.mark.parametrize("key", [None, KEY], ids=["no secret", "secret"])
def test_a_minted_id_is_a_session_id_that_names_its_node(key: bytes | None) -> None:
    """Fixed length, legal as a session id, and any router reads the node without the secret."""
    for node in NODES:
        session = mint(node, os.urandom, key)
        assert len(validate_session_id(session)) == MINTED_CHARS
        assert session.startswith(minted_prefix(node))
        assert minted_node(session, NODES) == node
        assert minted_node(session, [n for n in NODES if n != node]) is None
        assert is_genuine(session, key)


def test_every_id_is_new() -> None:
    """The nonce makes ids of one node differ."""
    rng = random.Random(5)
    assert len({mint("vpn-1", rng.randbytes, KEY) for _ in range(1_000)}) == 1_000


def test_ids_made_without_the_secret_are_not_genuine() -> None:
    """Another secret, none, and any changed character each fail the check."""
    session = mint("vpn-1", os.urandom, KEY)
    assert not is_genuine(session)
    assert not is_genuine(session, KEY[::-1])
    assert not is_genuine(mint("vpn-1", os.urandom), KEY)
    for place in range(2, MINTED_CHARS):
        other = "0" if session[place] != "0" else "1"
        assert not is_genuine(session[:place] + other + session[place + 1 :], KEY), place


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda s: s[:-1], lambda s: s + "0", lambda s: "m2" + s[2:], lambda s: s[:-1] + "\n", lambda s: ""],
    ids=["upper case", "short", "long", "version", "newline", "empty"],
)
def test_other_forms_are_not_minted(change: object) -> None:
    """Only the exact form counts; everything else is an ordinary session id."""
    assert callable(change)
    session = change(mint("vpn-1", os.urandom))
    assert not is_minted(session)
    assert minted_node(session, NODES) is None
    assert not is_genuine(session)


def test_short_keys_and_short_entropy_are_refused() -> None:
    """An id that could be guessed or repeated is never made."""
    with pytest.raises(InvalidArgument, match="key: has 15 bytes, needs at least 16"):
        mint("vpn-1", os.urandom, KEY[:-1])
    with pytest.raises(InvalidArgument, match="entropy: gave 3 bytes instead of 12"):
        mint("vpn-1", lambda n: b"abc")
