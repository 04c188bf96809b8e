"""`jepsen_like serve`: the runs of a store in a browser, read-only."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import click
from aiohttp import web

from jepsen_like.report.server import application

CRASH = 255


@click.command("serve")
@click.option(
    "--store", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("store"), show_default=True
)
@click.option("--port", type=click.IntRange(0, 65_535), default=8090, show_default=True, help="0: any free one.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; anybody there can read the store."
)
def serve_command(store: Path, port: int, host: str) -> None:
    """List runs with their verdicts, newest first, and show their reports. Nothing can be changed through it."""
    try:
        asyncio.run(serve(store, host, port))
    except OSError as problem:
        click.echo(f"jepsen_like: cannot listen on {host} port {port}: {problem.strerror or problem}", err=True)
        sys.exit(CRASH)


async def serve(store: Path, host: str, port: int) -> None:
    """Until SIGINT or SIGTERM. OSError when that address cannot be had."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or no main thread: Ctrl-C
            loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(store), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        for address in runner.addresses:
            name = f"[{address[0]}]" if ":" in address[0] else address[0]
            click.echo(f"serving {store} at http://{name}:{address[1]}/ (Ctrl-C ends)")
        await stop.wait()
    finally:
        await runner.cleanup()


__all__ = ["serve", "serve_command"]
