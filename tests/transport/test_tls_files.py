"""Certificates: made for one purpose each, and a file that cannot serve is named with the remedy."""

from __future__ import annotations

import logging
import os
import re
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key

from raftstore.errors import TransportError
from raftstore.transport.certs import Issued, create_ca, issue_client, issue_node
from raftstore.transport.tls import TlsContexts, TlsFiles, check_files, client_context, server_context
from tests.transport.support import CLUSTER, Pki


def problem(files: TlsFiles, node_id: str = "vpn-1", *, now: datetime | None = None) -> str:
    with pytest.raises(TransportError) as caught:
        check_files(files, CLUSTER, node_id, now=now)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    """A key is readable by its owner only, and an existing file is not replaced unless that is asked for."""
    issued = create_ca(CLUSTER)
    issued.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert stat.S_IMODE(os.stat(tmp_path / "ca.key").st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_ca(CLUSTER).write(tmp_path / "other.pem", tmp_path / "ca.key")
    assert not (tmp_path / "other.pem").exists()
    assert Issued.read(tmp_path / "ca.pem", tmp_path / "ca.key") == issued
    assert sorted(os.listdir(tmp_path)) == ["ca.key", "ca.pem"]


def test_a_node_certificate_names_one_node_for_two_years() -> None:
    """Purpose, lifetime and names of a node's certificate are what the links and the API rely on."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    ca = create_ca(CLUSTER, now=now)
    issued = issue_node(ca, CLUSTER, "vpn-1", ["vpn-1.example.net", "10.0.0.1", "::1"], now=now)
    cert = x509.load_pem_x509_certificate(issued.cert_pem)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"raftstore://{CLUSTER}/vpn-1"]
    assert names.get_values_for_type(x509.DNSName) == ["vpn-1.example.net"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert cert.not_valid_after_utc == now + timedelta(days=730)
    assert cert.not_valid_before_utc < now - timedelta(days=1)
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_ca_with_another_key_is_refused() -> None:
    """Nothing is issued from a pair that does not belong together."""
    mixed = Issued(create_ca(CLUSTER).cert_pem, create_ca(CLUSTER).key_pem)
    with pytest.raises(TransportError, match="does not belong"):
        issue_node(mixed, CLUSTER, "vpn-1")


def test_contexts_speak_tls_1_3_only_and_ask_for_a_certificate(pki: Pki) -> None:
    """Neither side has a weaker mode to fall back to."""
    for context in (server_context(pki.node("vpn-1")), client_context(pki.node("vpn-1"))):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert len(context.get_ca_certs()) == 1


def test_each_unusable_file_is_named_with_its_remedy(pki: Pki, tmp_path: Path) -> None:
    """Missing, foreign, mismatched, expired, early, wrongly named, locked: one line each says which file and what."""
    good = pki.node("vpn-1")
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    assert re.search(r"none\.pem: no such file .*init", problem(TlsFiles(tmp_path / "none.pem", good.cert, good.key)))
    assert "bad.pem: no certificate in PEM" in problem(TlsFiles(bad, good.cert, good.key))
    assert "bad.pem: no private key in PEM" in problem(TlsFiles(good.ca, good.cert, bad))
    assert "does not match" in problem(TlsFiles(good.ca, good.cert, pki.node("vpn-2").key))
    assert "vpn-2.pem: names raftstore://test/vpn-2, not raftstore://test/vpn-1" in problem(pki.node("vpn-2"))
    foreign = Pki(tmp_path / "foreign")
    assert "not signed by" in problem(TlsFiles(foreign.files("x").ca, good.cert, good.key))
    client = pki.put("operator", issue_client(pki.ca, CLUSTER, "operator"))
    assert "names raftstore-client://test/operator" in problem(client)
    assert re.search(r"vpn-1\.pem: expired on 20\d\d-", problem(good, now=datetime.now(UTC) + timedelta(days=800)))
    assert "set this machine's clock" in problem(good, now=datetime.now(UTC) - timedelta(days=9))
    key = load_key(Path(good.key).read_bytes(), None)
    bad.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert "without a passphrase" in problem(TlsFiles(good.ca, good.cert, bad))


def test_a_clock_set_back_by_a_day_accepts_a_certificate_made_today(pki: Pki) -> None:
    """A wall clock that jumps by a day takes no node out of its cluster."""
    check_files(pki.node("vpn-1"), CLUSTER, "vpn-1", now=datetime.now(UTC) - timedelta(days=1))


def test_a_certificate_near_its_end_is_said(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A month before a certificate expires the log asks for a new one, and it still works."""
    check_files(pki.node("vpn-1"), CLUSTER, "vpn-1", now=datetime.now(UTC) + timedelta(days=690))
    assert caplog.text == ""
    check_files(pki.node("vpn-1"), CLUSTER, "vpn-1", now=datetime.now(UTC) + timedelta(days=710))
    assert "vpn-1.pem: expires on" in caplog.text


def test_a_key_that_others_may_read_is_said(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A readable key works, and the log says that it should not be so."""
    files = pki.put("loose", issue_node(pki.ca, CLUSTER, "vpn-1"))
    os.chmod(files.key, 0o644)
    check_files(files, CLUSTER, "vpn-1")
    assert "chmod 600" in caplog.text


def test_changed_files_are_read_again_and_bad_ones_ignored(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A renewed pair is used from the next connection on; a broken one is reported once and the former one stays."""
    caplog.set_level(logging.INFO)
    files = pki.put("renewed", issue_node(pki.ca, CLUSTER, "vpn-1"))
    contexts = TlsContexts(files, CLUSTER, "vpn-1")
    first = contexts.server()
    assert contexts.server() is first
    Path(files.cert).write_text("half a certi")
    assert contexts.server() is first
    assert contexts.server() is first
    assert caplog.text.count("cannot be used, the former ones stay") == 1
    pki.put("renewed", issue_node(pki.ca, CLUSTER, "vpn-1"))
    assert contexts.server() is not first
    assert "is used from the next connection on" in caplog.text
