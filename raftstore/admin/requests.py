"""Reading request bodies within bounds of size and time."""

from __future__ import annotations

import asyncio

from aiohttp import web

BODY_TIMEOUT_S = 10.0  # a caller that sends its few kilobytes more slowly is not waited for


async def body_of(request: web.Request, bytes_max: int) -> bytes:
    """The whole body. 413 beyond `bytes_max`, unread where the caller announced its length; 408 when slow."""
    announced = request.content_length
    if announced is not None and announced > bytes_max:
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=announced)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                size += len(part)
                if size > bytes_max:
                    raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=size)
                parts.append(part)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return b"".join(parts)
