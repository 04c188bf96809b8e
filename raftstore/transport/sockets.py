"""Sockets as the links use them, and what goes wrong with one, in words an operator can act on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

from raftstore.errors import TransportError
from raftstore.transport.counters import LinkEvent
from raftstore.transport.ports import Endpoint

ADDRESSES_MAX = 4  # of one host name, tried in the order of the resolver
LOOKUPS_MAX = 4  # names looked up at a time
LISTEN_BACKLOG = 128
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_KEEPALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))  # seconds, seconds, probes

SocketAddress = tuple[Any, ...]
Resolved = tuple[socket.AddressFamily, SocketAddress]

_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "address in use (by another raftstore? stop it, or change peer or bind)",
    errno.EADDRNOTAVAIL: "no such address on this machine (behind NAT, set bind to a local address)",
    errno.EACCES: "not permitted (choose a port above 1023)",
}


def prepare_socket(sock: socket.socket) -> None:
    """Small messages leave at once, and a peer that vanished is noticed even by an idle kernel."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # a socket that is closed already says so when it is used
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Resolver:
    """Looks host names up in threads of its own: a name server that hangs delays dials and nothing else."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._threads: ThreadPoolExecutor | None = None

    async def resolve(self, endpoint: Endpoint) -> list[Resolved]:
        """The endpoint's addresses, asked anew each time, at most ADDRESSES_MAX. OSError, TimeoutError among them."""
        if _is_numeric(endpoint.host):
            return _lookup(endpoint, socket.AI_NUMERICHOST)  # asks nobody
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="raftstore-resolve")
        async with asyncio.timeout(self._timeout_s):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, _lookup, endpoint, socket.AI_ADDRCONFIG)

    def close(self) -> None:
        """Forget lookups that have not begun; does not wait for one that has."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def _lookup(endpoint: Endpoint, flags: int) -> list[Resolved]:
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    resolved: list[Resolved] = [(family, tuple(address)) for family, _, _, _, address in found]
    if not resolved:
        raise OSError(f"{endpoint.host} has no address")
    return resolved[:ADDRESSES_MAX]


async def connect(resolved: Resolved, timeout_s: float) -> socket.socket:
    """A connected socket. OSError or TimeoutError; nothing is left open then."""
    family, address = resolved
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        prepare_socket(sock)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_socket(who: str, bind: Endpoint, resolved: Resolved) -> socket.socket:
    """A socket that listens. TransportError with the remedy; "::" takes IPv4 as well."""
    family, address = resolved
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as problem:
        raise listen_error(who, bind, problem) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
    except OSError as problem:
        sock.close()
        raise listen_error(who, bind, problem) from None
    return sock


def listen_error(who: str, bind: Endpoint, problem: OSError) -> TransportError:
    """One line: who cannot listen where, why, and what to do."""
    why = _LISTEN_REMEDIES.get(problem.errno or 0) or problem.strerror or str(problem)
    return TransportError(f"{who}: cannot listen on {bind}: {why}")


def hang_up(sock: socket.socket) -> None:
    """Make whoever uses the socket see its end; works in any state and on any loop."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def handshake_failure(problem: BaseException) -> LinkEvent:
    """What a failed TLS handshake was."""
    if isinstance(problem, TimeoutError | ConnectionAbortedError):  # the latter is asyncio's for its own timeout
        return LinkEvent.HANDSHAKE_TIMEOUT
    if isinstance(problem, ssl.SSLError) and not isinstance(problem, ssl.SSLEOFError):
        return LinkEvent.UNAUTHENTICATED_PEER
    return LinkEvent.HANDSHAKE_ABORTED


def in_words(problem: BaseException) -> str:
    """A failure in a few words that do not differ from one retry to the next."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {problem.verify_message}"
    if isinstance(problem, ssl.SSLError):
        return f"TLS failed: {problem.reason or problem}"
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    if isinstance(problem, OSError) and problem.errno and not isinstance(problem, socket.gaierror):
        return os.strerror(problem.errno)
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem) or type(problem).__name__


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
