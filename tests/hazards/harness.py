"""One schedule, two libraries: the stock class and ours behind the same few verbs.

A schedule says who campaigns, what is delivered, lost, repeated or late, and when a process dies; it never looks
inside. What a driver adds is what an embedder would: it asks the leader, and tells its caller what came of it. The
state machine is a toy: `acquire(session, who)` succeeds for the first, `put(value)` leaves a mark in the history.
"""

from __future__ import annotations

from hazard_links import Told
from our_driver import Ours
from stock_driver import Stock, StockSessions, StockTransport, virtual_stock_time

__all__ = [
    "Driver",
    "Ours",
    "Stock",
    "StockSessions",
    "StockTransport",
    "Told",
    "two_owners",
    "virtual_stock_time",
]

Driver = Stock | Ours


def two_owners(one: Told, two: Told) -> bool:
    """Whether two clients were both told that the session is theirs."""
    return one.succeeded and two.succeeded
