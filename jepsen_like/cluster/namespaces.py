"""Network namespaces without names: each lives as long as a process that holds it, so none is ever left behind.

One namespace per node and one for the switch between them; no uplink, no IPv6, neighbours are static, so that a cut
loses packets and nothing else. A second network, never cut, is for clients on UDP. Needs the right to make namespaces:
root, or root inside `unshare --user --map-root-user --net`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from jepsen_like.cluster.children import Child, in_namespace

T = TypeVar("T")

NODE_NET = "10.97.0"  # the cluster's own network: the one that is cut
CLIENT_NET = "10.98.0"  # clients on UDP
CLIENT_HOST = 254
READY_WAIT_S = 5.0
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_OFFLOADS_OFF = (0x17, 0x15, 0x1F, 0x24, 0x2C)  # ETHTOOL_STXCSUM, SRXCSUM, STSO, SGSO, SGRO
_TABLE = """\
table bridge jepsen_like {
  set cuts {
    type ifname . ifname
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname . oifname @cuts drop
  }
}
"""


class NetworkError(Exception):
    """The network could not be made or changed; the message is what the tool said."""


def missing_tools() -> str:
    """Which of the tools that this needs is not installed; empty when all are."""
    return ", ".join(tool for tool in ("ip", "nsenter", "unshare") if _which(tool) is None)


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


class Namespace:
    """A network namespace and the process that holds it."""

    def __init__(self) -> None:
        self._holder = Child(["unshare", "--net", "sleep", "infinity"])
        deadline = time.monotonic() + READY_WAIT_S
        while not self._is_made():
            if not self._holder.is_running or time.monotonic() > deadline:
                self.close()
                raise NetworkError("no network namespace can be made (unshare --net fails)")
            time.sleep(0.002)

    def _is_made(self) -> bool:
        try:
            return os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self._holder.pid

    def run(self, *command: str, text: str = "") -> None:
        """Run a command inside, to its end. NetworkError with what it said."""
        environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        done = subprocess.run(
            [*in_namespace(self.pid), *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode != 0:
            raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")

    def inside(self, function: Callable[[], T]) -> T:
        """As the function of this name."""
        return inside(self.pid, function)

    def close(self) -> None:
        self._holder.kill()


def inside(pid: int, function: Callable[[], T]) -> T:
    """Call a function in the network namespace of a process; a socket that it makes there works from everywhere."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with open(f"/proc/{pid}/ns/net") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
                    raise NetworkError(f"setns: {os.strerror(ctypes.get_errno())}")
            found.append(function())
        except BaseException as problem:
            failed.append(problem)

    thread = threading.Thread(target=run)  # ends with its namespace; no other thread ever sees it
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


class Network:
    """Namespaces for `nodes`, wired to a switch: the kernel's bridge, or ports for a packet switch of our own."""

    def __init__(self, nodes: Sequence[str], *, bridged: bool) -> None:
        self.nodes = list(nodes)
        self.bridged = bridged
        self._made: list[Namespace] = []
        try:
            self.switch = self._make()
            self.of = {node: self._make() for node in nodes}
            self._wire()
        except BaseException:
            self.close()
            raise

    def _make(self) -> Namespace:
        namespace = Namespace()
        self._made.append(namespace)
        return namespace

    def number(self, node: str) -> int:
        return self.nodes.index(node) + 1

    def address(self, node: str) -> str:
        """Where the other nodes reach it."""
        return f"{NODE_NET}.{self.number(node)}"

    def client_address(self, node: str) -> str:
        """Where clients on UDP reach it, whatever is cut."""
        return f"{CLIENT_NET}.{self.number(node)}"

    def port(self, node: str) -> str:
        """Its end of the cable in the switch."""
        return f"p{self.number(node)}"

    def _wire(self) -> None:
        lines = ["link set lo up", "link add clients type bridge", "link set clients up"]
        lines.append(f"addr add {CLIENT_NET}.{CLIENT_HOST}/24 dev clients")
        if self.bridged:
            lines += ["link add nodes type bridge mcast_snooping 0", "link set nodes up"]
        for node in self.nodes:
            lines += self._cables(self.number(node), self.of[node].pid)
        self._batch(self.switch, lines)
        for node in self.nodes:
            self._batch(self.of[node], self._inside(node))
        if self.bridged:
            self.switch.run("nft", "-f", "-", text=_TABLE)

    def _cables(self, number: int, pid: int) -> list[str]:
        lines = [
            f"link add p{number} address 02:00:00:00:01:{number:02x} type veth peer name eth0 "
            f"address {mac(number)} netns {pid}",
            f"link add c{number} type veth peer name eth1 netns {pid}",
            f"link set c{number} master clients up",
        ]
        if self.bridged:
            lines.append(f"link set p{number} master nodes")
        return [*lines, f"link set p{number} up"]

    def _inside(self, node: str) -> list[str]:
        others = [self.number(other) for other in self.nodes if other != node]
        return [
            "link set lo up",
            f"addr add {self.address(node)}/24 dev eth0",
            f"addr add {self.client_address(node)}/24 dev eth1",
            "link set eth0 up",
            "link set eth1 up",
            *(f"neigh replace {NODE_NET}.{n} lladdr {mac(n)} nud permanent dev eth0" for n in others),
        ]

    def _batch(self, namespace: Namespace, lines: list[str]) -> None:
        off = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done 2>/dev/null; true"
        namespace.run("sh", "-c", off)  # its chatter would only be noise in the switch
        namespace.run("ip", "-batch", "-", text="\n".join(lines) + "\n")

    def cut(self, pairs: Sequence[tuple[str, str]]) -> None:
        """From now on nothing passes from a to b for each (a, b), and everything else does. One transaction."""
        found = ", ".join(f'"{self.port(a)}" . "{self.port(b)}"' for a, b in pairs)
        add = f"add element bridge jepsen_like cuts {{ {found} }}\n" if pairs else ""
        self.switch.run("nft", "-f", "-", text="flush set bridge jepsen_like cuts\n" + add)

    def close(self) -> None:
        for namespace in self._made:
            namespace.close()
        self._made.clear()


def mac(number: int) -> str:
    """The hardware address of node `number`."""
    return f"02:00:00:00:00:{number:02x}"


def offloads_off(device: str) -> None:
    """Every packet as it would be on a wire, checksum included: for whoever takes packets from the device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS_OFF:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value)) + bytes(16)
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, request)
            except OSError as problem:
                if command == _OFFLOADS_OFF[0]:
                    raise NetworkError(f"{device}: offloads cannot be switched off: {problem.strerror}") from None


def has_nft() -> bool:
    return _which("nft") is not None
