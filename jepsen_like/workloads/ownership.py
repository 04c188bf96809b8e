"""All ops from all nodes on a few sessions: creations and reattachments that race, early failovers, ends."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from jepsen_like.workloads.base import LIVE, Book, Defaults, Op, op_of, weighted

HERE = {"reattach": 6, "detach": 1.5, "renew": 1, "migrate": 0.4, "terminate": 0.1, "get": 2, "failover": 0.3}
ELSEWHERE = {"get": 3, "reattach": 3, "failover": 3, "create": 0.5, "terminate": 0.1, "detach": 0.3, "get-local": 0.5}
FROZEN = {"resume": 4, "get": 1, "reattach": 1}
AT_HOME_SHARE = 0.6  # of ops go to a session that the worker's node owns


class Ownership(Defaults):
    """See above."""

    name = "ownership"

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        mine = book.owned_by(node)
        key = rng.choice(mine) if mine and rng.random() < AT_HOME_SHARE else rng.choice(book.keys)
        known = book.seen.get(key)
        if known is None:
            return op_of("create" if rng.random() < 0.8 else "get", key, {}, rng, node, nodes)
        choices: Mapping[str, float] = HERE if known["state"] in LIVE else FROZEN
        if known["owner"] != node:
            choices = ELSEWHERE
        return op_of(weighted(rng, choices), key, known, rng, node, nodes)
