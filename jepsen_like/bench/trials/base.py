"""What a trial is: one promise of the design's that a comparison of rates does not show, measured on real nodes.

A trial brings figures, for whoever wants to look closer, and findings: one measured value beside the bound that it is
to keep. It judges nothing itself; the table of targets does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jepsen_like.bench.run import Say


@dataclass(frozen=True)
class Finding:
    """One row of the table of targets. `measured` None: it could not be, and `note` says why."""

    target: str  # its number among the design's targets
    what: str
    measured: float | None
    unit: str
    bound: float
    at_least: bool = False  # else at most
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """None: not known."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass
class TrialResult:
    """Both of them plain JSON types."""

    figures: dict[str, Any]
    findings: list[Finding]


class Trial(Protocol):
    """A frozen dataclass whose further fields are the sizes of the trial; as made without arguments, the full size."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What it does, in one sentence."""

    @property
    def target(self) -> str:
        """The target that it is about."""

    @property
    def estimate_seconds(self) -> float: ...

    async def run(self, directory: Path, say: Say) -> TrialResult:
        """In an empty directory, which is removed afterwards. Leaves no process running, whatever happens."""
