"""What a resource behind the gateways sees of a sticky cluster, held against what was promised.

A session is one line through all machines: each transition, wherever it happens, is the next version; a node that takes
it in goes on exactly where the giver left off; nobody acts for it under another epoch than the newest, nor after its
TTL. The watch looks at every audit event when it is first told, and at every machine, also of nodes that are down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from virtual_cluster import MS

from raftstore.ownership import events
from raftstore.ownership.events import EVENT_NAMES, FIELDS
from raftstore.types import SessionState

if TYPE_CHECKING:
    from sticky_world import StickyNode, StickyWorld

CLOCKS_DIFFER_PPM = 20_000  # two clocks, each within its bound
TTL_SLACK_MS = 200  # a lifetime is stamped a commit's latency after the caller began, and once more per restart

AT = {name: FIELDS.index(name) for name in FIELDS}


class Line(NamedTuple):
    """A session as of its newest transition."""

    version: int
    epoch: int
    until_ns: int  # of the world's time: nobody may act for it afterwards


class Watch:
    """The checker. `lines` are all sessions that were ever created, by id."""

    def __init__(self, world: StickyWorld) -> None:
        self.world = world
        self.lines: dict[str, Line] = {}
        self.moves = 0
        self.forgiven: set[str] = set()  # ids whose store was lost on purpose: a line of theirs may begin anew

    def told(self, node: StickyNode, event: tuple[Any, ...]) -> None:
        """An audit event that was not told before, after its entry was applied."""
        kind, session_id = event[AT["event"]], event[AT["session_id"]]
        if session_id is None or kind == events.REFUSED:
            return
        version, epoch = event[AT["state_version"]], event[AT["epoch"]]
        line = self.lines.get(session_id)
        where = f"{session_id} at {node.node_id}: {EVENT_NAMES[kind]} version {version} epoch {epoch}, known: {line}"
        if kind == events.SESSION_CREATED:
            assert line is None or session_id in self.forgiven, where
            self.lines[session_id] = Line(version, epoch, self._until_ns(node, event))
            self.forgiven.discard(session_id)
        elif session_id in self.forgiven:
            return
        elif kind == events.SESSION_ADMITTED:
            assert line is not None and (version, epoch) == (line.version, line.epoch), where
            self.moves += 1
        elif kind == events.SESSION_HANDED_OVER:
            assert line is not None and version <= line.version, where
        else:
            assert line is not None and version == line.version + 1, where
            assert epoch in (line.epoch, line.epoch + 1), where
            until = self._until_ns(node, event) if kind == events.RENEWED else line.until_ns
            self.lines[session_id] = Line(version, epoch, until)
        self.one_holder(session_id)

    def _until_ns(self, node: StickyNode, event: tuple[Any, ...]) -> int:
        record = node.sticky.machine.sessions.get(event[AT["session_id"]])
        ttl_ms = 0 if record is None else record.expires_at_ms - event[AT["at_ms"]]
        return self.world.now + (ttl_ms * (1_000_000 + CLOCKS_DIFFER_PPM) // 1_000_000 + TTL_SLACK_MS) * MS

    def one_holder(self, session_id: str) -> None:
        """Never two machines in which the session is its own node's, whether that node runs or not."""
        found = []
        for node in self.world.nodes.values():
            machine = node.newest_machine()
            record = None if machine is None else machine.sessions.get(session_id)
            if record is not None and record.owner == node.node_id and record.state != SessionState.TERMINATED:
                found.append((node.node_id, record))
        assert len(found) < 2 or session_id in self.forgiven, found

    def owned(self, node: StickyNode, session_id: str, epoch: int) -> None:
        """That node says at this instant that it may act for the session."""
        line = self.lines.get(session_id)
        assert line is not None, f"{session_id} was never created, and {node.node_id} owns it"
        if session_id not in self.forgiven:
            assert epoch == line.epoch, f"{node.node_id} acts for {session_id} under epoch {epoch}, known: {line}"
            assert self.world.now <= line.until_ns, f"{node.node_id} acts for {session_id} after its TTL"
