"""Parts of one node without a cluster: a clock that the test drives, and a replica fed with entries by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from virtual_cluster import make_config

from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer, Pending, Proposals, Request
from raftstore.node.replica import Replica
from raftstore.node.requests import Requests
from raftstore.ownership import Machine, SessionRecord, batches, commands, restore

MS = 1_000_000
ME, INCARNATION = "vpn-1", 101
OTHERS = {"vpn-2": 202, "vpn-3": 303}
REQUESTS = Requests(make_config())


class FakeClock:
    """Local time that moves only when told."""

    def __init__(self) -> None:
        self.ns = 10**12
        self.wall = 1_700_000_000_000

    def now_ns(self) -> int:
        return self.ns

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, ms: float) -> None:
        self.ns += int(ms * MS)


class News:
    """What the replica tells the rest of the node."""

    def __init__(self) -> None:
        self.fenced_log: list[tuple[str, int, str]] = []
        self.assigned_log: list[str] = []
        self.late_log: list[SessionRecord] = []
        self.audited_log: list[tuple[int, int, int]] = []
        self.superseded_by: int | None = None

    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        self.fenced_log += [(session_id, epoch, reason) for session_id, epoch in lost]

    def assigned(self, record: SessionRecord) -> None:
        self.assigned_log.append(record.session_id)

    def committed_late(self, pending: Pending, record: SessionRecord) -> None:
        self.late_log.append(record)

    def audited(self, index: int, first_number: int, events: list[Any], head: bytes) -> None:
        self.audited_log.append((index, first_number, len(events)))

    def superseded(self, incarnation: int) -> None:
        self.superseded_by = incarnation


class ReplicaRig:
    """A replica of vpn-1 whose entries the test makes; all three nodes have joined, and the lease counts."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.news = News()
        self.owned = Owned(self.clock)
        self.proposals = Proposals(pending_ops_max=100, groups_in_flight_max=4)
        self.cluster_clock = ClusterClock(self.clock)
        self.is_leading = False
        self.replica = Replica(
            ME,
            INCARNATION,
            machine=Machine(),
            local_clock=self.clock,
            cluster_clock=self.cluster_clock,
            owned=self.owned,
            proposals=self.proposals,
            observer=self.news,
            is_leading=lambda: self.is_leading,
            lease_terms=(3_000, 10_000),
        )
        self.index = 0
        self.stamp_ms = 1_000
        self._seq_of_others = 0
        self.entry(*[(node_id, inc, 0, [commands.join(1, 2**50)]) for node_id, inc in OTHERS.items()])
        joined = self.submit(Request("join", None, commands.join, None))
        self.commit(joined)
        self.replica.joined()
        self.owned.extend_lease(self.clock.ns + 3_000 * MS)
        self.owned.keep_until(self.clock.ns + 3_000 * MS)

    # --- making entries
    def entry(self, *groups: tuple[str, int, int, list[bytes]], jump: int | None = None) -> None:
        self.index += 1
        data = batches.encode_batch(self.stamp_ms, self.clock.wall, jump, groups)
        self.replica.apply(self.index, 1, data)

    def submit(self, request: Request, *, timeout_ms: int = 2_000) -> Told:
        """A caller's op, as the core submits it."""
        if request.gives_up and request.session_id is not None:
            self.owned.begin_giving_up(request.session_id)
        told = Told()
        told.pending = self.proposals.submit(
            request,
            told.answers.append,
            deadline_ms=self.stamp_ms + timeout_ms,
            patience_ns=self.clock.ns + timeout_ms * MS,
            begun_ns=self.clock.ns,
        )
        told.low_seq = self.proposals.low_seq
        self.proposals.take(100, 10**6)
        return told

    def group(self, *told: Told) -> tuple[str, int, int, list[bytes]]:
        """As it was sent: with what this node had closed by then."""
        return (ME, INCARNATION, min(t.low_seq for t in told), [t.pending.op for t in told])

    def commit(self, *told: Told) -> None:
        self.entry(self.group(*told))

    def do(self, request: Request) -> Answer:
        told = self.submit(request)
        self.commit(told)
        return told.answers[0]

    def by(self, node_id: str, build: Callable[..., bytes], *args: Any, inc: int | None = None) -> None:
        """An op of another node."""
        self.entry(self.group_by(node_id, build, *args, inc=inc))

    def group_by(
        self, node_id: str, build: Callable[..., bytes], *args: Any, inc: int | None = None
    ) -> tuple[str, int, int, list[bytes]]:
        self._seq_of_others += 1
        return (node_id, inc or OTHERS[node_id], 0, [build(100 + self._seq_of_others, 2**50, *args)])

    def tell_unknown(self, told: Told) -> None:
        """The caller's patience ends before the op is decided."""
        self.clock.pass_ms(3_000)
        for pending, answer in self.proposals.out_of_patience(self.clock.ns, self.replica.machine.clock_ms):
            self.replica.finish(pending, answer, self.clock.ns)
        assert [a.decided for a in told.answers] == [False]
        self.owned.extend_lease(self.clock.ns + 3_000 * MS)
        self.owned.keep_until(self.clock.ns + 3_000 * MS)

    # --- snapshots
    def elsewhere(self) -> Elsewhere:
        """Another replica, equal to this one so far."""
        return Elsewhere(self)

    def record(self, session_id: str) -> SessionRecord:
        return self.replica.machine.sessions[session_id]


class Elsewhere:
    """A replica at another node, which applies what this one has not seen; its state can be installed here."""

    def __init__(self, rig: ReplicaRig) -> None:
        self.machine = copy_of(rig.replica.machine)
        self.index = rig.index
        self.rig = rig

    def entry(self, *groups: tuple[str, int, int, list[bytes]]) -> None:
        self.index += 1
        self.machine.apply(self.index, 1, batches.encode_batch(self.rig.stamp_ms, 0, None, groups))

    def install(self) -> None:
        self.rig.index = self.index
        self.rig.replica.install(copy_of(self.machine))


class Told:
    """A caller, its op, and what it was told."""

    def __init__(self) -> None:
        self.pending: Pending
        self.low_seq = 0
        self.answers: list[Answer] = []


def copy_of(machine: Machine) -> Machine:
    chunks = msgpack.unpackb(msgpack.packb(list(machine.freeze_state().chunks())))
    return restore(chunks)
