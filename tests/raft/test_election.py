"""Elections: Raft paper, sections 5.1, 5.2 and 5.4.1; dissertation, sections 4.2.3 and 9.6."""

import pytest
from raft_cluster import MS, Cluster
from raft_messages import Alone, append, entry, heartbeat, pre_vote, request_vote, vote

from raftstore.raft.seams import CANDIDATE, FOLLOWER, LEADER, InvariantViolation


def granted(answers):
    return [m["granted"] for m in answers if m["type"] in ("response_vote", "pre_vote_response")]


def test_votes_once_per_term():
    """A node gives its vote to the first candidate of a term and to no other, but repeats it to the same."""
    node = Alone()
    assert granted(node.hear("b", request_vote(5))) == [True]
    assert granted(node.hear("c", request_vote(5))) == [False]
    assert granted(node.hear("b", request_vote(5))) == [True]


def test_a_vote_outlives_a_restart():
    """Term and vote are on disk before the vote leaves, so a restarted node gives no second vote."""
    node = Alone()
    node.hear("b", request_vote(5))
    node.restart()
    assert (node.raft.term, node.raft.voted_for) == (5, "b")
    node.cluster.now += 300 * MS  # before, it answers no candidate
    assert granted(node.hear("c", request_vote(5))) == [False]


def test_no_vote_leaves_before_it_is_on_disk():
    """While the disk stands still no vote leaves; a crash then takes a promise that nobody saw."""
    node = Alone()
    node.take()
    node.hear_only("b", request_vote(5))
    assert node.take() == []
    node.restart()
    assert node.raft.term == 0
    assert granted(node.hear("c", request_vote(5))) == [True]


@pytest.mark.parametrize(
    ("last", "expected"), [((1, 2), False), ((3, 1), False), ((2, 2), True), ((3, 2), True), ((1, 3), True)]
)
def test_votes_only_for_logs_at_least_as_good(last, expected):
    """The later last term wins; with equal terms the longer log (section 5.4.1)."""
    node = Alone()
    node.hear("b", append(2, entries=[entry(1, 1), entry(2, 2)]))
    node.cluster.now += 1000 * MS
    assert granted(node.hear("c", request_vote(9, last))) == [expected]


def test_repeated_votes_count_once():
    """Five nodes: the same vote delivered four times is one vote."""
    node = Alone("abcde")
    node.cluster.now += 700 * MS
    node.member.step()
    for peer in "bc":
        node.hear(peer, {"type": "pre_vote_response", "term": 0, "granted": True, "round": 1})
    assert node.raft.role == CANDIDATE
    for _ in range(4):
        node.hear("b", vote(1))
    assert node.raft.role == CANDIDATE
    node.hear("c", vote(1))
    assert node.raft.role == LEADER


@pytest.mark.parametrize("late", [vote(1), vote(3), vote(2, granted=False)])
def test_votes_of_other_terms_and_refusals_do_not_count(late):
    """Only a granted vote of the candidate's own term counts."""
    node = Alone()
    node.hear("b", heartbeat(1))
    node.cluster.now += 700 * MS
    node.member.step()
    node.hear("b", {"type": "pre_vote_response", "term": 1, "granted": True, "round": 1})
    assert (node.raft.role, node.raft.term) == (CANDIDATE, 2)
    node.hear("c", late)
    assert node.raft.role != LEADER


def test_pre_vote_changes_nothing():
    """Being asked whether one would vote leaves term and vote alone, and asks no vote of the asking node."""
    node = Alone()
    assert granted(node.hear("b", pre_vote(7))) == [True]
    assert (node.raft.term, node.raft.voted_for) == (0, None)


def test_a_candidate_raises_its_term_only_after_a_majority_would_vote():
    """Timers that fire in a minority leave the term alone: the node that comes back deposes nobody (H14)."""
    cluster = Cluster(seed=3)
    cluster.elect()
    cluster.isolate("a")
    term = cluster["a"].raft.term
    cluster.run_ms(3000, 5)
    assert cluster["a"].raft.term == term


@pytest.mark.parametrize("message", [request_vote(9, (99, 9)), pre_vote(9, (99, 9))])
def test_who_hears_a_leader_helps_no_candidate(message):
    """Within the minimum election timeout of a leader's word a candidate gets no vote and moves no term."""
    node = Alone()
    node.hear("b", heartbeat(1))
    node.cluster.now += 250 * MS
    assert True not in granted(node.hear("c", message))
    assert node.raft.term == 1
    node.cluster.now += 100 * MS
    assert granted(node.hear("c", message)) == [True]


def test_a_transfer_passes_stickiness():
    """A vote that the leader itself asked for is given although the leader is well."""
    node = Alone()
    node.hear("b", heartbeat(1))
    assert granted(node.hear("c", request_vote(2, transfer=True))) == [True]


@pytest.mark.parametrize("seed", range(20))
def test_a_rejoining_node_deposes_nobody(seed):
    """A node that was cut off for long comes back to the same leader in the same term."""
    cluster = Cluster(seed=seed)
    leader = cluster.elect()
    term = leader.raft.term
    away = next(i for i in cluster.ids if i != leader.id)
    cluster.isolate(away)
    for number in range(5):
        cluster.propose(leader, b"%d" % number)
        cluster.run_ms(300, 5)
    cluster.connect_all()
    cluster.run_ms(1500, 5)
    assert cluster.leaders() == [leader.id]
    assert leader.raft.term == term
    assert cluster[away].raft.last_applied == leader.raft.last_applied


def test_a_leader_without_quorum_steps_down_within_one_election_timeout():
    """A cut-off leader stops calling itself one before anybody else can have been elected for long."""
    cluster = Cluster(seed=1)
    leader = cluster.elect()
    cluster.isolate(leader.id)
    cluster.run_ms(cluster.timing.election_timeout_max_ns // MS, 5)
    assert leader.raft.role == FOLLOWER
    assert leader.raft.propose(b"x") is None
    assert not leader.raft.has_quorum


def test_a_leader_that_slept_steps_down_before_it_serves():
    """After a pause the first step finds that nobody has confirmed the leader for too long."""
    cluster = Cluster(seed=1)
    leader = cluster.elect()
    leader.paused_until = cluster.now + 900 * MS
    cluster.run_ms(905, 5)
    leader.step()
    assert leader.raft.role == FOLLOWER


def test_a_higher_term_is_adopted_at_once():
    """Section 5.1: whoever learns of a higher term becomes its follower."""
    node = Alone()
    node.lead()
    node.hear("b", {**heartbeat(1), "type": "heartbeat", "term": 4})
    assert (node.raft.role, node.raft.term, node.raft.leader_id) == (FOLLOWER, 4, "b")


def test_two_leaders_of_one_term_stop_the_node():
    """What a correct cluster cannot show is no reason to guess."""
    node = Alone()
    node.hear("b", heartbeat(1))
    with pytest.raises(InvariantViolation):
        node.hear_only("c", heartbeat(1))


def test_no_campaign_while_a_snapshot_is_installed():
    """An answer to an old pre-vote does not make a candidate of a node whose log is about to be replaced."""
    node = Alone()
    node.cluster.now += 700 * MS
    node.member.step()
    data = b"\x90"
    from hashlib import sha256

    chunk = {
        "type": "install_snapshot",
        "term": 1,
        "index": 9,
        "snapshot_term": 1,
        "size": 1,
        "sha256": sha256(data).digest(),
        "offset": 0,
        "data": data,
        "probe": 1,
        "sent_ns": 0,
    }
    node.hear_only("b", chunk)
    node.cluster.now += 299 * MS
    node.hear_only("b", heartbeat(1))
    node.cluster.now += 301 * MS
    node.hear_only("c", {"type": "pre_vote_response", "term": 1, "granted": True, "round": node.raft._pre_vote_round})
    assert (node.raft.role, node.raft.term) == (FOLLOWER, 1)
    node.member.sync()
    assert node.raft.last_applied == 9


def test_a_single_member_leads_and_commits_alone():
    """A cluster of one, for development, needs nobody else, yet commits only what its disk holds."""
    cluster = Cluster("a", auto_sync=False)
    node = cluster["a"]
    cluster.run_ms(700, 5)
    assert node.raft.role == LEADER
    assert node.raft.commit_index == 0
    node.sync()
    assert node.raft.is_leader_ready


def test_no_majority_connected_means_no_campaign():
    """A node that sees no majority does not even ask."""
    node = Alone()
    node.cluster.isolate("a")
    node.take()
    node.cluster.now += 5000 * MS
    node.member.step()
    assert node.take() == []
    assert node.raft.term == 0
