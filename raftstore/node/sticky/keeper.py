"""The sticky side of a node: adopts mappings, compares them with its peers', and moves what a change moves.

Brings together the log (`Log`), the links, the gate, and the two sides of a move. Everything decided here is decided
from the machine's placement and from what peers say over authenticated links; nothing is promised to a peer before it
is in the log. Sans-I/O: driven by link events and the node's tick. (Ownership model, section 2.1.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from raftstore.codec.messages import MalformedMessage
from raftstore.errors import InvalidArgument, Unavailable
from raftstore.node.core import Core
from raftstore.node.ports import Links
from raftstore.node.proposals import Answer, Build, Request
from raftstore.node.replica import MAPPING_MISMATCH
from raftstore.node.sticky import messages
from raftstore.node.sticky.change import founding, next_mapping
from raftstore.node.sticky.gate import Gate, Refusal, to_mapping
from raftstore.node.sticky.giver import Giver, is_away
from raftstore.node.sticky.taker import Taker
from raftstore.node.sticky.view import sticky_status
from raftstore.ownership import Machine, MappedNode, MappingRecord, Placement, adopt, close, settle
from raftstore.ownership.placement import describe
from raftstore.types import Reason

TELL_EVERY_TICKS = 10
SCAN_PAUSE_S = 0.005  # between two slices of sessions, so that callers' ops find the loop free


@dataclass(slots=True)
class Peer:
    """A connected peer and what it said last."""

    store_id: int = 0
    mapping: MappingRecord | None = None
    settled: bool = False
    closed: bool = False
    founding: bytes = b""
    heard: bool = False


class Sticky:
    """One node's part in the mapping. The node's loop is its only user."""

    def __init__(self, core: Core, links: Links, loop: asyncio.AbstractEventLoop) -> None:
        self.node_id = core.node_id
        self.gate = Gate(core.node_id, core.config.sessions.ttl_max_ms)
        self.peers: dict[str, Peer] = {}
        self._core = core
        self._links = links
        self._loop = loop
        self._known = core.config.node_ids
        self._founding = founding(core.config.weights)
        self._giver = Giver(self)
        self._taker = Taker(self, core.clock, core.incarnation, self._giver.is_busy)
        self._seen: Placement | None = None
        self._known_by: set[str] = set()  # peers that have this node's store id in their logs
        self._busy: set[str] = set()  # kinds of mapping ops under way: one of each
        self._ticks = 0
        self._reported: dict[tuple[str, str], str] = {}  # (kind, peer): the last detail, so that it is told once
        core.on_tick = self.tick
        core.replica.may_own = lambda session_id: not self.gate.disagrees(session_id)

    # --- the log, as giver and taker use it ------------------------------------------------------------------
    @property
    def machine(self) -> Machine:
        return self._core.replica.machine

    def now_ms(self) -> int:
        return self._core.cluster_clock.now_ms()

    def submit(self, request: Request, callback: Callable[[Answer], None]) -> None:
        self._core.submit(request, callback)

    def send(self, peer_id: str, message: dict[str, Any]) -> None:
        self._links.send(peer_id, messages.encode(message))
        self._core.ask_step()  # a step ends with a flush of the links

    def wake(self) -> None:
        self._consider()

    def report(self, kind: str, detail: str) -> None:
        self._core.observer.report(kind, detail)

    def _report_once(self, kind: str, peer_id: str, detail: str) -> None:
        if self._reported.get((kind, peer_id)) != detail:
            self._reported[kind, peer_id] = detail
            self.report(kind, detail)

    # --- links -----------------------------------------------------------------------------------------------
    def peer_connected(self, peer_id: str) -> None:
        self.peers[peer_id] = Peer()
        self._tell(peer_id)

    def peer_disconnected(self, peer_id: str) -> None:
        """What it said of its mapping still counts: it goes by that until it says otherwise."""
        self.peers.pop(peer_id, None)
        self._giver.peer_gone(peer_id)
        self._taker.peer_gone(peer_id)

    def receive(self, peer_id: str, payload: bytes) -> None:
        """One frame of a member. What is no message of ours costs it its connection."""
        peer = self.peers.get(peer_id)
        if self._core.stopped is not None or peer is None:
            return
        try:
            message = messages.decode(payload)
        except MalformedMessage as problem:
            self.report("MALFORMED_MESSAGE", f"{peer_id}: {problem}")
            self._links.drop(peer_id, "MALFORMED_MESSAGE")
            return
        if not self._is_ready:
            return  # this node has not read its own log to the end: it does not know yet what it has promised
        self._notice()  # a mapping may have been adopted whose proposer had lost patience
        kind = message["type"]
        if kind == "mapping":
            self._heard(peer_id, peer, message)
        elif kind == "pull":
            self._pulled(peer_id, message)
        else:
            self._taker.handed(peer_id, message)

    @property
    def _is_ready(self) -> bool:
        return self._core.replica.is_joined

    # --- what is told ------------------------------------------------------------------------------------------
    def _tell(self, peer_id: str) -> None:
        if not self._is_ready:
            return
        placement = self.machine.placement
        known = None if placement is None else placement.store_of(peer_id)
        peer = self.peers[peer_id]
        self.send(
            peer_id,
            {
                "type": "mapping",
                "store_id": 0 if placement is None else placement.store_id,
                "mapping": None if placement is None else placement.mapping,
                "settled": placement is not None and placement.is_settled,
                "closed": placement is not None and placement.is_closed,
                "founding": self._founding.digest(),
                "knows_store": known or 0,
                "knows_epoch": 0 if placement is None else placement.confirmed_epoch_of(peer_id),
                "gone": placement is not None and peer.store_id in placement.gone,
            },
        )

    def _tell_all(self) -> None:
        for peer_id in self.peers:
            self._tell(peer_id)

    # --- what is heard -----------------------------------------------------------------------------------------
    def _heard(self, peer_id: str, peer: Peer, message: dict[str, Any]) -> None:
        told: MappingRecord | None = message["mapping"]
        if told is not None and not self._is_usable(peer_id, told):
            return
        first = not peer.heard
        peer.store_id, peer.mapping = message["store_id"], told
        peer.settled, peer.closed = message["settled"], message["closed"]
        peer.founding, peer.heard = message["founding"], True
        if first:
            self._tell(peer_id)  # it may have connected before this node knew what to say, and its store is known now
        if self._must_stop(peer_id, message):
            return
        self._compare(peer_id, told)
        self._consider()

    def _is_usable(self, peer_id: str, told: MappingRecord) -> bool:
        try:
            to_mapping(told)
        except InvalidArgument as problem:
            self._report_once(MAPPING_MISMATCH, peer_id, f"{peer_id} has an impossible mapping: {problem}")
            return False
        return True

    def _must_stop(self, peer_id: str, message: dict[str, Any]) -> bool:
        """Whether a peer knows something of this node that forbids it to go on: it fails closed, for good."""
        placement = self.machine.placement
        told: MappingRecord | None = message["mapping"]
        store_id = 0 if placement is None else placement.store_id
        epoch = 0 if placement is None else placement.mapping.epoch
        knew = placement is not None and self.node_id in placement.mapping.lost  # then this directory is a later one
        if message["gone"] or (
            store_id and not knew and told is not None and told.epoch > epoch and self.node_id in told.lost
        ):
            detail = f"{peer_id} says that {self.node_id} was declared lost: give it an empty data directory"
            self._core.fail("DECLARED_LOST", f"{detail}; its sessions must not go on")
            return True
        known = message["knows_store"]
        if known and known == store_id:
            self._known_by.add(peer_id)
        if known and known == store_id and message["knows_epoch"] > epoch:
            detail = f"{peer_id} has it at mapping epoch {message['knows_epoch']}, its log ends at {epoch}"
            self._core.fail(
                "STATE_WENT_BACK", f"the data directory of {self.node_id} is older than its promises: {detail}"
            )
            return True
        if known and known != store_id:
            detail = f"{peer_id} knows {self.node_id} by another data directory: the sessions of that one are not here"
            remedy = f"start {self.node_id} with that directory, or declare it lost (raftstore mapping set --lost)"
            self._report_once("STORE_CHANGED", peer_id, f"{detail}; {remedy}")
        return False

    def _compare(self, peer_id: str, told: MappingRecord | None) -> None:
        """A peer that goes by another mapping: the sessions on which both differ are refused here."""
        self.gate.peer_says(peer_id, told)
        placement = self.machine.placement
        if placement is None or told is None or told == placement.mapping:
            self._reported.pop((MAPPING_MISMATCH, peer_id), None)
        elif told.epoch == placement.mapping.epoch:
            detail = f"{peer_id} and {self.node_id} have different mappings of epoch {told.epoch}"
            remedy = "set a mapping of a higher epoch (raftstore mapping set)"
            self._report_once(MAPPING_MISMATCH, peer_id, f"{detail}: {describe(told)} there; {remedy}")
            self._fence_disputed()

    def _fence_disputed(self) -> None:
        """Two mappings of one epoch do not settle by themselves: nobody acts for what they dispute."""
        owned = self._core.owned
        disputed = [(sid, epoch) for sid, epoch in owned.held() if self.gate.disagrees(sid)]
        for session_id, _ in disputed:
            owned.strike(session_id)
        if disputed:
            self._core.observer.fenced(disputed, MAPPING_MISMATCH)

    def _pulled(self, peer_id: str, message: dict[str, Any]) -> None:
        """Sessions go only to the data directory that is known for that peer, and under the same mapping."""
        placement = self.machine.placement
        if placement is None or message["digest"] != placement.mapping.digest():
            return
        store_id = message["store_id"]
        known = placement.store_of(peer_id)
        if peer_id in placement.mapping.lost or store_id in placement.gone or known not in (None, store_id):
            detail = (
                f"{peer_id} comes with another data directory: declare the old one lost (raftstore mapping set --lost)"
            )
            self._report_once("PEER_STORE_CHANGED", peer_id, detail)
            return
        self._giver.pulled(peer_id, message["number"], message["have"], message["declined"])

    # --- what follows ------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """House-keeping of the node: everything here may be asked as often as one likes."""
        if not self._is_ready:
            return
        self._giver.tick()
        self._consider()
        self._ticks += 1
        if self._ticks % TELL_EVERY_TICKS == 1:
            self._tell_all()
        placement = self.machine.placement
        if placement is not None and not self._giver.is_scanning:
            for node_id in placement.mapping.lost:
                self._giver.lost(node_id)

    def _consider(self) -> None:
        """Whatever the present state of things asks for."""
        self._notice()
        placement = self.machine.placement
        newer = self._newest_of_peers(0 if placement is None else placement.mapping.epoch)
        if newer is not None:
            self._adopt(newer, lambda _: None)
        elif placement is None:
            if self._may_found():
                self._adopt(self._founding, lambda _: None)
        else:
            self._settle(placement)

    def _notice(self) -> None:
        """The machine's placement changed: everybody here works by the new one."""
        placement = self.machine.placement
        if placement is self._seen or placement is None:
            return
        changed = self._seen is None or self._seen.mapping != placement.mapping
        self._seen = placement
        self.gate.set_placement(placement)
        if changed:
            assert self.gate.current is not None
            self._giver.begin(self.gate.current)
            self._taker.begin(self.gate.current)
            self._scan()
            for peer_id, peer in self.peers.items():
                self._compare(peer_id, peer.mapping)
            if self.gate.has_rival:
                self._fence_disputed()  # also by what somebody said who has gone since
        self._giver.answer_held()
        self._tell_all()

    def _scan(self) -> None:
        if self._core.stopped is None and self._giver.is_scanning:
            self._giver.scan()
            self._loop.call_later(SCAN_PAUSE_S, self._scan)

    def _newest_of_peers(self, epoch: int) -> MappingRecord | None:
        """The mapping of the highest epoch above ours that a peer goes by, if this node can go by it too."""
        newer = [p.mapping for p in self.peers.values() if p.mapping is not None and p.mapping.epoch > epoch]
        newest = max(newer, key=lambda record: (record.epoch, record), default=None)
        if newest is None:
            return None
        strangers = [node_id for node_id in newest.node_ids if node_id not in self._known]
        if strangers:
            detail = f"mapping epoch {newest.epoch} has node {strangers[0]}, which is not in this node's cluster.conf"
            self._report_once(MAPPING_MISMATCH, self.node_id, f"{detail}: add it and restart {self.node_id}")
            return None
        return newest

    def _may_found(self) -> bool:
        """All nodes of cluster.conf are connected, none has a mapping, and all have the same node table."""
        others = [node_id for node_id in self._known if node_id != self.node_id]
        if not all(node_id in self.peers and self.peers[node_id].heard for node_id in others):
            return False
        digest = self._founding.digest()
        for node_id in others:
            if self.peers[node_id].founding != digest:
                detail = (
                    f"{node_id} and {self.node_id} have different [[node]] tables in cluster.conf: make them the same"
                )
                self._report_once(MAPPING_MISMATCH, node_id, detail)
                return False
        return True

    def _adopt(self, record: MappingRecord, done: Callable[[Answer], None]) -> None:
        self._propose(
            "adopt", lambda seq, d: adopt(seq, d, record.epoch, record.nodes, record.sources, record.lost), done
        )

    def _settle(self, placement: Placement) -> None:
        epoch = placement.mapping.epoch
        if not placement.is_settled:
            waits = placement.waits_for(self.node_id)
            for peer_id in waits:
                peer = self.peers.get(peer_id)
                if peer is not None and peer.mapping == placement.mapping:
                    self._taker.ask(peer_id)
            if not waits and self._is_known_to_all(placement) and self.now_ms() >= placement.opens_at_ms:
                self._propose("settle", lambda seq, d: settle(seq, d, epoch), lambda _: None)
        elif not placement.is_closed and (self._all_settled(placement) or self._told_closed(placement)):
            self._propose("close", lambda seq, d: close(seq, d, epoch), lambda _: None)

    def _is_known_to_all(self, placement: Placement) -> bool:
        """Whether the others have this data directory in their logs: if it is lost, nobody takes its heir for it.

        One that is not involved holds nothing that could be lost, and nobody waits for it to confirm.
        """
        if self.node_id not in placement.involved:
            return True
        return self._known_by.issuperset({*placement.involved} - {self.node_id, *placement.mapping.lost})

    def _all_settled(self, placement: Placement) -> bool:
        others = [n for n in placement.involved if n != self.node_id and n not in placement.mapping.lost]
        peers = [self.peers.get(node_id) for node_id in others]
        return all(peer is not None and peer.settled and peer.mapping == placement.mapping for peer in peers)

    def _told_closed(self, placement: Placement) -> bool:
        """Whether a peer has closed this mapping. It waited for this node too, so for all whom this node involves."""
        return self.node_id in placement.mapping.node_ids and any(
            peer.closed and peer.mapping == placement.mapping for peer in self.peers.values()
        )

    def _propose(self, kind: str, build: Build, done: Callable[[Answer], None]) -> None:
        """A mapping op, one of each kind at a time; what follows from it is considered at once."""
        if kind in self._busy:
            return
        self._busy.add(kind)

        def answered(answer: Answer) -> None:
            self._busy.discard(kind)
            done(answer)
            if self._core.stopped is None and answer.reason is None:
                self._consider()  # a refusal waits for the next tick

        self.submit(Request(kind, None, build), answered)

    # --- callers -----------------------------------------------------------------------------------------------
    def refusal(self, session_id: str) -> Refusal | None:
        """Why an op on the session must not be proposed here; None when it may."""
        if not self._is_ready:
            return Refusal(
                Reason.MAPPING_UNSETTLED, f"{self.node_id} has not read its own log to the end yet: try again"
            )
        self._notice()  # the log may hold a mapping that no tick has seen yet, above all after a start
        refusal = self.gate.refusal(session_id, self.machine.sessions, self.peers)
        record = self.machine.sessions.get(session_id)
        if refusal is None and record is not None and is_away(record, self.node_id):
            return self.gate.unsettled()  # it maps here again and has not come back: what stands here is old
        return refusal

    def why_not_ready(self) -> Unavailable | None:
        """Why nothing at all can be served: no mapping, or none that was ever settled here."""
        placement = self.machine.placement
        if placement is not None and placement.trail:
            return None
        refusal = self.gate.unsettled()
        return Unavailable(refusal.reason, refusal.detail)

    def epoch(self) -> int:
        """The epoch by which `refusal` judges."""
        return 0 if self.gate.current is None else self.gate.current.epoch

    def change(
        self,
        nodes: Collection[MappedNode],
        lost: Collection[str],
        epoch: int | None,
        done: Callable[[Answer], None],
    ) -> MappingRecord:
        """Begin a mapping change; `done` is called when it is in this node's log. InvalidArgument, Unavailable."""
        placement = self.machine.placement
        if placement is None or not self._is_ready:
            raise Unavailable(Reason.MAPPING_UNSETTLED, f"{self.node_id} has no mapping yet that could be changed")
        if self._newest_of_peers(placement.mapping.epoch) is not None or "adopt" in self._busy:
            raise Unavailable(
                Reason.MAPPING_UNSETTLED, f"{self.node_id} is adopting a newer mapping: look and try again"
            )
        record = next_mapping(
            placement, nodes, lost, epoch=epoch, known=self._known, connected=self.peers, here=self.node_id
        )
        self._adopt(record, done)
        return record

    def left(self) -> dict[str, int] | None:
        """Sessions that are still to leave, by node; None while they are being counted."""
        return None if self._giver.is_scanning else self._giver.left()

    def status(self) -> dict[str, Any]:
        """For people and the API: the mapping, how far it is settled, and what each peer says."""
        return sticky_status(self, self._known, self._taker.taken)
