"""Damage to the runs of the tiny world, and where to do it: helpers of the checkers' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.jepsen_like.reference import Run, seal

Event = dict[str, Any]


def copied(run: Run) -> Run:
    """A run of its own, to be spoiled."""
    finals = {
        node: final | {"events": [dict(e) for e in final["events"]], "sessions": [dict(s) for s in final["sessions"]]}
        for node, final in run.finals.items()
    }
    return Run([dict(event) for event in run.history], finals)


def everywhere(run: Run, change: Callable[[list[Event]], Any]) -> None:
    """Do the same to every node's events, number them anew and seal them: all replicas agree on what is wrong."""
    for final in run.finals.values():
        change(final["events"])
        for number, event in enumerate(final["events"], start=1):
            event["number"] = number
        seal(final["events"])
        final["head"] = final["events"][-1]["head"]


def place_of(run: Run, test: Callable[[Event], bool], *, nth: int = 5) -> int:
    """The place of the nth event of a kind, in every node's list."""
    places = [place for place, event in enumerate(run.finals["n1"]["events"]) if test(event)]
    return places[min(nth, len(places) - 1)]


def is_change(event: Event) -> bool:
    """Whether it is a transition of a session that existed."""
    return event["event"] not in ("Refused", "SessionCreated")


def gapped(run: Run, node: str) -> tuple[int, int]:
    """Whole batches in the middle of a node's trail become a gap; its first and last number."""
    lines = run.finals[node]["events"]
    ends = [place for place, event in enumerate(lines) if "head" in event]
    first, last = ends[10] + 1, ends[15]
    gap = {
        "event": "AuditGap",
        "from": first + 1,
        "to": last + 1,
        "index": lines[last]["index"],
        "head": lines[last]["head"],
    }
    lines[first : last + 1] = [gap]
    return first + 1, last + 1


def answers(run: Run, kind: str, f: str) -> list[Event]:
    """Completions of a kind that show something."""
    return [e for e in run.history if (e["type"], e["f"]) == (kind, f) and e["value"]]
