"""A small cluster of links on loopback with real certificates, for the tests of this room."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from raftstore.codec.frames import FrameDecoder, FrameType, encode_frame
from raftstore.ports import SystemClock
from raftstore.transport.certs import Issued, create_ca, issue_node
from raftstore.transport.counters import LinkEvent
from raftstore.transport.hello import Hello, LocalIdentity, encode_hello
from raftstore.transport.links import PeerLinks
from raftstore.transport.ports import Endpoint, LinkLimits
from raftstore.transport.tls import TlsFiles

CLUSTER = "test"
DIGEST = "ab" * 32
ANY_PORT = Endpoint("127.0.0.1", 0)
NOWHERE = Endpoint("127.0.0.1", 1)  # nobody listens there
QUICK = LinkLimits(
    ping_interval_ms=40,
    idle_timeout_ms=400,
    handshake_timeout_ms=2_000,
    backoff_min_ms=5,
    backoff_max_ms=40,
    relisten_ms=20,
)


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 8.0) -> None:
    """Wait for a condition; AssertionError when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what or condition}"
        await asyncio.sleep(0.002)


@dataclass
class Recorder:
    """A handler that remembers what it was told, in order."""

    events: list[tuple[str, str, object]] = field(default_factory=list)
    batches: int = 0
    on_each: Callable[[str, bytes], None] | None = None

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        self.events.append(("up", peer_id, hello))

    def on_disconnected(self, peer_id: str, reason: LinkEvent) -> None:
        self.events.append(("down", peer_id, reason))

    def on_message(self, peer_id: str, payload: bytes) -> None:
        self.events.append(("message", peer_id, payload))
        if self.on_each is not None:
            self.on_each(peer_id, payload)

    def on_batch_end(self) -> None:
        self.batches += 1

    def messages(self, peer_id: str) -> list[bytes]:
        return [what for kind, who, what in self.events if kind == "message" and who == peer_id]  # type: ignore[misc]

    def downs(self) -> list[object]:
        return [what for kind, _, what in self.events if kind == "down"]

    def ups(self) -> list[Hello]:
        return [what for kind, _, what in self.events if kind == "up"]  # type: ignore[misc]


class Pki:
    """A CA and its certificates in a directory."""

    def __init__(self, directory: Path, cluster: str = CLUSTER) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cluster = cluster
        self.ca = create_ca(cluster)
        self.ca.write(directory / "ca.pem", directory / "ca.key")

    def files(self, name: str) -> TlsFiles:
        return TlsFiles(self.directory / "ca.pem", self.directory / f"{name}.pem", self.directory / f"{name}.key")

    def put(self, name: str, issued: Issued) -> TlsFiles:
        files = self.files(name)
        issued.write(files.cert, files.key, overwrite=True)
        return files

    def node(self, node_id: str) -> TlsFiles:
        files = self.files(node_id)
        return files if Path(files.cert).exists() else self.put(node_id, issue_node(self.ca, self.cluster, node_id))


@dataclass
class Peer:
    links: PeerLinks
    handler: Recorder
    local: LocalIdentity

    @property
    def node_id(self) -> str:
        return self.local.node_id


def make(
    pki: Pki | None,
    node_id: str,
    members: Iterable[str],
    *,
    limits: LinkLimits = QUICK,
    files: TlsFiles | None = None,
    bind: Endpoint = ANY_PORT,
    **identity: object,
) -> Peer:
    """One node's links, not started; the others' addresses come with `introduce`."""
    local = LocalIdentity(CLUSTER, node_id, random.getrandbits(64), DIGEST)
    local = dataclasses.replace(local, **identity)  # type: ignore[arg-type]
    handler = Recorder()
    tls = None if pki is None else (files or pki.node(node_id))
    links = PeerLinks(
        local=local,
        peers=dict.fromkeys(members, NOWHERE),
        bind=bind,
        tls=tls,
        handler=handler,
        clock=SystemClock(),
        limits=limits,
        rng=random.Random(1),
    )
    return Peer(links, handler, local)


def introduce(*peers: Peer) -> None:
    """Tell each started node where the others are, as far as it knows them."""
    for one in peers:
        for other in peers:
            with contextlib.suppress(KeyError):
                one.links.set_peer_address(other.node_id, other.links.bound)


@contextlib.asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    """Start, introduce, and close all at the end."""
    try:
        for peer in peers:
            await peer.links.start()
        introduce(*peers)
        yield
    finally:
        for peer in peers:
            await peer.links.close()


async def linked(one: Peer, other: Peer) -> None:
    await until(lambda: other.node_id in one.links.connected(), f"{one.node_id} connected to {other.node_id}")
    await until(lambda: one.node_id in other.links.connected(), f"{other.node_id} connected to {one.node_id}")


class Stranger:
    """A client that speaks frames by hand, to be as rude as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder()
        self._frames: list[tuple[int, bytes]] = []

    @classmethod
    async def connect(cls, address: Endpoint, files: TlsFiles | None = None) -> Stranger:
        return cls(*await asyncio.open_connection(*address, ssl=context(files), server_hostname="" if files else None))

    async def frame(self, timeout_s: float = 5) -> tuple[int, bytes] | None:
        """The next frame, None at the end of the stream."""
        async with asyncio.timeout(timeout_s):
            while not self._frames:
                data = await self._read()
                if not data:
                    return None
                self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def ended(self, timeout_s: float = 5) -> None:
        """Wait until the other side closed."""
        async with asyncio.timeout(timeout_s):
            while await self._read():
                pass

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(65_536)
        except (OSError, ssl.SSLError):
            return b""

    def write(self, frame_type: FrameType, payload: bytes) -> None:
        self.writer.write(encode_frame(frame_type, payload))

    def hello(self, node_id: str, *, generation: int = 1, incarnation: int = 7, **fields: object) -> None:
        hello = Hello(CLUSTER, node_id, incarnation, DIGEST, False, generation)._replace(**fields)  # type: ignore[arg-type]
        self.write(FrameType.HELLO, encode_hello(hello))

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


def context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """What a client with these files, checking nothing, would use."""
    if files is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.load_cert_chain(files.cert, files.key)
    return made
