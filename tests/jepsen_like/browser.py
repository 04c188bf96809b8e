"""A real headless browser, spoken to over a pipe in its own protocol: just enough to look at a page and act on it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ANSWER_WAIT_S = 60.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --mute-audio"
    " --host-resolver-rules=MAP\t*\t~NOTFOUND,EXCLUDE\t127.0.0.1"
)


def path() -> str | None:
    """Where the browser of this machine is, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser with one page. `problems` gathers what the page complains of: errors, exceptions, failed loads."""

    def __init__(self, process: subprocess.Popen[bytes], out: int, back: int) -> None:
        self._process, self._out, self._back = process, out, back
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.problems: list[str] = []

    def start(self, width: int, height: int) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, is_dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go there and wait until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + ANSWER_WAIT_S
        while not self._loaded:
            self._take(deadline)

    def ask(self, expression: str) -> Any:
        """The value of an expression (a promise is waited for). AssertionError when it throws."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def frames(self) -> None:
        """Wait until what was changed is on the screen."""
        self.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def wheel(self, x: float, y: float, delta: float, modifiers: int = 0) -> None:
        """At once: the browser's own wheel events wait for frames of a screen."""
        told = json.dumps({"clientX": x, "clientY": y, "deltaY": delta, "ctrlKey": modifiers == 2, "bubbles": True})
        self.ask(
            f"document.elementFromPoint({x}, {y}).dispatchEvent("
            f"new WheelEvent('wheel', {{...{told}, cancelable: true}}))"
        )

    def key(self, key: str, modifiers: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers, **text)

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_WAIT_S
        while True:
            answer = self._take(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _take(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            more = os.read(self._back, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(params["entry"]))
        elif method == "Network.loadingFailed":
            self.problems.append(str(params))


@contextlib.contextmanager
def browser(width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """A new browser with an empty profile, gone with all that it made at the end."""
    program = path()
    assert program is not None
    profile = tempfile.mkdtemp(prefix="page-test-")
    read_end, out = os.pipe()
    back, write_end = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_end, write_end)]  # out of the way of 3 and 4

    def place() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [program, *FLAGS.replace("\t", "\0").split(" "), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [word.replace("\0", " ") for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4),
        preexec_fn=place,
        start_new_session=True,
    )
    for end in (*high, read_end, write_end):
        os.close(end)
    try:
        found = Browser(process, out, back)
        found.start(width, height)
        yield found
        with contextlib.suppress(AssertionError, OSError):
            found._session = None
            found.call("Browser.close")
    finally:
        _end(process)
        os.close(out)
        os.close(back)
        shutil.rmtree(profile, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all its children, which share its group, when it does not end by itself; they end with it when it does."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait(5)
