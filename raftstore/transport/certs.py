"""The cluster's private CA and the certificates it issues: EC P-256, PEM, keys readable by their owner only.

For `raftstore init`, renewal and tests. A certificate names what it is for in one URI: a node as
`raftstore://CLUSTER/NODE`, an API client as `raftstore-client://CLUSTER/NAME`; the common name is for people. A
client's certificate can never open a peer link. Knows how to make and write certificates; who must show which is
`transport.tls`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raftstore.errors import TransportError

CA_LIFE = timedelta(days=3_650)
LEAF_LIFE = timedelta(days=730)
BACKDATE = timedelta(days=2)  # a node whose wall clock is set back by a day must still accept a new certificate
_COMMON_NAME_MAX = 64  # of X.520; longer names live in the URI only


def node_uri(cluster: str, node_id: str) -> str:
    """The URI that a node's certificate carries."""
    return f"raftstore://{cluster}/{node_id}"


def client_uri(cluster: str, name: str) -> str:
    """The URI that an API client's certificate carries."""
    return f"raftstore-client://{cluster}/{name}"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM."""

    cert_pem: bytes
    key_pem: bytes

    def write(self, cert_path: str | Path, key_path: str | Path, *, overwrite: bool = False) -> None:
        """Write both files, the key with mode 0600. FileExistsError unless `overwrite`, before anything is written.

        Each file is replaced whole. A node that reads between the two sees a key that does not match, says so, and
        reads again at its next connection.
        """
        if not overwrite:
            for path in (cert_path, key_path):
                if os.path.lexists(path):
                    raise FileExistsError(f"{path} exists")
        _write(Path(key_path), self.key_pem, 0o600)
        _write(Path(cert_path), self.cert_pem, 0o644)

    @classmethod
    def read(cls, cert_path: str | Path, key_path: str | Path) -> Issued:
        """Read a pair, usually the CA's, to issue from. TransportError in one line that names the file."""
        pems = []
        for path in (cert_path, key_path):
            try:
                pems.append(Path(path).read_bytes())
            except OSError as problem:
                raise TransportError(f"{path}: cannot read: {problem.strerror}") from None
        return cls(pems[0], pems[1])


def create_ca(cluster: str, *, now: datetime | None = None, life: timedelta = CA_LIFE) -> Issued:
    """A new CA for one cluster: it can sign leaves only. `now` is wall time, UTC."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{cluster} raftstore CA")
    builder = _builder(name, name, key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _issued(builder.sign(key, hashes.SHA256()), key)


def issue_node(
    ca: Issued,
    cluster: str,
    node_id: str,
    hosts: Iterable[str] = (),
    *,
    now: datetime | None = None,
    life: timedelta = LEAF_LIFE,
) -> Issued:
    """A node's certificate, good as server and as client. `hosts`: its names and addresses, for clients of its API."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node_uri(cluster, node_id))]
    names += [_host_name(host) for host in hosts]
    usage = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _leaf(ca, node_id, names, usage, now, life)


def issue_client(
    ca: Issued, cluster: str, name: str, *, now: datetime | None = None, life: timedelta = LEAF_LIFE
) -> Issued:
    """A certificate for an operator or program that uses a node's HTTP API over TCP; no peer link accepts it."""
    uri = x509.UniformResourceIdentifier(client_uri(cluster, name))
    return _leaf(ca, name, [uri], (ExtendedKeyUsageOID.CLIENT_AUTH,), now, life)


def _leaf(
    ca: Issued,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: Iterable[x509.ObjectIdentifier],
    now: datetime | None,
    life: timedelta,
) -> Issued:
    ca_cert, ca_key = _load_ca(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(common_name), ca_cert.subject, key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(list(usage)), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    return _issued(builder.sign(ca_key, hashes.SHA256()), key)


def _load_ca(ca: Issued) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        cert = x509.load_pem_x509_certificate(ca.cert_pem)
        key = serialization.load_pem_private_key(ca.key_pem, password=None)
    except (ValueError, TypeError) as problem:
        raise TransportError(f"the CA's certificate or key is not readable PEM: {problem}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
        raise TransportError("the CA's key does not belong to its certificate (use the pair that was made together)")
    return cert, key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime | None,
    life: timedelta,
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) if now is None else now
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_COMMON_NAME_MAX])])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _issued(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(cert.public_bytes(serialization.Encoding.PEM), key_pem)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace the file whole: nobody ever reads half a certificate, and a key is never readable by others."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
