"""Runs the link tests on asyncio's loop and on uvloop, and fails those that leave an unhandled error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.transport.support import Pki

Main = Callable[[], Awaitable[None]]

try:
    import uvloop

    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
except ImportError:
    LOOPS = {"asyncio": asyncio.new_event_loop}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs a test's coroutine function to its end on a loop of its own."""

    def run_main(main: Main) -> None:
        errors: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            await main()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(watched())
        assert not errors

    return run_main


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The CA of the tests' cluster; node certificates are made when first asked for."""
    return Pki(Path(tmp_path_factory.mktemp("pki")))
