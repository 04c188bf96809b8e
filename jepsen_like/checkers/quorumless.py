"""Does a node that has lost the majority stop, and say so at once?

A node without quorum may go on for as long as nobody can know better: until its lease has run out. After that, election
timeout + lease from the moment it lost the majority, no op succeeds there but a local read, and its data path acts for
no session. How fast it refused is told; it is a verdict only where the test sets `refusal_max_ms`.

A node that hears nobody at all (events `deaf`) knows it after two election timeouts: whatever is asked there after that
is refused, definitely. An op that it takes all the same and leaves its caller in doubt is an error.

`quorum` events say what the runner knows of the network: whether that node can reach a majority, when that changes. An
answer may be on its way for `answer_delay_max_ms`; one to a question from before the loss may have been held up longer.
(Ownership model, sections 5 and 7: fail closed.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepsen_like.history import Errors, Event, Finals, Op, Verdict, pair

NAME = "quorumless"
MS = 1_000_000
ANSWER_DELAY_MS = 250
DEAF_SLACK_MS = 100
DEFAULTS_MS = {"election_timeout_max_ms": 600, "lease_ttl_ms": 3_000}


class Minority:
    """When each node lacked a majority, or whatever else the events `f` say with a true or a false value."""

    def __init__(self, history: Iterable[Event], f: str = "quorum") -> None:
        self._times: dict[str, list[int]] = {}
        self._states: dict[str, list[bool]] = {}
        for event in history:
            if event["f"] == f:
                self._times.setdefault(event["node"], []).append(event["time"])
                self._states.setdefault(event["node"], []).append(bool(event["value"]))

    def __bool__(self) -> bool:
        return bool(self._times)

    def lacking_since(self, node: str | None, time: int) -> int | None:
        """Since when, at that time; None while it has quorum."""
        times = self._times.get(str(node), ())
        place = bisect_right(times, time) - 1
        if place < 0 or self._states[str(node)][place]:
            return None
        while place > 0 and not self._states[str(node)][place - 1]:
            place -= 1
        return times[place]


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """True when no node ever lacked a majority: then there was nothing to refuse."""
    errors = Errors()
    minority = Minority(history)
    allowed_ns = sum(int(test.get(name, value)) for name, value in DEFAULTS_MS.items()) * MS
    late_ns = allowed_ns + int(test.get("answer_delay_max_ms", ANSWER_DELAY_MS)) * MS
    refused: list[float] = []
    for op in pair(history) if minority else ():
        _judge(op, minority, allowed_ns, late_ns, refused, errors)
    for position, event in enumerate(history if minority else ()):
        if event["f"] in ("owns", "packet") and event["type"] == "ok":
            _data_path(event, position, minority, allowed_ns, errors)
    doubtful = _in_doubt(history, test, errors)
    refused.sort()
    limit = test.get("refusal_max_ms")
    if limit is not None and refused and refused[-1] > limit:
        errors.add(f"a refusal without quorum took {refused[-1]:.1f} ms, {limit} ms are allowed")
    return errors.verdict(NAME, {"answers_without_quorum": len(refused), "deaf": doubtful, **_quantiles(refused)})


def _judge(op: Op, minority: Minority, allowed_ns: int, late_ns: int, answered: list[float], errors: Errors) -> None:
    if op.completion is None or op.f == "get-local":
        return
    begin, end = op.invoke["time"], op.completion["time"]
    since = minority.lacking_since(op.node, end)
    if op.type == "ok" and since is not None and begin > since and end > since + late_ns:
        errors.add(f"{op}: succeeded {(end - since) / MS:.0f} ms after {op.node} had lost the majority")
    elif op.type != "ok" and since is not None and begin > since + allowed_ns:
        answered.append((end - begin) / MS)


def _in_doubt(history: Sequence[Event], test: Mapping[str, Any], errors: Errors) -> int:
    """Ops that a deaf node left undecided; how many were asked of deaf nodes."""
    turned = [{**event, "value": not event["value"]} for event in history if event["f"] == "deaf"]
    deaf = Minority(turned, "deaf")
    election_ms = int(test.get("election_timeout_max_ms", DEFAULTS_MS["election_timeout_max_ms"]))
    drift_ppm = int(test.get("max_clock_drift_ppm", 0))
    allowed_ns = (2 * election_ms * (1_000_000 + 2 * drift_ppm) // 1_000_000 + DEAF_SLACK_MS) * MS
    count = 0
    for op in pair(history) if deaf else ():
        since = deaf.lacking_since(op.node, op.invoke["time"])
        if since is None or op.invoke["time"] <= since + allowed_ns or op.f == "migrate":
            continue
        count += 1
        if op.type == "info" and op.completion is not None and op.reason != "CALLER_LEFT":
            told_ms = (op.invoke["time"] - since) / MS
            errors.add(f"{op}: taken {told_ms:.0f} ms after {op.node} had heard anybody, and left in doubt")
    return count


def _data_path(event: Event, position: int, minority: Minority, allowed_ns: int, errors: Errors) -> None:
    value: Mapping[str, Any] = event.get("value") or {}
    if event["f"] == "owns" and not value.get("owns", "from" in value):
        return
    at: int = value["to"] if "to" in value else value.get("asked", event["time"])
    since = minority.lacking_since(event["node"], at)
    if since is not None and at > since + allowed_ns:
        what = f"event {event.get('index', position)}: {event['node']} acts for {event['key']}"
        errors.add(f"{what} {(at - since) / MS:.0f} ms after it had lost the majority")


def _quantiles(sorted_ms: Sequence[float]) -> dict[str, float]:
    if not sorted_ms:
        return {}
    last = len(sorted_ms) - 1
    names = {"refusal_p50_ms": 0.5, "refusal_p99_ms": 0.99, "refusal_max_ms": 1.0}
    return {name: round(sorted_ms[round(last * share)], 3) for name, share in names.items()}
