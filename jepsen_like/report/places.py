"""Where an error shows in the lanes: checkers speak in sentences, and name the events that these rest on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jepsen_like.history import Event

_RESTS_ON = re.compile(r"\bevents? (\d+)(?: to (\d+))?")
_WORD = re.compile(r"[^\s:,;()'\"]+")


class Place(NamedTuple):
    """A session's lane and a span of time, in nanoseconds."""

    key: str
    begin: int
    end: int


class Places:
    """Finds them in one history."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._by_index: dict[int, Event] = {}
        self._keys: set[str] = set()
        self._seen_at: dict[str, int] = {}  # what a simulation found while it ran: the sentence, and when
        for event in events:
            self._by_index[int(event["index"])] = event
            if event.get("key") is not None:
                self._keys.add(str(event["key"]))
            value = event.get("value")
            if event["f"] == "violation" and isinstance(value, Mapping):
                self._seen_at.setdefault(str(value.get("detail")), int(event["time"]))

    def find(self, error: str) -> Place | None:
        """From the events that an error names, those of one session; None when it names none of a session."""
        named = [int(number) for pair in _RESTS_ON.findall(error) for number in pair if number]
        events = [self._by_index[number] for number in named if number in self._by_index]
        events = [event for event in events if event.get("key") is not None]
        if not events:
            return self._of_violation(error)
        key = str(events[0]["key"])
        times = [int(event["time"]) for event in events if str(event["key"]) == key]
        return Place(key, min(times), max(times))

    def _of_violation(self, error: str) -> Place | None:
        """The moment at which it was seen, and the first session that the sentence names."""
        if error not in self._seen_at:
            return None
        key = next((word for word in _WORD.findall(error) if word in self._keys), None)
        return None if key is None else Place(key, self._seen_at[error], self._seen_at[error])


__all__ = ["Place", "Places"]
