"""The trials by name, in the order in which they are run, and their sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jepsen_like.bench.trials.base import Trial
from jepsen_like.bench.trials.idle import Idle
from jepsen_like.bench.trials.minority import Minority
from jepsen_like.bench.trials.outage import Outage
from jepsen_like.bench.trials.scale import Scale
from jepsen_like.bench.trials.soak import Soak

TRIALS: dict[str, Trial] = {trial.name: trial for trial in (Outage(), Minority(), Idle(), Soak(), Scale())}
QUICK: dict[str, Mapping[str, Any]] = {
    "outage": {"kills": 3},
    "minority": {"seconds": 1.0},
    "idle": {"settle_seconds": 2.0, "seconds": 5.0},
    "soak": {"soak_seconds": 10.0},
    "scale": {
        "sessions": 20_000,
        "moved": 2_000,
        "seconds": 1.0,
        "rounds": 1,
        "snapshot_every_entries": 500,
        "due_after_ms": 5_000,
    },
}
"""Fields of a trial that --quick sets."""


def sized(name: str, *, quick: bool, given: Mapping[str, Any]) -> Trial:
    """The trial, with its quick sizes if asked for, and with those sizes that are given (None: as usual)."""
    trial: Any = TRIALS[name]
    fields = {field.name for field in dataclasses.fields(trial)}
    chosen = {key: value for key, value in given.items() if value is not None and key in fields}
    found: Trial = dataclasses.replace(trial, **{**(QUICK.get(name, {}) if quick else {}), **chosen})
    return found
