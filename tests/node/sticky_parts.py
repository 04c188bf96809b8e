"""One side of a sticky node without a cluster: a log whose ops the test decides, and links that only remember."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from node_parts import FakeClock
from sticky_world import sticky_config

from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer, Request
from raftstore.node.sticky.gate import to_mapping
from raftstore.node.sticky.keeper import Sticky
from raftstore.node.sticky.messages import Row, decode, encode
from raftstore.ownership import MappedNode, MappingRecord, Placement, SessionRecord
from raftstore.routing import Mapping
from raftstore.types import Reason, SessionState

A, B, C, D = "vpn-1", "vpn-2", "vpn-3", "vpn-4"
STORES = {A: 11, B: 22, C: 33, D: 44}
DONE = Answer(True, None)
UNKNOWN = Answer(False, Reason.DEADLINE_PASSED)
LATER_MS = 600_000


def mapping(epoch: int, *node_ids: str, sources: tuple[str, ...] = (), lost: tuple[str, ...] = ()) -> MappingRecord:
    nodes = tuple(MappedNode(n, 1, False) for n in sorted(node_ids))
    return MappingRecord(epoch, nodes, tuple(sorted({*node_ids, *sources})), lost)


def all_at(node_id: str, epoch: int = 2) -> Mapping:
    """Every session maps to that node."""
    return to_mapping(mapping(epoch, node_id))


def placement(
    record: MappingRecord,
    *,
    confirmed: tuple[str, ...] = (),
    settled: bool = False,
    known: tuple[str, ...] = (A, B, C, D),
    involved: tuple[str, ...] | None = None,
) -> Placement:
    everybody = record.sources if involved is None else involved
    stores = tuple((n, STORES[n]) for n in known if n != A)
    trail = (record,) if settled else ()
    return Placement(record, STORES[A], trail, confirmed, stores, (), everybody, 0)


def session(session_id: str, state: int = SessionState.ATTACHED, **fields: Any) -> SessionRecord:
    base = SessionRecord(
        session_id, int(state), A, 1, 1, None, 500, 500 + LATER_MS, None, None, None, None, 1, 0, False, "deny", 1
    )
    return base._replace(**fields)


def away(session_id: str, to: str) -> SessionRecord:
    """Transferred to another node, as this node's log has it."""
    return session(
        session_id, SessionState.FROZEN, owner=to, target=to, transferred=True, epoch=2, state_version=3, owner_inc=1
    )


def row(session_id: str, version: int = 3, reason: str | None = None) -> Row:
    ended = (reason, reason and "vpn-9", None if reason else 1)
    return Row(session_id, 2, version, 0, "deny", 100, 10_000, *ended)


class Proposed(NamedTuple):
    """An op that was proposed, to be decided by the test."""

    kind: str
    session_id: str | None
    callback: Callable[[Answer], None]
    gives_up: bool
    build: Callable[[int, int], bytes]


class FakeLog:
    """What giver and taker see of their node."""

    node_id = A

    def __init__(self, place: Placement, *sessions: SessionRecord) -> None:
        held = {s.session_id: s for s in sessions}
        self.machine: Any = SimpleNamespace(placement=place, sessions=held, departed={}, clock_ms=1_000)
        self.ops: list[Proposed] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.reports: list[str] = []
        self.clock_ms = 1_000

    def now_ms(self) -> int:
        return self.clock_ms

    def submit(self, request: Request, callback: Callable[[Answer], None]) -> None:
        self.ops.append(Proposed(request.kind, request.session_id, callback, request.gives_up, request.build))

    def send(self, peer_id: str, message: dict[str, Any]) -> None:
        encode(message)  # it must fit a frame
        self.sent.append((peer_id, message))

    def wake(self) -> None:
        """Nothing follows here."""

    def report(self, kind: str, detail: str) -> None:
        self.reports.append(kind)

    def kinds(self) -> list[str]:
        return [op.kind for op in self.ops]

    def taken_in(self, record: SessionRecord | None, answer: Answer = DONE) -> None:
        """The oldest op is decided, and leaves this record (or none)."""
        op = self.ops.pop(0)
        assert op.session_id is not None
        if record is None:
            self.machine.sessions.pop(op.session_id, None)
        else:
            self.machine.sessions[op.session_id] = record
        op.callback(answer)


class KeeperRig:
    """A `Sticky` of vpn-1 whose machine, log and links are the test's."""

    def __init__(self, place: Placement | None, *sessions: SessionRecord, size: int = 4) -> None:
        self.log = FakeLog(place, *sessions)  # type: ignore[arg-type]
        self.frames: list[tuple[str, dict[str, Any]]] = []
        self.dropped: list[str] = []
        self.failed: str | None = None
        self.later: list[Callable[[], None]] = []
        self.fenced_log: list[tuple[str, int]] = []
        self.owned = Owned(FakeClock())
        self.core: Any = SimpleNamespace(
            node_id=A,
            config=sticky_config(size),
            clock=FakeClock(),
            incarnation=7,
            replica=SimpleNamespace(machine=self.log.machine, is_joined=True),
            cluster_clock=self.log,
            submit=self.log.submit,
            ask_step=lambda: None,
            observer=SimpleNamespace(report=self.log.report, fenced=lambda lost, _: self.fenced_log.extend(lost)),
            owned=self.owned,
            stopped=None,
            fail=self.fail,
        )
        links = SimpleNamespace(
            send=lambda peer_id, data: self.frames.append((peer_id, decode(data))),
            drop=lambda peer_id, _: self.dropped.append(peer_id),
        )
        loop: Any = SimpleNamespace(call_later=lambda _, callback: self.later.append(callback))
        self.sticky = Sticky(self.core, links, loop)  # type: ignore[arg-type]

    def fail(self, reason: str, detail: str) -> None:
        self.failed = reason
        self.core.stopped = detail

    def place(self, place: Placement) -> None:
        """The log has taken something in of which nobody here was told."""
        self.log.machine.placement = place

    def scan(self) -> None:
        """Let it look at all sessions."""
        while self.later:
            self.later.pop(0)()

    def meet(self, *peer_ids: str) -> None:
        for peer_id in peer_ids:
            self.sticky.peer_connected(peer_id)

    def says(self, peer_id: str, told: MappingRecord | None, **fields: Any) -> None:
        """A peer tells its mapping."""
        message = {
            "type": "mapping",
            "store_id": STORES[peer_id] if told is not None else 0,
            "mapping": told,
            "settled": False,
            "closed": False,
            "founding": bytes(32),
            "knows_store": 0,
            "knows_epoch": 0,
            "gone": False,
        }
        self.sticky.receive(peer_id, encode({**message, **fields}))

    def pull(self, peer_id: str, record: MappingRecord, number: int = 1) -> None:
        message = {"type": "pull", "number": number, "digest": record.digest(), "store_id": STORES[peer_id]}
        self.sticky.receive(peer_id, encode({**message, "have": [], "declined": []}))

    def of_type(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        return [(peer_id, message) for peer_id, message in self.frames if message["type"] == kind]
