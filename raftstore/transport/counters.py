"""What happened on the links, counted by name, and said in the log once per change instead of once per retry."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from enum import StrEnum

from raftstore.transport.hello import RefusalReason

log = logging.getLogger("raftstore.transport")

NOTICES_MAX = 256  # remembered subjects; the one not spoken of for longest is forgotten and would be said anew


class LinkEvent(StrEnum):
    """Why a connection ended or was not taken. Stable: metrics and logs show it."""

    # security
    UNAUTHENTICATED_PEER = "UNAUTHENTICATED_PEER"  # no TLS 1.3, no certificate of ours, or another node's
    HELLO_REFUSED = "HELLO_REFUSED"  # by us; counted by reason too
    REFUSED_BY_PEER = "REFUSED_BY_PEER"
    HANDSHAKE_TIMEOUT = "HANDSHAKE_TIMEOUT"
    HANDSHAKE_ABORTED = "HANDSHAKE_ABORTED"  # the other side left before it said who it is
    ACCEPT_LIMIT = "ACCEPT_LIMIT"  # too many unauthenticated connections: one was closed
    # protocol
    FRAME_TOO_BIG = "FRAME_TOO_BIG"
    BAD_FRAME = "BAD_FRAME"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"  # said by the user of the links
    # life of a link
    CONNECTED = "CONNECTED"
    SUPERSEDED = "SUPERSEDED"  # a newer connection of the same peer took over
    SLOW_PEER = "SLOW_PEER"  # its send queue was full
    IDLE_PEER = "IDLE_PEER"  # nothing heard of it
    PEER_CLOSED = "PEER_CLOSED"
    CLOSED_HERE = "CLOSED_HERE"  # this node stops
    ISOLATED = "ISOLATED"  # cut on purpose
    UNSENDABLE = "UNSENDABLE"  # a message over frame_bytes_max was not sent
    DIAL_FAILED = "DIAL_FAILED"
    # listening
    FD_EXHAUSTED = "FD_EXHAUSTED"
    LISTEN_LOST = "LISTEN_LOST"


class LinkCounters:
    """Totals since start, one per event and one per reason of refusal. Bounded: both are closed sets."""

    def __init__(self) -> None:
        self._events: Counter[LinkEvent] = Counter()
        self._refused: Counter[RefusalReason] = Counter()

    def __getitem__(self, event: LinkEvent) -> int:
        return self._events[event]

    def refused(self, reason: RefusalReason) -> int:
        """Hellos refused by this node for that reason."""
        return self._refused[reason]

    def add(self, event: LinkEvent) -> None:
        self._events[event] += 1

    def add_refused(self, reason: RefusalReason) -> None:
        self._events[LinkEvent.HELLO_REFUSED] += 1
        self._refused[reason] += 1

    def as_dict(self) -> dict[str, int]:
        """Every event by name, and `HELLO_REFUSED.REASON` for each reason that occurred."""
        totals = {str(event): self._events[event] for event in LinkEvent}
        totals |= {f"HELLO_REFUSED.{reason}": count for reason, count in sorted(self._refused.items())}
        return totals


class Notices:
    """Log lines by subject: said when the text differs from the last one on that subject."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, str] = OrderedDict()

    def say(self, subject: str, text: str, *, level: int = logging.WARNING) -> None:
        if self._last.get(subject) != text:
            log.log(level, "%s: %s", subject, text)
        self._last[subject] = text
        self._last.move_to_end(subject)
        if len(self._last) > NOTICES_MAX:
            self._last.popitem(last=False)

    def clear(self, subject: str) -> None:
        """The trouble is over: the same text would be news again."""
        self._last.pop(subject, None)
