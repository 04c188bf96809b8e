"""The table of known defects, and that those of each strategy are looked for where they can show."""

from __future__ import annotations

from jepsen_like.sim import defects_node, defects_ownership, defects_raft, defects_sticky, defects_storage, mutants
from jepsen_like.sim.run import Options, run_seed

TABLES = (
    defects_node.NODE_MUTANTS,
    defects_ownership.OWNERSHIP_MUTANTS,
    defects_raft.RAFT_MUTANTS,
    defects_storage.STORAGE_MUTANTS,
    defects_sticky.STICKY_MUTANTS,
)


def test_no_name_stands_for_two_defects() -> None:
    """Every mutant of every subject is in the one table."""
    assert len(mutants.MUTANTS) == sum(map(len, TABLES))


def test_a_defect_of_the_sticky_strategy_is_looked_for_in_its_workload() -> None:
    """Where nothing is handed from log to log, a mutant of that changes nothing."""
    name = "sticky-hands-over-unfrozen"
    assert (mutants.workload_of(name), mutants.workload_of("drift-ignored")) == ("sticky", "mix")
    elsewhere = run_seed(0, Options(time_limit_s=6, mutant=name))
    assert elsewhere.digest == run_seed(0, Options(time_limit_s=6)).digest


def found_in(seeds: range, options: Options) -> set[str]:
    """Which checks found something in these seeds."""
    return {check for seed in seeds for check, _ in run_seed(seed, options).found}


def test_a_session_that_is_handed_over_unfrozen_has_two_owners() -> None:
    """The simulator finds it with the first seeds."""
    assert "dual_owner" in found_in(range(3, 6), Options(workload="sticky", mutant="sticky-hands-over-unfrozen"))


def test_a_log_cleared_at_a_restart_is_noticed() -> None:
    """What was acknowledged behind the newest snapshot is missing."""
    assert found_in(range(12), Options(mutant="snapshot-clears-the-log", time_limit_s=30))
