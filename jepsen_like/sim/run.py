"""One seed from plan to verdict, many seeds over several processes, and what a failing one leaves behind.

Judged twice: by the world while it runs (two owners, bounds, log matching, liveness), and by the checkers of
`jepsen_like.checkers` afterwards, which know the history and nothing of the code.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from jepsen_like import history, store
from jepsen_like.checkers.compose import check_all
from jepsen_like.history import Verdict
from jepsen_like.sim.mutants import MUTANTS
from jepsen_like.sim.plan import Plan, draw
from jepsen_like.sim.world import World


class Options(NamedTuple):
    """How seeds are to be run; the same for all of them."""

    time_limit_s: int = 60
    policy: str | None = None
    workload: str = "mix"
    mutant: str | None = None
    beyond_drift: bool = False
    store: str | None = None
    replay: str = ""  # the line that runs the seed alike, for its report


class Result(NamedTuple):
    """What became of one seed. `found`: (who found it, what), empty when all is well."""

    seed: int
    valid: bool | str
    found: tuple[tuple[str, str], ...]
    digest: str
    stats: dict[str, Any]

    def line(self) -> str:
        """One line for people."""
        if self.valid is True:
            return f"seed {self.seed}: passed, digest {self.digest[:16]}"
        checker, detail = self.found[0] if self.found else ("?", "")
        return f"seed {self.seed}: {'unknown' if self.valid == 'unknown' else 'FAILED'}, {checker}: {detail[:600]}"


def plan_of(seed: int, options: Options) -> Plan:
    """The plan of a seed under these options."""
    return draw(
        seed,
        time_limit_s=options.time_limit_s,
        policy=options.policy,
        workload=options.workload,
        beyond_drift=options.beyond_drift,
    )


def run_plan(plan: Plan, options: Options = Options()) -> Result:  # noqa: B008 - immutable
    """Run and judge one plan."""
    began = time.process_time()
    broken: AbstractContextManager[None] = MUTANTS[options.mutant]() if options.mutant else nullcontext()
    with broken:
        world = World(plan)
        world.run()
    ran = time.process_time() - began
    found = list(world.violations)
    valid: bool | str = not found
    verdicts: dict[str, Any] = {}
    if not found:
        valid, verdicts = _judge(world)
        found += [
            (name, error)
            for name, verdict in verdicts.items()
            if verdict["valid"] is not True
            for error in verdict["errors"]
        ]
        if valid is not True and not found:
            found.append(("checkers", "not valid, without an error"))
    stats = {
        "size": plan.size,
        "events": world.scheduler.events_done,
        "ops": world.load.begun,
        "faults": world.faults.done,
        "fault_kinds": plan.fault_kinds,
        "run_s": round(ran, 3),
        "check_s": round(time.process_time() - began - ran, 3),
    }
    result = Result(plan.seed, valid, tuple(found), world.digest(), stats)
    if options.store:
        save(Path(options.store), world, result, options.replay)
    return result


def _judge(world: World) -> tuple[bool | str, dict[str, Any]]:
    verdict = check_all(world.history, world.plan.test(), world.finals())
    return verdict.valid, verdict.stats


def run_seed(seed: int, options: Options = Options()) -> Result:  # noqa: B008 - immutable
    """Run and judge one seed."""
    return run_plan(plan_of(seed, options), options)


def run_seeds(seeds: Iterable[int], options: Options, jobs: int = 1) -> Iterator[Result]:
    """Results in the order of the seeds."""
    if jobs <= 1:
        for seed in seeds:
            yield run_seed(seed, options)
        return
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200) as pool:
        yield from pool.imap(_Work(options), seeds)


class _Work:
    """A seed's run as a value that crosses to another process."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __call__(self, seed: int) -> Result:
        return run_seed(seed, self._options)


def save(directory: Path, world: World, result: Result, replay: str) -> None:
    """What a real run leaves too: history, parameters, last states, the verdict with the line that does it again."""
    (directory / "final").mkdir(parents=True, exist_ok=True)
    history.write(directory / "history.jsonl", world.history)
    store.write_json(directory / "test.json", {**world.plan.test(), "replay": replay})
    for node, final in world.finals().items():
        store.write_json(directory / "final" / f"{node}.json", final)
    errors = [f"{name}: {detail}" for name, detail in result.found]
    own = Verdict(not world.violations, "run", errors, {**result.stats, "digest": result.digest})
    store.judge(directory, [own])
