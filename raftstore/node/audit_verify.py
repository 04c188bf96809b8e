"""Proof that audit files are whole and that nodes agree: an auditor's tool, offline, from the files alone.

`verify_files` spells every line again from its own content and compares bytes, checks that numbers run, and
recomputes the hash chain batch by batch. `compare` walks the files of several nodes side by side by event
number and checks that the chain heads are equal. Both read line by line: memory does not grow with the files.
The end of the newest file may be torn or unfinished, for that is what a crash or a running writer leaves;
anywhere else it is damage. What files alone cannot show is that whole batches are missing at the very end:
compare `last` and `head` with the node's status, or with other nodes. (Ownership model, section 9.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, NamedTuple

from raftstore.node.audit_lines import (
    FORMAT,
    GAP_EVENT,
    LINE_BYTES_MAX,
    TIME_ENDS,
    Line,
    event_line,
    first_of,
    head_of,
    is_sealed,
    parse_line,
    position_of,
)
from raftstore.ownership.events import Event, chain_next, event_from_dict, pack_events

PROBLEMS_MAX = 200  # named one by one; a ruined file has more, and they say no more
GAPS_MAX = 1000
BATCH_EVENTS_MAX = 1 << 20  # a batch without an end is damage, not a reason to fill the memory


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What the files of one node hold. They are sound when `problems` is empty; `gaps` are explained holes."""

    paths: tuple[Path, ...]
    node: str
    cluster: str
    first: int  # number of the first event or gap; 0: nothing there
    last: int
    last_index: int
    head: bytes
    gaps: list[tuple[int, int]]
    problems: list[str]  # each names file and line
    unfinished: str  # what the newest file ends with after its last whole batch; empty: nothing


def verify_files(paths: Sequence[Path]) -> VerifyReport:
    """Check one node's files, in any order, from any file on. OSError when one cannot be read."""
    ordered = sorted(paths, key=lambda path: (first_of(path), path.name))
    walk = _Walk()
    for path in ordered:
        walk.file(path, is_newest=path == ordered[-1])
    return VerifyReport(
        paths=tuple(ordered),
        node=walk.node,
        cluster=walk.cluster,
        first=walk.first,
        last=walk.number,
        last_index=walk.index,
        head=walk.head,
        gaps=walk.gaps,
        problems=walk.problems,
        unfinished=walk.unfinished,
    )


@dataclass
class _Walk:
    """Where the walk through the lines stands, and what it found."""

    node: str = ""
    cluster: str = ""
    first: int = 0
    number: int = 0
    index: int = 0
    head: bytes = b""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unfinished: str = ""
    place: str = ""  # file and line being read
    batch: list[Event] = field(default_factory=list)  # events since the last head
    batch_is_whole: bool = True  # False: a line of it was damaged, so its head cannot be recomputed
    next_number: int = 0  # of the next event; 0: not known yet

    def file(self, path: Path, *, is_newest: bool) -> None:
        with path.open("rb") as lines:
            self.place = f"{path.name}:1"
            self.header(path, lines.readline(LINE_BYTES_MAX), is_newest=is_newest)
            for count, line in enumerate(_lines(lines), start=2):
                self.place = f"{path.name}:{count}"
                if not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX and is_newest:
                    self.unfinished = f"{self.place}: torn line of {len(line)} bytes"
                    break
                self.line(line)
        self.end_of_file(is_newest=is_newest)

    def header(self, path: Path, line: bytes, *, is_newest: bool) -> None:
        if is_newest and not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
            self.unfinished = f"{self.place}: torn header of {len(line)} bytes"
            return
        fields = parse_line(line)
        prev_head = None if fields is None else head_of(fields, "prev_head")
        if fields is None or prev_head is None or fields.get("audit") != FORMAT or not is_sealed(line, fields):
            self.problem("the header is damaged")
            return
        first, node, cluster = fields.get("first"), str(fields.get("node")), str(fields.get("cluster"))
        if type(first) is not int or first != first_of(path):
            self.problem(f"the header says the file begins at event {first}, its name {first_of(path)}")
            return
        if not self.next_number:
            self.node, self.cluster, self.first, self.head = node, cluster, first, prev_head
            self.number, self.next_number = first - 1, first
            return
        if (node, cluster) != (self.node, self.cluster):
            self.problem(f"a file of node {node} in cluster {cluster} among those of {self.node} in {self.cluster}")
        if first != self.next_number:
            self.problem(f"the file begins at event {first}, where {self.next_number} was due")
        elif prev_head != self.head:
            self.problem("the chain head in the header is not the one that the previous file ends with")
        self.head, self.number, self.next_number = prev_head, first - 1, first

    def line(self, line: bytes) -> None:
        fields = parse_line(line)
        if fields is None or "event" not in fields:
            self.damaged("not an event")
        elif fields["event"] == GAP_EVENT:
            self.gap(line, fields)
        else:
            self.event(line, fields)

    def event(self, line: bytes, fields: Line) -> None:
        position, stated_head = position_of(fields), head_of(fields, "head")
        number, index = fields.get("number"), fields.get("index")
        if type(number) is not int or type(index) is not int or ("head" in fields and stated_head is None):
            self.damaged("number, index or head is not one")
            return
        self.in_order(number, index)
        event = self.event_of(fields)
        if event is None or event_line(event, stated_head) != line:
            self.damaged("the line is not what was written")
        elif len(self.batch) < BATCH_EVENTS_MAX:
            self.batch.append(event)
        else:
            self.damaged("the batch has no end")
        self.next_number = number + 1
        self.index = index
        if position is not None:
            self.end_of_batch(position.number, position.log_index, position.head)

    def event_of(self, fields: Line) -> Event | None:
        try:
            return event_from_dict(fields)
        except ValueError:  # nonsense where an event should be
            return None

    def gap(self, line: bytes, fields: Line) -> None:
        position, start = position_of(fields), fields.get("from")
        if position is None or type(start) is not int or start > position.number or not is_sealed(line, fields):
            self.damaged("the gap line is not what was written")
            return
        if self.batch or not self.batch_is_whole:
            self.problem("a gap inside a batch")
        self.in_order(start, position.log_index)
        if len(self.gaps) < GAPS_MAX:
            self.gaps.append((start, position.number))
        self.number, self.index, self.head = position
        self.next_number = position.number + 1
        self.batch, self.batch_is_whole = [], True

    def in_order(self, number: int, index: int) -> None:
        if self.next_number and number != self.next_number:
            self.problem(f"event {number} where {self.next_number} was due")
            self.batch_is_whole = False
        if index < self.index:
            self.problem(f"log index {index} after {self.index}")
        if self.batch and index != self.index:
            self.problem(f"the batch of log index {self.index} ends without a chain head")
            self.batch, self.batch_is_whole = [], True
            self.head = b""  # not known until the next stated one

    def end_of_batch(self, number: int, index: int, head: bytes) -> None:
        """Check the stated head against the chain; go on from the stated one, so that one damage is told once."""
        if self.batch_is_whole and self.head:
            try:
                follows = chain_next(self.head, index, pack_events(self.batch)) == head
            except UnicodeEncodeError:  # JSON can spell half a surrogate pair, the machine never
                follows = False
            if not follows:
                self.problem("the chain head does not follow from the previous one and the events")
        self.number, self.head = number, head
        self.batch, self.batch_is_whole = [], True

    def end_of_file(self, *, is_newest: bool) -> None:
        if self.batch or not self.batch_is_whole:
            text = f"{self.place}: the last batch has {len(self.batch)} events and no chain head"
            if not is_newest or not self.batch_is_whole:
                self.problem("the last batch of the file has no chain head")
            elif not self.unfinished:
                self.unfinished = text
        self.batch, self.batch_is_whole = [], True

    def damaged(self, what: str) -> None:
        self.problem(what)
        self.batch_is_whole = False

    def problem(self, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(f"{self.place}: {what}")
        elif len(self.problems) == PROBLEMS_MAX:
            self.problems.append(f"{self.place}: further problems are not listed")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_BYTES_MAX):
        yield line


# -- comparing nodes


class _Stop(NamedTuple):
    """The end of a batch or gap in one node's trail; the numbers before it that have no head of their own."""

    first: int
    number: int
    log_index: int
    head: bytes
    is_gap: bool


def compare(reports: Sequence[VerifyReport]) -> list[str]:
    """What differs between the trails of several nodes; empty when all that they share is equal.

    One line per pair of nodes: the first difference, or that they share no batch and nothing is proven.
    """
    differences: list[str] = []
    for one, other in combinations(reports, 2):
        if one.cluster != other.cluster:
            differences.append(f"{one.node} is of cluster {one.cluster}, {other.node} of {other.cluster}")
            continue
        difference = _first_difference(one, other)
        if difference:
            differences.append(difference)
    return differences


def _first_difference(one: VerifyReport, other: VerifyReport) -> str:
    left, right = _stops(one.paths), _stops(other.paths)
    a, b = next(left, None), next(right, None)
    shared = 0
    while a is not None and b is not None:
        if a.number == b.number:
            if a.head != b.head:
                where = f"event {a.number} (log index {a.log_index} and {b.log_index})"
                return f"{one.node} and {other.node} differ after {where}"
            shared += 1
            a, b = next(left, None), next(right, None)
        elif a.number < b.number:
            if b.first <= a.number and not b.is_gap:
                return f"{one.node} ends a batch at event {a.number}, {other.node} does not"
            a = next(left, None)
        else:
            if a.first <= b.number and not a.is_gap:
                return f"{other.node} ends a batch at event {b.number}, {one.node} does not"
            b = next(right, None)
    return "" if shared else f"{one.node} and {other.node} share no batch: nothing can be compared"


def _stops(paths: Sequence[Path]) -> Iterator[_Stop]:
    for path in paths:
        first = first_of(path)
        with path.open("rb") as file:
            for line in _lines(file):
                if line.endswith(TIME_ENDS):  # cheap: an event without a head ends with its time
                    continue
                fields = parse_line(line)
                position = None if fields is None else position_of(fields)
                if fields is not None and position is not None:
                    yield _Stop(first, *position, fields.get("event") == GAP_EVENT)
                    first = position.number + 1
