"""etcd with as little client as possible: its gRPC messages, of a few fields each, encoded by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from jepsen_like.bench.targets.base import Refused, state_of
from jepsen_like.bench.targets.grpc_wire import Connection, request_headers

# Numbers of fields in etcd's rpc.proto and kv.proto
COMPARE, SUCCESS = 1, 2  # TxnRequest
COMPARE_KEY, COMPARE_VERSION = 3, 4  # Compare; "equal" and "version" are the defaults of the two fields before
OP_PUT = 2  # RequestOp
KEY, VALUE = 1, 2  # PutRequest
RANGE_KEY, SERIALIZABLE = 1, 7  # RangeRequest
SUCCEEDED = 2  # TxnResponse
KVS, KV_VERSION = 2, 4  # RangeResponse, KeyValue
HEADER, MEMBER, LEADER = 1, 2, 4  # StatusResponse, ResponseHeader, StatusResponse


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message that has only varints and bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def txn(key: bytes, version: int, value: bytes) -> bytes:
    """Put if the key has that version. A version of 0, "no such key", must be said: a oneof has no default."""
    compare = bytes_field(COMPARE_KEY, key) + number_field(COMPARE_VERSION, version)
    put = bytes_field(OP_PUT, bytes_field(KEY, key) + bytes_field(VALUE, value))
    return bytes_field(COMPARE, compare) + bytes_field(SUCCESS, put)


class Wire:
    """One connection to one node."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._node, self._port = given["node"], given["port"]
        authority = f"127.0.0.1:{self._port}"
        self._txn = request_headers("/etcdserverpb.KV/Txn", authority)
        self._range = request_headers("/etcdserverpb.KV/Range", authority)
        self._status = request_headers("/etcdserverpb.Maintenance/Status", authority)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(Connection, "127.0.0.1", self._port)

    async def close(self) -> None:
        self._connection.close()

    async def create(self, session_id: str) -> int:
        return await self.change(session_id, 0)

    async def change(self, session_id: str, version: int) -> int:
        message = txn(session_id.encode(), version, state_of(version + 1))
        answer = await self._connection.call(self._txn, message)
        if dict(fields(answer)).get(SUCCEEDED) != 1:
            raise Refused(session_id)
        return version + 1

    async def read(self, session_id: str) -> int:
        return await self._get(bytes_field(RANGE_KEY, session_id.encode()))

    async def read_local(self, session_id: str) -> int:
        return await self._get(bytes_field(RANGE_KEY, session_id.encode()) + number_field(SERIALIZABLE, 1))

    async def _get(self, message: bytes) -> int:
        found = dict(fields(await self._connection.call(self._range, message))).get(KVS)
        version = dict(fields(found)).get(KV_VERSION, 0) if isinstance(found, bytes) else 0
        assert isinstance(version, int)
        return version

    async def leader(self) -> str | None:
        """This node's name if it leads: it knows the others by number only."""
        told = dict(fields(await self._connection.call(self._status, b"")))
        header = told.get(HEADER)
        member = dict(fields(header)).get(MEMBER) if isinstance(header, bytes) else None
        return str(self._node) if member is not None and member == told.get(LEADER) else None

    def counters(self) -> Mapping[str, int]:
        return {}


def target(given: Mapping[str, Any]) -> Wire:
    return Wire(given)
