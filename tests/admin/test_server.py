"""The API server at its edges: sockets, certificates, bounds on connections, browsers."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from raftstore.admin import refusal
from raftstore.admin.server import AdminServer
from raftstore.client import Client, NoAnswer, Unreachable
from raftstore.config import Address, ApiEndpoint
from raftstore.errors import TransportError
from raftstore.transport.certs import create_ca, issue_client, issue_node
from raftstore.transport.tls import TlsFiles, client_context, server_context
from tests.admin.fake_node import FakeNode
from tests.admin.serving import LOOPS, run_on, serving, until


@pytest.mark.parametrize("loop", LOOPS)
def test_only_its_user_can_open_the_socket(tmp_path: Path, loop: Any) -> None:
    """Mode 0600, in a directory that is made if it is not there; gone after the stop."""

    async def main() -> None:
        path = tmp_path / "run" / "deep" / "api.sock"
        async with AdminServer(FakeNode(), ApiEndpoint("unix", path, None)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert not path.exists()

    old = os.umask(0)
    try:
        run_on(loop, main())
    finally:
        os.umask(old)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_dead_socket_is_replaced_and_a_live_one_never(tmp_path: Path, loop: Any) -> None:
    """After kill -9 a node starts again; a second process of the same node is told that one runs."""

    async def main() -> None:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(tmp_path / "api.sock"))
        dead.close()
        async with serving(tmp_path) as served:
            with pytest.raises(TransportError, match="another process answers on it"):
                async with serving(tmp_path):
                    pass
            assert (await served.call("GET", "/v1/status"))[0] == 200

    run_on(loop, main())


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """A path that holds something else is refused in one line, and the thing is kept."""

    async def main() -> None:
        (tmp_path / "api.sock").write_text("precious")
        with pytest.raises(TransportError, match="a file that is no socket"):
            async with serving(tmp_path):
                pass
        assert (tmp_path / "api.sock").read_text() == "precious"

    asyncio.run(main())


def test_a_place_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """A directory that is a file, a port in use, a host that does not exist: one line with the endpoint."""
    (tmp_path / "file").write_text("")
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    endpoints = [
        (ApiEndpoint("unix", tmp_path / "file" / "api.sock", None), "Not a directory"),
        (ApiEndpoint("tcp-insecure", None, Address("127.0.0.1", port)), "in use"),
        (ApiEndpoint("tcp-insecure", None, Address("host.invalid", port)), "host.invalid"),
    ]

    async def main() -> None:
        for endpoint, problem in endpoints:
            with pytest.raises(TransportError, match=problem):
                await AdminServer(FakeNode(), endpoint).__aenter__()

    asyncio.run(main())
    taken.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_are_bounded(tmp_path: Path, loop: Any) -> None:
    """One connection too many gets an answer and is closed; a free place is used again."""

    async def main() -> None:
        async with serving(tmp_path, connections_max=2) as served:
            writers = []
            for _ in range(2):
                writers.append((await asyncio.open_unix_connection(str(served.path)))[1])
            await until(lambda: served.server.connections == 2)
            request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert b" 503 " in await served.raw(request)
            writers[0].close()
            await until(lambda: served.server.connections == 1)
            assert b" 200 " in await served.raw(request)
            writers[1].close()

    run_on(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_idle_connections_are_closed_and_busy_ones_are_not(tmp_path: Path, loop: Any) -> None:
    """Whoever connects and asks nothing, or sends half a head, does not hold a place for ever."""

    async def main() -> None:
        node = FakeNode()
        node.hold = asyncio.Event()
        async with serving(tmp_path, node) as served:
            reader, writer = await asyncio.open_unix_connection(str(served.path))
            writer.write(b"GET /v1/sta")
            call = asyncio.create_task(served.call("POST", "/v1/sessions/s/create", {}))
            await until(lambda: node.running == 1 and served.server.connections == 2)
            served.server.close_idle()
            served.server.close_idle()
            assert await reader.read() == b""
            node.hold.set()
            assert (await call)[0] == 200
            writer.close()

    run_on(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_flood_beyond_every_bound_leaves_a_working_server(tmp_path: Path, loop: Any) -> None:
    """Each caller is served, refused in words, or, beyond the bound on refusals, cut off; then all is as before."""

    async def main() -> None:
        async with serving(tmp_path, connections_max=10, refused_max=20) as served:
            callers = [await asyncio.open_unix_connection(str(served.path)) for _ in range(40)]
            await until(lambda: served.server.connections == 10)
            answers = [await ask(*caller) for caller in callers]
            assert sum(b" 200 " in answer for answer in answers) == 10
            assert sum(b'"OVERLOADED"' in answer for answer in answers) == 20
            assert answers.count(b"") == 10
            await until(lambda: served.server.connections == 0)
            assert await served.text("/livez") == (200, "ok\n")

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            writer.write(
                b"POST /v1/sessions/s/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
            )
            return (await reader.read()).replace(b" 409 ", b" 200 ")  # all create the same session
        except OSError:
            return b""  # cut off
        finally:
            writer.close()

    run_on(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refused_caller_who_says_nothing_is_not_waited_for(
    tmp_path: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal has its time, and the end of the server ends it too."""
    monkeypatch.setattr(refusal, "LINGER_S", 0.01)

    async def main() -> None:
        async with serving(tmp_path, connections_max=0) as served:
            reader, writer = await asyncio.open_unix_connection(str(served.path))
            assert await reader.read() == b""
            writer.close()
            monkeypatch.setattr(refusal, "LINGER_S", 600)
            reader, writer = await asyncio.open_unix_connection(str(served.path))
            await served.server.stop()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run_on(loop, main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_plain_tcp_answers_no_browser(headers: dict[str, str], status: int) -> None:
    """A web page on the operator's machine cannot steer a node: neither directly nor under a false name."""

    async def main() -> None:
        endpoint = ApiEndpoint("tcp-insecure", None, Address("127.0.0.1", 0))
        async with AdminServer(FakeNode(), endpoint) as server, aiohttp.ClientSession() as http:
            response = await http.get(f"http://{server.addresses[0]}/v1/status", headers=headers)
            assert response.status == status
            response.release()

    asyncio.run(main())


class Pki:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = create_ca("test")
        self.foreign = create_ca("test")
        for name, issued in (
            ("ca", self.ca),
            ("vpn-1", issue_node(self.ca, "test", "vpn-1", ["127.0.0.1"])),
            ("operator", issue_client(self.ca, "test", "operator")),
            ("stranger", issue_client(self.foreign, "test", "operator")),
            ("foreign", self.foreign),
        ):
            issued.write(directory / f"{name}.pem", directory / f"{name}.key")

    def files(self, name: str, ca: str = "ca") -> TlsFiles:
        at = self.directory
        return TlsFiles(at / f"{ca}.pem", at / f"{name}.pem", at / f"{name}.key")


@pytest.mark.parametrize("loop", LOOPS)
def test_tcp_is_for_certificates_of_the_cluster(tmp_path: Path, loop: Any) -> None:
    """An operator and a node may; no certificate, a foreign one, or plain text may not."""
    pki = Pki(tmp_path)

    async def refused(url: str, tls: ssl.SSLContext | None) -> None:
        async with Client(url, tls, timeout_s=5) as client:
            with pytest.raises((Unreachable, NoAnswer)):
                await client.status()

    async def main() -> None:
        endpoint = ApiEndpoint("tcp", None, Address("127.0.0.1", 0))
        async with AdminServer(FakeNode(), endpoint, tls=server_context(pki.files("vpn-1"))) as server:
            url = f"https://{server.addresses[0]}"
            for name in ("operator", "vpn-1"):
                async with Client(url, client_context(pki.files(name))) as client:
                    assert (await client.status())["node"] == "vpn-1"
            await refused(url, client_context(pki.files("stranger")))
            await refused(url, client_context(pki.files("operator", ca="foreign")))
            bare = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            await refused(url, bare)
            await refused(url.replace("https", "http"), None)

    run_on(loop, main())


def test_tcp_without_client_certificates_does_not_start(tmp_path: Path) -> None:
    """A forgotten context, or one that lets everybody in, is refused at once."""
    endpoint = ApiEndpoint("tcp", None, Address("127.0.0.1", 0))
    for tls in (None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
        with pytest.raises(TransportError, match="demands client certificates"):
            AdminServer(FakeNode(), endpoint, tls=tls)
