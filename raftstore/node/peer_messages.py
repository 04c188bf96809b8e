"""The node's own messages between members: ops on their way to the leader, read indices, chain heads."""

from __future__ import annotations

from typing import Any

from raftstore.codec.messages import Check, Protocol, is_bytes, is_u64

_SCHEMAS: dict[str, tuple[int, tuple[tuple[str, Check], ...]]] = {
    "forward": (32, (("group", is_bytes),)),  # a packed group of ops for the leader
    "forward_refused": (33, ()),  # not a ready leader, or too much waits: send again later
    "read_request": (34, (("number", is_u64),)),
    "read_response": (35, (("number", is_u64), ("ok", is_u64), ("index", is_u64))),
    "chain_head": (36, (("index", is_u64), ("head", is_bytes))),
}

PROTOCOL = Protocol(_SCHEMAS)
FIRST_KIND = 32  # kinds below are Raft's


def encode(message: dict[str, Any]) -> bytes:
    """A node message as bytes of at most one frame."""
    return PROTOCOL.encode(message)


def is_node_message(data: bytes | memoryview) -> bool:
    """Whether the message is ours rather than Raft's: its kind stands behind the array header."""
    return len(data) >= 2 and data[1] >= FIRST_KIND and data[1] < 0x80
