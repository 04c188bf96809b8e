"""A child process that answers JSON lines: one request on its stdin, one answer on its stdout.

It is told nothing about what it runs. A child that has answered ends by itself when its stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raftstore.errors import RaftstoreError

ANSWER_TIMEOUT_S = 60.0
LINE_BYTES_MAX = 1 << 22
LOG_END_CHARACTERS = 1_500


class BenchFailed(RaftstoreError):  # noqa: N818 - says what happened
    """A process of the benchmark ended or did not answer."""


class Process:
    """`name` is how errors call it; `log` takes its stderr."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._env = env
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """None before the start."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_BYTES_MAX,
                env=self._env,
                start_new_session=True,  # a Ctrl-C at the parent ends the parent, which ends it
            )

    async def answer(self, within_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):  # wait_for would forget a cancellation that comes with the answer
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            end = self._log.read_text(errors="replace")[-LOG_END_CHARACTERS:]
            raise BenchFailed(f"{self.name} gave no answer:\n{end}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, do: str, *, within_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        return await self.answer(within_s)

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
