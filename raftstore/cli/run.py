"""`raftstore run`: one node and its API as a process, until a signal or a failure ends it.

Composes what lies below: node, API server, signals, the service manager's notifications. Without an embedder nobody
resumes transferred sessions, so this process does, without a binding.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from pathlib import Path

import click

from raftstore.admin.server import REFUSED_MAX, AdminServer
from raftstore.cli.exits import ERROR, OK, Failure, outcomes_as_exits
from raftstore.cli.logs import FORMATS, LEVELS, configure_logging
from raftstore.cli.target import config_option
from raftstore.config import ClusterConfig
from raftstore.errors import RaftstoreError
from raftstore.node.collector import calm_collector
from raftstore.node.node import Node
from raftstore.node.runtime import new_event_loop
from raftstore.transport.tls import TlsFiles, server_context
from raftstore.types import Session

log = logging.getLogger(__name__)

READY_POLL_S = 0.05
SAME_SIGNAL_S = 1.0  # whoever signals a process group and the process means one stop
DESCRIPTORS_MAX = 65_536
RESUMES_MAX = 1_024  # resumes under way at once; the sweep takes up what is beyond, at freeze_by


@click.command()
@config_option
@click.option("--node", "-n", "node_id", required=True, metavar="ID", help="Which node of the file this is.")
@click.option("--insecure", is_flag=True, help="Peer links without TLS; loopback addresses only.")
@click.option("--drain", is_flag=True, help="When stopped, move all sessions away first.")
@click.option("--debug-faults", is_flag=True, help="Let the API cut links, for demonstrations. Never in service.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="How much to log.")
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="Lines or objects.")
def run(
    config_path: Path,
    node_id: str,
    insecure: bool,
    drain: bool,
    debug_faults: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Run one node in the foreground.

    SIGTERM and SIGINT stop it gracefully: it gives up its sessions, hands over leadership, closes. A second one stops
    it at once. Tells a service manager when it is ready (NOTIFY_SOCKET).

    \b
      raftstore run --config cluster.conf --node vpn-1
    """
    with outcomes_as_exits():
        config = ClusterConfig.load(config_path)
        config.node(node_id)
        configure_logging(node_id, log_level, log_format)
        work = serve(config, node_id, insecure=insecure, drain=drain, debug_faults=debug_faults)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            failure = runner.run(work)
        if failure is not None:
            raise Failure(f"{node_id}: {failure}", ERROR)
        raise click.exceptions.Exit(OK)


async def serve(
    config: ClusterConfig, node_id: str, *, insecure: bool = False, drain: bool = False, debug_faults: bool = False
) -> str | None:
    """Run until told to stop (None) or until the node fails for good (why). Errors of the start are raised."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    node = Node(config, node_id, insecure=insecure, own_thread=False)
    node.on_assigned(Resumer(node))
    calm_collector()
    await node.start(wait_ms=None)  # the API answers while the node still catches up, and says so
    try:
        async with _api(config, node_id, node, debug_faults):
            ready = asyncio.create_task(_tell_when_ready(node))
            failed = asyncio.create_task(node.wait_failed())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in (ready, stopped):
                task.cancel()
            why = failed.result() if failed.done() else None
            failed.cancel()
            _notify("STOPPING=1")
            await node.stop(drain=drain and why is None)
            return why
    finally:
        await node.stop()


def _api(config: ClusterConfig, node_id: str, node: Node, debug_faults: bool) -> AdminServer:
    me = config.node(node_id)
    tls = server_context(TlsFiles(config.ca_path, me.cert, me.key)) if me.api.kind == "tcp" else None
    descriptors = raise_descriptor_limit()  # a quarter of them stays for the log and the peers, whatever callers do
    return AdminServer(
        node,
        me.api,
        tls=tls,
        connections_max=min(config.limits.api_connections_max, descriptors // 4),
        refused_max=min(REFUSED_MAX, descriptors // 2),
        body_bytes_max=config.limits.api_body_bytes_max,
        debug_faults=debug_faults,
    )


def raise_descriptor_limit() -> int:
    """As many descriptors as this process may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > DESCRIPTORS_MAX:
        hard = DESCRIPTORS_MAX
    if soft == resource.RLIM_INFINITY or soft >= hard:
        return hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return hard


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    first_s = 0.0

    def on_signal(number: signal.Signals) -> None:
        nonlocal first_s
        if not stop.is_set():
            first_s = loop.time()
            log.info("%s: stopping", number.name)
            stop.set()
        elif loop.time() - first_s > SAME_SIGNAL_S:
            log.warning("%s again: stopping at once", number.name)
            os._exit(ERROR)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


async def _tell_when_ready(node: Node) -> None:
    while not all(ok for _, ok, _ in node.ready()):  # noqa: ASYNC110 - readiness is a sum of many states
        await asyncio.sleep(READY_POLL_S)
    log.info("%s is ready", node.node_id)
    _notify("READY=1")


def _notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address)
            notify.send(state.encode())
    except OSError as problem:
        log.warning("cannot notify the service manager: %s", problem)


class Resumer:
    """Resumes sessions that were transferred here, without a binding: their users reattach when they come."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, session: Session) -> None:
        if len(self._tasks) >= RESUMES_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._take_up(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_up(self, session: Session) -> None:
        try:
            await self._node.resume(session.session_id, expected_version=session.state_version)
        except RaftstoreError as outcome:
            log.info("%s was not resumed: %s", session.session_id, outcome)
