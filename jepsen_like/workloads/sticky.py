"""The sticky strategy: each session at the node that the mapping names, refusals everywhere else, new mappings."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jepsen_like.checkers.compose import CHECKERS
from jepsen_like.cluster.programs import Program, Raftstore
from jepsen_like.workloads.base import LIVE, Book, Defaults, Op, op_of, weighted

HERE = {"reattach": 6, "detach": 1, "renew": 1, "get": 3, "terminate": 0.1}
ELSEWHERE = {"reattach": 2, "get": 1, "create": 1}
AT_HOME_SHARE = 0.8


class Sticky(Defaults):
    """Workers learn from refusals where a session belongs."""

    name = "sticky"
    sessions = 12
    # Without consensus no node needs a majority, so there is nothing to be found out about it.
    checkers: Sequence[str] | None = tuple(name for name in CHECKERS if name != "quorumless")

    def program(self, policy: str) -> Program:
        return Raftstore(policy=policy, strategy="sticky")

    def next_op(self, rng: random.Random, node: str, nodes: Sequence[str], book: Book) -> Op | None:
        mine = book.owned_by(node)
        key = rng.choice(mine) if mine and rng.random() < AT_HOME_SHARE else rng.choice(book.keys)
        known = book.seen.get(key)
        if known is None:
            return op_of("create", key, {}, rng, node, nodes)
        choices = HERE if known["owner"] == node and known["state"] in LIVE else ELSEWHERE
        if known["owner"] == node and known["state"] == "FROZEN":
            choices = {"resume": 1}
        return op_of(weighted(rng, choices), key, known, rng, node, nodes)
