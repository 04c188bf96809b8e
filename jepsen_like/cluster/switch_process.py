"""The packet switch as a process inside the switch's network namespace, and the line over which it takes orders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jepsen_like.cluster.children import Child, python_environment
from jepsen_like.cluster.namespaces import NetworkError, mac
from jepsen_like.cluster.proxy import Shape

START_WAIT_S = 10.0
ANSWER_WAIT_S = 5.0


class SwitchProcess:
    """`ports`: node to the device of its cable in the switch."""

    def __init__(self, ports: Mapping[str, str], namespace: int, directory: Path, seed: int) -> None:
        self._control = directory / "switch.sock"
        self._log = directory / "switch.log"
        stations = {node: mac(int(port[1:])) for node, port in ports.items()}
        given = {"ports": dict(ports), "stations": stations, "control": str(self._control), "seed": f"{seed}:switch"}
        command = [sys.executable, "-m", "jepsen_like.cluster.switch", json.dumps(given)]
        self._child = Child(command, log=self._log, env=python_environment(), namespace=namespace)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.counts: dict[str, int] = {}

    async def start(self) -> None:
        async with asyncio.timeout(START_WAIT_S):
            while self._writer is None:
                if not self._child.is_running:
                    raise NetworkError(f"the packet switch ended: {self._log.read_text(errors='replace')[-500:]}")
                with contextlib.suppress(OSError):
                    self._reader, self._writer = await asyncio.open_unix_connection(str(self._control))
                await asyncio.sleep(0.02)

    async def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        await self._order({"cuts": [list(pair) for pair in pairs]})

    async def shape(self, shape: Shape) -> None:
        await self._order({"shape": shape._asdict()})

    async def _order(self, order: dict[str, Any]) -> None:
        assert self._reader is not None and self._writer is not None
        self._writer.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(ANSWER_WAIT_S):
            line = await self._reader.readline()
        if not line:
            raise NetworkError("the packet switch is gone")
        self.counts = json.loads(line)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._child.kill()
