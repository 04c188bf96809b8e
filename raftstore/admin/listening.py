"""Where the API listens: a Unix socket of mode 0600, or TCP. Every failure is a TransportError in words."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from raftstore.errors import TransportError

BACKLOG = 4_096  # connections that wait to be accepted; the kernel may allow fewer
ANSWER_TIMEOUT_S = 1.0  # how long another process may take to show that it holds the socket


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at `path` that only this user can open. Replaces a dead one, never one that answers."""
    _make_way(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        server.bind(str(path))
        path.chmod(0o600)  # before listen: nobody can have connected
        server.listen(BACKLOG)
        server.setblocking(False)
    except OSError as error:
        server.close()
        raise TransportError(f"API socket {path}: {error.strerror} (check the directory and its owner)") from None
    return server


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`."""
    servers: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            server = socket.socket(family, kind, proto)
            servers.append(server)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind(address)
            server.listen(BACKLOG)
            server.setblocking(False)
    except OSError as error:
        for server in servers:
            server.close()
        hint = "by another node?" if error.errno == errno.EADDRINUSE else "check api in cluster.conf"
        raise TransportError(f"API address {host}:{port}: {error.strerror} ({hint})") from None
    return servers


def remove_unix(path: Path, inode: int) -> None:
    """Remove our own socket; not the one of a process that took the place since."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return


def _make_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise TransportError(f"API socket {path}: {error.strerror} (check the directory)") from None
    if not stat.S_ISSOCK(mode):
        raise TransportError(f"API socket {path}: there is a file that is no socket (move it away, or change api)")
    if _answers(path):
        raise TransportError(f"API socket {path}: another process answers on it (is this node already running?)")
    os.unlink(path)


def _answers(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(ANSWER_TIMEOUT_S)
    try:
        probe.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True  # busy, or not ours to open: somebody holds it
    finally:
        probe.close()
    return True
