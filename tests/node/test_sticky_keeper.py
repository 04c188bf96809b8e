"""The sticky side of one node without a cluster: what it does upon what its peers say, message by message."""

from __future__ import annotations

import pytest
from sticky_parts import A, B, C, D, KeeperRig, away, mapping, placement, session

from raftstore.node.sticky.change import next_mapping
from raftstore.ownership import MappedNode
from raftstore.types import Reason

ABC = mapping(2, A, B, C)
OTHER = mapping(2, A, B, C, D)  # of the same epoch


@pytest.mark.parametrize("field", ["settled", "closed"])
def test_a_mapping_is_closed_by_what_peers_say_of_this_very_mapping(field: str) -> None:
    """One that has settled (or closed) another one of the same epoch says nothing of this one."""
    rig = KeeperRig(placement(ABC, confirmed=(B, C), settled=True, involved=(A, B, C, D)))
    rig.meet(B, C, D)
    said = {field: True}
    if field == "settled":
        rig.says(C, ABC, settled=True)
        rig.says(D, ABC, settled=True)
    rig.says(B, OTHER, **said)
    rig.sticky.tick()
    assert "close" not in rig.log.kinds()
    rig.says(B, ABC, **said)
    assert rig.log.kinds() == ["close"]


def test_a_pull_under_another_mapping_is_not_answered() -> None:
    """`done` would confirm to it what this node never looked at."""
    rig = KeeperRig(placement(ABC))
    rig.meet(B)
    rig.sticky.tick()
    rig.scan()
    for record in (OTHER, mapping(1, A, B, C), mapping(3, A, B, C)):
        rig.pull(B, record)
    assert rig.of_type("handed") == []
    rig.pull(B, ABC)
    ((_, answer),) = rig.of_type("handed")
    assert answer["done"]


def test_only_a_peer_that_goes_by_this_mapping_is_asked_for_sessions() -> None:
    """One of another mapping would not answer, and could not mean this one if it did."""
    rig = KeeperRig(placement(ABC, involved=(A, B, C)))
    rig.meet(B, C)
    rig.says(B, OTHER)
    rig.says(C, mapping(1, A, B, C))
    rig.sticky.tick()
    assert rig.of_type("pull") == []
    rig.says(B, ABC)
    assert [peer for peer, _ in rig.of_type("pull")] == [B]


@pytest.mark.parametrize("way", ["lost in the mapping", "gone"])
def test_a_node_that_was_declared_lost_stops_by_either_sign(way: str) -> None:
    """The peer may never have known its data directory, or may go by a later mapping that says nothing of it."""
    rig = KeeperRig(placement(mapping(1, A, B, C), settled=True))
    rig.meet(B)
    if way == "gone":
        rig.says(B, mapping(3, B, C), gone=True)
    else:
        rig.says(B, mapping(2, B, C, lost=(A,)))
    assert rig.failed == "DECLARED_LOST"
    assert "adopt" not in rig.log.kinds()


def test_a_mapping_that_nobody_was_told_of_counts_before_the_next_message() -> None:
    """Its proposer had lost patience: a pull under it finds sessions that leave, where before none did."""
    rig = KeeperRig(placement(mapping(1, A), settled=True, involved=(A, B)), session("s"))
    rig.meet(B)
    rig.sticky.tick()
    rig.scan()
    moved = mapping(2, B, sources=(A,))
    rig.place(placement(moved))
    rig.pull(B, moved)
    assert not any(answer["done"] for _, answer in rig.of_type("handed"))
    rig.scan()
    assert rig.log.kinds() == ["freeze"]


def test_a_pull_that_waits_is_answered_as_soon_as_the_peer_is_known() -> None:
    """To a data directory that is not in this log nothing is given; when it is, nobody waits for the next question."""
    moved = mapping(2, B, sources=(A,))
    ended = session("s", 4, reason="LOGOUT")
    rig = KeeperRig(placement(moved, known=()), ended)
    rig.meet(B)
    rig.sticky.tick()
    rig.scan()
    rig.pull(B, moved)
    assert rig.of_type("handed") == []
    rig.place(placement(moved, confirmed=(B,)))
    rig.sticky.tick()
    ((_, answer),) = rig.of_type("handed")
    assert [row.session_id for row in answer["rows"]] == ["s"]


# -- before and beside ------------------------------------------------------------------------------------------------


def test_nothing_is_said_or_done_before_the_own_log_is_read() -> None:
    """What it has promised is in there: until then it tells nothing, believes nothing and answers nobody."""
    rig = KeeperRig(placement(mapping(1, A, B, C), settled=True))
    rig.core.replica.is_joined = False
    rig.meet(B)
    rig.says(B, mapping(5, A, B, C))
    rig.says(B, mapping(5, B, C), gone=True)
    rig.pull(B, mapping(1, A, B, C))
    for _ in range(12):
        rig.sticky.tick()
    assert (rig.frames, rig.log.ops, rig.failed) == ([], [], None)
    refusal = rig.sticky.refusal("s")
    assert refusal is not None and refusal.reason is Reason.MAPPING_UNSETTLED and "its own log" in refusal.detail
    rig.core.replica.is_joined = True
    rig.says(B, mapping(5, A, B, C))
    assert rig.log.kinds() == ["adopt"]


def test_the_first_question_after_a_start_is_judged_by_the_mapping_in_the_log() -> None:
    """No tick has passed since: the answer is not that there is no mapping."""
    rig = KeeperRig(placement(mapping(1, A), settled=True))
    assert rig.sticky.refusal("s") is None
    rig = KeeperRig(placement(mapping(1, B), settled=True))
    refusal = rig.sticky.refusal("s")
    assert refusal is not None and refusal.reason is Reason.OWNERSHIP_CONFLICT and refusal.owner == B
    rig = KeeperRig(placement(mapping(1, A)))
    refusal = rig.sticky.refusal("s")
    assert refusal is not None and "no mapping" not in refusal.detail and "epoch 1" in refusal.detail


def test_a_mapping_with_a_stranger_is_not_adopted() -> None:
    """Its sessions could not be given to it, nor its callers be sent there: the operator is told what to do."""
    rig = KeeperRig(placement(mapping(1, A, B), settled=True), size=3)
    rig.meet(B)
    rig.says(B, mapping(2, A, B, D))
    rig.sticky.tick()
    assert "adopt" not in rig.log.kinds() and "MAPPING_MISMATCH" in rig.log.reports
    rig.says(B, mapping(3, A, B, C))
    assert "adopt" in rig.log.kinds()


def test_a_node_that_no_mapping_has_settles_without_being_known() -> None:
    """Growing a cluster: nobody waits for the new node, so nobody writes it down; it is ready, and can be added."""
    rig = KeeperRig(placement(mapping(2, B, C), confirmed=(B, C)))
    rig.meet(B, C)
    rig.sticky.tick()
    assert rig.log.kinds() == ["settle"]
    assert rig.sticky.why_not_ready() is not None
    rig.place(placement(mapping(2, B, C), confirmed=(B, C), settled=True))
    assert rig.sticky.why_not_ready() is None
    refusal = rig.sticky.refusal("s")
    assert refusal is not None and refusal.reason is Reason.OWNERSHIP_CONFLICT
    involved = KeeperRig(placement(ABC, confirmed=(B, C)))
    involved.meet(B, C)
    involved.sticky.tick()
    assert "settle" not in involved.log.kinds()  # one that may hold sessions must be known first


def test_the_next_mapping_names_everybody_whom_this_node_involves() -> None:
    """Also who is in neither mapping: whoever adopts it asks those who may hold sessions from before."""
    place = placement(mapping(2, A, B), involved=(A, B, C))
    nodes = [MappedNode(A, 1, False), MappedNode(D, 1, False)]
    record = next_mapping(place, nodes, (), epoch=None, known=(A, B, C, D), connected=(), here=A)
    assert (record.epoch, record.sources, record.lost) == (3, (A, B, C, D), ())
    record = next_mapping(place, nodes, (C,), epoch=3, known=(A, B, C, D), connected=(), here=A)
    assert (record.sources, record.lost) == ((A, B, D), (C,))


def test_a_lost_node_is_given_up_by_the_tick_once_all_sessions_are_looked_at() -> None:
    """What was transferred to it by an earlier mapping is forgotten under this one; others' is not."""
    rig = KeeperRig(placement(mapping(3, A, B, lost=(C,))), away("s", C), away("t", D))
    rig.sticky.tick()
    assert [(op.kind, op.session_id) for op in rig.log.ops] == [("forget", "s")]


@pytest.mark.parametrize(("epoch", "stays"), [(2, False), (3, True)], ids=["rival", "newer"])
def test_at_an_adoption_only_a_rival_of_the_same_epoch_ends_what_is_owned(epoch: int, stays: bool) -> None:
    """A newer mapping, which this node cannot go by yet, moves its sessions in its own time; a rival never would."""
    rig = KeeperRig(placement(mapping(1, A, B), settled=True), session("s"), size=3)
    rig.owned.grant("s", 1, 2 * 10**12)
    rig.meet(B)
    rig.says(B, mapping(epoch, B, D))
    rig.sticky.peer_disconnected(B)
    rig.place(placement(mapping(2, A)))
    rig.sticky.tick()
    assert ("s" in rig.owned) == stays
    assert rig.fenced_log == ([] if stays else [("s", 1)])
    assert not rig.core.replica.may_own("s")  # a new binding is granted in neither case


def test_a_session_that_maps_here_again_is_not_served_before_it_is_back() -> None:
    """It went to another node, which may have gone on with it: what stands in this log is old, for readers too."""
    rig = KeeperRig(placement(mapping(3, A)), away("gone", B), session("here"))
    rig.sticky.gate.set_placement(rig.log.machine.placement)
    assert rig.sticky.refusal("here") is None
    refusal = rig.sticky.refusal("gone")
    assert refusal is not None and refusal.reason is Reason.MAPPING_UNSETTLED
