"""This node's copy of the machine, and what each applied entry means for this process.

One entry after another: the machine applies it, the cluster clock takes its anchor, the ops of this process get
their answers, ownership is granted or struck off, audit events go out. Nothing here waits or does I/O.

Why a grant makes no second owner: it happens only while this replica applies the entry that bound the session to
this very incarnation, for a caller that is told in the same moment, and it counts only within this process's lease
(see owned.py). Any later entry that moves the session is applied here after it and strikes it off; an entry that
this replica has not seen yet can move the session only after this process gave it up itself, or its lease lapsed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from raftstore.node.cluster_clock import ClusterClock
from raftstore.node.histogram import Histogram
from raftstore.node.owned import Owned
from raftstore.node.proposals import Answer, Pending, Proposals, committed_or_rejected
from raftstore.node.recent_events import RecentEvents
from raftstore.ownership import ATTACHED, FROZEN, REASONS, Applied, DueIndex, Machine, SessionRecord
from raftstore.ports import Clock

HEADS_REMEMBERED_MAX = 4_096  # chain heads of the newest entries, to compare with the leader's

STAMP_GRAIN_NS = 1_000_000  # a stamp is a whole millisecond, so the machine may count from up to one before it
NO_LEASE = (0, 0)

LATE_COMMIT = "LATE_COMMIT"
GIVEN_UP = "GIVEN_UP"  # bound, while an op that gives it up is under way here
SNAPSHOT_INSTALLED = "SNAPSHOT_INSTALLED"
MAPPING_MISMATCH = "MAPPING_MISMATCH"  # bound, while another node goes by a mapping that sends it elsewhere


class ReplicaDiverged(Exception):  # noqa: N818 - names what happened
    """This replica's audit chain differs from the leader's: it must not serve, and must be rebuilt."""


class Observer(Protocol):
    """What the rest of the node does with the news of an applied entry. Called on the node's thread."""

    def fenced(self, lost: Sequence[tuple[str, int]], reason: str) -> None:
        """This node may not act for these (session id, epoch) any more, without having asked for it."""

    def assigned(self, record: SessionRecord) -> None:
        """A session was transferred to this node and waits to be resumed."""

    def committed_late(self, pending: Pending, record: SessionRecord) -> None:
        """A binding committed whose caller had been told that its outcome is unknown: it is not owned."""

    def audited(self, index: int, first_number: int, events: list[tuple[Any, ...]], head: bytes) -> None:
        """Audit events of one applied entry, none or more, numbered from `first_number`."""

    def superseded(self, incarnation: int) -> None:
        """A newer process has joined under this node's id: this one may never act again."""


class Replica:
    """The state machine and its meaning for this process. The node's loop is its only user, but for `get`."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        *,
        machine: Machine,
        local_clock: Clock,
        cluster_clock: ClusterClock,
        owned: Owned,
        proposals: Proposals,
        observer: Observer,
        is_leading: Callable[[], bool],
        lease_terms: tuple[int, int],
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.machine = machine
        self.due = DueIndex(machine)
        self.is_joined = False
        self.recent_events = RecentEvents()
        self.outcomes: dict[tuple[str, str], int] = {}  # (op kind, "committed" or reason): how often
        self.commit_latency = Histogram()  # from an op's submission to its answer, whatever it is
        self.may_own: Callable[[str], bool] = lambda _: True  # the sticky strategy asks its mappings
        self._local_clock = local_clock
        self._clock = cluster_clock
        self._owned = owned
        self._proposals = proposals
        self._observer = observer
        self._is_leading = is_leading
        self._heads: OrderedDict[int, bytes] = OrderedDict()
        self._expected_heads: dict[int, bytes] = {}
        self._configured_terms = lease_terms  # (ttl in ms, drift in ppm) of this node's configuration
        self._lease_terms = NO_LEASE  # the same of the machine, for a lease granted in the entry being applied

    # --- one entry -----------------------------------------------------------------------------------------
    def apply(self, index: int, term: int, payload: bytes) -> None:
        """One committed entry; an empty payload is a no-op of Raft."""
        if not payload:
            return
        machine = self.machine
        before = self._lease_params()
        first_event = machine.event_seq + 1
        applied = machine.apply(index, term, payload)
        after = self._lease_params()
        self._lease_terms = after if before == after else NO_LEASE
        self._take_anchor(applied)
        now_ns = self._local_clock.now_ns()
        for node_id, incarnation, results in applied.groups:
            if node_id == self.node_id and incarnation == self.incarnation:
                self._clock.is_live = True
                for seq, (code, record) in results:
                    self._settle(seq, committed_or_rejected(REASONS[code], record, index), now_ns)
        lost: dict[str, list[tuple[str, int]]] = {}
        for record in applied.changed:
            if record.owner == self.node_id or record.owned_since == index:  # else it was not owned here before, either
                self._note_change(record, lost)
        for reason, sessions in lost.items():
            self._observer.fenced(sessions, reason)
        if applied.node_changed:
            self._note_nodes()
        self.due.note(applied.due_earlier)
        self._note_head(index, applied.head)
        self.recent_events.add(first_event, len(applied.events), applied.events_packed)
        self._observer.audited(index, first_event, applied.events, applied.head)

    def _take_anchor(self, applied: Applied) -> None:
        leading = self._is_leading()
        if not leading or not self._clock.is_anchored:
            self._clock.anchor(applied.now_ms)
            if leading and applied.resumed:
                self._clock.is_live = True

    def _lease_params(self) -> tuple[int, int]:
        params = self.machine.params
        return int(params["lease_ttl_ms"]), int(params["max_clock_drift_ppm"])

    def holder_lease_ns(self) -> int:
        """How long a lease granted by the entry being applied lasts for its holder, from before it was sent.

        0 unless the machine granted it by the terms of this node's configuration: by others (those of the beginning,
        say) it may call a lease lapsed too early for the clocks that the configuration allows.
        """
        if self._lease_terms != self._configured_terms:
            return 0
        ttl_ms, drift_ppm = self._lease_terms
        return max(0, ttl_ms * (1_000_000 - drift_ppm) - STAMP_GRAIN_NS)

    # --- answers -------------------------------------------------------------------------------------------
    def _settle(self, seq: int, answer: Answer, now_ns: int) -> None:
        pending, waits = self._proposals.settle(seq, answer)
        if pending is None:
            return  # sent twice, and answered before
        self._take_effect(pending, answer, waits, now_ns)
        self.finish(pending, answer, now_ns, waits)

    def _take_effect(self, pending: Pending, answer: Answer, waits: bool, now_ns: int) -> None:
        record = answer.record
        if answer.reason is not None or record is None:
            return
        if pending.request.kind == "renew":
            self._owned.renew(record.session_id, record.epoch, self._expires_ns(record, now_ns))
        elif pending.request.binds and record.state == ATTACHED:
            if waits:
                self._grant(record, now_ns)
            else:
                if self._owned.strike(record.session_id):  # by an earlier binding, which this one has replaced
                    self._observer.fenced([(record.session_id, record.epoch)], LATE_COMMIT)
                self._observer.committed_late(pending, record)

    def _grant(self, record: SessionRecord, now_ns: int) -> None:
        """Owned from now on, unless it is clear by now that this node must not act for it."""
        if not self.may_own(record.session_id):
            self._owned.strike(record.session_id)  # by an earlier binding
            self._observer.fenced([(record.session_id, record.epoch)], MAPPING_MISMATCH)
        elif not self._owned.grant(record.session_id, record.epoch, self._expires_ns(record, now_ns)):
            self._observer.fenced([(record.session_id, record.epoch)], GIVEN_UP)

    def finish(self, pending: Pending, answer: Answer, now_ns: int, waits: bool = True) -> None:
        """The fate of an op is known here, or its caller's patience has ended."""
        request = pending.request
        if request.gives_up and answer.decided and request.session_id is not None:
            self._owned.end_giving_up(request.session_id)
        outcome = "committed" if answer.decided and answer.reason is None else str(answer.reason or "UNKNOWN")
        self.outcomes[request.kind, outcome] = self.outcomes.get((request.kind, outcome), 0) + 1
        if waits:
            self.commit_latency.observe_ns(now_ns - pending.begun_ns)
            if pending.callback is not None:
                pending.callback(answer)

    def _expires_ns(self, record: SessionRecord, now_ns: int) -> int:
        """Local time at which the session's TTL ends, as far as this node can tell cluster time."""
        return now_ns + (record.expires_at_ms - self._clock.at_ms(now_ns)) * 1_000_000

    def confirm(self, record: SessionRecord) -> bool:
        """The embedder confirms a late commit: owned after all, if nothing has changed since and nobody gives it up."""
        current = self.machine.sessions.get(record.session_id)
        if current != record or not self.may_own(record.session_id):
            return False
        expires_ns = self._expires_ns(record, self._local_clock.now_ns())
        return self._owned.grant(record.session_id, record.epoch, expires_ns)

    # --- ownership -----------------------------------------------------------------------------------------
    def _note_change(self, record: SessionRecord, lost: dict[str, list[tuple[str, int]]]) -> None:
        mine = record.owner == self.node_id
        epoch = self._owned.epoch_held(record.session_id)
        if epoch is None and not mine:
            return  # most changes are of other nodes' sessions
        if self.machine.sessions.get(record.session_id) != record:
            return  # the same entry changed it again: what was granted by the later change stands
        if epoch is not None:
            still = mine and record.state == ATTACHED and record.owner_inc == self.incarnation
            if not still or record.epoch != epoch:
                self._owned.strike(record.session_id)
                lost.setdefault(record.reason or "OWNER_CHANGED", []).append((record.session_id, epoch))
        if mine and self.is_joined and record.state == FROZEN and record.transferred:
            self._observer.assigned(record)

    def _note_nodes(self) -> None:
        node = self.machine.nodes.get(self.node_id)
        if node is None or not self.is_joined:
            return
        if node.incarnation != self.incarnation:
            self._observer.superseded(node.incarnation)

    def joined(self) -> None:
        """This process's join was committed: hand out what was transferred to the node before that."""
        self.is_joined = True
        self._hand_out()

    def _hand_out(self) -> None:
        for record in self.machine.sessions.in_state(FROZEN):
            if record.owner == self.node_id and record.transferred:
                self._observer.assigned(record)

    # --- divergence ------------------------------------------------------------------------------------------
    def _note_head(self, index: int, head: bytes) -> None:
        self._heads[index] = head
        if len(self._heads) > HEADS_REMEMBERED_MAX:
            self._heads.popitem(last=False)
        expected = self._expected_heads.pop(index, None)
        if expected is not None:
            self._compare(index, head, expected)

    def compare_head(self, index: int, head: bytes) -> None:
        """The leader's chain head after entry `index`. ReplicaDiverged when ours differs, now or once applied."""
        own = self._heads.get(index)
        if own is not None:
            self._compare(index, own, head)
        elif index > self.machine.index:
            if len(self._expected_heads) >= HEADS_REMEMBERED_MAX:
                self._expected_heads.clear()
            self._expected_heads[index] = head

    def _compare(self, index: int, own: bytes, leaders: bytes) -> None:
        if own != leaders:
            raise ReplicaDiverged(
                f"audit chain differs from the leader's at entry {index}: {own.hex()} here, {leaders.hex()} there"
            )

    # --- a whole new state -----------------------------------------------------------------------------------
    def install(self, machine: Machine, due: DueIndex | None = None) -> None:
        """A snapshot takes the machine's place: nothing that was owned is known to be current."""
        self.machine = machine
        self.due = DueIndex(machine) if due is None else due  # of many sessions it takes a while: better made elsewhere
        self.recent_events.clear()  # numbers jump here, and followers count on their being dense
        self._heads.clear()
        self._lease_terms = NO_LEASE  # under which parameters a covered renewal was granted is not known
        lost = [(s, e) for s, e in self._owned.held() if self._changed_in(machine, s, e)]
        for session_id, _ in lost:
            self._owned.strike(session_id)
        if lost:
            self._observer.fenced(lost, SNAPSHOT_INSTALLED)
        self._clock.anchor(machine.clock_ms)
        self._settle_from(machine)
        self._note_nodes()
        if self.is_joined:
            self._hand_out()

    def _settle_from(self, machine: Machine) -> None:
        """Answers of ops whose entries the snapshot covers: the machine remembers them until they are answered.

        What the machine has forgotten is of an op whose caller was told "unknown", and stays unknown here; it can
        never be applied again. What it has not seen may yet be.
        """
        for seq in self._proposals.undecided():
            result = machine.result_of(self.node_id, self.incarnation, seq)
            if result is not None:
                answer = Answer(True, REASONS[result[0]], result[1], machine.index)
                self._settle_covered(seq, answer, self._local_clock.now_ns())
        for pending in self._proposals.give_up_below(self._closed_below(machine)):
            request = pending.request
            if request.gives_up and request.session_id is not None:
                self._owned.end_giving_up(request.session_id)

    def _settle_covered(self, seq: int, answer: Answer, now_ns: int) -> None:
        pending, waits = self._proposals.settle(seq, answer)
        if pending is None:
            return
        record = answer.record
        if record is None or self.machine.sessions.get(record.session_id) == record:
            self._take_effect(pending, answer, waits, now_ns)
        elif pending.request.binds and waits and answer.reason is None:  # its caller hears "committed", and it is past
            self._observer.fenced([(record.session_id, record.epoch)], SNAPSHOT_INSTALLED)
        self.finish(pending, answer, now_ns, waits)

    def _closed_below(self, machine: Machine) -> int:
        """Below this number no op of this process can be applied any more, by that state."""
        node = machine.nodes.get(self.node_id)
        if node is not None and node.incarnation == self.incarnation:
            return machine.remembered[self.node_id].low_seq
        return self._proposals.next_seq if self.is_joined else 0  # another process has taken our place

    def _changed_in(self, machine: Machine, session_id: str, epoch: int) -> bool:
        record = machine.sessions.get(session_id)
        return (
            record is None
            or record.owner != self.node_id
            or record.owner_inc != self.incarnation
            or record.state != ATTACHED
            or record.epoch != epoch
        )
