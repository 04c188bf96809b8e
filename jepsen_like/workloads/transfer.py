"""Sessions on the move: migrations to everywhere, resumed by whoever is quicker, and reattachments in between."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.workloads.base import LIVE, Book, Defaults, Op, op_of, weighted

HERE = {"migrate": 6, "reattach": 3, "get": 1, "renew": 0.3}
FROZEN_HERE = {"resume": 6, "reattach": 1, "get": 1}
ELSEWHERE = {"get": 3, "resume": 2, "migrate": 0.5, "failover": 1, "reattach": 0.5}
AT_HOME_SHARE = 0.7


class Transfer(Defaults):
    """See above."""

    name = "transfer"

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        mine = book.owned_by(node)
        key = rng.choice(mine) if mine and rng.random() < AT_HOME_SHARE else rng.choice(book.keys)
        known = book.seen.get(key)
        if known is None:
            return op_of("create", key, {}, rng, node, nodes)
        if known["owner"] != node:
            return op_of(weighted(rng, ELSEWHERE), key, known, rng, node, nodes)
        choices = HERE if known["state"] in LIVE else FROZEN_HERE
        return op_of(weighted(rng, choices), key, known, rng, node, nodes)
