"""What travels between this node and the others beside Raft's own messages: ops, reads and chain heads.

A follower sends its ops to whoever leads, in groups, and everything unanswered again when the leader, the term or a
link changed. There are no answers on the wire: each node learns the fate of its ops from its own replica. Reads ask
the leader for an index; heads let a follower notice that its replica differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from raftstore.node import peer_messages as messages
from raftstore.node.leader import LeaderDuties
from raftstore.node.proposals import Proposals
from raftstore.node.read_requests import ReadRequests
from raftstore.node.replica import Replica
from raftstore.ownership import pack_group
from raftstore.ports import Clock
from raftstore.raft.hardened import HardenedSyncObj

RESEND_AFTER_NS = 25_000_000  # after a leader refused a forwarded group


class Sender(Protocol):
    """The peer links, as far as sending goes."""

    def send(self, peer_id: str, payload: bytes) -> bool: ...


class Courier:
    """Forwarding, reads and heads of one node. The node's loop is its only user."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        *,
        clock: Clock,
        raft: HardenedSyncObj,
        links: Sender,
        replica: Replica,
        proposals: Proposals,
        reads: ReadRequests,
        leader: LeaderDuties,
        group_ops_max: int,
        group_bytes_max: int,
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._clock = clock
        self._raft = raft
        self._links = links
        self._replica = replica
        self._proposals = proposals
        self._reads = reads
        self._leader = leader
        self._group_ops_max = group_ops_max
        self._group_bytes_max = group_bytes_max
        self._peers: dict[str, tuple[int, int]] = {}  # connected peers: incarnation, and generation of the link
        self._generation = 0  # of links, made and lost
        self._asked_of: tuple[str | None, int, int] | None = None  # leader, term and links when ops were last sent
        self.resend_at_ns: int | None = None  # when a refused group may be sent again

    # --- links -----------------------------------------------------------------------------------------------
    def link_up(self, peer_id: str, incarnation: int) -> None:
        self._generation += 1
        self._peers[peer_id] = (incarnation, self._generation)

    def link_down(self, peer_id: str) -> None:
        self._generation += 1
        self._peers.pop(peer_id, None)

    # --- ops -------------------------------------------------------------------------------------------------
    def follow_leader(self, now: int) -> None:
        """Whatever was asked of a leader or over a link that is gone is asked again of the next."""
        leader = (self._raft.leader_id, self._raft.term, self._generation)
        refused = self.resend_at_ns is not None and now >= self.resend_at_ns
        if leader != self._asked_of:
            self._asked_of = leader
            self._reads.leader_changed()
        elif not refused:
            return
        self.resend_at_ns = None
        self._proposals.send_again()

    def take_group(self, ops_max: int, bytes_max: int) -> tuple[bytes, int]:
        """The next group of this node's ops, packed, and how many they are; empty when nothing is to be sent."""
        ops = self._proposals.take(ops_max, bytes_max)
        if not ops:
            return b"", 0
        return pack_group(self._node_id, self._incarnation, self._proposals.low_seq, ops), len(ops)

    def forward(self) -> None:
        """Send what waits to the leader, if that is another node."""
        leader = self._raft.leader_id
        if leader is None or leader == self._node_id or self.resend_at_ns is not None:
            return
        while True:
            group, _ = self.take_group(self._group_ops_max, self._group_bytes_max)
            if not group:
                return
            self._send(leader, {"type": "forward", "group": group})

    # --- reads -----------------------------------------------------------------------------------------------
    def ask_reads(self) -> None:
        """Ask for one index for all reads that wait."""
        if not self._reads.waits_to_ask:
            return
        leader = self._raft.leader_id
        if leader is None:
            self._reads.fail_fresh()
        elif leader != self._node_id:
            self._send(leader, {"type": "read_request", "number": self._reads.ask()})
        elif self._raft.is_leader_ready:
            number = self._reads.ask()
            if self._raft.read_index(lambda index: self._read_confirmed(number, index)):
                self._raft.step()
            else:
                self._reads.answered(number, None, 0)

    def _read_confirmed(self, number: int, index: int | None) -> None:
        self._reads.answered(number, index, self._raft.last_applied)

    def _on_read_request(self, peer_id: str, number: int) -> None:
        link = self._peers.get(peer_id)

        def answer(index: int | None) -> None:
            if link == self._peers.get(peer_id):  # else its process may be another, with numbers of its own
                confirmed = int(index is not None)
                if index is not None:
                    self._raft.want_commit(peer_id, index)
                self._send(peer_id, {"type": "read_response", "number": number, "ok": confirmed, "index": index or 0})

        if not self._raft.read_index(answer):
            answer(None)

    # --- heads -----------------------------------------------------------------------------------------------
    def send_heads(self) -> None:
        """Let every follower compare its audit chain with the leader's."""
        machine = self._replica.machine
        for peer in self._raft.peer_ids:
            self._send(peer, {"type": "chain_head", "index": machine.index, "head": machine.head})

    # --- messages --------------------------------------------------------------------------------------------
    def receive(self, peer_id: str, data: bytes) -> None:
        """One message of a member. MalformedMessage when it is none; ReplicaDiverged when chains differ."""
        message = messages.PROTOCOL.decode(data)
        kind = message["type"]
        if kind == "forward":
            self._on_forward(peer_id, message)
        elif kind == "forward_refused":
            if peer_id == self._raft.leader_id:
                self.resend_at_ns = self._clock.now_ns() + RESEND_AFTER_NS
        elif kind == "read_request":
            self._on_read_request(peer_id, message["number"])
        elif kind == "read_response":
            self._read_confirmed(message["number"], message["index"] if message["ok"] else None)
        elif kind == "chain_head" and peer_id == self._raft.leader_id:
            self._replica.compare_head(message["index"], message["head"])

    def _on_forward(self, peer_id: str, message: Mapping[str, Any]) -> None:
        incarnation, _ = self._peers.get(peer_id, (-1, 0))
        if not self._leader.accept_forwarded(message["group"], peer_id, incarnation):
            self._send(peer_id, {"type": "forward_refused"})

    def _send(self, peer_id: str, message: Mapping[str, Any]) -> None:
        self._links.send(peer_id, messages.encode(dict(message)))
