"""What happened, as it happens: events with the time of the run, into the history's file.

One clock for all events: monotonic, of this process, untouched by any fault. Called on one loop only, so that the order
of calls is the order of time.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jepsen_like.history import Writer


class Recorder:
    """Counts what it writes, for the progress line."""

    def __init__(self, path: Path) -> None:
        self._writer = Writer(path)
        self._began_ns = time.monotonic_ns()
        self.counts = dict.fromkeys(("invoke", "ok", "fail", "info"), 0)

    def now_ns(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._began_ns

    def now_s(self) -> float:
        return self.now_ns() / 1e9

    def op(self, kind: str, process: int, f: str, key: str, value: Any, node: str, **more: Any) -> None:
        """An invoke, or its completion."""
        self.counts[kind] += 1
        self._append({"type": kind, "process": process, "f": f, "key": key, "value": value, "node": node, **more})

    def event(
        self, process: str, f: str, value: Any, *, kind: str = "info", key: str | None = None, node: str | None = None
    ) -> None:
        """Something else."""
        self._append({"type": kind, "process": process, "f": f, "key": key, "value": value, "node": node})

    def _append(self, event: dict[str, Any]) -> None:
        self._writer.append({"time": self.now_ns(), **event})

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
