"""One session as a versioned register: compare-and-set by reattaching, linearizable reads from every node."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.workloads.base import Book, Defaults, Op, op_of, weighted

OWNER = {"reattach": 5, "get": 3}
OTHERS = {"get": 6, "reattach": 1, "failover": 1}


class Register(Defaults):
    """Two registers at a time, so that many ops meet on each."""

    name = "register"
    sessions = 2

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        key = rng.choice(book.keys)
        known = book.seen.get(key)
        if known is None:
            return op_of("create", key, {}, rng, node, nodes)
        choices = OWNER if known["owner"] == node else OTHERS
        return op_of(weighted(rng, choices), key, known, rng, node, nodes)
