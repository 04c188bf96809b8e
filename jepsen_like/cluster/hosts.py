"""Where the nodes live and what lies between them: network namespaces, or loopback behind proxies.

`choose` is the one place that decides; what this machine cannot do is kept with its reason in `unavailable`, to be
printed. Cuts are sets of directed pairs and replace each other as a whole; a pair not named passes.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from jepsen_like.cluster import namespaces, proxy
from jepsen_like.cluster.proxy import Shape
from jepsen_like.cluster.switch_process import SwitchProcess
from raftstore.cli.temp_cluster import free_ports

KINDS = ("auto", "namespaces", "loopback")
PEER_PORT = 7400
UDP_PORT = 7500

Pair = tuple[str, str]


class Hosts(Protocol):
    """One place per node, and the network between them."""

    kind: str
    unavailable: dict[str, str]  # fault or means: why not here

    def peer(self, node: str) -> str:
        """ "host:port" that the other nodes dial."""

    def bind(self, node: str) -> str:
        """ "host:port" where the node listens."""

    def udp(self, node: str) -> tuple[str, int]:
        """Where the node answers clients on UDP; never cut."""

    def namespace(self, node: str) -> int | None:
        """A process in whose network namespace the node must run, or None."""

    def client_socket(self) -> socket.socket:
        """A UDP socket that reaches `udp` of every node."""

    async def start(self, pid_of: Callable[[], dict[str, int]]) -> None:
        """Before the first node starts. `pid_of` tells the processes of the nodes that run."""

    async def cut(self, pairs: Collection[Pair]) -> None:
        """Returns when it has taken effect."""

    async def shape(self, shape: Shape) -> None: ...

    async def close(self) -> None: ...


class NamespaceHosts:
    """A namespace per node. With `shaped` a packet switch of our own in the middle, else the kernel's bridge."""

    kind = "namespaces"

    def __init__(self, nodes: Sequence[str], directory: Path, seed: int, *, shaped: bool) -> None:
        self.unavailable: dict[str, str] = {}
        self._seed = seed
        self._directory = directory
        self._network = namespaces.Network(nodes, bridged=not shaped)
        self._switch: SwitchProcess | None = None
        if not shaped:
            self.unavailable["packet"] = "not asked for: the kernel's bridge is in the middle"

    def peer(self, node: str) -> str:
        return f"{self._network.address(node)}:{PEER_PORT}"

    bind = peer

    def udp(self, node: str) -> tuple[str, int]:
        return self._network.client_address(node), UDP_PORT

    def namespace(self, node: str) -> int | None:
        return self._network.of[node].pid

    def client_socket(self) -> socket.socket:
        return self._network.switch.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    async def start(self, pid_of: Callable[[], dict[str, int]]) -> None:
        if self._network.bridged:
            return
        for node in self._network.nodes:
            self._network.of[node].inside(lambda: namespaces.offloads_off("eth0"))
        ports = {node: self._network.port(node) for node in self._network.nodes}
        self._switch = SwitchProcess(ports, self._network.switch.pid, self._directory, self._seed)
        await self._switch.start()

    async def cut(self, pairs: Collection[Pair]) -> None:
        if self._switch is not None:
            await self._switch.cut(sorted(pairs))
        else:
            self._network.cut(sorted(pairs))

    async def shape(self, shape: Shape) -> None:
        if self._switch is not None:
            await self._switch.shape(shape)

    async def close(self) -> None:
        if self._switch is not None:
            await self._switch.close()
        self._network.close()


class LoopbackHosts:
    """All nodes on 127.0.0.1, with a proxy in front of each."""

    kind = "loopback"

    def __init__(self, nodes: Sequence[str], seed: int) -> None:
        why = "needs network namespaces: a proxy sees no packets, only delay can be added"
        self.unavailable = {"loss, duplication, reordering": why}
        ports = free_ports(3 * len(nodes))
        size = len(nodes)
        self._ports = {node: (ports[i], ports[size + i]) for i, node in enumerate(nodes)}
        self._udp = {node: ports[2 * size + i] for i, node in enumerate(nodes)}
        self._pid_of: Callable[[], dict[str, int]] = dict
        self._proxies = proxy.Proxies(self._ports, self._dialler, random.Random(f"{seed}:proxies"))

    def _dialler(self, port: int) -> str | None:
        return proxy.holder_of(port, self._pid_of())

    def peer(self, node: str) -> str:
        return f"127.0.0.1:{self._ports[node][0]}"

    def bind(self, node: str) -> str:
        return f"127.0.0.1:{self._ports[node][1]}"

    def udp(self, node: str) -> tuple[str, int]:
        return "127.0.0.1", self._udp[node]

    def namespace(self, node: str) -> int | None:
        return None

    def client_socket(self) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def start(self, pid_of: Callable[[], dict[str, int]]) -> None:
        self._pid_of = pid_of
        await self._proxies.start()

    async def cut(self, pairs: Collection[Pair]) -> None:
        self._proxies.cut(frozenset(pairs))

    async def shape(self, shape: Shape) -> None:
        self._proxies.shape(shape)

    async def close(self) -> None:
        await self._proxies.close()


def why_no_namespaces() -> str:
    """Why namespaces cannot be used by this process; empty when they can."""
    missing = namespaces.missing_tools()
    if missing:
        return f"not installed: {missing} (Debian: iproute2, util-linux)"
    try:
        probe = namespaces.Namespace()
    except (namespaces.NetworkError, OSError) as problem:
        return str(problem)
    try:
        probe.run("ip", "link", "add", "probe", "type", "veth", "peer", "name", "eborp")
    except namespaces.NetworkError as problem:
        return str(problem)
    finally:
        probe.close()
    return ""


def can_become_root_of_a_namespace() -> bool:
    """Whether `unshare --user --map-root-user --net` works for this user."""
    with contextlib.suppress(OSError):
        command = ["unshare", "--user", "--map-root-user", "--net", "true"]
        return os.geteuid() != 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def choose(kind: str, nodes: Sequence[str], directory: Path, seed: int, *, shaped: bool) -> Hosts:
    """The best that this machine offers, or just the `kind` asked for. NetworkError when that cannot be had."""
    if kind == "loopback":
        return LoopbackHosts(nodes, seed)
    why = why_no_namespaces()
    if not why:
        made = NamespaceHosts(nodes, directory, seed, shaped=shaped or not namespaces.has_nft())
        if not shaped and not namespaces.has_nft():
            made.unavailable["kernel bridge"] = "nft is not installed (Debian: nftables): our own switch makes the cuts"
        return made
    if kind == "namespaces":
        raise namespaces.NetworkError(f"namespaces: {why}")
    loopback = LoopbackHosts(nodes, seed)
    loopback.unavailable["namespaces"] = why
    return loopback
