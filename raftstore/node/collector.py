"""Python's garbage collector in a process that runs a node."""

from __future__ import annotations

import gc

COLLECT_AFTER_ALLOCATIONS = 50_000


def calm_collector() -> None:
    """Let the garbage collector look seldom from now on: what a node keeps is long-lived, without cycles.

    Python's default is made for short scripts. Under load it goes through all that is reachable several times a second,
    and each time the node's loop stands still for 25 to 40 ms. Call it once, when everything is imported. `raftstore
    run` does; an embedder may, if its own code leaves no heaps of cyclic garbage behind.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_ALLOCATIONS, 20, 50)
