"""Was there ever a moment at which two nodes acted for one session? The failure that matters most.

Three witnesses. In simulation, `owns` with `from` and `to`: true throughout, exactly, so two nodes' intervals must not
overlap. Everywhere, `owns` at one moment, and `packet`: what a resource received from a node. Such a moment is known to
lie between `asked` (when the question, or the packet that is answered, was sent; without it: the event itself) and the
event's time, each widened by test["clock_uncertainty_ms"]. What is told must be certain: one moment lies before another
when its window does.

    two nodes, overlapping                 two owners
    two nodes, the same epoch              two owners, whenever it was: the fencing token does not tell them apart
    an epoch after a higher one            an owner went on after its successor had begun

(Ownership model, sections 1, 5 and 8.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jepsen_like.history import Errors, Event, Finals, Verdict

NAME = "dual_owner"


class Sight(NamedTuple):
    """A node acted for a session: at some moment from `begin` to `end`, or throughout where `is_exact`."""

    begin: int
    end: int
    node: str
    epoch: int | None
    is_exact: bool
    position: int

    def __str__(self) -> str:
        span = f"{self.begin / 1e9:.6f} s" + ("" if self.begin == self.end else f" to {self.end / 1e9:.6f} s")
        return f"{self.node} (epoch {self.epoch}, event {self.position}, {span})"


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """ "unknown" when nobody looked at the data path."""
    errors = Errors()
    sights = gather(history, int(test.get("clock_uncertainty_ms", 0)) * 1_000_000)
    for key, its_sights in sights.items():
        _overlaps(key, [sight for sight in its_sights if sight.is_exact], errors)
        _inside(key, its_sights, errors)
        _epochs(key, its_sights, errors)
    count = sum(map(len, sights.values()))
    exact = sum(sight.is_exact for its_sights in sights.values() for sight in its_sights)
    stats = {"sessions": len(sights), "sights": count, "intervals": exact}
    return errors.verdict(NAME, stats, nothing="" if count else "nobody asked who owns a session")


def gather(history: Iterable[Event], uncertainty_ns: int) -> dict[str, list[Sight]]:
    """All sights of owners, session by session."""
    sights: dict[str, list[Sight]] = {}
    for position, event in enumerate(history):
        if event["f"] not in ("owns", "packet") or event["type"] != "ok":
            continue
        value: Mapping[str, Any] = event.get("value") or {}
        if event["f"] == "owns" and not value.get("owns", "from" in value):
            continue
        index = event.get("index", position)
        if "from" in value:
            sight = Sight(value["from"], value["to"], event["node"], value.get("epoch"), True, index)
        else:
            asked = value.get("asked", event["time"]) - uncertainty_ns
            sight = Sight(asked, event["time"] + uncertainty_ns, event["node"], value.get("epoch"), False, index)
        sights.setdefault(event["key"], []).append(sight)
    return sights


def _overlaps(key: str, intervals: Sequence[Sight], errors: Errors) -> None:
    """Of exact intervals; they may touch. Compared with the two nodes that reached furthest so far."""
    furthest: dict[str, Sight] = {}
    for sight in sorted(intervals, key=_in_time):
        for node, other in furthest.items():
            if (
                node != sight.node
                and sight.begin < other.end
                and (sight.begin < sight.end or other.begin < sight.begin)
            ):
                errors.add(f"{key}: two owners at once: {other} and {sight}")
        if sight.node not in furthest or furthest[sight.node].end < sight.end:
            furthest[sight.node] = sight


def _inside(key: str, sights: Sequence[Sight], errors: Errors) -> None:
    """A moment of one node that lies within the interval of another."""
    running: dict[str, Sight] = {}  # by node, the interval that reaches furthest
    for sight in sorted(sights, key=_in_time):
        if sight.is_exact:
            if sight.node not in running or running[sight.node].end < sight.end:
                running[sight.node] = sight
            continue
        for node, interval in running.items():
            if node != sight.node and interval.begin < sight.begin and sight.end < interval.end:
                errors.add(f"{key}: two owners at once: {interval} and {sight}")


def _epochs(key: str, sights: Iterable[Sight], errors: Errors) -> None:
    numbered = [sight for sight in sights if sight.epoch is not None]
    owners: dict[int, Sight] = {}
    for sight in numbered:
        assert sight.epoch is not None
        other = owners.setdefault(sight.epoch, sight)
        if other.node != sight.node:
            errors.add(f"{key}: two nodes under one epoch: {other} and {sight}")
    highest: Sight | None = None  # of those that are over
    by_end = sorted(numbered, key=lambda sight: (_over(sight), sight.position))
    over = 0
    for sight in sorted(numbered, key=lambda sight: (last_moment(sight), sight.position)):
        while over < len(by_end) and _over(by_end[over]) < last_moment(sight):
            if highest is None or (by_end[over].epoch or 0) > (highest.epoch or 0):
                highest = by_end[over]
            over += 1
        if highest is not None and (sight.epoch or 0) < (highest.epoch or 0):
            errors.add(f"{key}: an epoch went back: {sight} after {highest}")


def _in_time(sight: Sight) -> tuple[int, int, int]:
    return sight.begin, sight.end, sight.position


def _over(sight: Sight) -> int:
    """By then its epoch had certainly begun."""
    return sight.begin if sight.is_exact else sight.end


def last_moment(sight: Sight) -> int:
    """Then its node certainly still acted."""
    return sight.end if sight.is_exact else sight.begin
