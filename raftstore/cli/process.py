"""Settings of a process that does nothing but run a node."""

from __future__ import annotations

import gc

COLLECT_AFTER_ALLOCATIONS = 50_000


def calm_collector() -> None:
    """Let the garbage collector look at sessions rarely: they are long-lived and have no cycles.

    Its default is made for short scripts: with many sessions each full pass stalls the loop for long. An embedder may
    want the same, but that is for it to decide.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_ALLOCATIONS, 20, 50)
