"""A packet switch in user space: cuts, delay, jitter, loss, duplication and reordering, all from one seed.

`Forwarding` decides, frame by frame, and does no I/O; `Switch` moves frames between packet sockets on the ports. Each
station has one port and a hardware address known from the start, so nothing is learned and nothing flooded but
broadcasts. Runs as a process of its own (switch_process.py), inside the switch's network namespace.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jepsen_like.cluster.proxy import Shape

QUEUE_FRAMES_MAX = 20_000  # on their way; beyond it frames are lost, as in a full switch
BURST_FRAMES = 64  # taken from one port before the others have their turn
REORDER_EXTRA_MS = 5.0  # how much later a frame comes that lets others pass
FRAME_BYTES_MAX = 65_600
BROADCAST = b"\xff" * 6
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23


class Due(NamedTuple):
    """A frame on its way out."""

    at_ns: int
    order: int
    port: str
    frame: bytes


class Forwarding:
    """`stations`: node to hardware address. A station's port has its name."""

    def __init__(self, stations: Mapping[str, bytes], rng: random.Random) -> None:
        self._node_at = {address: node for node, address in stations.items()}
        self._nodes = sorted(stations)
        self._rng = rng
        self._cuts: frozenset[tuple[str, str]] = frozenset()
        self._shape = Shape()
        self._queue: list[Due] = []
        self._order = 0
        self._last_ns: dict[tuple[str, str], int] = {}  # per directed pair: frames stay in order unless reordered
        self.counts = dict.fromkeys(("passed", "cut", "lost", "doubled", "reordered", "overflowed"), 0)

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """From now on nothing passes from a to b for each (a, b); what is under way in a cut direction is lost too."""
        self._cuts = frozenset(pairs)

    def shape(self, shape: Shape) -> None:
        self._shape = shape

    def accept(self, now_ns: int, source: str, frame: bytes) -> None:
        """A frame from a station."""
        target = self._node_at.get(frame[:6])
        if target is not None:
            self._send(now_ns, source, target, frame)
        elif frame[:6] == BROADCAST:
            for other in self._nodes:
                if other != source:
                    self._send(now_ns, source, other, frame)

    def _send(self, now_ns: int, source: str, target: str, frame: bytes) -> None:
        shape, rng = self._shape, self._rng
        if (source, target) in self._cuts:
            self.counts["cut"] += 1
            return
        if shape.loss and rng.random() < shape.loss:
            self.counts["lost"] += 1
            return
        copies = 1
        if shape.duplicate and rng.random() < shape.duplicate:
            copies = 2
            self.counts["doubled"] += 1
        for _ in range(copies):
            self._enqueue(now_ns, source, target, frame)

    def _enqueue(self, now_ns: int, source: str, target: str, frame: bytes) -> None:
        shape, rng = self._shape, self._rng
        if len(self._queue) >= QUEUE_FRAMES_MAX:
            self.counts["overflowed"] += 1
            return
        delay_ms = shape.delay_ms + (rng.random() * shape.jitter_ms if shape.jitter_ms else 0.0)
        at_ns = now_ns + int(delay_ms * 1e6)
        pair = (source, target)
        if shape.reorder and rng.random() < shape.reorder:
            at_ns += int(REORDER_EXTRA_MS * 1e6)
            self.counts["reordered"] += 1
        else:
            at_ns = self._last_ns[pair] = max(at_ns, self._last_ns.get(pair, 0))
        self._order += 1
        heapq.heappush(self._queue, Due(at_ns, self._order, f"{source}>{target}", frame))

    def due(self, now_ns: int) -> Iterable[tuple[str, bytes]]:
        """(station, frame) of everything that leaves by now, in order."""
        while self._queue and self._queue[0].at_ns <= now_ns:
            found = heapq.heappop(self._queue)
            source, _, target = found.port.partition(">")
            if (source, target) in self._cuts:
                self.counts["cut"] += 1
                continue
            self.counts["passed"] += 1
            yield target, found.frame

    def next_ns(self) -> int | None:
        """When the next frame leaves."""
        return self._queue[0].at_ns if self._queue else None


class Switch:
    """Frames between packet sockets; orders, one JSON object per line, come over a Unix socket and are answered."""

    def __init__(self, ports: Mapping[str, str], stations: Mapping[str, bytes], control: str, seed: str) -> None:
        self._forwarding = Forwarding(stations, random.Random(seed))
        self._sockets = {node: _packet_socket(device) for node, device in ports.items()}
        self._poll = select.epoll()
        self._source = {sock.fileno(): node for node, sock in self._sockets.items()}
        for descriptor in self._source:
            self._poll.register(descriptor, select.EPOLLIN)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(control)
        self._listener.listen(1)
        self._control: socket.socket | None = None

    def run(self) -> None:
        """Until the other end of the control socket closes."""
        self._control, _ = self._listener.accept()
        self._poll.register(self._control.fileno(), select.EPOLLIN)
        orders = self._control.makefile("r")
        while True:
            next_ns = self._forwarding.next_ns()
            now_ns = time.monotonic_ns()
            wait_s = -1.0 if next_ns is None else max(0.0, (next_ns - now_ns) / 1e9)
            for descriptor, _ in self._poll.poll(wait_s):
                if descriptor in self._source:
                    self._take(self._source[descriptor])
                elif not self._obey(orders.readline()):
                    return
            self._give()

    def _take(self, node: str) -> None:
        sock = self._sockets[node]
        for _ in range(BURST_FRAMES):
            try:
                frame = sock.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # the device went down and up: the next frame comes
            self._forwarding.accept(time.monotonic_ns(), node, frame)

    def _give(self) -> None:
        for node, frame in self._forwarding.due(time.monotonic_ns()):
            try:
                self._sockets[node].send(frame)
            except OSError:
                self._forwarding.counts["lost"] += 1

    def _obey(self, line: str) -> bool:
        if not line or self._control is None:
            return False
        order: dict[str, Any] = json.loads(line)
        if "cuts" in order:
            self._forwarding.cut((a, b) for a, b in order["cuts"])
        if "shape" in order:
            self._forwarding.shape(Shape(**order["shape"]))
        self._control.sendall(json.dumps(self._forwarding.counts).encode() + b"\n")
        return True


def _packet_socket(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((device, 0))
    sock.setblocking(False)
    return sock


def main() -> None:
    """`python -m jepsen_like.cluster.switch '{"ports": {}, "stations": {}, "control": "", "seed": ""}'`."""
    given = json.loads(sys.argv[1])
    stations = {node: bytes.fromhex(address.replace(":", "")) for node, address in given["stations"].items()}
    Switch(given["ports"], stations, given["control"], given["seed"]).run()


if __name__ == "__main__":
    main()
