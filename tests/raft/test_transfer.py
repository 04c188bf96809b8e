"""Leadership transfer: dissertation, section 3.10."""

from raft_cluster import MS, Cluster

from raftstore.raft.seams import LEADER


def test_hands_over_to_the_chosen_member_quickly():
    """The target leads within a few round trips, and nothing proposed before is lost."""
    cluster = Cluster(seed=1)
    leader = cluster.elect()
    cluster.commit(b"x")
    target = next(i for i in cluster.ids if i != leader.id)
    cluster.propose(leader, b"last")
    assert leader.raft.transfer_leadership(target) == target
    cluster.run_until(lambda: cluster[target].raft.is_leader_ready, 100)
    cluster.commit(b"y")
    assert cluster.payloads(leader.id) == [b"x", b"last", b"y"]


def test_chooses_the_member_that_is_furthest():
    """Without a name the best follower is chosen."""
    cluster = Cluster(seed=1)
    leader = cluster.elect()
    cluster.commit(b"x")
    slow, good = (i for i in cluster.ids if i != leader.id)
    cluster.cut(leader.id, slow)
    cluster.propose(leader, b"y")
    cluster.run_ms(10)
    assert leader.raft.transfer_leadership() == good


def test_refuses_proposals_while_it_hands_over():
    """Otherwise the target would never have everything."""
    cluster = Cluster(seed=1)
    leader = cluster.elect()
    leader.raft.transfer_leadership()
    assert leader.raft.is_transferring
    assert leader.raft.propose(b"x") is None


def test_goes_on_leading_when_the_target_does_not_take_over():
    """A target that never answers costs one election timeout of refusals, not the leadership."""
    cluster = Cluster(seed=2)
    leader = cluster.elect()
    term = leader.raft.term
    cluster.dropped = lambda a, b, m: m["type"] == "timeout_now"
    assert leader.raft.transfer_leadership() is not None
    cluster.run_ms(cluster.timing.election_timeout_max_ns // MS + 20)
    assert (leader.raft.role, leader.raft.term, leader.raft.is_transferring) == (LEADER, term, False)
    cluster.commit(b"x")


def test_asks_the_target_once_per_heartbeat():
    """Waiting for the target does not flood it."""
    cluster = Cluster(seed=2)
    leader = cluster.elect()
    cluster.commit(b"x")
    cluster.dropped = lambda a, b, m: m["type"] == "timeout_now"
    leader.raft.transfer_leadership()
    cluster.sent = []
    cluster.run_ms(200)
    asked = sum(m["type"] == "timeout_now" for _, _, m in cluster.sent)
    assert 3 <= asked <= 5


def test_nobody_to_hand_over_to():
    """Only a connected voter can take over; a follower has nothing to hand over."""
    cluster = Cluster(seed=3)
    leader = cluster.elect()
    other = next(m for m in cluster.members.values() if m is not leader)
    assert other.raft.transfer_leadership() is None
    assert leader.raft.transfer_leadership("nobody") is None
    cluster.cut(leader.id, other.id)
    assert leader.raft.transfer_leadership(other.id) is None


def test_only_the_own_leader_can_ask():
    """A request of anybody else, or of an old term, makes no candidate."""
    cluster = Cluster(seed=4)
    leader = cluster.elect()
    one, two = (m for m in cluster.members.values() if m is not leader)
    one.raft.receive(two.id, {"type": "timeout_now", "term": leader.raft.term})
    one.raft.receive(leader.id, {"type": "timeout_now", "term": leader.raft.term - 1})
    cluster.run_ms(300)
    assert cluster.leaders() == [leader.id]
