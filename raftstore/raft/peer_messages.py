"""The Raft messages on the wire: their schemas, and what each promises.

A message that promises something (a vote, an acknowledgement) may leave only when what it promises is on disk;
`PROMISES_NO_LOG` names the others, which wait for the term and vote alone.
"""

from __future__ import annotations

from typing import Any

from raftstore.codec.messages import (
    Check,
    MalformedMessage,
    Protocol,
    is_bool,
    is_bytes,
    is_entries,
    is_u64,
)

_ELECTION: tuple[tuple[str, Check], ...] = (
    ("term", is_u64),
    ("last_log_index", is_u64),
    ("last_log_term", is_u64),
)
_ANSWER: tuple[tuple[str, Check], ...] = (
    ("term", is_u64),
    ("probe", is_u64),
    ("sent_ns", is_u64),
    ("learner", is_u64),
)

SCHEMAS: dict[str, tuple[int, tuple[tuple[str, Check], ...]]] = {
    "pre_vote": (1, (*_ELECTION, ("round", is_u64))),
    "pre_vote_response": (2, (("term", is_u64), ("granted", is_bool), ("round", is_u64))),
    "request_vote": (3, (*_ELECTION, ("transfer", is_bool))),
    "response_vote": (4, (("term", is_u64), ("granted", is_bool), ("anchored", is_bool), ("cluster_ms", is_u64))),
    "append_entries": (
        5,
        (
            ("term", is_u64),
            ("commit_index", is_u64),
            ("prevLogIdx", is_u64),
            ("prevLogTerm", is_u64),
            ("entries", is_entries),
            ("probe", is_u64),
            ("sent_ns", is_u64),
        ),
    ),
    "next_node_idx": (
        6,
        (*_ANSWER, ("success", is_bool), ("rejected", is_u64), ("next_node_idx", is_u64)),
    ),
    "heartbeat": (
        7,
        (
            ("term", is_u64),
            ("commit_index", is_u64),
            ("probe", is_u64),
            ("sent_ns", is_u64),
            ("promote", is_u64),
        ),
    ),
    "heartbeat_response": (8, _ANSWER),
    "install_snapshot": (
        9,
        (
            ("term", is_u64),
            ("index", is_u64),
            ("snapshot_term", is_u64),
            ("size", is_u64),
            ("sha256", is_bytes),
            ("offset", is_u64),
            ("data", is_bytes),
            ("probe", is_u64),
            ("sent_ns", is_u64),
        ),
    ),
    "snapshot_response": (10, (*_ANSWER, ("index", is_u64), ("match", is_u64), ("offset", is_u64))),
    "timeout_now": (11, (("term", is_u64),)),
}

# Sent while the leader's own log write is still under way (dissertation, section 10.2.1): it does not count itself
# before that is done. They still wait for the term to be on disk. The answer to a heartbeat says which term this
# node is in and whether it votes, nothing of the log: a slow disk alone must not cost a leader its quorum. The answer
# to a pre-vote waits for everything: in a new cluster a term is raised only once a majority are voters on their disks.
PROMISES_NO_LOG = frozenset(
    {"append_entries", "heartbeat", "heartbeat_response", "install_snapshot", "pre_vote", "timeout_now"}
)

PROTOCOL = Protocol(SCHEMAS)


def encode(message: dict[str, Any]) -> bytes:
    """A Raft message as bytes of at most one frame."""
    return PROTOCOL.encode(message)


def decode(data: bytes | memoryview) -> dict[str, Any]:
    """A Raft message of a peer, checked beyond its shape. MalformedMessage otherwise."""
    message = PROTOCOL.decode(data)
    kind = message["type"]
    if kind == "append_entries":
        _check_append(message)
    elif kind == "next_node_idx" and message["next_node_idx"] == 0:
        raise MalformedMessage("next_node_idx: index 0")
    elif kind == "install_snapshot" and (
        not message["data"]
        or len(message["sha256"]) != 32
        or message["offset"] + len(message["data"]) > message["size"]
    ):
        raise MalformedMessage("install_snapshot: bad chunk")
    return message


def _check_append(message: dict[str, Any]) -> None:
    entries = message["entries"]
    if entries and (
        entries[0][1] != message["prevLogIdx"] + 1
        or entries[0][2] < message["prevLogTerm"]
        or entries[-1][2] > message["term"]
    ):
        raise MalformedMessage("append_entries: entries do not follow prevLogIdx")
    message["entries"] = [tuple(e) for e in entries]
