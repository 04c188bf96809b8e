"""Starts that cannot succeed for reasons outside the data directory: one line that says what is wrong, no traceback."""

import socket
from collections.abc import Iterator

import pytest
from real_cluster import RealCluster


@pytest.fixture
def files() -> Iterator[RealCluster]:
    """The files of a cluster of one that was never started."""
    with RealCluster(1, started=False) as real:
        yield real


def test_a_peer_port_that_is_taken_is_named(files):
    """Another process listens there: exit status 1 with the address, and the node starts once it is free."""
    address = files.config.node("vpn-1").bind
    with socket.create_server((address.host, address.port)):
        said = files.refused_start("vpn-1")
        assert str(address) in said, said
    files.start("vpn-1")
    files.wait_ready("vpn-1")


def test_a_certificate_that_cannot_be_used_is_named(files):
    """Missing, not a certificate, or not belonging to its key: exit status 1 with the file."""
    path = files.directory / "vpn-1.pem"
    path.unlink()
    said = [files.refused_start("vpn-1")]
    for other in (b"no certificate", (files.directory / "ca.pem").read_bytes()):
        path.write_bytes(other)
        said.append(files.refused_start("vpn-1"))
    assert all("vpn-1.pem" in line or "vpn-1.key" in line for line in said), said


def test_a_configuration_that_cannot_be_used_is_a_usage_error(files):
    """An unknown node, an unknown key, a bad value: exit status 2, one line with file and key."""
    path = files.config_path
    whole = path.read_text()
    bad_value = files.directory / "value.conf"
    bad_value.write_text(whole.replace("lease_ttl_ms = 2000", 'lease_ttl_ms = "long"'))
    bad_key = files.directory / "key.conf"
    bad_key.write_text("lease = 1\n" + whole)
    cases = [
        (path, "vpn-9", "vpn-9"),
        (bad_value, "vpn-1", "timing.lease_ttl_ms"),
        (bad_key, "vpn-1", "lease"),
    ]
    for config, node_id, named in cases:
        done = files.run("run", "--config", str(config), "--node", node_id)
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == 1, (config, done)
        assert str(config) in lines[0] and named in lines[0], lines
