"""Does every session's version go up by one with each transition, and its epoch with each new owner, and never back?

Three witnesses that share nothing: what callers were told, the audit events, and the state that nodes ended in. Each is
checked by itself, and against the others: under one version of one session stands one state. (Ownership model, sections
6 and 8.) Under the sticky strategy a session's transitions are spread over the logs of several nodes; together they
must make one line all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepsen_like.checkers.trail import Trail, is_transition, merged, trails_of
from jepsen_like.history import Errors, Event, Finals, Op, Verdict, binding_of, finals_of, pair, sessions_of

NAME = "versions"
ADDED = {"migrate": 2}  # transitions of one op; all others make one

Line = dict[str, list[Event]]  # transitions of each session, in order


def check(history: Sequence[Event], test: Mapping[str, Any], finals: Finals | None = None) -> Verdict:
    """What was told is always checked; trails and last states where there are some."""
    errors = Errors()
    ops = pair(history)
    sticky = test.get("strategy") == "sticky"
    last_states = finals_of(history, finals)
    trails = trails_of(last_states)
    lines = transitions(trails, sticky=sticky)
    whole = bool(trails) and (all if sticky else any)(trail.is_whole for trail in trails)
    for session_id, events in lines.items():
        _one_line(session_id, events, whole, errors)
    told = _Told(lines, errors)
    for op in ops:
        _arithmetic(op, errors)
        told.hear_op(op)
    _never_back(ops, errors)
    for node, final in last_states.items():
        told.hear_final(node, final)
    _nothing_lost(ops, last_states, errors, sticky=sticky)
    stats = {"ops": len(ops), "sessions": len(lines), "transitions": sum(map(len, lines.values()))}
    return errors.verdict(NAME, stats)


def transitions(trails: Sequence[Trail], *, sticky: bool) -> Line:
    """Transitions by session: of one log in its order, of several logs by version."""
    lines: Line = {}
    logs = [trail.events for trail in trails] if sticky else [merged(trails)]
    for log in logs:
        for event in log:
            if is_transition(event):
                lines.setdefault(event["session_id"], []).append(event)
    if sticky:
        for events in lines.values():
            events.sort(key=lambda event: event["state_version"])  # a fork shows as a version that occurs twice
    return lines


def _one_line(session_id: str, events: Sequence[Event], whole: bool, errors: Errors) -> None:
    before: Event | None = None
    for event in events:
        version, epoch = event["state_version"], event["epoch"]
        what = f"{session_id}: audit event {event['number']} ({event['event']}, version {version}, epoch {epoch})"
        if before is None:
            if whole and (version, epoch, event["from_state"]) != (1, 1, None):
                errors.add(f"{what} begins a session")
        elif version != before["state_version"] + 1 and (whole or version <= before["state_version"]):
            errors.add(f"{what} after version {before['state_version']} of event {before['number']}")
        elif version == before["state_version"] + 1:
            _follows(what, event, before, errors)
        before = event


def _follows(what: str, event: Event, before: Event, errors: Errors) -> None:
    raised = event["owner"] != before["owner"]
    if event["epoch"] != before["epoch"] + raised:
        errors.add(f"{what} from owner {before['owner']}, epoch {before['epoch']} to owner {event['owner']}")
    if event["from_state"] != before["to_state"]:
        errors.add(f"{what} begins in {event['from_state']}, the one before ended in {before['to_state']}")
    if before["to_state"] == "TERMINATED":
        errors.add(f"{what} after the end of the session")


class _Told:
    """One state under one version of one session, whoever tells of it."""

    def __init__(self, lines: Line, errors: Errors) -> None:
        self._known: dict[tuple[str, int], tuple[tuple[Any, ...], str]] = {}
        self._bindings: dict[tuple[str, int], tuple[str | None, str]] = {}
        self._errors = errors
        for session_id, events in lines.items():
            for event in events:
                state = (event["to_state"], event["owner"], event["epoch"])
                source = f"audit event {event['number']}"
                self._known.setdefault((session_id, event["state_version"]), (state, source))

    def hear_op(self, op: Op) -> None:
        if op.session is not None and op.key is not None:
            self._hear(op.key, op.session, str(op))

    def hear_final(self, node: str, final: Mapping[str, Any]) -> None:
        for session_id, session in sessions_of(final).items():
            self._hear(session_id, session, f"the last state of {node}")

    def _hear(self, session_id: str, session: Mapping[str, Any], source: str) -> None:
        at = (session_id, session["state_version"])
        state = (session.get("state"), session.get("owner"), session.get("epoch"))
        known, other = self._known.setdefault(at, (state, source))
        if known != state:
            self._errors.add(f"{session_id} version {at[1]}: {state} by {source}, {known} by {other}")
        binding = binding_of(session.get("binding"))
        bound, other = self._bindings.setdefault(at, (binding, source))
        if bound != binding:
            self._errors.add(f"{session_id} version {at[1]}: binding {binding} by {source}, {bound} by {other}")


def _arithmetic(op: Op, errors: Errors) -> None:
    """An op that happened added as many versions as it has transitions; one that was refused had its reason."""
    session, expected = op.session, op.args.get("expected_version")
    if session is None or op.is_read:
        return
    version = session["state_version"]
    if op.type == "fail":
        if op.reason == "VERSION_MISMATCH" and version == expected and op.f != "migrate":
            errors.add(f"{op}: VERSION_MISMATCH, though version {expected} was expected and stands")
        return
    if op.f == "create":
        if (version, session["epoch"]) != (1, 1):
            errors.add(f"{op}: created with version {version}, epoch {session['epoch']}")
    elif expected is not None and version != expected + ADDED.get(op.f, 1):
        errors.add(f"{op}: from version {expected} to {version}")


def _never_back(ops: Iterable[Op], errors: Errors) -> None:
    """What was invoked after an answer shows no older version, and a change shows a newer one."""
    marks: list[tuple[int, bool, Op]] = []
    for op in ops:
        if op.type == "ok" and op.session is not None and op.ret is not None and op.f != "get-local":
            marks += [(op.call, False, op), (op.ret, True, op)]
    marks.sort(key=lambda mark: mark[0])
    highest: dict[str | None, tuple[int, Op]] = {}
    floors: dict[int, tuple[int, Op] | None] = {}
    for position, is_end, op in marks:
        if not is_end:
            floors[position] = highest.get(op.key)
            continue
        assert op.session is not None
        version = op.session["state_version"]
        floor = floors.pop(op.call)
        if floor is not None and (version < floor[0] or (version == floor[0] and not op.is_read)):
            errors.add(f"{op}: version {version}, after {floor[1]} had shown {floor[0]}")
        if op.key not in highest or highest[op.key][0] < version:
            highest[op.key] = (version, op)


def _nothing_lost(ops: Iterable[Op], finals: Mapping[str, Mapping[str, Any]], errors: Errors, *, sticky: bool) -> None:
    """Every node ends with at least the version that anybody was told; sticky: some node does."""
    last = {node: sessions_of(final) for node, final in finals.items() if final.get("sessions") is not None}
    if not last:
        return
    told: dict[str, tuple[int, Op]] = {}
    for op in ops:
        if op.session is not None and op.key is not None and op.f != "get-local":
            version = op.session["state_version"]
            if version > told.get(op.key, (0, op))[0]:
                told[op.key] = (version, op)
    for key, (version, op) in told.items():
        ends = {node: sessions[key]["state_version"] if key in sessions else 0 for node, sessions in last.items()}
        short = [node for node, end in ends.items() if end < version]
        if short and (not sticky or len(short) == len(ends)):
            errors.add(f"{op}: version {version} was told, but {', '.join(short)} ended with {ends[short[0]]}")
