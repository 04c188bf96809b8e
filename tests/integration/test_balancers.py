"""The maps of `raftstore route` in the programs that they are for, configured as docs/routing.md shows."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from real_waiting import until

import raftstore
from raftstore.routing import Mapping, mint

DOCS = Path(__file__).parents[2] / "docs" / "routing.md"
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])  # not on everybody's path
STOP_S = 10.0
NODES = ("vpn-1", "vpn-2", "vpn-3")
RESTING = "vpn-2"  # has weight 0 where the test says so

# What surrounds the documented part: no daemon, no privileges, nothing written outside the test's directory.
NGINX = """\
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ }}
http {{
access_log off;
client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
{documented}
}}
"""
HAPROXY = """\
global
    maxconn 100
defaults
    timeout connect 5s
    timeout client 5s
    timeout server 5s
{documented}
"""
PROGRAMS = {
    "nginx": (NGINX, "listen 80;", "listen 127.0.0.1:{port};", ["-p", "{directory}", "-c", "{config}"]),
    "haproxy": (HAPROXY, "bind :80", "bind 127.0.0.1:{port}", ["-db", "-f", "{config}"]),
}


def documented(program: str) -> str:
    """The configuration that the page shows for the program."""
    (block,) = [part.split("```")[0] for part in DOCS.read_text().split(f"```{program}\n")[1:]]
    return block


def route_map(program: str, directory: Path, weights: dict[str, int]) -> Path:
    """The file that `raftstore route --map` makes of a configuration with these weights."""
    node = '[[node]]\nid = "{id}"\npeer = "127.0.0.1:{port}"\nweight = {weight}\n'
    nodes = [node.format(id=name, port=7400 + i, weight=weight) for i, (name, weight) in enumerate(weights.items())]
    (directory / "cluster.conf").write_text('cluster = "balanced"\n' + "".join(nodes))
    command = [
        sys.executable,
        "-m",
        "raftstore",
        "route",
        "--map",
        program,
        "--config",
        str(directory / "cluster.conf"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(raftstore.__file__).parents[1])}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    (directory / "raftstore.map").write_text(printed.stdout)
    return directory / "raftstore.map"


@asynccontextmanager
async def backend(name: str) -> AsyncIterator[int]:
    """A server behind the load balancer: it answers its own name and the path it was asked for. Gives its port."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{name} {request.path}")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(program: str, directory: Path, map_path: Path, ports: list[int]) -> tuple[list[str], int]:
    """The documented configuration with this test's addresses and files: the command for it, and its port."""
    around, listen, listen_here, arguments = PROGRAMS[program]
    port, config = free_port(), directory / f"{program}.conf"
    text = documented(program)
    here = {f"192.0.2.{i}:8080": f"127.0.0.1:{p}" for i, p in enumerate(ports, 1)}
    here |= {f"/etc/{program}/raftstore.map": str(map_path), listen: listen_here.format(port=port)}
    for shown, used in here.items():
        assert shown in text, shown
        text = text.replace(shown, used)
    config.write_text(around.format(directory=directory, documented=text))
    found = shutil.which(program, path=SBIN)
    assert found is not None
    return [found, *(argument.format(directory=directory, config=config) for argument in arguments)], port


class Balancer:
    """A running load balancer that is asked as its users ask it."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def answers(self) -> bool:
        try:
            await self.node_for(None)
        except aiohttp.ClientError:
            return False
        return True

    async def node_for(self, session_id: str | None) -> str:
        """Which node answers a request of that session; None: of a request without any."""
        headers = {} if session_id is None else {"X-Session": session_id}
        async with self._session.get(f"{self._url}/some/path", headers=headers) as response:
            assert response.status == 200, await response.text()
            name, path = (await response.text()).split()
            assert path == "/some/path"
            return name

    async def nodes_for(self, session_id: str | None) -> set[str]:
        """Which nodes answer when asked as often as there are nodes."""
        return {await self.node_for(session_id) for _ in NODES}


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Stop it, by force if it does not stop by itself."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def balancer(program: str, directory: Path, weights: dict[str, int]) -> AsyncIterator[Balancer]:
    """The program with the map of these weights, before one server per node; stopped at the end."""
    map_path = route_map(program, directory, weights)
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(backend(name)) for name in weights]
        command, port = write_config(program, directory, map_path, ports)
        log_path = directory / "log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            running = Balancer(await stack.enter_async_context(aiohttp.ClientSession()), port)

            async def answers() -> bool:
                assert process.returncode is None, log_path.read_text()
                return await running.answers()

            await until(f"{program} answers", answers, told=log_path.read_text)
            yield running
        finally:
            await stopped(process)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(shutil.which(name, path=SBIN) is None, reason=f"{name} is not here")
        )
        for name in PROGRAMS
    ],
)
@pytest.mark.parametrize("resting_weight", [1, 0], ids=["all take sessions", "one takes none"])
def test_a_load_balancer_sends_minted_sessions_to_their_node(program: str, resting_weight: int, tmp_path: Path) -> None:
    """What the map matches goes where the mapping says, always; what it does not match goes to every node in turn."""
    weights = dict.fromkeys(NODES, 1) | {RESTING: resting_weight}
    mapping = Mapping.of(1, weights)
    rng = random.Random(11)

    async def main() -> None:
        async with balancer(program, tmp_path, weights) as running:
            for node in NODES:
                for session_id in (mint(node, rng.randbytes) for _ in range(4)):
                    nodes = await running.nodes_for(session_id)
                    if weights[node]:
                        assert nodes == {node} == {mapping.owner(session_id)}
                    else:
                        assert nodes == set(NODES), "the map leaves it to the default"
            minted = mint("vpn-1", rng.randbytes)
            others = [
                None,
                "alice",
                minted[:-1],
                minted + "0",
                minted.upper(),
                f"x,{minted}",
                mint("vpn-9", rng.randbytes),
            ]
            for other in others:
                assert await running.nodes_for(other) == set(NODES), other

    asyncio.run(main())
