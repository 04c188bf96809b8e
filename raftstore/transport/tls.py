"""TLS 1.3 both ways under one private CA, and what a certificate proves: which node of which cluster.

Knows how to make contexts, to read the name out of a peer's certificate, and to say in one line what is wrong with a
file. No DNS name is checked: an address may change, a node id may not. Files are read again when they change, so a
renewed certificate serves the next connection without a restart. Making certificates is `transport.certs`' work.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from raftstore.errors import TransportError
from raftstore.transport.certs import node_uri

log = logging.getLogger("raftstore.transport")

RENEW_BEFORE = timedelta(days=30)  # from then on the log asks for a new certificate

_NODE_URI = re.compile(r"raftstore://([A-Za-z0-9._-]{1,64})/([a-z0-9-]{1,32})\Z")
_CLIENT_URI = re.compile(r"raftstore-client://([A-Za-z0-9._-]{1,64})/([A-Za-z0-9._@-]{1,128})\Z")


class PeerName(NamedTuple):
    """Whom a certificate names: a node id, or a client's name, within a cluster."""

    cluster: str
    name: str


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: the cluster's CA certificate, this node's certificate and its key."""

    ca: str | Path
    cert: str | Path
    key: str | Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that accepts TLS 1.3 with a certificate of our CA, and nothing else. TransportError names the file."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.num_tickets = 0  # no resumption: every connection shows its certificate
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The dialer's side of the same. Who answered is checked by `peer_node_id`, not by host name."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def peer_node_id(ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> PeerName | None:
    """The node that the peer's verified certificate names, None when it names none or more than one."""
    return _named(ssl_object, _NODE_URI)


def peer_client_name(ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> PeerName | None:
    """The API client that the peer's verified certificate names, None when it names none or more than one."""
    return _named(ssl_object, _CLIENT_URI)


class TlsContexts:
    """Both contexts of a node, rebuilt when a file changed since. Checks the files when made: TransportError."""

    def __init__(self, files: TlsFiles, cluster: str, node_id: str, *, now: datetime | None = None) -> None:
        self._files = files
        self._cluster, self._node_id = cluster, node_id
        self._seen = self._stamps()
        check_files(files, cluster, node_id, now=now)
        self._server, self._client = server_context(files), client_context(files)

    def server(self) -> ssl.SSLContext:
        """For the connection about to be accepted."""
        self._refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        """For the connection about to be dialed."""
        self._refresh()
        return self._client

    def _refresh(self) -> None:
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps  # what is wrong now is said once, and read again when it changes again
        try:
            check_files(self._files, self._cluster, self._node_id)
            self._server, self._client = server_context(self._files), client_context(self._files)
        except (TransportError, OSError) as problem:  # OSError: replaced while we looked
            log.error("changed certificate files cannot be used, the former ones stay: %s", problem)
        else:
            log.info("certificate files changed: %s is used from the next connection on", self._files.cert)

    def _stamps(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._files.ca, self._files.cert, self._files.key))


def check_files(files: TlsFiles, cluster: str, node_id: str, *, now: datetime | None = None) -> None:
    """TransportError, one line with file and remedy, unless the three files make `node_id` of `cluster`."""
    moment = datetime.now(UTC) if now is None else now
    ca, cert = _certificate(files.ca), _certificate(files.cert)
    _check_key(files, cert)
    try:
        cert.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise TransportError(f"{files.cert}: not signed by {files.ca} (issue it from the cluster's CA)") from None
    for path, one in ((files.ca, ca), (files.cert, cert)):
        if moment > one.not_valid_after_utc:
            raise TransportError(f"{path}: expired on {one.not_valid_after_utc:%Y-%m-%d} (issue a new one)")
        if moment < one.not_valid_before_utc:
            start = f"{one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise TransportError(f"{path}: not valid before {start} (set this machine's clock)")
        if one.not_valid_after_utc - moment < RENEW_BEFORE:
            log.warning("%s: expires on %s (issue a new one)", path, f"{one.not_valid_after_utc:%Y-%m-%d}")
    wanted = node_uri(cluster, node_id)
    if _uris(cert) != [wanted]:
        names = ", ".join(_uris(cert)) or "no node"
        raise TransportError(f"{files.cert}: names {names}, not {wanted} (use the certificate of {node_id})")


def _check_key(files: TlsFiles, cert: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(_read(files.key), password=None)
    except (ValueError, TypeError):
        raise TransportError(f"{files.key}: no private key in PEM without a passphrase") from None
    if key.public_key() != cert.public_key():
        raise TransportError(f"{files.key}: does not match {files.cert} (use the pair that was issued together)")
    if os.stat(files.key).st_mode & 0o077:
        log.warning("%s: others than its owner may read this private key (chmod 600)", files.key)


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the node id in the certificate is checked instead
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    for path in (files.ca, files.cert, files.key):
        _read(path)
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, OSError) as problem:
        raise TransportError(f"{files.ca}: no CA certificate in PEM ({problem})") from None
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as problem:
        raise TransportError(f"{files.cert}: cannot be used with {files.key} ({problem})") from None
    return context


def _no_passphrase() -> str:
    """Asked only for an encrypted key: answer nothing, instead of waiting at a terminal."""
    return ""


def _certificate(path: str | Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise TransportError(f"{path}: no certificate in PEM") from None


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise TransportError(f"{path}: no such file (raftstore init makes certificates)") from None
    except OSError as problem:
        raise TransportError(f"{path}: cannot read: {problem.strerror}") from None


def _stamp(path: str | Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _uris(cert: x509.Certificate) -> list[str]:
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _named(ssl_object: ssl.SSLObject | ssl.SSLSocket | None, pattern: re.Pattern[str]) -> PeerName | None:
    certificate = None if ssl_object is None else ssl_object.getpeercert()
    if not certificate:
        return None
    names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    uris = [value for kind, value in names if kind == "URI"]
    match = pattern.match(uris[0]) if len(uris) == 1 else None
    return None if match is None else PeerName(match[1], match[2])
