"""Was there ever more than one leader in a term? (Raft paper, section 5.2: election safety.)

From `role` events: what an observer heard nodes say of themselves. Under the sticky strategy every node leads a group
of its own, so there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jepsen_like.history import Errors, Event, Finals, Verdict

NAME = "leaders"


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """ "unknown" when no leader was ever seen."""
    errors = Errors()
    leaders: dict[int, tuple[str, int]] = {}
    heard = 0
    for position, event in enumerate(history):
        value = event.get("value")
        if event["f"] != "role" or not isinstance(value, Mapping) or value.get("role") != "leader":
            continue
        heard += 1
        node, index = leaders.setdefault(value["term"], (event["node"], position))
        if node != event["node"] and test.get("strategy") != "sticky":
            errors.add(f"term {value['term']} has two leaders: {node} (event {index}) and {event['node']} ({position})")
    stats = {"leaders_seen": heard, "terms": len(leaders), "highest_term": max(leaders, default=0)}
    needed = test.get("strategy") != "sticky"
    return errors.verdict(NAME, stats, nothing="no leader was seen" if needed and not heard else "")
