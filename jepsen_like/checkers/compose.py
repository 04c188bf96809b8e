"""All checkers together: the worst verdict counts, and "unknown" is not a pass.

A checker that fails itself (a history that is none, an event without its fields) says "unknown" with the last line of
what happened: nothing was shown, so nothing is claimed.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jepsen_like.checkers import (
    acknowledged,
    audit_chain,
    availability,
    cluster_time,
    dual_owner,
    leaders,
    linearizable,
    quorumless,
    unconfirmed,
    versions,
)
from jepsen_like.history import Event, Finals, Valid, Verdict

NAME = "all"
Checker = Callable[[Sequence[Event], Mapping[str, Any], Finals | None], Verdict]

CHECKERS: dict[str, Checker] = {
    dual_owner.NAME: dual_owner.check,
    unconfirmed.NAME: unconfirmed.check,
    versions.NAME: versions.check,
    acknowledged.NAME: acknowledged.check,
    audit_chain.NAME: audit_chain.check,
    linearizable.NAME: linearizable.check,
    leaders.NAME: leaders.check,
    quorumless.NAME: quorumless.check,
    availability.NAME: availability.check,
    cluster_time.NAME: cluster_time.check,
}


def worst(verdicts: Iterable[Valid]) -> Valid:
    """False before "unknown" before True; of nothing, True."""
    valid: Valid = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict == "unknown":
            valid = "unknown"
    return valid


def check_all(
    history: Sequence[Event],
    test: Mapping[str, Any],
    finals: Finals | None = None,
    checkers: Mapping[str, Checker] = CHECKERS,
) -> Verdict:
    """Run the checkers one after the other. `stats`: by name, each verdict as an object with its `seconds`.

    `test["checkers"]`, a list of names, leaves the others out: a run says which questions it can answer.
    """
    wanted = test.get("checkers") or list(checkers)
    told: dict[str, dict[str, Any]] = {}
    errors: list[str] = []
    for name in wanted:
        began = time.perf_counter()
        verdict = _ask(name, checkers[name], history, test, finals)
        told[name] = {**verdict.as_dict(), "seconds": round(time.perf_counter() - began, 3)}
        errors += [f"{name}: {error}" for error in verdict.errors]
    return Verdict(worst(verdict["valid"] for verdict in told.values()), NAME, errors, told)


def _ask(
    name: str, checker: Checker, history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None
) -> Verdict:
    try:
        return checker(history, test, finals)
    except Exception:  # whatever it is: a checker that fails has shown nothing, and the others still run
        return Verdict("unknown", name, [traceback.format_exc().strip().splitlines()[-1]])
