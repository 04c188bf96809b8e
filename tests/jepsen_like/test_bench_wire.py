"""The bare clients of the benchmark: frames, fields and replies, cut wherever a socket may cut them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jepsen_like.bench.peers.etcd import syncs_in
from jepsen_like.bench.targets import etcd_wire, grpc_wire, redis_wire
from jepsen_like.bench.targets.grpc_wire import frame


class Pipe(asyncio.WriteTransport):
    """Takes what a protocol writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._is_closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True


def on_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


async def turn() -> None:
    """Let what was put off to the next turn of the loop happen."""
    await asyncio.sleep(0)


def grpc() -> tuple[grpc_wire.Connection, Pipe]:
    connection, pipe = grpc_wire.Connection(), Pipe()
    connection.connection_made(pipe)
    return connection, pipe


def answer(stream: int, message: bytes) -> bytes:
    body = struct.pack(">BI", 0, len(message)) + message
    trailers = frame(grpc_wire.HEADERS, grpc_wire.END_STREAM | grpc_wire.END_HEADERS, stream)
    return frame(grpc_wire.HEADERS, grpc_wire.END_HEADERS, stream) + frame(0, 0, stream, body) + trailers


def test_answers_find_their_calls_in_any_order_and_in_any_pieces() -> None:
    """Two calls under way, the second answered first, one byte at a time."""

    async def work() -> None:
        connection, _ = grpc()
        calls = [connection.call(b"", b"a"), connection.call(b"", b"b")]
        for byte in answer(3, b"second") + answer(1, b"first"):
            connection.data_received(bytes([byte]))
        assert [await call for call in calls] == [b"first", b"second"]

    on_loop(work)


@pytest.mark.parametrize("told", [frame(1, 5, 1), frame(3, 0, 1, b"\0\0\0\1"), frame(0, 1, 1, b"\0\0\0\0\5abc")])
def test_an_answer_without_a_whole_message_is_a_failure(told: bytes) -> None:
    """Trailers alone, a reset, a message that is too short."""

    async def work() -> None:
        connection, _ = grpc()
        call = connection.call(b"", b"a")
        connection.data_received(told)
        with pytest.raises(grpc_wire.CallFailed):
            await call

    on_loop(work)


def test_settings_and_pings_are_acknowledged() -> None:
    """A server that hears nothing would close."""

    async def work() -> None:
        connection, pipe = grpc()
        connection.data_received(frame(grpc_wire.SETTINGS, 0, 0) + frame(grpc_wire.PING, 0, 0, b"12345678"))
        await turn()
        assert frame(grpc_wire.SETTINGS, grpc_wire.ACK, 0) in pipe.written
        assert frame(grpc_wire.PING, grpc_wire.ACK, 0, b"12345678") in pipe.written

    on_loop(work)


def test_bodies_wait_for_room_in_the_servers_window() -> None:
    """Never more than it said it takes; they go out when it says more."""

    async def work() -> None:
        connection, pipe = grpc()
        bodies = [bytes([65 + number]) * 16_000 for number in range(5)]
        for body in bodies:
            connection.call(b"", body)
        await turn()
        assert bodies[3] in pipe.written
        assert bodies[4] not in pipe.written
        connection.data_received(frame(grpc_wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", 65_535)))
        await turn()
        assert bodies[4] in pipe.written

    on_loop(work)


def test_a_lost_connection_fails_every_call() -> None:
    """Those under way, and those that come later."""

    async def work() -> None:
        connection, pipe = grpc()
        call = connection.call(b"", b"a")
        connection.connection_lost(None)
        pipe.close()
        for failed in (call, connection.call(b"", b"b")):
            with pytest.raises(grpc_wire.CallFailed):
                await failed

    on_loop(work)


def test_a_transaction_names_key_version_and_value_as_etcd_numbers_them() -> None:
    """Compare (equal, version) in field 1, put in field 2; a version of 0 is said too."""
    told = dict(etcd_wire.fields(etcd_wire.txn(b"key", 0, b"v" * 300)))
    assert dict(etcd_wire.fields(bytes(told[1]))) == {3: b"key", 4: 0}  # type: ignore[arg-type]
    put = dict(etcd_wire.fields(bytes(told[2])))[2]  # type: ignore[arg-type]
    assert dict(etcd_wire.fields(bytes(put))) == {1: b"key", 2: b"v" * 300}  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 40, (1 << 64) - 1])
def test_numbers_of_any_size_come_back(value: int) -> None:
    """Seven bits to a byte."""
    assert list(etcd_wire.fields(etcd_wire.number_field(15, value) + etcd_wire.bytes_field(16, b""))) == [
        (15, value),
        (16, b""),
    ]


def test_syncs_are_read_from_etcds_metrics() -> None:
    """Of the log and of the database; buckets and comments are not counts."""
    told = (
        "# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n"
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 900\n'
        "etcd_disk_wal_fsync_duration_seconds_count 1e+03\n"
        "etcd_disk_backend_commit_duration_seconds_count 7\n"
    )
    assert syncs_in(told) == 1_007


def redis() -> tuple[redis_wire.Connection, Pipe]:
    connection, pipe = redis_wire.Connection(), Pipe()
    connection.connection_made(pipe)
    return connection, pipe


def test_changes_of_one_turn_share_a_wait_and_none_is_answered_before_it() -> None:
    """A read in between is answered at once."""

    async def work() -> None:
        connection, pipe = redis()
        first, read, second = (connection.ask(b"x", guarded=guarded) for guarded in (True, False, True))
        await turn()
        assert pipe.written.count(b"WAIT") == 1
        for byte in b":1\r\n$3\r\nabc\r\n:0\r\n":
            connection.data_received(bytes([byte]))
        assert await read == b"abc"
        assert not first.done()
        assert not second.done()
        connection.data_received(b":2\r\n")
        assert (await first, await second) == (1, 0)

    on_loop(work)


def test_a_change_that_no_replica_has_is_a_failure() -> None:
    """It may be lost with the master."""

    async def work() -> None:
        connection, _ = redis()
        change = connection.ask(b"x", guarded=True)
        await turn()
        connection.data_received(b":1\r\n:0\r\n")
        with pytest.raises(redis_wire.RedisFailed, match="too few replicas"):
            await change

    on_loop(work)


@pytest.mark.parametrize(
    ("data", "reply"), [(b"+OK\r\n", b"OK"), (b":-7\r\n", -7), (b"$-1\r\n", None), (b"$4\r\na\r\nb\r\n", b"a\r\nb")]
)
def test_replies_of_every_simple_kind(data: bytes, reply: Any) -> None:
    """And nothing before all of it is there."""
    assert redis_wire.take_reply(data, 0) == (reply, len(data))
    assert all(redis_wire.take_reply(data[:cut], 0) is None for cut in range(len(data)))


def test_an_error_reply_fails_its_request() -> None:
    """With what the server said."""

    async def work() -> None:
        connection, _ = redis()
        asked = connection.ask(b"x")
        await turn()
        connection.data_received(b"-NOSCRIPT none\r\n")
        with pytest.raises(redis_wire.RedisFailed, match="NOSCRIPT"):
            await asked

    on_loop(work)
