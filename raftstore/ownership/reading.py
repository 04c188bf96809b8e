"""Views of the machine's state for people and APIs: pages of sessions, nodes with their leases. Changes nothing."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from raftstore.ownership.records import NodeRecord, to_session
from raftstore.ownership.sessions import Sessions
from raftstore.ownership.step import Tally
from raftstore.types import Session, SessionState

PAGE_MAX = 1_000  # sessions in one page
PAGE_VISITS_MAX = 50_000  # records looked at for one page, so that a rare match does not stall a loop


class Page(NamedTuple):
    """Sessions, and the id to go on after; None at the end. A page may be short or empty and yet not the last."""

    sessions: list[Session]
    next_after: str | None


class NodeView(NamedTuple):
    """A node as of the machine's clock. Lease times are cluster milliseconds."""

    node_id: str
    incarnation: int
    is_live: bool
    lease_until_ms: int
    fence_until_ms: int
    draining: bool
    left: bool
    sessions_owned: int
    sessions_attached: int


def list_sessions(
    sessions: Sessions,
    after: str | None,
    limit: int,
    owner: str | None,
    state: SessionState | None,
) -> Page:
    """See Machine.list_sessions. An unknown `after` gives an empty last page."""
    begin = 0
    if after is not None:
        if after not in sessions:
            return Page([], None)
        begin = list(sessions).index(after) + 1
    found: list[Session] = []
    last = None
    for record in islice(sessions.values(), begin, begin + PAGE_VISITS_MAX):
        begin += 1
        last = record.session_id
        if (owner is None or record.owner == owner) and (state is None or record.state == state):
            found.append(to_session(record))
            if len(found) >= max(1, min(limit, PAGE_MAX)):
                break
    return Page(found, last if begin < len(sessions) else None)


def list_nodes(nodes: dict[str, NodeRecord], tally: Tally, now_ms: int) -> list[NodeView]:
    """See Machine.list_nodes."""
    return [
        NodeView(
            node.node_id,
            node.incarnation,
            not node.left and node.lease_until_ms > now_ms,
            node.lease_until_ms,
            node.fence_until_ms,
            node.draining,
            node.left,
            tally.owned.get(node.node_id, 0),
            tally.attached.get(node.node_id, 0),
        )
        for _, node in sorted(nodes.items())
    ]
