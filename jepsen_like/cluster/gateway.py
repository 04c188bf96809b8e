"""A gateway in miniature: a raftstore node with its API, and a data path on UDP that serves only what it owns.

A packet holds a session id and a number. It is answered with the number, the node and the session's epoch if and only
if the node owns the session at that moment: the epoch is the fencing token that a resource would check.
Run as `python -m jepsen_like.cluster.gateway CONFIG NODE HOST PORT` until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, cast

from raftstore.admin.server import AdminServer
from raftstore.cli.logs import configure_logging
from raftstore.cli.run import Resumer
from raftstore.config import ClusterConfig
from raftstore.node.node import Node
from raftstore.node.runtime import new_event_loop

PACKET_BYTES_MAX = 256


class DataPath(asyncio.DatagramProtocol):
    """Answers "NUMBER SESSION" with "NUMBER NODE EPOCH SESSION" while the node owns the session, else not at all."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        number, _, session_id = data[:PACKET_BYTES_MAX].decode("ascii", "replace").partition(" ")
        epoch = self._node.owned_epoch(session_id)
        if epoch is not None and self._transport is not None:
            self._transport.sendto(f"{number} {self._node.node_id} {epoch} {session_id}".encode(), address)


async def serve(config: ClusterConfig, node_id: str, host: str, port: int) -> int:
    """Until SIGTERM (0) or until the node fails for good (1)."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(config, node_id, own_thread=False)
    node.on_assigned(Resumer(node))
    await node.start(wait_ms=None)
    try:
        path, _ = await loop.create_datagram_endpoint(lambda: DataPath(node), local_addr=(host, port))
        async with AdminServer(node, config.node(node_id).api):
            failed = asyncio.create_task(node.wait_failed())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            has_failed = failed.done()
            failed.cancel()
        path.close()
        return 1 if has_failed else 0
    finally:
        await node.stop()


def main() -> None:
    config_path, node_id, host, port = sys.argv[1:5]
    config = ClusterConfig.load(config_path)
    configure_logging(node_id, "info", "text")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        sys.exit(runner.run(serve(config, node_id, host, int(port))))


if __name__ == "__main__":
    main()
