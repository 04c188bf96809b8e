"""Hosts: namespaces where this machine has them, loopback where not, and cuts that cut what they name."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from jepsen_like.cluster import hosts as host_kinds
from jepsen_like.cluster import namespaces
from jepsen_like.cluster.hosts import LoopbackHosts, NamespaceHosts
from jepsen_like.cluster.proxy import Shape

NODES = ["n1", "n2", "n3"]
ARRIVES_S = 3.0
QUIET_S = 0.25  # in which a packet that is not cut arrives many times over


class Stations:
    """A UDP socket on each node's host."""

    def __init__(self, hosts: NamespaceHosts) -> None:
        self._addresses: dict[str, tuple[str, int]] = {}
        self.sockets: dict[str, socket.socket] = {}
        for node in NODES:
            pid = hosts.namespace(node)
            assert pid is not None
            sock = namespaces.inside(pid, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            host, port = hosts.peer(node).split(":")
            self._addresses[node] = (host, int(port))
            sock.bind(self._addresses[node])
            sock.setblocking(False)
            self.sockets[node] = sock

    async def passes(self, source: str, target: str, wait_s: float) -> bool:
        """Whether a packet from one node reaches the other."""
        loop = asyncio.get_running_loop()
        text = os.urandom(8)
        self.sockets[source].sendto(text, self._addresses[target])
        try:
            async with asyncio.timeout(wait_s):
                while await loop.sock_recv(self.sockets[target], 100) != text:
                    pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


@pytest.mark.parametrize("shaped", [False, True])
def test_a_cut_loses_packets_in_one_direction_and_no_others(shaped: bool, tmp_path: Path) -> None:
    """With the kernel's bridge and with our own switch alike: n1 to n2 is cut, n2 to n1 and all else is not."""

    async def main(hosts: NamespaceHosts) -> None:
        await hosts.start(dict)
        stations = Stations(hosts)
        try:
            assert await stations.passes("n1", "n2", ARRIVES_S)
            await hosts.cut({("n1", "n2")})
            assert not await stations.passes("n1", "n2", QUIET_S)
            assert await stations.passes("n2", "n1", ARRIVES_S)
            assert await stations.passes("n1", "n3", ARRIVES_S)
            await hosts.cut([])
            assert await stations.passes("n1", "n2", ARRIVES_S)
            if shaped:
                await hosts.shape(Shape(loss=1.0))
                assert not await stations.passes("n3", "n2", QUIET_S)
                await hosts.shape(Shape())
                assert await stations.passes("n3", "n2", ARRIVES_S)
        finally:
            stations.close()
            await hosts.close()

    why = host_kinds.why_no_namespaces()
    if why:
        assert host_kinds.choose("auto", NODES, tmp_path, 1, shaped=shaped).unavailable["namespaces"] == why
        return
    hosts = host_kinds.choose("namespaces", NODES, tmp_path, 1, shaped=shaped)
    assert isinstance(hosts, NamespaceHosts)
    asyncio.run(main(hosts))


def test_what_a_machine_cannot_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without namespaces the choice is loopback, which says what it cannot do; asked for by name it is an error."""
    monkeypatch.setattr(host_kinds, "why_no_namespaces", lambda: "the kernel said no")
    chosen = host_kinds.choose("auto", NODES, tmp_path, 1, shaped=True)
    assert isinstance(chosen, LoopbackHosts)
    assert chosen.unavailable["namespaces"] == "the kernel said no"
    assert any("reordering" in what for what in chosen.unavailable)
    with pytest.raises(namespaces.NetworkError, match="the kernel said no"):
        host_kinds.choose("namespaces", NODES, tmp_path, 1, shaped=True)


def test_without_nft_our_own_switch_makes_the_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's bridge needs nft; without it every packet goes through our own switch, and that is told."""
    made: list[bool] = []

    class Recorded(NamespaceHosts):
        def __init__(self, *given: object, shaped: bool) -> None:
            made.append(shaped)
            self.unavailable = {}

    monkeypatch.setattr(host_kinds, "why_no_namespaces", lambda: "")
    monkeypatch.setattr(host_kinds, "NamespaceHosts", Recorded)
    monkeypatch.setattr(namespaces, "has_nft", lambda: False)
    assert "nft" in host_kinds.choose("auto", NODES, tmp_path, 1, shaped=False).unavailable["kernel bridge"]
    assert made == [True]
