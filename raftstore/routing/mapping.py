"""SessionID to node without asking anybody: weighted rendezvous hashing (ownership model, section 2.1).

Every node gets a score for the session; the best one owns it. A score depends on the session, that node and that
node's weight alone, so a change of one node moves sessions to it or from it and never between two others.

    s        the first 8 bytes of SHA-256(session_id), as a big-endian unsigned integer
    seed     the same of ("node" NUL node_id)
    a        (s XOR seed) * 0xff51afd7ed558ccd              mod 2^64
    h        (a XOR (a >> 33)) * 0xc4ceb9fe1a85ec53         mod 2^64
    L(h)     -log2((2h + 1) / 2^65) in units of 2^-32, from a table, see `cost`
    owner    the node with the least L(h) / weight, compared as fractions; of equals the largest h; of equals the
             least node_id. Where all weights are equal this is simply the largest h.

Nodes of weight 0 and draining nodes take part in nothing. Before all that: a session id that was minted for a node
which does take part belongs to that node (see `mint`). Integers only, so that every language computes the same.

Knows one mapping at a time. Leaves to others how nodes agree on it and how sessions travel when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct
from typing import NamedTuple, Self

from raftstore.config import WEIGHT_MAX
from raftstore.errors import InvalidArgument
from raftstore.ownership.commands import validate_node_id
from raftstore.routing.mint import MINTED_CHARS, PREFIX_CHARS, is_minted, minted_prefix

FORMULA = "raftstore-rendezvous-1"
NODES_MAX = 64  # more are refused
EPOCH_MAX = 2**63 - 1

LOG_BITS = 32  # fraction bits of a logarithm
_STEP_BITS = 8  # the table has 2^8 steps from 1 to 2
_WORK_BITS = 128  # fraction bits while the table is made: far more than rounding can reach

_MASK = 2**64 - 1
_MIX_1 = 0xFF51AFD7ED558CCD
_MIX_2 = 0xC4CEB9FE1A85EC53
_first_u64 = Struct(">Q").unpack_from  # of a digest


def _log_table() -> tuple[int, ...]:
    """floor(2^32 * log2(1 + k / 256)) for k = 0 to 256, one bit per squaring."""
    table = []
    for k in range(2**_STEP_BITS):
        x, log = (2**_STEP_BITS + k) << (_WORK_BITS - _STEP_BITS), 0
        for _ in range(LOG_BITS):
            x = x * x >> _WORK_BITS
            bit = x >> (_WORK_BITS + 1)
            x >>= bit
            log = log << 1 | bit
        table.append(log)
    return (*table, 2**LOG_BITS)


LOG_TABLE = _log_table()


def cost(h: int) -> int:
    """L(h): -log2((2h + 1) / 2^65) in units of 2^-32, never 0; a larger h never costs more.

    n = 2h + 1; e = position of its highest bit; f = (n << (64 - e)) - 2^64, the 64 bits below that one; k = f >> 56;
    r = (f >> 24) AND (2^32 - 1); L = ((65 - e) << 32) - T[k] - ((T[k + 1] - T[k]) * r >> 32), T being LOG_TABLE.
    T rises, and interpolation starts at T[k] and stays below T[k + 1]: hence the falling, and no 0 at the end.
    """
    n = 2 * h + 1
    e = n.bit_length() - 1
    f = (n << (64 - e)) - 2**64
    k, r = f >> 56, f >> 24 & 0xFFFFFFFF
    low = LOG_TABLE[k]
    return ((65 - e) << LOG_BITS) - low - ((LOG_TABLE[k + 1] - low) * r >> LOG_BITS)


# Bounds on the cost of an h by its highest bits, its bucket: _LEAST[bucket] <= cost(h) <= _MOST[bucket], because the
# cost falls as h grows or stays. The last bucket has no next one to be bounded by, but no cost is below 1.
_BUCKET_BITS = 12  # leaves one session in 700 of 5 nodes open; one bit more would halve that and double the tables
_BUCKET_SHIFT = 64 - _BUCKET_BITS
_BUCKET_LAST = 2**_BUCKET_BITS - 1
_MOST = tuple(cost(bucket << _BUCKET_SHIFT) for bucket in range(2**_BUCKET_BITS))
_LEAST = (*_MOST[1:], 1)
_SHARE_BITS = 32
_BEYOND = _MOST[0] * 2 ** (_SHARE_BITS + 1)  # above every bound: no share is more than 2^_SHARE_BITS


class MappingNode(NamedTuple):
    """A node of the mapping: weight 0 to WEIGHT_MAX, its share relative to the others."""

    node_id: str
    weight: int = 1
    draining: bool = False

    @property
    def takes_sessions(self) -> bool:
        return self.weight > 0 and not self.draining


# What a lookup needs of a node that takes sessions: seed, share, node. The share is floor(2^_SHARE_BITS / weight):
# multiplying by it divides by the weight. A plain tuple, because the interpreter reads named ones more slowly.
_Taking = tuple[int, int, MappingNode]


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping. `nodes` may come in any order and are kept by node id. InvalidArgument for what cannot be one."""

    epoch: int
    nodes: tuple[MappingNode, ...]
    _taking: tuple[_Taking, ...] = field(init=False, repr=False, compare=False)  # by node id
    _minted: dict[str, str] = field(init=False, repr=False, compare=False)  # prefix -> node that takes sessions

    def __post_init__(self) -> None:
        if type(self.epoch) is not int or not 1 <= self.epoch <= EPOCH_MAX:
            raise InvalidArgument("epoch", f"must be an integer from 1 to {EPOCH_MAX}")
        nodes = tuple(sorted(_checked(self.nodes)))
        taking = [node for node in nodes if node.takes_sessions]
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "_taking", tuple((_seed(n.node_id), 2**_SHARE_BITS // n.weight, n) for n in taking))
        object.__setattr__(self, "_minted", {minted_prefix(n.node_id): n.node_id for n in taking})

    @classmethod
    def of(cls, epoch: int, weights: dict[str, int]) -> Self:
        """A mapping of nodes of which none is draining."""
        return cls(epoch, tuple(MappingNode(node_id, weight) for node_id, weight in weights.items()))

    def owner(self, session_id: str) -> str | None:
        """The node to which the session maps; None when no node takes sessions. ValueError unless ASCII.

        Decides by bounds on cost / weight, in units of 2^-_SHARE_BITS, and computes costs only where bounds leave the
        owner open. They never decide otherwise than costs would:

        - share <= 2^_SHARE_BITS / weight < share + 1, and no cost is 0: so the cost / weight of a node is at least
          _LEAST[its bucket] * share and below _MOST[its bucket] * (share + 1).
        - `least` is the smallest of these lower bounds, that of `best`; `second` is the smallest of all others.
        - Where the upper bound of `best` is not above `second`, its cost / weight is below that of every other node. It
          owns the session, and nothing ties with it. All else, ties included, is left to `_exact_owner`.
        """
        if len(session_id) == MINTED_CHARS:
            node_id = self._minted.get(session_id[:PREFIX_CHARS])
            if node_id is not None and is_minted(session_id):
                return node_id
        (s,) = _first_u64(sha256(session_id.encode("ascii")).digest())
        least = second = _BEYOND
        best_bucket, best_share, best = 0, 0, None
        for seed, share, node in self._taking:  # the time goes here and into SHA-256: no calls, nothing built
            a = (s ^ seed) * _MIX_1 & _MASK
            bucket = (a ^ a >> 33) * _MIX_2 >> _BUCKET_SHIFT & _BUCKET_LAST
            bound = _LEAST[bucket] * share
            if bound < least:
                least, second = bound, least
                best_bucket, best_share, best = bucket, share, node
            elif bound < second:
                second = bound
        if best is not None and _MOST[best_bucket] * (best_share + 1) <= second:
            return best.node_id
        return self._exact_owner(s)

    def _exact_owner(self, s: int) -> str | None:
        """The owner by the formula as it stands. Nodes come by id: of those equal in everything the first stays."""
        best: MappingNode | None = None
        best_cost = best_h = 0
        for seed, _, node in self._taking:
            a = (s ^ seed) * _MIX_1 & _MASK
            h = (a ^ a >> 33) * _MIX_2 & _MASK
            node_cost = cost(h)
            if best is not None:
                ours, theirs = node_cost * best.weight, best_cost * node.weight  # cost / weight, without dividing
                if ours > theirs or (ours == theirs and h <= best_h):
                    continue
            best, best_cost, best_h = node, node_cost, h
        return None if best is None else best.node_id

    def digest(self) -> str:
        """Hex SHA-256 over formula, epoch and nodes: two nodes with the same digest map every session alike.

        Over the lines "FORMULA", "epoch N", and per node, by id, "ID WEIGHT DRAINING" (0 or 1), each with a newline.
        """
        lines = [FORMULA, f"epoch {self.epoch}", *(f"{n.node_id} {n.weight} {int(n.draining)}" for n in self.nodes)]
        return sha256("".join(f"{line}\n" for line in lines).encode("ascii")).hexdigest()

    def succeeds(self, old: Mapping) -> bool:
        """Whether this mapping may replace that one: only with a higher epoch."""
        return self.epoch > old.epoch


def moved(old: Mapping, new: Mapping, session_ids: Iterable[str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Of those sessions the ones that must move, each with its old and its new node."""
    for session_id in session_ids:
        before, after = old.owner(session_id), new.owner(session_id)
        if before != after:
            yield session_id, before, after


def _seed(node_id: str) -> int:
    (seed,) = _first_u64(sha256(b"node\0" + node_id.encode("ascii")).digest())
    return int(seed)


def _checked(nodes: Iterable[MappingNode]) -> Iterator[MappingNode]:
    nodes = tuple(nodes)
    if not 1 <= len(nodes) <= NODES_MAX:
        raise InvalidArgument("nodes", f"must be 1 to {NODES_MAX}, not {len(nodes)}")
    prefixes: dict[str, str] = {}
    for node_id, weight, draining in nodes:
        validate_node_id(node_id)
        if type(weight) is not int or not 0 <= weight <= WEIGHT_MAX:
            raise InvalidArgument("weight", f"of {node_id} must be an integer from 0 to {WEIGHT_MAX}")
        if type(draining) is not bool:
            raise InvalidArgument("draining", f"of {node_id} must be true or false")
        # Two ids with one prefix would share their minted sessions: one chance in 2^32, and then a rename is due.
        prefix = minted_prefix(node_id)
        if prefix in prefixes:
            raise InvalidArgument("nodes", f"{node_id} and {prefixes[prefix]} have the same minted prefix")
        prefixes[prefix] = node_id
        yield MappingNode(node_id, weight, draining)
