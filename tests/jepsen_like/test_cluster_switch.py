"""The packet switch decides frame by frame, from its seed alone."""

from __future__ import annotations

import random

from jepsen_like.cluster import switch
from jepsen_like.cluster.proxy import Shape
from jepsen_like.cluster.switch import BROADCAST, Forwarding

MS = 1_000_000
STATIONS = {
    "n1": bytes.fromhex("020000000001"),
    "n2": bytes.fromhex("020000000002"),
    "n3": bytes.fromhex("020000000003"),
}


def frame(target: str, text: str) -> bytes:
    return STATIONS[target] + STATIONS["n1"] + b"\x08\x00" + text.encode()


def forwarding(seed: int = 1) -> Forwarding:
    return Forwarding(STATIONS, random.Random(seed))


def drained(found: Forwarding, now_ns: int = 10**12) -> list[tuple[str, str]]:
    return [(node, data[14:].decode()) for node, data in found.due(now_ns)]


def test_a_frame_goes_to_its_station_alone() -> None:
    """Addresses are known from the start; a broadcast goes to everybody else, an unknown address to nobody."""
    found = forwarding()
    found.accept(0, "n1", frame("n2", "a"))
    found.accept(0, "n1", BROADCAST + frame("n2", "b")[6:])
    found.accept(0, "n1", b"\x02\x00\x00\x00\x00\x09" + frame("n2", "c")[6:])
    assert drained(found) == [("n2", "a"), ("n2", "b"), ("n3", "b")]


def test_a_cut_is_directed() -> None:
    """What n1 sends n2 is lost, what n2 sends n1 arrives, and after the heal both do."""
    found = forwarding()
    found.cut([("n1", "n2")])
    found.accept(0, "n1", frame("n2", "there"))
    found.accept(0, "n2", frame("n1", "back"))
    assert drained(found) == [("n1", "back")]
    found.cut([])
    found.accept(0, "n1", frame("n2", "there"))
    assert drained(found) == [("n2", "there")]
    assert found.counts["cut"] == 1


def test_a_cut_takes_what_is_under_way() -> None:
    """A delayed frame does not arrive after its link was cut."""
    found = forwarding()
    found.shape(Shape(delay_ms=50))
    found.accept(0, "n1", frame("n2", "a"))
    found.cut([("n1", "n2")])
    assert drained(found) == []


def test_delay_holds_frames_back_and_keeps_their_order() -> None:
    """Nothing leaves before its time; jitter alone lets no frame of a link pass another."""
    found = forwarding()
    found.shape(Shape(delay_ms=10, jitter_ms=20))
    for i in range(50):
        found.accept(i * 1_000, "n1", frame("n2", f"{i:02}"))
    assert drained(found, 10 * MS - 1) == []
    next_ns = found.next_ns()
    assert next_ns is not None and 10 * MS <= next_ns <= 30 * MS + 50_000
    assert drained(found) == [("n2", f"{i:02}") for i in range(50)]


def test_reordering_lets_frames_pass() -> None:
    """With reordering all frames arrive, and not in the order sent."""
    found = forwarding()
    found.shape(Shape(reorder=0.3))
    sent = [("n2", f"{i:02}") for i in range(50)]
    for _, text in sent:
        found.accept(0, "n1", frame("n2", text))
    arrived = drained(found)
    assert sorted(arrived) == sent and arrived != sent


def test_loss_and_duplication_have_their_share() -> None:
    """Of many frames about as many are lost and doubled as was ordered."""
    found = forwarding()
    found.shape(Shape(loss=0.2, duplicate=0.25))
    for _ in range(4_000):
        found.accept(0, "n1", frame("n2", "x"))
    assert 0.17 < found.counts["lost"] / 4_000 < 0.23
    assert 0.17 < found.counts["doubled"] / 4_000 < 0.23
    assert len(drained(found)) == 4_000 - found.counts["lost"] + found.counts["doubled"]


def test_the_same_seed_makes_the_same_decisions() -> None:
    """Two switches with one seed treat the same frames alike."""

    def one(seed: int) -> list[tuple[str, str]]:
        found = forwarding(seed)
        found.shape(Shape(jitter_ms=5, loss=0.3, duplicate=0.2, reorder=0.2))
        for i in range(200):
            found.accept(i * 1_000, "n1", frame("n2", str(i)))
        return drained(found)

    assert one(5) == one(5) != one(6)


def test_the_queue_is_bounded() -> None:
    """Frames beyond the bound are lost, and counted."""
    found = forwarding()
    found.shape(Shape(delay_ms=1_000))
    for _ in range(switch.QUEUE_FRAMES_MAX + 5):
        found.accept(0, "n1", frame("n2", "x"))
    assert found.counts["overflowed"] == 5
