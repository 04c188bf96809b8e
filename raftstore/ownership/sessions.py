"""The sessions of a machine: records by id, in the order of their creation, kept so that a million of them cost little.

Each is packed: a few bytes instead of a dozen objects. That is less than half the memory, and the garbage collector,
which would otherwise look at every record in each full pass, has nothing to look at. What changed last is put aside
and packed later: sessions that change often are neither packed and unpacked each time nor looked for all over a big
memory. While somebody reads a frozen state, what is packed waits beside the others, which stay as they are: so
freezing takes no copy of them. It waits packed, too: else the garbage collector would stop the node's loop for each
fifty thousand records that have changed meanwhile.

Knows nothing of what a session means. One thread changes them. Any other may read a frozen state, and call `get`:
wherever a record moves, its new place has it before the old one loses it, so nobody is shown an older one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, filterfalse, islice
from typing import Final, Literal

import msgpack

from raftstore.ownership.records import Row, SessionRecord

# False: it is gone, and what is older does not count any more.
Aside = dict[str, SessionRecord | Literal[False]]
Waiting = dict[str, bytes | Literal[False]]
Newer = dict[str, SessionRecord | bytes | Literal[False]]  # both in one

AT_HAND = 4_096  # of what was put aside stay there, once more have been
PACK_LEAST = 256  # beyond that: to find the oldest ones has its price
LET_IN_LEAST = 64  # of what waits, after an entry
LET_IN_PER_MOVED = 4  # and this many for each that was packed then: so what waits comes to an end

# A packed session is the array of all fields but the id: header, state (one byte), owner ...
_ARRAY_16: Final = b"\xdc\x00\x10"
_ARRAY_17: Final = b"\xdc\x00\x11"
_STATE_AT: Final = 3  # behind the header
_OWNER_AT: Final = 4

_new: Final = tuple.__new__  # a NamedTuple without the cost of its own constructor
# One packer for all threads: see `commands`.
_pack: Final[Callable[[object], bytes]] = msgpack.Packer(unicode_errors="surrogateescape").pack


def _record(session_id: str, packed: bytes) -> SessionRecord:
    fields = msgpack.unpackb(packed, use_list=False, unicode_errors="surrogateescape")
    return _new(SessionRecord, (session_id, *fields))


class Sessions:
    """Like a dict of SessionRecord. A record that is read is equal to the one that was put in."""

    __slots__ = ("_added", "_aside", "_packed", "_readers", "_waiting")

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self._waiting: Waiting = {}  # newer than those: changed and packed while a frozen state was being read
        self._aside: Aside = {}  # newer than both: what changed last
        self._added = 0  # sessions that are only in one of the newer two, less those that are gone but for being packed
        self._readers = 0  # of frozen states: what is packed must not change

    def get(self, session_id: str) -> SessionRecord | None:
        record = self._aside.get(session_id)
        if record is not None:
            return record or None
        body = self._body(session_id)
        return _record(session_id, body) if body else None

    def _body(self, session_id: str) -> bytes | Literal[False] | None:
        """What is packed of it: False when it is gone, None when there never was any."""
        if self._waiting:
            body = self._waiting.get(session_id)
            if body is not None:
                return body
        return self._packed.get(session_id)

    def __getitem__(self, session_id: str) -> SessionRecord:
        record = self.get(session_id)
        if record is None:
            raise KeyError(session_id)
        return record

    def __setitem__(self, session_id: str, record: SessionRecord) -> None:
        aside = self._aside
        if not aside.get(session_id) and (session_id in aside or not self._body(session_id)):
            self._added += 1
        aside[session_id] = record

    def __delitem__(self, session_id: str) -> None:
        if session_id not in self:
            raise KeyError(session_id)
        aside, packed = self._aside, self._packed
        if session_id in self._waiting or (self._readers and session_id in packed):
            aside[session_id] = False
            self._added -= 1
            return
        was_packed = packed.pop(session_id, None) is not None
        if aside.pop(session_id, None) is not None and not was_packed:
            self._added -= 1

    def __contains__(self, session_id: object) -> bool:
        record = self._aside.get(session_id)  # type: ignore[call-overload]  # whatever is no id is not in it
        return bool(self._body(session_id) if record is None else record)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._packed) + self._added

    def __iter__(self) -> Iterator[str]:
        return _ids(self._packed, self._newer())

    def _newer(self) -> Newer:
        """All that is newer than what is packed: a copy."""
        return {**self._waiting, **self._aside}

    def keys(self) -> tuple[str, ...]:
        """All ids as of now: quick even for many, in a bare tuple, which the garbage collector forgets."""
        newer, packed = self._newer(), self._packed
        gone = {session_id for session_id, found in newer.items() if not found}
        old = filterfalse(gone.__contains__, packed) if gone else packed
        return (*old, *(session_id for session_id, found in newer.items() if found and session_id not in packed))

    def values(self) -> Iterator[SessionRecord]:
        return _values(self._packed, self._newer())

    def items(self) -> Iterator[tuple[str, SessionRecord]]:
        return ((record.session_id, record) for record in self.values())

    def __eq__(self, other: object) -> bool:
        return dict(self) == (dict(other) if isinstance(other, Sessions) else other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    # -- many at once ----------------------------------------------------------------------------------------------

    def add(self, rows: Iterable[Row]) -> bool:
        """Put in many: bare tuples, whose first field is the id. False, and no more is put in, if one is there."""
        packed, pack = self._packed, _pack
        for row in rows:
            if row[0] in packed or row[0] in self._aside:
                return False
            packed[row[0]] = pack(row[1:])
        return True

    def in_state(self, state: int) -> list[SessionRecord]:
        """Those in one state, of which there are few: looks at all of them, as quickly as can be."""
        newer = self._newer()
        packed = [s for s, body in self._packed.items() if body[_STATE_AT] == state and s not in newer]
        candidates = (_opened(session_id, found) for session_id, found in newer.items() if found)
        return [*(self[s] for s in packed), *(record for record in candidates if record.state == state)]

    def may_be_owned_by(self, owner: str) -> Callable[[str], bool]:
        """A quick look at one session: False if that node does not own it."""
        mark = _pack(owner)

        def look(session_id: str) -> bool:
            body = self._packed.get(session_id)
            is_newer = session_id in self._aside or session_id in self._waiting
            return is_newer or (body is not None and body.startswith(mark, _OWNER_AT))

        return look

    def pack_some(self) -> None:
        """To be called after each entry: pack what was put aside first, and let in some of what waits packed.

        As much as entries change, and no more: a follower that catches up applies many of them in one step.
        """
        moved = self._pack_oldest()
        if self._waiting and not self._readers:
            self._let_in(LET_IN_LEAST + LET_IN_PER_MOVED * moved)

    def _pack_oldest(self) -> int:
        aside, waiting = self._aside, self._waiting
        excess = len(aside) - AT_HAND
        if excess < PACK_LEAST:
            return 0
        must_wait = bool(self._readers or waiting)  # behind an older one that waits
        for session_id in list(islice(aside, excess)):
            record = aside[session_id]
            body: bytes | Literal[False] = _pack(record[1:]) if record else False
            if must_wait:
                waiting[session_id] = body
            else:
                self._put(session_id, body)
            del aside[session_id]
        return excess

    def _let_in(self, count: int) -> None:
        """Nobody reads a frozen state any more."""
        waiting = self._waiting
        for session_id in list(islice(waiting, count)):
            self._put(session_id, waiting[session_id])
            del waiting[session_id]
        if not waiting:
            self._waiting = {}  # an emptied dict would keep its size

    def _put(self, session_id: str, body: bytes | Literal[False]) -> None:
        packed = self._packed
        before = len(packed)
        if body:
            packed[session_id] = body
        else:
            packed.pop(session_id, None)
        self._added -= len(packed) - before

    # -- frozen ------------------------------------------------------------------------------------------------------

    def freeze(self) -> FrozenSessions:
        """All as of now, for another thread to read. Changes cost memory until it is released."""
        self._readers += 1
        return FrozenSessions(self._packed, self._newer(), len(self), self._released)

    def _released(self) -> None:
        self._readers -= 1


class FrozenSessions:
    """The sessions as of one moment, in the order of their creation."""

    def __init__(self, packed: dict[str, bytes], newer: Newer, count: int, on_release: Callable[[], None]) -> None:
        self._packed = packed
        self._newer = newer
        self._count = count
        self._on_release: Callable[[], None] | None = on_release

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return _ids(self._packed, self._newer)

    def __getitem__(self, session_id: str) -> SessionRecord:
        return _opened(session_id, self._newer.get(session_id) or self._packed[session_id])

    def values(self) -> Iterator[SessionRecord]:
        return _values(self._packed, self._newer)

    def packed_rows(self) -> Iterator[bytes]:
        """Each as the msgpack array of all its fields, id included."""
        packed, newer = self._packed, self._newer
        for session_id, body in packed.items():
            found = newer.get(session_id)
            if found is not False:
                yield _row(session_id, found or body)
        for session_id, found in newer.items():
            if found and session_id not in packed:
                yield _row(session_id, found)

    def release(self) -> None:
        """It is not read any more. On the machine's thread; a second time does nothing."""
        if self._on_release is not None:
            on_release, self._on_release = self._on_release, None
            on_release()


def _ids(packed: dict[str, bytes], newer: Newer) -> Iterator[str]:
    old = (session_id for session_id in packed if newer.get(session_id) is not False)
    return chain(old, (session_id for session_id, found in newer.items() if found and session_id not in packed))


def _values(packed: dict[str, bytes], newer: Newer) -> Iterator[SessionRecord]:
    for session_id, body in packed.items():
        found = newer.get(session_id)
        if found is not False:
            yield _opened(session_id, found or body)
    for session_id, found in newer.items():
        if found and session_id not in packed:
            yield _opened(session_id, found)


def _opened(session_id: str, found: SessionRecord | bytes) -> SessionRecord:
    return _record(session_id, found) if isinstance(found, bytes) else found


def _row(session_id: str, found: SessionRecord | bytes) -> bytes:
    return _ARRAY_17 + _pack(session_id) + found[_STATE_AT:] if isinstance(found, bytes) else _pack(found)
