"""The first words on a peer link: who speaks, and why one would not listen. Pure.

The dialer says hello; the acceptor answers with its own hello or with a refusal; then messages flow. `judge` decides,
in one fixed order, from the hello, from what the certificate proved and from what this node knows of its cluster.
Both sides come to the same refusal, so an operator may read the log of either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgpack

from raftstore.transport.tls import PeerName

PROTOCOL_VERSION = 1
REFUSAL_DETAIL_MAX = 400  # characters
_MAGIC = "raftstore"
_U64_MAX = (1 << 64) - 1
_CLUSTER = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NODE_ID = re.compile(r"[a-z0-9-]{1,32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{1,128}\Z")


class RefusalReason(StrEnum):
    """Why a hello is refused. Stable: counters, logs and the other side see it."""

    MALFORMED_HELLO = "MALFORMED_HELLO"
    PROTOCOL_VERSION = "PROTOCOL_VERSION"
    WRONG_CLUSTER = "WRONG_CLUSTER"
    IDENTITY_MISMATCH = "IDENTITY_MISMATCH"
    SELF_CONNECTION = "SELF_CONNECTION"
    UNKNOWN_NODE = "UNKNOWN_NODE"
    WRONG_DIRECTION = "WRONG_DIRECTION"
    CONFIG_MISMATCH = "CONFIG_MISMATCH"
    STALE_CONNECTION = "STALE_CONNECTION"
    OTHER = "OTHER"  # a reason of a later version, as received


class Refusal(NamedTuple):
    """A reason, and a sentence for people that names both sides' values and the remedy."""

    reason: RefusalReason
    detail: str


class Hello(NamedTuple):
    """What one side says of itself."""

    cluster: str
    node_id: str
    incarnation: int
    config_digest: str  # hex
    fresh: bool  # started on an empty data directory and not a voter yet
    generation: int  # the dialer's count of its connections to this peer; the acceptor gives it back


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """This process as its peers see it. `incarnation` is a fresh random 64-bit number per process start."""

    cluster: str
    node_id: str
    incarnation: int
    config_digest: str
    fresh: Callable[[], bool] = lambda: False

    def hello(self, generation: int) -> Hello:
        """The hello of this moment: `fresh` is asked each time."""
        return Hello(self.cluster, self.node_id, self.incarnation, self.config_digest, bool(self.fresh()), generation)


def dials(node_id: str, peer_id: str) -> bool:
    """The one rule of who dials: of each pair, the node with the smaller id."""
    return node_id < peer_id


def encode_hello(hello: Hello) -> bytes:
    """A HELLO payload. Magic and version come first, so that any version can be told from any other."""
    packed: bytes = msgpack.packb([_MAGIC, PROTOCOL_VERSION, *hello])
    return packed


def decode_hello(payload: bytes) -> Hello | Refusal:
    """The hello in a payload, or the refusal of what is none."""
    fields = _unpack(payload)
    if fields is None or len(fields) < 2 or fields[0] != _MAGIC or not _is_u64(fields[1]):
        return Refusal(RefusalReason.MALFORMED_HELLO, "not a raftstore hello")
    if fields[1] != PROTOCOL_VERSION:
        detail = f"protocol version {fields[1]} meets {PROTOCOL_VERSION} (run the same release on all nodes)"
        return Refusal(RefusalReason.PROTOCOL_VERSION, detail)
    if len(fields) != 2 + len(Hello._fields):
        return Refusal(RefusalReason.MALFORMED_HELLO, f"{len(fields)} fields in a hello")
    hello = Hello(*fields[2:])
    bad = _bad_field(hello)
    if bad is not None:
        return Refusal(RefusalReason.MALFORMED_HELLO, f"bad {bad} in a hello")
    return hello


def encode_refusal(refusal: Refusal) -> bytes:
    """A REFUSE payload."""
    packed: bytes = msgpack.packb([str(refusal.reason), refusal.detail[:REFUSAL_DETAIL_MAX]])
    return packed


def decode_refusal(payload: bytes) -> Refusal:
    """What the other side says; of a malformed one, that. The text is cut and made printable: it goes to logs."""
    fields = _unpack(payload)
    if fields is None or len(fields) != 2 or not all(isinstance(field, str) for field in fields):
        return Refusal(RefusalReason.OTHER, "a refusal that cannot be read")
    name, detail = (
        "".join(char if char.isprintable() else "?" for char in field[:REFUSAL_DETAIL_MAX]) for field in fields
    )
    if name in RefusalReason.__members__:
        return Refusal(RefusalReason(name), detail)
    return Refusal(RefusalReason.OTHER, f"{name}: {detail}")


def judge(
    hello: Hello,
    local: LocalIdentity,
    members: Collection[str],
    *,
    certified: PeerName | None,
    dialed: str | None,
) -> Refusal | None:
    """Why `local` must not talk to the sender of `hello`; None when it may.

    `members` are the other nodes of the cluster, `certified` whom the certificate names (None only on links without
    TLS), `dialed` the node that was dialed (None for an accepted connection).
    """
    return (
        _wrong_cluster(hello, local, certified)
        or _wrong_identity(hello, certified, dialed)
        or _own_name(hello, local)
        or _not_a_member(hello, local, members, dialed)
        or _other_config(hello, local)
    )


def _wrong_cluster(hello: Hello, local: LocalIdentity, certified: PeerName | None) -> Refusal | None:
    for what, cluster in (("says", hello.cluster), ("has a certificate of", certified and certified.cluster)):
        if cluster is not None and cluster != local.cluster:
            detail = f"{hello.node_id} {what} cluster {cluster}, {local.node_id} is of {local.cluster}"
            return Refusal(RefusalReason.WRONG_CLUSTER, f"{detail} (check cluster and peer addresses)")
    return None


def _wrong_identity(hello: Hello, certified: PeerName | None, dialed: str | None) -> Refusal | None:
    if certified is not None and certified.name != hello.node_id:
        detail = f"the certificate names {certified.name}, the hello says {hello.node_id} (check cert of that node)"
        return Refusal(RefusalReason.IDENTITY_MISMATCH, detail)
    if dialed is not None and dialed != hello.node_id:
        detail = f"the address of {dialed} leads to {hello.node_id} (check the peer addresses)"
        return Refusal(RefusalReason.IDENTITY_MISMATCH, detail)
    return None


def _own_name(hello: Hello, local: LocalIdentity) -> Refusal | None:
    if hello.node_id != local.node_id:
        return None
    if hello.incarnation == local.incarnation:
        return Refusal(RefusalReason.SELF_CONNECTION, f"{local.node_id} dialed itself (check the peer addresses)")
    detail = f"two processes run as {local.node_id} (stop one: a node id must be used once)"
    return Refusal(RefusalReason.SELF_CONNECTION, detail)


def _not_a_member(hello: Hello, local: LocalIdentity, members: Collection[str], dialed: str | None) -> Refusal | None:
    if hello.node_id not in members:
        detail = f"{hello.node_id} is no node of {local.cluster} as {local.node_id} knows it (check the node tables)"
        return Refusal(RefusalReason.UNKNOWN_NODE, detail)
    if dialed is None and not dials(hello.node_id, local.node_id):
        detail = f"{local.node_id} dials {hello.node_id}, not the reverse"
        return Refusal(RefusalReason.WRONG_DIRECTION, detail)
    return None


def _other_config(hello: Hello, local: LocalIdentity) -> Refusal | None:
    if hello.config_digest == local.config_digest:
        return None
    ours, theirs = local.config_digest[:12], hello.config_digest[:12]
    detail = f"{local.node_id} has configuration {ours}, {hello.node_id} has {theirs} (make cluster.conf the same)"
    return Refusal(RefusalReason.CONFIG_MISMATCH, detail)


def _bad_field(hello: Hello) -> str | None:
    for name, pattern in (("cluster", _CLUSTER), ("node_id", _NODE_ID), ("config_digest", _DIGEST)):
        value = getattr(hello, name)
        if type(value) is not str or not pattern.match(value):
            return name
    for name in ("incarnation", "generation"):
        if not _is_u64(getattr(hello, name)):
            return name
    return None if type(hello.fresh) is bool else "fresh"


def _is_u64(value: object) -> bool:
    return type(value) is int and 0 <= value <= _U64_MAX


def _unpack(payload: bytes) -> list[Any] | None:
    try:
        fields = msgpack.unpackb(payload, use_list=True, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None
    return fields if type(fields) is list else None
