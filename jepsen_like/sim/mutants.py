"""Known defects, to be switched on one at a time: what the checkers are worth shows in how soon they notice each.

A mutant changes the code under test in this process, for as long as its context lasts, and nothing else: no fault, load
or check knows of it. `defects_*` hold them by subject; here is the table, and the workload in which each can show.
"""

from __future__ import annotations

from jepsen_like.sim.defects import Mutant
from jepsen_like.sim.defects_node import NODE_MUTANTS
from jepsen_like.sim.defects_ownership import OWNERSHIP_MUTANTS
from jepsen_like.sim.defects_raft import RAFT_MUTANTS
from jepsen_like.sim.defects_sticky import STICKY_MUTANTS
from jepsen_like.sim.defects_storage import STORAGE_MUTANTS

MUTANTS: dict[str, Mutant] = {
    **NODE_MUTANTS,
    **OWNERSHIP_MUTANTS,
    **RAFT_MUTANTS,
    **STORAGE_MUTANTS,
    **STICKY_MUTANTS,
}


def workload_of(name: str) -> str:
    """The workload whose seeds run the code that this mutant changes."""
    return "sticky" if name in STICKY_MUTANTS else "mix"
