"""What is measured, and in which order.

Peers take turns round after round (A B A B), each time from an empty directory, so that whatever else the machine does
in the meantime meets all of them. Knows no peer by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = {
    "transition": "version-checked transition of one's own session",
    "race": "the same, several callers on one session: one wins, the others are refused and look again",
    "read": "linearizable read",
    "read-local": "read of the node's own copy",
    "owns": "may this node act for the session now",
    "mixed": "half transitions, four tenths linearizable reads, one tenth local reads",
}
PLACES = ("leader", "follower", "all")


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: so many callers per node in the processes of those nodes."""

    kind: str
    callers: int
    place: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.place not in PLACES or self.callers < 1:
            raise ValueError(f"no such case: {self}")

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.callers}/{self.place}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    peers: tuple[str, ...]
    cases: tuple[Case, ...]
    rounds: int
    seconds: float
    warm_up_seconds: float

    def turns(self) -> Iterator[tuple[int, str]]:
        """(round, peer), peers in turn."""
        for number in range(self.rounds):
            for peer in self.peers:
                yield number, peer

    @property
    def estimate_seconds(self) -> float:
        """Without the starts of the peers."""
        return self.rounds * len(self.peers) * (len(self.cases) * self.seconds + self.warm_up_seconds)


def cases_of(concurrency: Sequence[int], *, few: bool = False) -> tuple[Case, ...]:
    """One caller on the leader and on a follower; more in one node's process and in all; then the other kinds.

    `few`: only what the targets are stated in.
    """
    found: list[Case] = []
    for callers in concurrency:
        places = ("leader", "follower") if callers == 1 else (("all",) if few else ("leader", "all"))
        found += [Case("transition", callers, place) for place in places]
    middle = sorted(concurrency)[len(concurrency) // 2]
    found += [Case("read", 1, "leader"), Case("read", 1, "follower"), Case("owns", 1, "leader")]
    if not few:
        found += [Case(kind, middle, "all") for kind in ("read", "read-local", "race", "mixed")]
    return tuple(dict.fromkeys(found))
