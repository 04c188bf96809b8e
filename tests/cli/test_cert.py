"""`raftstore cert`: certificates after the first ones, from the CA that `init` made."""

import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raftstore.cli.main import main
from raftstore.config import ClusterConfig
from raftstore.transport.tls import TlsFiles, check_files, client_context


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """The cluster.conf of a new cluster."""
    assert cli("init", str(tmp_path)).exit_code == 0
    return tmp_path / "cluster.conf"


def test_a_renewed_certificate_fits_its_node(cluster: Path) -> None:
    """New files, for the same node of the same cluster, under the same CA."""
    config = ClusterConfig.load(cluster)
    node = config.node("vpn-2")
    before = node.cert.read_bytes(), node.key.read_bytes()
    result = cli("cert", "renew", "-c", str(cluster), "vpn-2")
    assert result.exit_code == 0, result.output
    assert "vpn-2.pem" in result.stdout
    assert (node.cert.read_bytes() == before[0], node.key.read_bytes() == before[1]) == (False, False)
    check_files(TlsFiles(config.ca_path, node.cert, node.key), config.cluster, "vpn-2")


def test_a_client_certificate_is_usable_and_overwrites_nothing(cluster: Path, tmp_path: Path) -> None:
    """The pair loads as a TLS client's; a second one of that name is refused."""
    where = tmp_path / "people"
    assert cli("cert", "client", "-c", str(cluster), "alice", str(where)).exit_code == 0
    files = TlsFiles(tmp_path / "ca.pem", where / "alice.pem", where / "alice.key")
    assert isinstance(client_context(files), ssl.SSLContext)
    again = cli("cert", "client", "-c", str(cluster), "alice", str(where))
    assert again.exit_code == 1
    assert "alice.pem exists (choose another name" in again.stderr


def test_what_cannot_be_issued_is_said_in_one_line(cluster: Path, tmp_path: Path) -> None:
    """An unknown node, or a CA key that is not here."""
    unknown = cli("cert", "renew", "-c", str(cluster), "vpn-9")
    assert (unknown.exit_code, "no node 'vpn-9'" in unknown.stderr) == (2, True)
    (tmp_path / "ca.key").unlink()
    missing = cli("cert", "renew", "-c", str(cluster), "vpn-1")
    assert missing.exit_code == 1
    assert "ca.key: cannot read" in missing.stderr
