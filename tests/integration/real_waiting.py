"""Waiting for what real nodes become, and what becomes of ops: conditions with a limit, never a fixed pause.

Knows the client and its outcomes; leaves the processes to `real_cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.errors import OutcomeUnknown, RaftstoreError, Rejected, Unavailable
from raftstore.types import Binding, Reason, Session

WAIT_S = 30.0  # the machine may be busy; what takes longer has failed
POLL_S = 0.02
LOG_SHOWN_CHARS = 3_000


def binding(name: str = "t1") -> Binding:
    """Some transport."""
    return Binding(name, "udp", "198.51.100.7:51820")


async def until(
    what: str, check: Callable[[], Awaitable[Any]], *, told: Callable[[], str] = str, wait_s: float = WAIT_S
) -> Any:
    """The first true answer of `check`, asked again and again; those that are away or refuse are asked again."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        with contextlib.suppress(Unreachable, NoAnswer, Unavailable):
            found = await check()
            if found:
                return found
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"waited {wait_s:g} s in vain: {what}\n{told()[-LOG_SHOWN_CHARS:]}")


async def created(client: Client, session_id: str, **arguments: Any) -> Session:
    """A new session with a binding, created as soon as the node can."""
    session: Session = await until(
        f"{session_id} is created", lambda: client.create(session_id, binding=binding(), **arguments)
    )
    return session


async def failed_over(client: Client, session: Session, name: str = "t2") -> tuple[Session, int]:
    """Fail over as soon as the owner's lease has lapsed: the session, and how often it was refused before."""
    refusals = 0

    async def once() -> Session | None:
        nonlocal refusals
        try:
            return await client.failover(
                session.session_id, expected_version=session.state_version, binding=binding(name)
            )
        except Rejected as refusal:
            assert refusal.reason is Reason.OWNER_STILL_LIVE, refusal
            refusals += 1
            return None

    taken: Session = await until(f"failover of {session.session_id}", once)
    return taken, refusals


async def outcome_of(work: Awaitable[Session]) -> tuple[str, float]:
    """What became of an op, by name ("committed" or the reason), and after how many milliseconds."""
    begun = time.perf_counter()
    try:
        await work
        name = "committed"
    except (Rejected, Unavailable, OutcomeUnknown) as outcome:
        name = str(outcome.reason)
    except RaftstoreError as problem:
        name = type(problem).__name__
    return name, (time.perf_counter() - begun) * 1000
