"""What a leader knows of one follower, and what it may send it next. Pure bookkeeping.

A follower is probed (one append at a time) until a common point is found, then fed a bounded pipeline, or sent a
snapshot when the log no longer reaches back to it. `match` never goes back while a link lasts and the follower keeps
what it acknowledged; `next` never goes to or below `match` (H2b). Stale rejections are recognised and ignored, so
catching up always moves on.
"""

from __future__ import annotations

from collections import deque

PROBE, REPLICATE, SNAPSHOT = "probe", "replicate", "snapshot"


class Progress:
    """One follower as its leader sees it. Indices are log indices, times local nanoseconds of the leader."""

    __slots__ = (
        "acked_probe",
        "confirmed_ns",
        "inflight",
        "inflight_bytes",
        "learner",
        "learner_since",
        "match",
        "moved_ns",
        "next",
        "notice_due_ns",
        "paused",
        "probed",
        "promoted",
        "received_ns",
        "sent_commit",
        "snapshot_acked",
        "snapshot_index",
        "snapshot_sent",
        "state",
        "wanted_commit",
    )

    def __init__(self, last_index: int, now_ns: int) -> None:
        self.match = 0
        self.next = last_index + 1
        self.state = PROBE
        self.paused = False
        self.probed = 0  # `next` of the last probe: asked again, it goes without entries
        self.inflight: deque[tuple[int, int]] = deque()  # (last index, bytes) of unanswered appends
        self.inflight_bytes = 0
        self.moved_ns = now_ns  # when an answer last moved something
        self.confirmed_ns = now_ns  # our clock when we SENT the newest message it has answered
        self.received_ns = now_ns  # our clock when it was last heard: for people only
        self.acked_probe = 0
        self.sent_commit = 0
        self.wanted_commit = 0  # an entry that the follower waits for: it hears of its commit at once
        self.notice_due_ns = 0  # when it hears of a newer commit index at the latest; 0: it knows the newest
        self.learner = 0  # 0: a voter; otherwise the number a wiped member chose at its start
        self.learner_since = 0  # index of an entry that was appended after we heard of its loss
        self.promoted = 0  # the learner number under which it became a voter again
        self.snapshot_index = 0
        self.snapshot_sent = 0  # bytes from its start
        self.snapshot_acked = 0

    @property
    def votes(self) -> bool:
        """Whether its acknowledgements count: a member that forgot its log does not, until it caught up."""
        return self.learner == 0

    def probe(self) -> None:
        """Look for the common point again, one message at a time."""
        self.state = PROBE
        self.paused = False
        self.probed = 0
        self.next = self.match + 1 if self.match else self.next
        self._clear_inflight()

    def relink(self) -> None:
        """The link is new, and so may be its process: what it acknowledged counts when it has said so again.

        Without this a follower whose disk lost the end of its log would never be fed again: its rejections would
        all seem stale.
        """
        if not self.votes:
            self.probe()  # it counts for nothing, and what it has caught up with decides when it votes again
            return
        known, self.match = self.match, 0
        self.sent_commit = 0
        self.probe()
        self.next = known + 1 if known else self.next

    def forget(self, last_index: int) -> None:
        """The follower lost its disk: nothing that it once acknowledged may be counted any more."""
        self.match = 0
        self.next = last_index + 1
        self.sent_commit = 0
        self.probe()

    def sent(self, last_index: int, size: int) -> None:
        """An append with entries up to `last_index` left."""
        if self.state == PROBE:
            self.paused = True
            self.probed = self.next
            return
        self.next = last_index + 1
        self.inflight.append((last_index, size))
        self.inflight_bytes += size

    def accept(self, match: int, now_ns: int) -> bool:
        """It holds our log up to `match`. Returns whether that is news."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= match:
            self.inflight_bytes -= inflight.popleft()[1]
        if self.state == PROBE or (self.state == SNAPSHOT and match >= self.snapshot_index):
            self.state = REPLICATE
            self.paused = False
            self.next = max(self.match, match) + 1
            self._clear_inflight()
        if match <= self.match:
            return False
        self.match = match
        self.next = max(self.next, match + 1)
        self.moved_ns = now_ns
        return True

    def reject(self, rejected_prev: int, hint_next: int) -> None:
        """It could not place an append after `rejected_prev`; it suggests to continue from `hint_next`."""
        if rejected_prev <= self.match:
            return  # stale: it has acknowledged beyond that point since
        if self.state == REPLICATE:
            self.probe()
        elif self.state == PROBE and rejected_prev == self.next - 1:
            self.next = max(self.match + 1, min(hint_next, rejected_prev))
            self.paused = False

    def is_stuck(self, now_ns: int, patience_ns: int) -> bool:
        """Appends are in flight and no answer moved for longer than `patience_ns`: they were lost."""
        return bool(self.inflight) and now_ns - self.moved_ns > patience_ns

    def _clear_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0


def quorum_value(values: list[int], quorum: int) -> int:
    """The greatest value that at least `quorum` of the members have reached."""
    return sorted(values, reverse=True)[quorum - 1]
