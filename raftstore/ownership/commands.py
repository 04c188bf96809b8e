"""Ops as bytes: what callers ask of the ownership machine, in the form that the log keeps.

    op    = [kind, seq, deadline_ms, ...arguments]

Knows the wire form of one op and the bounds of single values. How ops become an entry stands in `batches`; whether an
op is allowed is decided by `transitions`. Maps and extension types never occur in the form: whatever a decoder makes
of them is refused as malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgpack

from raftstore.errors import InvalidArgument
from raftstore.types import Binding

NUMBER_MAX: Final = 2**53 - 1  # versions and times: exact in every JSON reader
SEQ_MAX: Final = 2**63 - 1
INCARNATION_MAX: Final = 2**64 - 1
ID_CHARS_MAX: Final = 64  # session ids, node ids, reasons
BINDING_FIELD_CHARS_MAX: Final = 128
SWEEP_MAX: Final = 512  # candidates in one sweep op
PARAMS_MAX: Final = 32  # key and value pairs in one configure op

# Kinds of ops. Part of the log format: never reuse a number.
CONFIGURE: Final = 1
JOIN: Final = 2
RENEW_LEASE: Final = 3
DRAIN: Final = 4
LEAVE: Final = 5
CREATE: Final = 10
REATTACH: Final = 11
DETACH: Final = 12
RENEW: Final = 13
FREEZE: Final = 14
TRANSFER: Final = 15
RESUME: Final = 16
THAW: Final = 17
FAILOVER: Final = 18
TERMINATE: Final = 19
SWEEP: Final = 20
ADOPT: Final = 30  # of mappings; what follows is of one session again
CONFIRM: Final = 31
SETTLE: Final = 32
CLOSE: Final = 33
CREATE_MAPPED: Final = 40
ADMIT: Final = 41
FORGET: Final = 42
RECLAIM: Final = 43

OP_NAMES: Final[dict[int, str]] = {
    CONFIGURE: "configure",
    JOIN: "join",
    RENEW_LEASE: "renew_lease",
    DRAIN: "drain",
    LEAVE: "leave",
    CREATE: "create",
    REATTACH: "reattach",
    DETACH: "detach",
    RENEW: "renew",
    FREEZE: "freeze",
    TRANSFER: "transfer",
    RESUME: "resume",
    THAW: "thaw",
    FAILOVER: "failover",
    TERMINATE: "terminate",
    SWEEP: "sweep",
    ADOPT: "adopt",
    CONFIRM: "confirm",
    SETTLE: "settle",
    CLOSE: "close",
    CREATE_MAPPED: "create_mapped",
    ADMIT: "admit",
    FORGET: "forget",
    RECLAIM: "reclaim",
}

POLICIES: Final = ("deny", "terminate")  # what becomes of the sessions of a lost owner
FREEZE_REASONS: Final = ("MIGRATION", "DRAIN", "MAPPING")

Wire = Sequence[str] | Binding | None  # a binding as [transport_id, proto, remote], or none

# One packer for all small ops: a pack call of plain values runs in C from start to end under the interpreter lock.
_pack: Final[Callable[[object], bytes]] = msgpack.Packer().pack


# -- validators for the API edge: nothing that they let through is malformed for the machine ---------------------


def is_id(value: object) -> bool:
    """1 to 64 characters of printable ASCII without spaces."""
    return (
        type(value) is str
        and 0 < len(value) <= ID_CHARS_MAX
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def is_number(value: object, low: int, high: int) -> bool:
    """A real integer (no bool) within the bounds, both included."""
    return type(value) is int and low <= value <= high


def is_binding(value: object) -> bool:
    """Three fields of 1 to 128 characters of printable ASCII."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return False
    for field in value:
        if type(field) is not str or not 0 < len(field) <= BINDING_FIELD_CHARS_MAX:
            return False
        if not (field.isascii() and field.isprintable()):
            return False
    return True


def validate_session_id(value: object, field: str = "session_id") -> str:
    """The id itself; InvalidArgument unless it is 1 to 64 characters of 0x21 to 0x7e."""
    if not is_id(value):
        raise InvalidArgument(field, f"must be 1 to {ID_CHARS_MAX} printable ASCII characters without spaces")
    return str(value)


def validate_node_id(value: object, field: str = "node_id") -> str:
    """The id itself; InvalidArgument unless it is 1 to 64 characters of 0x21 to 0x7e."""
    return validate_session_id(value, field)


def validate_reason(value: object, field: str = "reason") -> str:
    """The reason itself; InvalidArgument unless it is 1 to 64 characters of 0x21 to 0x7e."""
    return validate_session_id(value, field)


def _validate_number(value: object, field: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise InvalidArgument(field, f"must be an integer from {low} to {high}")
    return value


def validate_version(value: object, field: str = "expected_version") -> int:
    """A state_version: 0 to 2**53 - 1, no bool. InvalidArgument otherwise (ownership model, section 6)."""
    return _validate_number(value, field, 0, NUMBER_MAX)


def validate_nonce(value: object, field: str = "nonce") -> int | None:
    """None, or 0 to 2**53 - 1. InvalidArgument otherwise."""
    return None if value is None else _validate_number(value, field, 0, NUMBER_MAX)


def validate_ttl_ms(value: object, ttl_max_ms: int, field: str = "ttl_ms") -> int:
    """Milliseconds, 1 to `ttl_max_ms`. InvalidArgument otherwise."""
    return _validate_number(value, field, 1, ttl_max_ms)


def validate_binding(value: object, field: str = "binding") -> Binding:
    """A Binding from a Binding or three strings. InvalidArgument unless each is 1 to 128 printable ASCII characters."""
    if not is_binding(value):
        limit = BINDING_FIELD_CHARS_MAX
        raise InvalidArgument(field, f"must be transport_id, proto and remote, each 1 to {limit} printable ASCII")
    assert isinstance(value, (list, tuple))
    return value if isinstance(value, Binding) else Binding(*value)


def validate_policy(value: object, field: str = "policy") -> str | None:
    """None (the cluster's default), "deny" or "terminate". InvalidArgument otherwise."""
    if value is not None and value not in POLICIES:
        raise InvalidArgument(field, "must be deny or terminate")
    return None if value is None else str(value)


# -- constructors: one per op; arguments must have passed the validators ----------------------------------------------


def configure(seq: int, deadline_ms: int, params: Mapping[str, int | str]) -> bytes:
    """Set the named cluster parameters; the others stay."""
    return _pack([CONFIGURE, seq, deadline_ms, sorted([key, value] for key, value in params.items())])


def join(seq: int, deadline_ms: int) -> bytes:
    """This incarnation of the node begins; older ones are fenced."""
    return _pack((JOIN, seq, deadline_ms))


def renew_lease(seq: int, deadline_ms: int) -> bytes:
    """The node's right to act as owner, from the commit on. The holder counts from before it sent this."""
    return _pack((RENEW_LEASE, seq, deadline_ms))


def drain(seq: int, deadline_ms: int) -> bytes:
    """The node takes no new sessions from now on."""
    return _pack((DRAIN, seq, deadline_ms))


def leave(seq: int, deadline_ms: int) -> bytes:
    """The process has stopped to act for any session and will never act again."""
    return _pack((LEAVE, seq, deadline_ms))


def create(seq: int, deadline_ms: int, session_id: str, binding: Wire, ttl_ms: int, policy: str | None = None) -> bytes:
    """A new session, owned by the sender; ATTACHED with a binding, else RECOVERING."""
    return _pack((CREATE, seq, deadline_ms, session_id, binding, ttl_ms, policy))


def reattach(
    seq: int, deadline_ms: int, session_id: str, expected_version: int, binding: Wire, nonce: int | None = None
) -> bytes:
    """Bind a new transport; the old one is no longer bound."""
    return _pack((REATTACH, seq, deadline_ms, session_id, expected_version, binding, nonce))


def detach(seq: int, deadline_ms: int, session_id: str, expected_version: int, reason: str) -> bytes:
    """Release the binding; the session may reattach within the window."""
    return _pack((DETACH, seq, deadline_ms, session_id, expected_version, reason))


def renew(seq: int, deadline_ms: int, session_id: str, expected_version: int, ttl_ms: int) -> bytes:
    """A new time to live, counted from the entry's time."""
    return _pack((RENEW, seq, deadline_ms, session_id, expected_version, ttl_ms))


def freeze(seq: int, deadline_ms: int, session_id: str, expected_version: int, reason: str, target: str) -> bytes:
    """First step of a transfer to node `target`; `reason` is one of FREEZE_REASONS (ownership model, section 3)."""
    return _pack((FREEZE, seq, deadline_ms, session_id, expected_version, reason, target))


def transfer(seq: int, deadline_ms: int, session_id: str, expected_version: int) -> bytes:
    """Hand the frozen session to its target."""
    return _pack((TRANSFER, seq, deadline_ms, session_id, expected_version))


def resume(seq: int, deadline_ms: int, session_id: str, expected_version: int, binding: Wire = None) -> bytes:
    """The new owner takes up a transferred session."""
    return _pack((RESUME, seq, deadline_ms, session_id, expected_version, binding))


def thaw(seq: int, deadline_ms: int, session_id: str, expected_version: int) -> bytes:
    """Give up a transfer that has not been made yet."""
    return _pack((THAW, seq, deadline_ms, session_id, expected_version))


def failover(seq: int, deadline_ms: int, session_id: str, expected_version: int, binding: Wire = None) -> bytes:
    """Take a session over from an owner whose lease has lapsed."""
    return _pack((FAILOVER, seq, deadline_ms, session_id, expected_version, binding))


def terminate(
    seq: int, deadline_ms: int, session_id: str, expected_version: int, reason: str, operator: bool = False
) -> bytes:
    """End the session for good; `operator` acts without being the owner."""
    return _pack((TERMINATE, seq, deadline_ms, session_id, expected_version, reason, operator))


def sweep(seq: int, deadline_ms: int, candidates: Iterable[tuple[str, int]]) -> bytes:
    """Ask the machine to look at up to SWEEP_MAX sessions, each with the version under which it seemed overdue."""
    return _pack((SWEEP, seq, deadline_ms, list(candidates)))


def adopt(
    seq: int,
    deadline_ms: int,
    epoch: int,
    nodes: Iterable[tuple[str, int, bool]],
    sources: Iterable[str],
    lost: Iterable[str],
) -> bytes:
    """A new mapping of session ids to nodes (id, weight, draining); see `placement`."""
    return _pack((ADOPT, seq, deadline_ms, epoch, sorted(nodes), sorted(sources), sorted(lost)))


def confirm(
    seq: int, deadline_ms: int, peer: str, epoch: int, digest: bytes, store_id: int, involved: Iterable[str]
) -> bytes:
    """Node `peer` has adopted the mapping of that epoch and digest, and holds no session for this node any more.

    `involved`: the nodes to which it may have given sessions, as it says.
    """
    return _pack((CONFIRM, seq, deadline_ms, peer, epoch, digest, store_id, sorted(involved)))


def settle(seq: int, deadline_ms: int, epoch: int) -> bytes:
    """Every involved node has confirmed: what maps to this node is here or nowhere."""
    return _pack((SETTLE, seq, deadline_ms, epoch))


def close(seq: int, deadline_ms: int, epoch: int) -> bytes:
    """Every involved node has settled the mapping of that epoch."""
    return _pack((CLOSE, seq, deadline_ms, epoch))


def create_mapped(
    seq: int, deadline_ms: int, session_id: str, binding: Wire, ttl_ms: int, policy: str | None, epoch: int
) -> bytes:
    """`create` where the mapping of that epoch sends the session to the sender."""
    return _pack((CREATE_MAPPED, seq, deadline_ms, session_id, binding, ttl_ms, policy, epoch))


def admit(
    seq: int,
    deadline_ms: int,
    session_id: str,
    at_epoch: int,
    giver: str,
    epoch: int,
    version: int,
    nonce: int,
    policy: str,
    created_at_ms: int,
    expires_at_ms: int,
    reason: str | None,
    owner: str | None,
    moved_at: int,
) -> bytes:
    """A session that maps to the sender under the mapping of `at_epoch`, and that node `giver` has for it.

    One that lives was transferred under the mapping of `moved_at`. A tombstone has a reason, and the owner under whom
    it ended; both are None of a session that lives. Times are those of the sender's cluster clock.
    """
    return _pack(
        (
            ADMIT, seq, deadline_ms, session_id, at_epoch, giver, epoch, version, nonce, policy, created_at_ms,
            expires_at_ms, reason, owner, moved_at,
        )
    )  # fmt: skip


def forget(seq: int, deadline_ms: int, session_id: str, version: int, taker: str, at_epoch: int) -> bytes:
    """Node `taker` has the session, as of that version, on its disk: judged under the mapping of `at_epoch`."""
    return _pack((FORGET, seq, deadline_ms, session_id, version, taker, at_epoch))


def reclaim(seq: int, deadline_ms: int, session_id: str, version: int, at_epoch: int) -> bytes:
    """The node to which the session was transferred never got it, and never will: by the mapping of `at_epoch`."""
    return _pack((RECLAIM, seq, deadline_ms, session_id, version, at_epoch))
