"""A cluster of fake nodes behind real API servers in a thread of their own, and the command line to ask them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raftstore.admin.server import AdminServer
from raftstore.cli.main import main
from raftstore.config import ClusterConfig
from tests.admin.fake_node import FakeNode

WAIT_S = 10.0
CONFIG = "".join(
    [
        'cluster = "test"\n',
        *(f'[[node]]\nid = "vpn-{i}"\npeer = "127.0.0.1:{7400 + i}"\napi = "unix:{i}.sock"\n' for i in (1, 2, 3)),
    ]
)


class FakeCluster:
    """Three nodes, of which a test may start and stop any."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "cluster.conf"
        self.path.write_text(CONFIG)
        self.config = ClusterConfig.load(self.path)
        self.nodes = {name: FakeNode(name) for name in self.config.node_ids}
        self._servers: dict[str, AdminServer] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the nodes' loop."""

        async def work() -> Any:
            return function()

        return self.on_loop(work())

    def start(self, *names: str) -> None:
        for name in names or self.nodes:
            server = AdminServer(self.nodes[name], self.config.node(name).api)
            self.on_loop(server.start())
            self._servers[name] = server

    def stop(self, *names: str) -> None:
        for name in names or list(self._servers):
            self.on_loop(self._servers.pop(name).stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def run(self, *arguments: str) -> Result:
        """`raftstore ARGUMENTS` with this cluster's configuration."""
        return cli(*arguments, "--config", str(self.path))

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


def cli(*arguments: str) -> Result:
    """`raftstore ARGUMENTS`. A traceback is a failure of the test."""
    result = CliRunner().invoke(main, list(arguments), prog_name="raftstore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    """Three running nodes; vpn-1 leads."""
    fake = FakeCluster(tmp_path)
    fake.start()
    yield fake
    fake.close()
