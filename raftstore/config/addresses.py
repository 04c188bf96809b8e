"""Addresses as people write them: "host:port", "[IPv6]:port", and where a node's API listens.

Knows the forms and their bounds; resolves no names and opens no sockets. Every problem is a ValueError in words.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

UNIX_PATH_BYTES_MAX = 100  # the kernel takes 107; some systems 103

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})\Z")


class Address(NamedTuple):
    """A host (name, IPv4, or IPv6 without brackets) and a port 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "host:port" or "[v6]:port". ValueError with the problem in words."""
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError("not host:port")
        if host.startswith("[") and host.endswith("]"):
            host = _ipv6(host[1:-1])
        elif ":" in host:
            raise ValueError("an IPv6 address goes in brackets: [::1]:7400")
        elif not _HOST_NAME.match(host):
            raise ValueError(f"bad host name {host!r}")
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65_535):
            raise ValueError(f"bad port {port!r}, must be 1 to 65535")
        return cls(host.lower(), int(port))

    def is_loopback(self) -> bool:
        """True for 127.0.0.0/8, ::1 and the name localhost: nothing that leaves the machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def _ipv6(host: str) -> str:
    address = ip_address(host)  # ValueError says what is wrong
    if address.version != 6:
        raise ValueError("brackets are for IPv6 addresses only")
    return str(address)


class ApiEndpoint(NamedTuple):
    """Where a node's HTTP API listens. `kind` is "unix", "tcp" (mutual TLS) or "tcp-insecure" (loopback only)."""

    kind: str
    path: Path | None
    address: Address | None

    def __str__(self) -> str:
        return f"{self.kind}:{self.path if self.path is not None else self.address}"

    @classmethod
    def parse(cls, text: str, base_dir: Path) -> ApiEndpoint:
        """Read "unix:PATH", "tcp:host:port" or "tcp-insecure:127.0.0.1:port". ValueError with the problem."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest and rest.isprintable():
            path = (base_dir / rest).absolute()
            if len(bytes(path)) > UNIX_PATH_BYTES_MAX:
                raise ValueError(f"socket path {path} is longer than {UNIX_PATH_BYTES_MAX} bytes")
            return cls(kind, path, None)
        if kind not in ("tcp", "tcp-insecure"):
            raise ValueError('must be "unix:PATH", "tcp:host:port" or "tcp-insecure:127.0.0.1:port"')
        address = Address.parse(rest)
        if kind == "tcp-insecure" and not address.is_loopback():
            raise ValueError(f"plain TCP is for loopback only, {address.host} is not (use tcp:, with mutual TLS)")
        return cls(kind, None, address)
