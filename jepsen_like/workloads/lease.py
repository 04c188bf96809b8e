"""Owners that are killed, paused and cut off, and others that take over: too early, and in time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.workloads.base import Book, Defaults, Op, op_of, weighted

OWNER = {"reattach": 5, "renew": 1, "detach": 0.3, "get": 0.5}
OTHERS = {"failover": 8, "get": 1}


class Lease(Defaults):
    """Failover is what everybody else tries all the time."""

    name = "lease"
    sessions = 10
    probes_every_s = 0.02

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        mine = book.owned_by(node)
        key = rng.choice(mine) if mine and rng.random() < 0.4 else rng.choice(book.keys)
        known = book.seen.get(key)
        if known is None:
            return op_of("create", key, {}, rng, node, nodes)
        choices = OWNER if known["owner"] == node else OTHERS
        return op_of(weighted(rng, choices), key, known, rng, node, nodes)
