"""What an outage costs: the leader killed, the leader paused, and an owner killed whose sessions others take over.

Leader killed or paused: on every node some callers try all along. Measured is the time from the signal to the first
commit of an op that a caller on another node began after it; "everywhere" is when both others had one. Then the node
is started again, or goes on, and is waited for before the next.

Owner killed: two sessions of the node that dies, one for each of the others, which try every 2 ms to take theirs over
from the moment of the kill on. Measured is how long after the moment at which the rules allowed it the failover was
accepted. The rules allow it when the owner's lease, as last committed, lapses in cluster time; it is read from the
status of the node that took over, after it did, so no renewal is missed. Cluster time becomes a moment of
CLOCK_BOOTTIME, which all processes here share, by that same node's reckoning; it is never ahead of the truth, so of the
two reckonings the earlier one is taken. What is left of error: a millisecond of rounding, and a follower's lag of about
one commit when the node that died led.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepsen_like.bench.run import Say
from jepsen_like.bench.trials.base import Finding, TrialResult
from jepsen_like.bench.trials.cluster import TrialCluster, three_nodes
from jepsen_like.bench.trials.numbers import spread

CALLERS = 4  # per node
PACE_S = 0.002
FIRST_COMMIT_MS_MAX = 1_000.0
TAKEOVER_MS_MAX = 100.0
SECONDS_OF = {"killed": 3.0, "paused": 1.5, "owner": 6.0}  # about, with the node's return
LEADER_EVERY = 3  # of the owners that are killed, every third leads

Outages = list[dict[str, Any]]


@dataclass(frozen=True)
class Outage:
    """`kills` of each kind."""

    kills: int = 50
    kinds: tuple[str, ...] = tuple(SECONDS_OF)
    name: str = "outage"
    about: str = "the leader killed, the leader paused, an owner killed"
    target: str = "4"

    @property
    def estimate_seconds(self) -> float:
        return 5 + self.kills * sum(SECONDS_OF[kind] for kind in self.kinds)

    async def run(self, directory: Path, say: Say) -> TrialResult:
        works = {"killed": _leader_killed, "paused": _leader_paused, "owner": _owner_killed}
        figures: dict[str, Any] = {}
        async with three_nodes(directory) as cluster:
            for kind in self.kinds:
                figures[kind] = await _repeat(cluster, kind, self.kills, works[kind], say)
        return TrialResult(figures, findings(figures))


async def _repeat(
    cluster: TrialCluster,
    kind: str,
    kills: int,
    work: Callable[[TrialCluster, int], Awaitable[dict[str, Any]]],
    say: Say,
) -> Outages:
    outages = []
    for number in range(kills):
        outages.append(await work(cluster, number))
        told = ", ".join(f"{name} {value:.0f}" for name, value in outages[-1].items() if isinstance(value, float))
        say(f"outage: {kind} {number + 1} of {kills}: {told}")
    return outages


async def _leader_killed(cluster: TrialCluster, _number: int) -> dict[str, Any]:
    leader = await cluster.leader()
    await cluster.callers(CALLERS, PACE_S)
    term = await _term(cluster)
    found = await _first_commits(cluster, cluster.kill(leader))
    found["terms"] = await _term(cluster) - term
    await cluster.ask_all("end")
    await cluster.restart(leader)
    return found


async def _leader_paused(cluster: TrialCluster, _number: int) -> dict[str, Any]:
    leader = await cluster.leader()
    await cluster.callers(CALLERS, PACE_S)
    term = await _term(cluster)
    found = await _first_commits(cluster, cluster.pause(leader))
    found["terms"] = await _term(cluster) - term
    cluster.resume(leader)
    await cluster.leader()
    await cluster.ask_all("end")
    return found


async def _term(cluster: TrialCluster) -> int:
    """More than one term per outage means that an election was lost."""
    return max(int(view["term"]) for view in await cluster.ask_all("view"))


async def _first_commits(cluster: TrialCluster, moment_ns: int) -> dict[str, Any]:
    answers = await cluster.ask_all("first_commit", after_ns=moment_ns)
    waited_ms = sorted((answer["at_ns"] - moment_ns) / 1e6 for answer in answers)
    return {"first_ms": waited_ms[0], "everywhere_ms": waited_ms[-1]}


async def _owner_killed(cluster: TrialCluster, number: int) -> dict[str, Any]:
    leader = await cluster.leader()
    followers = [node for node in cluster.present if node != leader]
    is_leader = number % LEADER_EVERY == LEADER_EVERY - 1
    owner = leader if is_leader else followers[number % len(followers)]
    sessions = (await cluster.ask(owner, "own", sessions=len(followers)))["sessions"]
    moment_ns = cluster.kill(owner)
    answers = await asyncio.gather(
        *(
            cluster.ask(node, "take_over", session_id=session_id, version=version, owner=owner)
            for node, (session_id, version) in zip(cluster.present, sessions, strict=True)
        )
    )
    await cluster.restart(owner)
    return {"led": is_leader, **takeover(moment_ns, answers)}


def takeover(moment_ns: int, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds; `late_ms` by the earlier reckoning and the later acceptance."""
    allowed_ns = min(answer["allowed_ns"] for answer in answers)
    return {
        "late_ms": (max(answer["accepted_ns"] for answer in answers) - allowed_ns) / 1e6,
        "first_late_ms": (min(answer["accepted_ns"] for answer in answers) - allowed_ns) / 1e6,
        "allowed_after_ms": (allowed_ns - moment_ns) / 1e6,
        "refused": [answer["refused"] for answer in answers],
    }


def findings(figures: dict[str, Outages]) -> list[Finding]:
    """p99 of each kind that was tried; with fewer than a hundred outages that is the worst one."""
    kinds = {
        "killed": ("leader killed, first commit after", "first_ms", FIRST_COMMIT_MS_MAX),
        "paused": ("leader paused, first commit after", "first_ms", FIRST_COMMIT_MS_MAX),
        "owner": ("owner killed, failover accepted after the rules allow it", "late_ms", TAKEOVER_MS_MAX),
    }
    found = []
    for kind, (what, name, bound) in kinds.items():
        if kind not in figures:
            found.append(Finding("4", what, None, "ms", bound, note="not asked for"))
            continue
        values = spread([outage[name] for outage in figures[kind]])
        note = f"p50 {values['p50']:,.0f}, worst {values['worst']:,.0f} ms"
        found.append(Finding("4", f"{what}, p99 of {len(figures[kind])}", values["p99"], "ms", bound, note=note))
    return found
