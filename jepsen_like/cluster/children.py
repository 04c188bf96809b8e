"""Child processes that end with this one: whatever kills the runner, the kernel kills them.

Knows how to enter a network namespace, how to signal, and how to wait. Leaves to others what the processes are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import jepsen_like

EXIT_WAIT_S = 10.0


def python_environment() -> dict[str, str]:
    """The environment in which a Python child finds this very package, and all that this process finds."""
    here = str(Path(jepsen_like.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *([inherited] if inherited else [])])}


def dies_with_parent() -> list[str]:
    """The prefix of a command that is killed when the thread that started it ends; empty where there is none."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]


def in_namespace(pid: int | None) -> list[str]:
    """The prefix of a command that runs in the network namespace of process `pid`; it replaces itself, so pids hold."""
    return [] if pid is None else ["nsenter", "--target", str(pid), "--net", "--"]


class Child:
    """One process, its log file and its state. Start it from the main thread only: that is whose end kills it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        namespace: int | None = None,
    ) -> None:
        full = [*in_namespace(namespace), *dies_with_parent(), *command]
        output = subprocess.DEVNULL if log is None else log.open("ab")
        try:
            self._process = subprocess.Popen(
                full,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if env is None else dict(env),
                start_new_session=True,  # a Ctrl-C at the runner ends the runner, which ends it
            )
        finally:
            if not isinstance(output, int):
                output.close()
        self.is_paused = False
        self.is_told_to_end = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        return self.status is None

    def signal(self, number: signal.Signals) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.is_paused = False

    def kill(self) -> None:
        """SIGKILL, and wait: it is gone on return, paused or not."""
        self.is_told_to_end = self.is_told_to_end or self.is_running
        self.signal(signal.SIGKILL)
        self._process.wait(EXIT_WAIT_S)

    def terminate(self) -> None:
        self.is_told_to_end = self.is_told_to_end or self.is_running
        self.signal(signal.SIGTERM)

    def wait(self, seconds: float = EXIT_WAIT_S) -> int | None:
        """The exit status within so many seconds, else None. Blocks."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def kill_all(children: Sequence[Child]) -> None:
    """All at once, then wait for all."""
    for child in children:
        child.signal(signal.SIGKILL)
    for child in children:
        child.kill()
