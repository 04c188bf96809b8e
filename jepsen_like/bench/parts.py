"""The parts of a run, one after the other: the comparison with peers, and the trials.

A part that fails is named with what it said, its findings stand as not measured, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jepsen_like.bench import limits
from jepsen_like.bench.peers.base import Peer
from jepsen_like.bench.plan import Plan
from jepsen_like.bench.run import Say, in_directory, rounds
from jepsen_like.bench.trials import TRIALS
from jepsen_like.bench.trials.base import Finding, Trial
from raftstore.errors import RaftstoreError

COMPARISON = "comparison"
PARTS = (COMPARISON, *TRIALS)


async def run_parts(plan: Plan, peers: Mapping[str, Peer], trials: Sequence[Trial], say: Say) -> dict[str, Any]:
    """What `rounds` finds, figures of the trials by name, and the findings of both. With no peers: no comparison."""
    found = await rounds(plan, peers, say)
    if not found["limits"]:
        say("the machine's own limits ...")
        found["limits"].append(await in_directory(limits.measure))
    figures: dict[str, Any] = {}
    findings: list[Finding] = []
    for trial in trials:
        say(f"{trial.name}: {trial.about} (about {trial.estimate_seconds:.0f} s) ...")
        try:
            result = await in_directory(lambda directory, trial=trial: trial.run(directory, say))  # type: ignore[misc]
        except (RaftstoreError, OSError) as problem:
            found["problems"].append(f"{trial.name}: {problem}")
            say(found["problems"][-1])
            findings.append(missing(trial, f"it failed: {problem}"))
        else:
            figures[trial.name] = result.figures
            findings += result.findings
    chosen = {trial.name for trial in trials}
    findings += [
        missing(trial, f"not asked for: --parts {name}") for name, trial in TRIALS.items() if name not in chosen
    ]
    return {**found, "trials": figures, "findings": findings}


def missing(trial: Trial, why: str) -> Finding:
    """The row of a trial that brought none."""
    return Finding(trial.target, f"{trial.name}: {trial.about}", None, "", 0.0, note=why.partition("\n")[0])
