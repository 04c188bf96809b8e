"""Cluster time at one node: an anchor taken when a batch is applied, and local monotonic time since.

Only a leader's stamp moves cluster time; this is the estimate from which a new leader continues. It is never
ahead of the truth: a stamp was made before the batch was applied here, and local time is counted from the
application. A leader keeps its anchor while it leads (taking a new one from its own batches would lose a commit's
latency each time); everybody else takes a new one with every batch, because a bound on drift holds only from the
newest anchor (design: time and leases).
"""

from __future__ import annotations

from raftstore.ports import Clock


class ClusterClock:
    """Estimates cluster time in milliseconds from local monotonic nanoseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._anchor_ms = 0
        self._anchor_ns: int | None = None
        self.is_live = False  # whether an entry made after this process began has been applied

    @property
    def is_anchored(self) -> bool:
        """Whether this node knows cluster time from an entry made in its own lifetime."""
        return self.is_live and self._anchor_ns is not None

    def anchor(self, cluster_ms: int) -> None:
        """A batch was applied, after which the machine's clock stands at `cluster_ms`."""
        self._anchor_ms = cluster_ms
        self._anchor_ns = self._clock.now_ns()

    def witnessed_ms(self) -> int | None:
        """Cluster time as a witness of the present run may tell it to a leader; None while not anchored."""
        return self.now_ms() if self.is_anchored else None

    def now_ms(self) -> int:
        """Cluster time as far as this node can tell: never ahead of the truth."""
        return self.at_ms(self._clock.now_ns())

    def at_ms(self, now_ns: int) -> int:
        """The same for a local time that has just been read."""
        if self._anchor_ns is None:
            return self._anchor_ms
        return self._anchor_ms + (now_ns - self._anchor_ns) // 1_000_000

    def resume_jump_ms(self, last_wall_ms: int, clock_resume_max_ms: int) -> tuple[int, str | None]:
        """How far cluster time may jump after a stop of the whole cluster, and what to tell people about it.

        Wall time decides only here. Beyond the bound cluster time stays where it is.
        """
        if last_wall_ms <= 0:
            return 0, None
        passed_ms = self._clock.wall_ms() - last_wall_ms
        if passed_ms < 0:
            return 0, f"wall clock is {-passed_ms} ms before the last entry: cluster time goes on without a jump"
        if passed_ms > clock_resume_max_ms:
            return 0, (
                f"wall clock is {passed_ms} ms after the last entry, more than clock_resume_max_ms="
                f"{clock_resume_max_ms}: cluster time goes on without a jump, TTLs were not counted meanwhile"
            )
        return passed_ms, None
