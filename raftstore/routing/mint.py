"""Session ids with their node encoded, so that a router needs no table of sessions, in the spirit of QUIC-LB.

    m1  NNNNNNNN  XXXXXXXXXXXXXXXXXXXXXXXX  CCCCCCCCCCCCCCCC        50 characters, the last 48 lower-case hex
        node tag  nonce (96 bits)           check (64 bits)

The node tag is the first 32 bits of SHA-256("node" NUL node_id): it stays the same whoever else joins or leaves, which
a place in a list would not. The check is the first 64 bits of HMAC-SHA256 under the cluster's secret over the 34
characters before it (of SHA-256 over them where there is no secret). With a secret nobody else can make an id that
passes `is_genuine`; the node is readable by everybody, because a load balancer has to read it.

Knows the form alone. Leaves to `mapping` whether the named node may have the session, and to the caller where secret
and randomness come from.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable

from raftstore.errors import InvalidArgument

VERSION = "m1"
TAG_BYTES = 4
NONCE_BYTES = 12
CHECK_BYTES = 8
KEY_BYTES_MIN = 16  # a shorter secret can be guessed
PREFIX_CHARS = len(VERSION) + 2 * TAG_BYTES
BODY_CHARS = PREFIX_CHARS + 2 * NONCE_BYTES
MINTED_CHARS = BODY_CHARS + 2 * CHECK_BYTES

_FORM = re.compile(f"{VERSION}[0-9a-f]{{{MINTED_CHARS - len(VERSION)}}}", re.ASCII)


def minted_prefix(node_id: str) -> str:
    """The 10 characters with which every id minted for that node begins."""
    return VERSION + hashlib.sha256(b"node\0" + node_id.encode("ascii")).digest()[:TAG_BYTES].hex()


def mint(node_id: str, entropy: Callable[[int], bytes], key: bytes | None = None) -> str:
    """A new session id for that node. `entropy(n)` gives n unpredictable bytes, such as `os.urandom`.

    InvalidArgument for a key below KEY_BYTES_MIN or a source that gives another number of bytes.
    """
    nonce = entropy(NONCE_BYTES)
    if len(nonce) != NONCE_BYTES:
        raise InvalidArgument("entropy", f"gave {len(nonce)} bytes instead of {NONCE_BYTES}")
    body = minted_prefix(node_id) + nonce.hex()
    return body + _check(body, key)


def is_minted(session_id: str) -> bool:
    """Whether the id has the form of a minted one. Says nothing of who made it."""
    return _FORM.fullmatch(session_id) is not None


def is_genuine(session_id: str, key: bytes | None = None) -> bool:
    """Whether the id was minted under that key (without one: whether it is free of typing errors)."""
    return is_minted(session_id) and hmac.compare_digest(session_id[BODY_CHARS:], _check(session_id[:BODY_CHARS], key))


def minted_node(session_id: str, node_ids: Iterable[str]) -> str | None:
    """Which of those nodes the id was minted for; None when it was not minted, or for none of them."""
    if not is_minted(session_id):
        return None
    prefix = session_id[:PREFIX_CHARS]
    return next((node_id for node_id in node_ids if minted_prefix(node_id) == prefix), None)


def _check(body: str, key: bytes | None) -> str:
    if key is None:
        return hashlib.sha256(body.encode("ascii")).digest()[:CHECK_BYTES].hex()
    if len(key) < KEY_BYTES_MIN:
        raise InvalidArgument("key", f"has {len(key)} bytes, needs at least {KEY_BYTES_MIN}")
    return hmac.digest(key, body.encode("ascii"), "sha256")[:CHECK_BYTES].hex()
