"""What a caller gets who connects while every place is taken: the answer that it would understand, and the end.

The caller is heard out first, because an answer that is sent before the request is often lost with the connection: many
clients stop at the failed write. How long and how many are bounded; beyond that callers are cut off unheard.
"""

from __future__ import annotations

import asyncio
from typing import cast

LINGER_S = 3.0  # a caller may take so long to send its request and to read the refusal

_BODY = b'{"outcome":"unavailable","reason":"OVERLOADED"}\n'
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Refusal(asyncio.Protocol):
    """One refused connection. `refused` holds all that are open."""

    def __init__(self, refused: set[Refusal], *, refused_max: int) -> None:
        self._refused = refused
        self._refused_max = refused_max
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        if len(self._refused) >= self._refused_max:
            self._transport.abort()
            return
        self._refused.add(self)
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Any part of a request will do; what it asks does not matter."""
        if self._answered or self._transport is None:
            return
        self._answered = True
        self._transport.write(ANSWER)
        if self._transport.can_write_eof():
            self._transport.write_eof()  # the caller closes; closing here with unread bytes would take the answer back
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._refused.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
