"""A machine's clocks: a monotonic one whose rate is a little off, and a wall clock that may jump anywhere."""

from __future__ import annotations

from jepsen_like.sim.scheduler import MS, Scheduler

MILLION = 1_000_000
WALL_EPOCH_MS = 1_700_000_000_000


class SimClock:
    """ports.Clock on virtual time. `drift_ppm` may change while the machine runs."""

    def __init__(self, scheduler: Scheduler, base_ns: int, drift_ppm: int) -> None:
        self._scheduler = scheduler
        self._local_ns = base_ns
        self._since = 0
        self.rate = MILLION + drift_ppm
        self.wall_offset_ms = 0

    def now_ns(self) -> int:
        return self._local_ns + (self._scheduler.now - self._since) * self.rate // MILLION

    def wall_ms(self) -> int:
        return WALL_EPOCH_MS + self._scheduler.now // MS + self.wall_offset_ms

    def drift(self, drift_ppm: int) -> None:
        """Another rate from now on."""
        self._local_ns, self._since = self.now_ns(), self._scheduler.now
        self.rate = MILLION + drift_ppm

    def world_ns(self, local_ns: int) -> int:
        """The first instant of the world at which this clock shows at least `local_ns`, at the present rate."""
        ahead = local_ns - self._local_ns
        return self._since - (-ahead * MILLION // self.rate)
