"""Who owned a session when, as far as a history tells: plain data for the page that draws it.

A lane per session, with four kinds of things in it:

    own   what the register said: from the first answer that showed an owner (and epoch and state) to the last question
          that was answered so, and from there, uncertain, to the first answer that showed something else
    ops   every op: when, which, how it ended, what it showed
    data  the data path: who acted for the session. Intervals of a simulation are exact; single sights of one node under
          one epoch are joined while no more than SIGHT_GAP_NS lies between them
    bad   what a checker objects to, with the events it names; two owners stand out

Times are microseconds since the run began. Sizes are bounded by the names below; what was left out is said in `notes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepsen_like.checkers import dual_owner
from jepsen_like.history import Op
from jepsen_like.report.material import Material, natural
from jepsen_like.report.places import Places

LANES_MAX = 1_000
OPS_MAX = 60_000
BARS_MAX = 15_000
FAULTS_MAX = 2_000
BAD_MAX = 1_000
TEXT_MAX = 300  # characters of an error, a detail
SIGHT_GAP_NS = 1_000_000_000
OPEN = -1  # the duration of an op that nobody answered


class Names:
    """Texts by number, so that a page says each only once."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts = list(texts)
        self._numbers = {text: number for number, text in enumerate(self.texts)}

    def number(self, text: Any) -> int:
        """-1 for None."""
        if text is None:
            return -1
        text = str(text)
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


def us(time_ns: int) -> int:
    return time_ns // 1_000


class Timeline:
    """Builds the data of one page."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.nodes = Names(material.nodes)
        self.kinds = Names(sorted({fault.kind for fault in material.faults}))  # as in the plots
        self.fs, self.reasons, self.states = Names(), Names(), Names()
        self.checkers = Names()
        self.notes = list(material.missing)
        self.places = Places(material.events)

    def data(self) -> dict[str, Any]:
        """What the page embeds."""
        bad = self._bad()
        sights = _sights(self.material)
        by_key: dict[str, list[Op]] = {}
        for op in self._kept_ops(bad):
            by_key.setdefault(str(op.key), []).append(op)
        owners = self._owners()
        keys = self._kept_keys(set(by_key) | set(sights) | set(bad) | set(owners), bad)
        data = self._bars({key: sights.get(key, []) for key in keys})
        lanes = [
            {
                "id": key,
                "own": owners.get(key, []),
                "ops": [self._op(op) for op in by_key.get(key, ())],
                "data": data[key],
                "bad": bad.get(key, []),
            }
            for key in keys
        ]
        return {
            "name": self.material.name,
            "valid": self.material.valid,
            "end": max(us(self.material.end_ns), 1),
            "faults": self._faults(),
            "leaders": self._leaders(),
            "lanes": lanes,
            "nodes": self.nodes.texts,
            "kinds": self.kinds.texts,
            "fs": self.fs.texts,
            "reasons": self.reasons.texts,
            "states": self.states.texts,
            "checkers": self.checkers.texts,
            "notes": self.notes,
        }

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _kept_ops(self, bad: Mapping[str, Any]) -> list[Op]:
        """All ops of sessions. Of too many: all of those that somebody objects to, then what is no mere read or renewal
        that went well, then these; where not all of a kind have room, some from everywhere, never just the first."""
        ops = [op for op in self.material.ops if op.key is not None]
        if len(ops) <= OPS_MAX:
            return ops
        self.notes.append(f"{len(ops) - OPS_MAX} of {len(ops)} ops are not drawn: successful reads and renewals first")
        ranks: tuple[list[int], list[int], list[int]] = ([], [], [])
        for place, op in enumerate(ops):
            is_plain = op.type == "ok" and (op.is_read or op.f == "renew")
            ranks[0 if op.key in bad else 1 + is_plain].append(place)
        kept: list[int] = []
        for rank in ranks:
            kept += evenly(rank, OPS_MAX - len(kept))
        return [ops[place] for place in sorted(kept)]

    def _kept_keys(self, keys: set[str], bad: Mapping[str, Any]) -> list[str]:
        ordered = sorted(keys, key=natural)
        if len(ordered) > LANES_MAX:
            self.notes.append(f"{len(ordered) - LANES_MAX} of {len(ordered)} sessions have no lane")
            ordered = sorted(ordered, key=lambda key: key not in bad)[:LANES_MAX]
        return sorted(ordered, key=natural)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _op(self, op: Op) -> list[int]:
        """[begin, duration, f, outcome, node, reason, version, owner, epoch, event]"""
        begin = us(int(op.invoke["time"]))
        lasted = OPEN if op.completion is None else us(int(op.completion["time"])) - begin
        shown: Mapping[str, Any] = op.session or {}
        return [
            begin,
            lasted,
            self.fs.number(op.f),
            ("ok", "fail", "info").index(op.type),
            self.nodes.number(op.node),
            self.reasons.number(op.reason),
            _number(shown.get("state_version")),
            self.nodes.number(shown.get("owner")),
            _number(shown.get("epoch")),
            op.index,
        ]

    def _owners(self) -> dict[str, list[list[int]]]:
        """By session: [from, known until, to, owner, epoch, state, first version, last version]"""
        lanes: dict[str, list[list[int]]] = {}
        answers = [op for op in self.material.ops if op.ret is not None and op.key is not None and op.session]
        for op in sorted(answers, key=lambda op: op.ret or 0):
            assert op.completion is not None and op.session is not None
            row = [
                us(int(op.completion["time"])),
                us(int(op.invoke["time"])),
                us(self.material.end_ns),
                self.nodes.number(op.session.get("owner")),
                _number(op.session.get("epoch")),
                self.states.number(op.session.get("state")),
                _number(op.session.get("state_version")),
                _number(op.session.get("state_version")),
            ]
            _show(lanes.setdefault(str(op.key), []), row)
        for lane in lanes.values():
            for segment in lane:
                segment[1] = max(segment[0], segment[1])
        return lanes

    def _bars(self, sights: Mapping[str, Sequence[dual_owner.Sight]]) -> dict[str, list[list[int]]]:
        """By session: [begin, end, node, epoch, how many sights, 1 if exact]"""
        lanes: dict[str, list[list[int]]] = {}
        left, total = BARS_MAX, 0
        for key, its_sights in sights.items():
            bars = [
                [us(begin), us(end), self.nodes.number(node), _number(epoch), count, int(is_exact)]
                for begin, end, node, epoch, count, is_exact in joined(its_sights)
            ]
            total += len(bars)
            lanes[key] = bars[:left]
            left -= len(lanes[key])
        if total > BARS_MAX:
            self.notes.append(f"{total - BARS_MAX} of {total} bars of the data path are not drawn")
        return lanes

    def _faults(self) -> list[list[Any]]:
        """[kind, begin, end, nodes, detail, 1 if it was never healed]"""
        details = {
            (str(event["value"].get("kind")), event["time"]): event["value"].get("detail")
            for event in self.material.events
            if event["f"] == "fault" and isinstance(event.get("value"), Mapping)
        }
        found = self.material.faults
        if len(found) > FAULTS_MAX:
            self.notes.append(f"{len(found) - FAULTS_MAX} of {len(found)} faults are not drawn")
        return [
            [
                self.kinds.number(fault.kind),
                us(fault.begin),
                us(self.material.end_ns if fault.end is None else fault.end),
                " ".join(fault.nodes),
                _text(details.get((fault.kind, fault.begin))),
                int(fault.end is None),
            ]
            for fault in found[:FAULTS_MAX]
        ]

    def _leaders(self) -> list[list[int]]:
        """[begin, end, node, term]: while a node said that it leads."""
        found: list[list[int]] = []
        open_terms: dict[str, list[int]] = {}
        for event in self.material.events:
            value = event.get("value")
            if event["f"] != "role" or not isinstance(value, Mapping):
                continue
            node, now = str(event.get("node")), us(int(event["time"]))
            if node in open_terms:
                open_terms.pop(node)[1] = now
            if value.get("role") == "leader":
                row = [now, us(self.material.end_ns), self.nodes.number(node), _number(value.get("term"))]
                open_terms[node] = row
                found.append(row)
        return found[-FAULTS_MAX:]

    def _bad(self) -> dict[str, list[list[Any]]]:
        """By session: [begin, end, checker, text, 1 if it says that two owned]"""
        lanes: dict[str, list[list[Any]]] = {}
        count = 0
        for checker, error in _objections(self.material):
            place = self.places.find(error)
            if place is None:
                continue
            count += 1
            if count <= BAD_MAX:
                two = int(checker == dual_owner.NAME)
                row = [us(place.begin), us(place.end), self.checkers.number(checker), _text(error), two]
                lanes.setdefault(place.key, []).append(row)
        if count > BAD_MAX:
            self.notes.append(f"{count - BAD_MAX} of {count} errors are not marked")
        return lanes


def evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many of them, from everywhere."""
    if len(places) <= most:
        return list(places)
    return [places[number * len(places) // most] for number in range(most)]


def _objections(material: Material) -> Iterable[tuple[str, str]]:
    """Every error with its checker. Whether two owned is asked here once more where no checker was."""
    for check in material.checks:
        if check.valid is not True:
            for error in check.errors:
                yield check.name, error
    if all(check.name != dual_owner.NAME for check in material.checks):
        try:
            verdict = dual_owner.check(material.events, material.test)
        except Exception:  # a history that is none: the checkers' verdict says so
            return
        for error in verdict.errors if verdict.valid is False else ():
            yield dual_owner.NAME, error


def _sights(material: Material) -> dict[str, list[dual_owner.Sight]]:
    """Who acted, by session, in the order of time; nothing where a history is too odd to say."""
    usable = [event for event in material.events if event.get("key") is not None and event.get("node") is not None]
    try:
        sights = dual_owner.gather(usable, 0)
        return {str(key): sorted(found, key=lambda sight: sight.begin) for key, found in sights.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def joined(sights: Iterable[dual_owner.Sight]) -> list[tuple[int, int, str, int | None, int, bool]]:
    """(begin, end, node, epoch, count, is exact): sights of one node under one epoch in one bar.

    A single sight lies somewhere between its question and its answer, so a bar of several reaches only from the first
    one's end to the last one's begin: then the node certainly acted.
    """
    bars: list[tuple[int, int, str, int | None, int, bool]] = []
    running: dict[tuple[str, int | None], list[dual_owner.Sight]] = {}

    def close(found: Sequence[dual_owner.Sight]) -> None:
        first, last = found[0], found[-1]
        begin, end = (first.end, last.begin) if first.end < last.begin else (first.begin, first.begin)
        bars.append((begin, end, first.node, first.epoch, len(found), False))

    for sight in sights:
        if sight.is_exact:
            bars.append((sight.begin, sight.end, sight.node, sight.epoch, 1, True))
            continue
        found = running.setdefault((sight.node, sight.epoch), [])
        if found and sight.begin - found[-1].end > SIGHT_GAP_NS:
            close(found)
            found.clear()
        found.append(sight)
    for found in running.values():
        close(found)
    return sorted(bars, key=lambda bar: (bar[0], bar[1]))


def _show(lane: list[list[int]], row: list[int]) -> None:
    """One more answer: it goes on with the last segment, begins another, or is old news."""
    if not lane or row[6] > lane[-1][7]:
        if lane and lane[-1][3:6] == row[3:6]:
            lane[-1][1] = max(lane[-1][1], row[1])
            lane[-1][7] = row[7]
            return
        if lane:
            lane[-1][2] = row[0]
            lane[-1][1] = min(lane[-1][1], row[0])
        lane.append(row)
    elif row[6] == lane[-1][7] and row[3:6] == lane[-1][3:6]:
        lane[-1][1] = max(lane[-1][1], row[1])


def _number(value: Any) -> int:
    return value if type(value) is int else -1


def _text(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"


def build(material: Material) -> dict[str, Any]:
    """The data of a run's page."""
    return Timeline(material).data()


__all__ = ["LANES_MAX", "OPS_MAX", "Timeline", "build", "evenly", "joined", "us"]
