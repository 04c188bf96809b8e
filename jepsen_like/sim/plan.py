"""What one seed decides before anything runs: the cluster, its timing, the load and the faults with their moments.

Swarm testing: every seed switches whole kinds of faults and of ops off, so that a few meet each other often instead of
all of them seldom. Each op and fault draws its details from a random source of its own, so that a plan with some of
them left out still does the others alike: that is what shrinking lives on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple

from raftstore.config import ClusterConfig

NETWORK_FAULTS = (
    *("isolate", "halves", "one_way", "bridge", "ring", "break", "slow_net", "loss", "bandwidth", "slow_peer"),
    *("late_hello", "slow_link", "gasp", "churn"),
)
PROCESS_FAULTS = (
    *("kill", "power", "pause", "stall", "kill_all", "power_all", "restart", "wipe", "amnesia", "flap"),
    *("orphan", "lag", "coup", "turncoat", "echo", "figure8"),
)
DISK_FAULTS = ("slow_disk", "write_error", "sync_error", "full", "flip")
CLOCK_FAULTS = ("wall", "drift")
STEERING = ("drain", "transfer")
MAPPING = ("mapping", "mappings", "relay")  # of sticky alone: a change, several that conflict, a chain
FAULT_KINDS = (*NETWORK_FAULTS, *PROCESS_FAULTS, *DISK_FAULTS, *CLOCK_FAULTS, *STEERING, *MAPPING)
FOUNDING = "founding"  # before anything else, where the plan says so
SHARED_ONLY = ("wipe", "flip", "amnesia", "orphan", "lag", "coup", "turncoat", "echo", "figure8", "gasp", *STEERING)
STICKY_CHECKERS = [
    "dual_owner",
    "unconfirmed",
    "availability",
    "versions",
    "audit_chain",
    "acknowledged",
]  # there is one log for each node, not one for all
OP_KINDS = (
    *("create", "reattach", "detach", "renew", "migrate", "resume", "failover", "terminate", "get", "get-local"),
    *("race", "rejoin"),
)
LEASE_BREAKING = ("isolate", "one_way", "pause", "power", "kill", "halves")
OPS = 200
FAULTS = 10
STYLES: dict[str, tuple[int, int, tuple[str, ...]]] = {  # how often of 100 seeds, how far apart, which faults
    "swarm": (31, 0, ()),
    "duel": (22, 4_500, (*LEASE_BREAKING, "gasp", "churn")),
    "storm": (10, 3_000, ("power_all", "power_all", "power", "flap", "slow_disk")),
    "amnesia": (8, 6_000, ("amnesia", "amnesia", "isolate", "flap")),
    "coup": (
        14,
        3_000,
        ("coup", "coup", "coup", "turncoat", "turncoat", "slow_link", "echo", "figure8", "figure8", "transfer"),
    ),
    "lag": (8, 4_000, ("lag", "lag", "lag", "isolate")),
    "orphan": (7, 6_000, ("orphan", "orphan", "isolate")),
}


class Moment(NamedTuple):
    """Something that happens at `at_ms`; `salt` names its own source of chance."""

    at_ms: int
    kind: str
    salt: int


@dataclass(frozen=True)
class Plan:
    """Everything that the seed decided. Times in milliseconds of the world's time."""

    seed: int
    size: int
    time_limit_ms: int
    policy: str
    workload: str
    timing: dict[str, int]
    sessions: dict[str, int]
    snapshot_every_entries: int
    keep_entries: int
    superseded_deliver: bool  # a connection goes on delivering beside the one that took its place
    segment_bytes: int
    entry_bytes: int  # of an entry, and of what one message appends
    drift_ppm: int  # no clock is further off than that
    beyond_drift: bool
    is_duel: bool  # one node after the other loses its lease, and others want what it owned
    keys: int
    clients_leave: float  # chance that a caller gives up
    confirm_late: float
    packets_per_s: float
    sync_max_ms: int  # how long a sync of a healthy disk takes at most
    latency_us: int
    jitter_us: int
    op_weights: dict[str, float] = field(default_factory=dict)
    ops: tuple[Moment, ...] = ()
    faults: tuple[Moment, ...] = ()

    @property
    def is_sticky(self) -> bool:
        return self.workload == "sticky"

    @property
    def fault_kinds(self) -> list[str]:
        return sorted({fault.kind for fault in self.faults})

    def config(self) -> ClusterConfig:
        """The cluster's configuration. Such small segments, entries and snapshot intervals no file may ask for."""
        nodes = [
            {"id": f"n{i}", "peer": f"127.0.0.1:{7400 + i}", "api": f"unix:run/n{i}.sock"}
            for i in range(1, self.size + 1)
        ]
        data: dict[str, Any] = {
            "cluster": "sim",
            "partition_policy": self.policy,
            "strategy": "sticky" if self.is_sticky else "shared",
            "node": nodes,
            "timing": self.timing,
            "sessions": self.sessions,
            "limits": {"entry_bytes_max": 16_384, "frame_bytes_max": 65_536, "send_queue_bytes_max": 1 << 20},
            "storage": {"disk_free_min_bytes": 4_096},
        }
        config = ClusterConfig.from_dict(data, base_dir="/sim")
        storage = replace(
            config.storage,
            wal_segment_bytes=self.segment_bytes,
            snapshot_every_entries=self.snapshot_every_entries,
        )
        limits = replace(config.limits, entry_bytes_max=self.entry_bytes)
        return replace(config, storage=storage, limits=limits)

    def test(self) -> dict[str, Any]:
        """The parameters of the run, as checkers and reports know them."""
        return {
            "name": "sim",
            "seed": self.seed,
            "nodes": [f"n{i}" for i in range(1, self.size + 1)],
            "workload": self.workload,
            "policy": self.policy,
            "fault_kinds": self.fault_kinds,
            "beyond_drift": self.beyond_drift,
            **({"checkers": STICKY_CHECKERS, "strategy": "sticky"} if self.is_sticky else {}),
            "callers_in_process": True,
            "give_up_delay_ms": 5,
            **self.timing,
            **self.sessions,
        }


def draw(
    seed: int, *, time_limit_s: int = 60, policy: str | None = None, workload: str = "mix", beyond_drift: bool = False
) -> Plan:
    """The plan of a seed."""
    rng = Random(f"plan:{seed}")
    limit = time_limit_s * 1_000
    is_sticky = workload == "sticky"
    size = rng.choice((2, 3, 3, 4, 5)) if is_sticky else rng.choice((1, 3, 3, 3, 3, 5))
    election = rng.choice((200, 300, 500))
    is_founding = size > 1 and not is_sticky and rng.random() < 0.15
    drift = rng.choice((200, 10_000, 10_000, 50_000))
    timing = {
        "election_timeout_min_ms": election,
        "election_timeout_max_ms": 2 * election,
        "heartbeat_interval_ms": election // 3,
        "lease_ttl_ms": election * rng.choice((8, 12) if is_founding else (4, 5, 8)),
        "max_clock_drift_ppm": drift,
        "op_timeout_ms": rng.choice((500, 1_000, 2_000)),
        "loop_stall_max_ms": rng.choice((300, 1_000)),
        "clock_resume_max_ms": rng.choice((3_000, 90_000, 86_400_000)),
    }
    sessions = {
        "ttl_default_ms": rng.choice((20_000, 600_000)),
        "reattach_window_ms": rng.choice((1_500, 6_000, 60_000)),
        "freeze_timeout_ms": rng.choice((500, 2_000, 8_000)),
    }
    share = min(1.0, limit / 60_000)
    kinds = _swarm(rng, size, is_sticky)
    style = rng.choices(list(STYLES), [row[0] for row in STYLES.values()])[0]
    if size == 1 or is_sticky:
        style = "swarm"
    if style == "coup":
        size = rng.choice((3, 3, 5))
    _, every_ms, of_style = STYLES[style]
    is_duel = style == "duel"
    if is_duel:  # owners lose their leases again and again, and others stand ready; little else happens
        of_style = (*(kind for kind in of_style if rng.random() < 0.5), rng.choice(of_style), *kinds[:1])
        policy = policy or "deny"
        sessions |= {"ttl_default_ms": 600_000, "reattach_window_ms": 60_000}
    if every_ms:
        faults = _one_by_one(rng, of_style, limit, every_ms)
    else:
        faults = _moments(rng, kinds, int(FAULTS * share), 2_000, limit)
    if is_founding:  # something befalls the very first owner, and nothing else happens meanwhile
        founding = Moment(rng.randint(200, 600), FOUNDING, rng.getrandbits(40))
        faults = (founding, *(fault for fault in faults if fault.at_ms > 2 * timing["lease_ttl_ms"]))
    return Plan(
        seed=seed,
        size=size,
        time_limit_ms=limit,
        policy=policy or rng.choice(("deny", "deny", "terminate")),
        workload=workload,
        timing=timing,
        sessions=sessions,
        snapshot_every_entries=15 if style == "lag" else rng.choice((15, 40, 120, 1_000)),
        keep_entries=rng.choice((0, 5)) if style == "lag" else rng.choice((0, 5, 30, 10_000)),
        superseded_deliver=not is_sticky and rng.random() < 0.3,
        segment_bytes=rng.choice((32_768, 65_536)),
        entry_bytes=rng.choice((1_024, 4_096, 16_384, 16_384)),
        drift_ppm=drift * 99 // 100,
        beyond_drift=beyond_drift,
        is_duel=is_duel,
        keys=2 if is_duel else rng.choice((1, 2, 3, 5)),
        clients_leave=rng.choice((0.0, 0.0, 0.1, 0.3)),
        confirm_late=rng.choice((0.0, 0.5, 1.0)),
        packets_per_s=rng.choice((5.0, 10.0)),
        sync_max_ms=rng.choice((40, 100)) if style == "storm" else rng.choice((2, 2, 10, 40)),
        latency_us=rng.choice((100, 500, 3_000)),
        jitter_us=rng.choice((200, 2_000, 10_000)),
        op_weights=_weights(rng),
        ops=_moments(rng, ("op",), int(OPS * share), 1_500, limit),
        faults=faults,
    )


def _weights(rng: Random) -> dict[str, float]:
    return {kind: rng.choice((0.0, 0.5, 1.0, 1.0, 3.0)) for kind in OP_KINDS}


def _swarm(rng: Random, size: int, is_sticky: bool) -> tuple[str, ...]:
    """Which kinds of faults this seed knows."""
    unable: tuple[str, ...] = SHARED_ONLY if is_sticky else MAPPING
    if size == 1:
        unable += (*NETWORK_FAULTS, *SHARED_ONLY)
    able = [kind for kind in FAULT_KINDS if kind not in unable]
    chance = rng.choice((0.15, 0.3, 0.6))
    chosen = tuple(kind for kind in able if rng.random() < chance)
    if is_sticky:
        return chosen + MAPPING * (1 + len(chosen) // 3)
    if size > 1 and rng.random() < 0.8:
        chosen += (rng.choice(LEASE_BREAKING),) * (1 + len(chosen) // 2)  # every third fault, at least
    return chosen or (rng.choice(able),)


def _moments(rng: Random, kinds: tuple[str, ...], count: int, first_ms: int, limit_ms: int) -> tuple[Moment, ...]:
    """In bursts and alone: half of them follow another one closely."""
    moments: list[Moment] = []
    for _ in range(count):
        if moments and rng.random() < 0.4:
            at = min(limit_ms, rng.choice(moments).at_ms + int(rng.expovariate(1 / 300)))
        else:
            at = rng.randint(first_ms, max(first_ms, limit_ms - 500))
        moments.append(Moment(at, rng.choice(kinds), rng.getrandbits(40)))
    return tuple(sorted(moments))


def _one_by_one(rng: Random, kinds: tuple[str, ...], limit_ms: int, every_ms: int) -> tuple[Moment, ...]:
    """One after the other, so that those who are left have a majority, or all of them time to come back."""
    moments = range(2_500, limit_ms - 2_000, every_ms)
    return tuple(Moment(at_ms + rng.randint(0, 700), rng.choice(kinds), rng.getrandbits(40)) for at_ms in moments)
