"""Holes of connections and frames (H12, H26). More of ours: tests/transport and tests/codec."""

import asyncio
import errno
import pickle
import random
import socket
import struct
import zlib

import pytest
from pysyncobj import tcp_connection
from pysyncobj.node import TCPNode
from pysyncobj.poller import POLL_EVENT_TYPE
from pysyncobj.tcp_connection import TcpConnection
from pysyncobj.tcp_server import TcpServer
from pysyncobj.transport import TCPTransport

from raftstore.codec.frames import FrameDecoder, FrameFaultReason, FrameType, encode_frame
from raftstore.ports import SystemClock
from raftstore.raft.seams import RaftTiming
from raftstore.transport.hello import Hello, LocalIdentity, encode_hello
from raftstore.transport.links import PeerLinks
from raftstore.transport.ports import Endpoint, LinkLimits


class Poller:
    """Where stock connections subscribe; the test calls them back."""

    def __init__(self):
        self.callbacks = {}

    def subscribe(self, descriptor, callback, events):
        self.callbacks[descriptor] = callback

    def unsubscribe(self, descriptor):
        self.callbacks.pop(descriptor, None)

    def readable(self, descriptor):
        self.callbacks[descriptor](descriptor, POLL_EVENT_TYPE.READ)


@pytest.fixture
def stock_connection(monkeypatch):
    """A stock connection and the socket of whoever talks to it."""
    monkeypatch.setattr(tcp_connection, "monotonicTime", lambda: 0.0)
    poller, (ours, theirs) = Poller(), socket.socketpair()
    ours.setblocking(False)
    got = []
    connection = TcpConnection(poller, socket=ours, onMessageReceived=got.append)
    yield connection, theirs, lambda: poller.readable(ours.fileno()), got
    theirs.close()
    ours.close()


def test_h12_an_announced_length_reserves_nothing(stock_connection):
    """The stock connection keeps whatever comes after a length of two gigabytes; ours ends at the header."""
    connection, theirs, readable, _ = stock_connection
    theirs.sendall(struct.pack("i", 2**31 - 1))
    for _ in range(32):
        theirs.sendall(b"z" * 65536)
        readable()
    assert len(connection._TcpConnection__readBuffer) > 2_000_000

    decoder = FrameDecoder()
    assert decoder.feed(struct.pack(">IB", 2**31 - 1, FrameType.MESSAGE) + b"z" * 1000) == []
    assert decoder.fault.reason is FrameFaultReason.FRAME_TOO_BIG
    decoder.feed(b"z" * 100_000)
    assert decoder.kept_bytes < 10_000


def test_h12_nothing_is_decompressed(stock_connection):
    """A few kilobytes become tens of megabytes in the stock process; our frames are what they are."""
    _, theirs, readable, got = stock_connection
    bomb = zlib.compress(pickle.dumps(b"\0" * (20 << 20)), 9)
    theirs.sendall(struct.pack("i", len(bomb)) + bomb)
    readable()
    assert len(bomb) < 100_000
    assert len(got[0]) == 20 << 20

    decoder = FrameDecoder()
    assert decoder.feed(encode_frame(FrameType.MESSAGE, bomb)) == [(FrameType.MESSAGE, bomb)]


def test_h12_raft_messages_fit_the_frames():
    """What Raft may send in one message, overhead included, is below the bound of a frame."""
    timing, bound = RaftTiming(), LinkLimits().frame_bytes_max
    assert timing.append_bytes_max + timing.entry_bytes_max + 65536 < bound
    assert timing.snapshot_chunk_bytes + 65536 < bound


class OutOfDescriptors:
    """A listening socket whose next `accept` fails as it does when no descriptor is left."""

    def __init__(self, listening):
        self.listening, self.failed = listening, False

    def __getattr__(self, name):
        return getattr(self.listening, name)

    def accept(self):
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "too many open files")
        return self.listening.accept()


def test_h12_running_out_of_descriptors_closes_the_stock_port_for_ever():
    """One failed accept, and nobody can connect any more."""
    poller, made = Poller(), []
    server = TcpServer(poller, "127.0.0.1", 0, made.append)
    server.bind()
    listening = server._TcpServer__socket
    descriptor, address = listening.fileno(), listening.getsockname()
    server._TcpServer__socket = OutOfDescriptors(listening)
    with socket.create_connection(address):
        poller.readable(descriptor)
    assert poller.callbacks == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


MEMBERS = {"a": Endpoint("127.0.0.1", 1), "b": Endpoint("127.0.0.1", 0)}


class Heard:
    """A link handler that keeps what it is told."""

    def __init__(self):
        self.messages = []
        self.changed = asyncio.Event()

    def on_connected(self, peer_id, hello):
        self.changed.set()

    def on_disconnected(self, peer_id, reason):
        self.changed.set()

    def on_message(self, peer_id, payload):
        self.messages.append(payload)
        self.changed.set()

    def on_batch_end(self):
        """Nothing to flush."""

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def listening():
    """The links of `b`, without certificates, on loopback."""
    heard = Heard()
    links = PeerLinks(
        local=LocalIdentity("c", "b", 1, "ab" * 32),
        peers=MEMBERS,
        bind=MEMBERS["b"],
        tls=None,
        handler=heard,
        clock=SystemClock(),
        rng=random.Random(1),
    )
    await links.start()
    return links, heard


async def dial(links, generation):
    reader, writer = await asyncio.open_connection(*links.bound)
    hello = Hello("c", "a", 7, "ab" * 32, False, generation)
    writer.write(encode_frame(FrameType.HELLO, encode_hello(hello)))
    return reader, writer


def test_h12_our_port_survives_running_out_of_descriptors():
    """An accept that finds no descriptor costs that moment, not the port."""

    async def main():
        links, heard = await listening()
        listener = links._listener
        listener._acceptable(OutOfDescriptors(listener._socket))
        _, writer = await dial(links, 1)
        writer.write(encode_frame(FrameType.MESSAGE, b"here"))
        await heard.until(lambda: heard.messages == [b"here"])
        writer.close()
        await links.close()

    asyncio.run(main())


def test_h26_a_superseded_stock_connection_goes_on_speaking():
    """Two connections that claim one id are both believed, at once."""
    peer = TCPNode("127.0.0.1:9")
    heard = []
    links = TCPTransport.__new__(TCPTransport)
    links._syncObj = type("Plain", (), {"encryptor": None})()
    links._nodeAddrToNode = {peer.id: peer}
    links._unknownConnections, links._connections = set(), {}
    links._onUtilityMessageCallbacks = {}
    links._onNodeConnectedCallback = None
    links._onMessageReceivedCallback = lambda node, message: heard.append((node.id, message))

    class Connection:
        def setOnMessageReceivedCallback(self, callback):
            self.say = callback

    old, new = Connection(), Connection()
    for connection in (old, new):
        links._onIncomingMessageReceived(connection, peer.id)
    new.say("new")
    old.say("old")
    assert heard == [(peer.id, "new"), (peer.id, "old")]


def test_h26_one_connection_of_a_peer_speaks():
    """When a newer connection of a peer stands, the former is closed and not heard any more."""

    async def main():
        links, heard = await listening()
        old_reader, old = await dial(links, 1)
        old.write(encode_frame(FrameType.MESSAGE, b"old"))
        await heard.until(lambda: heard.messages == [b"old"])
        _, new = await dial(links, 2)
        new.write(encode_frame(FrameType.MESSAGE, b"new"))
        await heard.until(lambda: heard.messages == [b"old", b"new"])
        old.write(encode_frame(FrameType.MESSAGE, b"older"))
        try:
            while await asyncio.wait_for(old_reader.read(4096), 10):
                pass
        except ConnectionError:
            pass
        assert heard.messages == [b"old", b"new"]
        old.close()
        new.close()
        await links.close()

    asyncio.run(main())
