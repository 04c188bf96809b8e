"""The sessions of a machine: records by id, in the order of their creation, kept so that a million of them cost little.

What is kept are bare tuples; whoever asks gets a SessionRecord. The difference is the garbage collector: it forgets
about bare tuples of text and numbers when it first meets them, and would look at every named one again in each full
pass, which is a stall that grows with their number. Knows nothing of what a session means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView
from typing import Any

from raftstore.ownership.records import SessionRecord

Row = tuple[Any, ...]  # the fields of a SessionRecord, in its order

ID, STATE, OWNER = map(SessionRecord._fields.index, ("session_id", "state", "owner"))

_new = tuple.__new__  # a NamedTuple without the cost of its own constructor


class Sessions:
    """Like a dict of SessionRecord. A record that is read is equal to the one that was put in, and not the same."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def get(self, session_id: str) -> SessionRecord | None:
        row = self._rows.get(session_id)
        return None if row is None else _new(SessionRecord, row)

    def __getitem__(self, session_id: str) -> SessionRecord:
        return _new(SessionRecord, self._rows[session_id])

    def __setitem__(self, session_id: str, record: SessionRecord) -> None:
        self._rows[session_id] = record[:]  # a slice of a named tuple is a bare one

    def __delitem__(self, session_id: str) -> None:
        del self._rows[session_id]

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def keys(self) -> KeysView[str]:
        return self._rows.keys()

    def values(self) -> Iterator[SessionRecord]:
        return (_new(SessionRecord, row) for row in self._rows.values())

    def items(self) -> Iterator[tuple[str, SessionRecord]]:
        return ((session_id, _new(SessionRecord, row)) for session_id, row in self._rows.items())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sessions):
            return self._rows == other._rows
        return self._rows == other

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, rows: Iterable[Row]) -> None:
        """Put in many at once: bare tuples, whose first field is the id. The last of those with one id stays."""
        self._rows.update((row[0], row) for row in rows)

    def owned_by(self, owner: str) -> Iterator[str]:
        """Ids of those that a node owns by now, tombstones included; one by one, so that nobody waits for all."""
        return (row[ID] for row in self.rows() if row[OWNER] == owner)

    def in_state(self, state: int) -> list[SessionRecord]:
        """Those in one state, of which there are few: looks at all of them, as quickly as can be."""
        return [_new(SessionRecord, row) for row in self._rows.values() if row[STATE] == state]

    def rows(self) -> list[Row]:
        """All of them as of now, as they are kept: one quick copy, for whoever goes through them a part at a time."""
        return list(self._rows.values())


def as_record(row: Row) -> SessionRecord:
    """The record of a kept row."""
    return _new(SessionRecord, row)
