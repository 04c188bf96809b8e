"""Cluster time at one node: never ahead of the truth, and a jump only after a stop of the whole cluster."""

import pytest
from node_parts import FakeClock, ReplicaRig

from raftstore.node.cluster_clock import ClusterClock
from raftstore.ownership import commands

DAY_MS = 86_400_000


def test_time_goes_on_from_the_anchor_by_local_monotonic_time() -> None:
    """Whole milliseconds, rounded down, whatever the wall clock does."""
    clock = FakeClock()
    cluster = ClusterClock(clock)
    assert cluster.now_ms() == 0
    cluster.anchor(5_000)
    clock.pass_ms(1.9)
    clock.wall += DAY_MS
    assert cluster.now_ms() == 5_001


def test_an_anchor_counts_only_with_an_entry_of_this_lifetime() -> None:
    """A replay of old entries says nothing about how much time has passed since."""
    cluster = ClusterClock(FakeClock())
    cluster.anchor(5_000)
    assert not cluster.is_anchored
    cluster.is_live = True
    assert cluster.is_anchored


@pytest.mark.parametrize(
    ("last_wall_ms", "passed_ms", "jump_ms", "notice"),
    [
        (1_700_000_000_000, 0, 0, None),
        (1_700_000_000_000, 60_000, 60_000, None),
        (1_700_000_000_000, DAY_MS, DAY_MS, None),
        (1_700_000_000_000, DAY_MS + 1, 0, "clock_resume_max_ms=86400000"),
        (1_700_000_000_000, -1, 0, "before the last entry"),
        (0, 60_000, 0, None),
    ],
)
def test_the_jump_after_a_stop(last_wall_ms: int, passed_ms: int, jump_ms: int, notice: str | None) -> None:
    """By the wall time that passed, up to a bound; beyond it, or backwards, not at all and with a word about it."""
    clock = FakeClock()
    clock.wall = 1_700_000_000_000 + passed_ms
    jump, told = ClusterClock(clock).resume_jump_ms(last_wall_ms, DAY_MS)
    assert jump == jump_ms
    assert told is None if notice is None else told is not None and notice in told


def test_a_follower_takes_its_anchor_from_every_entry_and_a_leader_keeps_its_own() -> None:
    """A leader would lose a commit's latency with each; a follower's drift is bounded from the newest one."""
    rig = ReplicaRig()
    rig.stamp_ms = 2_000
    rig.by("vpn-2", commands.renew_lease)
    assert rig.cluster_clock.now_ms() == 2_000
    rig.is_leading = True
    rig.clock.pass_ms(30)
    rig.stamp_ms = 2_010
    rig.by("vpn-2", commands.renew_lease)
    assert rig.cluster_clock.now_ms() == 2_030
    rig.is_leading = False
    rig.by("vpn-2", commands.renew_lease)
    assert rig.cluster_clock.now_ms() == 2_010


def test_a_leader_without_an_anchor_takes_it_from_its_resume_entry() -> None:
    """From then on it is live, at the time the entry says, jump included."""
    rig = ReplicaRig()
    rig.cluster_clock.is_live = False
    rig.is_leading = True
    rig.clock.wall += 500
    rig.entry(jump=400)
    assert rig.cluster_clock.is_anchored
    assert rig.cluster_clock.now_ms() == rig.replica.machine.clock_ms == 1_400


def test_another_leader_s_resume_makes_nobody_else_live() -> None:
    """A follower is live by an op of its own alone: the resume it sees may be of any age."""
    rig = ReplicaRig()
    rig.cluster_clock.is_live = False
    rig.entry(jump=0)
    rig.by("vpn-2", commands.renew_lease)
    assert not rig.cluster_clock.is_anchored
