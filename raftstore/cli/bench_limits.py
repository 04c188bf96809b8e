"""What the disk and the loopback of this machine do: the floor under every latency of a cluster on it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import statistics
import threading
import time
from pathlib import Path

from raftstore.config import ClusterConfig
from raftstore.transport.tls import TlsFiles, client_context, server_context

SYNC_SAMPLES = 200
SYNC_BYTES = 4_096
ECHO_SAMPLES = 500
ECHO_BYTES = 100
ECHO_TIMEOUT_S = 10.0

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]  # who dials, who listens


def sync_ms(directory: Path, size_bytes: int = SYNC_BYTES, samples_wanted: int = SYNC_SAMPLES) -> float:
    """Median of one write of so many bytes with fdatasync in `directory`, over space that is allocated already."""
    path = directory / "sync-probe"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.pwrite(fd, bytes(size_bytes * samples_wanted), 0)
        os.fsync(fd)
        samples = []
        for i in range(samples_wanted):
            begun = time.perf_counter()
            os.pwrite(fd, bytes(size_bytes), i * size_bytes)
            os.fdatasync(fd)
            samples.append(time.perf_counter() - begun)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(samples) * 1000


def tls_contexts(config: ClusterConfig) -> Contexts:
    """As two nodes of that cluster use them."""
    one, other = (TlsFiles(config.ca_path, n.cert, n.key) for n in config.nodes[:2])
    return client_context(one), server_context(other)


def round_trip_ms(tls: Contexts | None) -> float:
    """Median round trip of a small message between two threads of this process, over TLS or plain TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = threading.Thread(target=_echo, args=(listener, tls), daemon=True)
        echo.start()
        with (
            socket.create_connection(listener.getsockname(), ECHO_TIMEOUT_S) as plain,
            plain if tls is None else tls[0].wrap_socket(plain) as sock,
        ):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            samples = []
            for _ in range(ECHO_SAMPLES):
                begun = time.perf_counter()
                sock.sendall(bytes(ECHO_BYTES))
                sock.recv(ECHO_BYTES)
                samples.append(time.perf_counter() - begun)
        echo.join()
    return statistics.median(samples) * 1000


def _echo(listener: socket.socket, tls: Contexts | None) -> None:
    plain, _ = listener.accept()
    with plain, plain if tls is None else tls[1].wrap_socket(plain, server_side=True) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := sock.recv(ECHO_BYTES):
                sock.sendall(data)
