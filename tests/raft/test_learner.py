"""Members that lost their disk: they neither vote nor count until they have caught up (replication.py)."""

import pytest
from raft_cluster import MS, Cluster
from raft_messages import Alone, ack, append, entry, heartbeat, pre_vote, request_vote

from raftstore.raft.hardened import HardenedSyncObj
from raftstore.raft.seams import FOLLOWER


def wiped_alone() -> Alone:
    node = Alone()
    node.restart(wiped=True)
    return node


def test_a_wiped_member_gives_no_vote():
    """It does not remember whom it voted for, so it votes for nobody, in no term."""
    node = wiped_alone()
    assert [m for m in node.hear("b", request_vote(5, (9, 4))) if m["type"] == "response_vote"] == []
    assert [m["granted"] for m in node.hear("b", pre_vote(5, (9, 4)))] == [False]
    assert node.hear("b", request_vote(6, (9, 4), transfer=True)) == []


def test_a_wiped_member_never_campaigns():
    """Neither its timer nor a leader's request makes it a candidate."""
    node = wiped_alone()
    node.cluster.now += 5000 * MS
    node.member.step()
    node.hear("b", heartbeat(3))
    node.hear("b", {"type": "timeout_now", "term": 3})
    assert (node.raft.role, node.raft.term) == (FOLLOWER, 3)


def test_acknowledgements_of_a_wiped_member_commit_nothing():
    """The leader feeds it, and counts the others."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.hear("c", ack(1, 0, learner=77))
    index = node.raft.propose(b"x")
    node.member.step()
    node.hear("c", ack(1, index, learner=77))
    assert node.raft.commit_index < index
    node.hear("b", ack(1, index))
    assert node.raft.commit_index == index


def test_promoted_only_after_a_later_entry_is_committed_without_it():
    """The entry that was appended on its return must be on a majority of the others first."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    out = node.hear("c", ack(1, 0, learner=77))
    since = node.raft.last_log_index
    node.hear("c", ack(1, since, learner=77))

    def promoted():
        node.cluster.now += 51 * MS
        node.take()
        node.member.step()
        return {m["promote"] for _, to, m in node.take() if to == "c" and m["type"] == "heartbeat"}

    assert out is not None
    assert promoted() == {0}
    node.hear("b", ack(1, since))
    assert promoted() == {77}


def test_a_promotion_is_for_the_process_that_caught_up():
    """A number of another start promotes nobody."""
    node = wiped_alone()
    node.hear("b", heartbeat(1, promote=12345))
    assert node.raft.is_learner
    number = node.raft._learner
    node.hear("b", heartbeat(1, promote=number))
    assert not node.raft.is_learner
    node.restart()
    assert node.member.journal.voter


def test_a_promotion_that_was_not_on_disk_is_forgotten():
    """A crash before the write leaves a learner, which nobody had been told was anything else."""
    node = wiped_alone()
    node.take()
    node.hear_only("b", heartbeat(1, promote=node.raft._learner))
    assert node.take() == []
    node.restart()
    assert node.raft.is_learner


def test_late_answers_of_the_lost_process_make_no_voter():
    """Answers that the process before the loss gave do not turn the learner back into a voter."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    index = node.raft.propose(b"x")
    node.member.step()
    node.hear("c", ack(1, 0, learner=77))
    node.hear("c", ack(1, index))
    assert node.raft.commit_index < index
    assert [row["voter"] for row in node.raft.peer_status()] == [True, False]


def test_late_answers_of_before_the_promotion_change_nothing():
    """A promoted member stays a voter when an older answer of its own comes in late."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.hear("c", ack(1, 0, learner=77))
    since = node.raft.last_log_index
    node.hear("c", ack(1, since, learner=77))
    node.hear("b", ack(1, since))
    node.hear("c", ack(1, since))
    node.hear("c", ack(1, since, learner=77))
    assert [row["voter"] for row in node.raft.peer_status()] == [True, True]


def test_a_tail_of_an_old_leader_is_not_committed_by_what_the_lost_process_acknowledged():
    """The leader still believes the lost process's acknowledgement; the new one commits only what was verified."""
    node = wiped_alone()
    node.hear("b", append(1, entries=[entry(1, 1), entry(2, 1)]))
    node.hear("c", heartbeat(2, commit=2))
    assert node.member.applied == []


@pytest.mark.parametrize("ids", ["abc", "abcde"])
def test_a_wiped_member_comes_back_by_itself(ids):
    """Snapshot, log, promotion: in the end it votes again, and a write needs it no sooner."""
    cluster = Cluster(ids, seed=5)
    leader = cluster.elect()
    for n in range(12):
        cluster.commit(b"before %d" % n)
    leader.snapshot()
    cluster.run_ms(10)
    lost = next(i for i in ids if i != leader.id)
    cluster.restart(lost, wiped=True)
    cluster.run_until(lambda: cluster[lost].journal.voter, 2000)
    cluster.commit(b"after")
    assert cluster.payloads(lost) == cluster.payloads(leader.id)


def test_promoted_although_the_log_was_cut_in_the_meantime():
    """The entry it has to wait for may be in a snapshot by the time it has caught up."""
    cluster = Cluster(seed=5)
    leader = cluster.elect()
    cluster.commit(b"x")
    lost, other = (i for i in cluster.ids if i != leader.id)
    cluster.dropped = lambda a, b, m: {a, b} == {leader.id, lost} and m["type"] == "append_entries"
    cluster.restart(lost, wiped=True)
    cluster.run_ms(200)
    for n in range(10):
        cluster.propose(leader, b"%d" % n)
        cluster.run_ms(20)
    leader.snapshot()
    cluster.run_ms(20)
    assert leader.journal.base_index > leader.raft._progress[lost].learner_since
    cluster.dropped = lambda a, b, m: False
    cluster.run_until(lambda: cluster[lost].journal.voter, 3000)
    assert cluster[other].raft.term == leader.raft.term


def test_two_of_three_wiped_never_elect_anybody():
    """Where a majority forgot, the rest refuses rather than guesses."""
    cluster = Cluster(seed=6)
    leader = cluster.elect()
    cluster.commit(b"x")
    for lost in cluster.ids:
        if lost != leader.id:
            cluster.restart(lost, wiped=True)
    cluster.run_ms(4000, 5)
    assert cluster.leader() is None
    assert cluster.payloads(leader.id) == [b"x"]


def test_a_non_voter_needs_a_number():
    """Without a number its answers would look like a voter's."""
    node = wiped_alone()
    with pytest.raises(ValueError, match="number"):
        HardenedSyncObj(
            "a",
            "abc",
            clock=node.member.clock,
            rng=node.cluster.rng,
            journal=node.member.journal,
            transport=node.member.outbox,
            snapshots=node.member,
            apply=lambda *_: None,
        )


def test_members_of_a_new_cluster_become_voters_together():
    """Where all directories are empty nobody has forgotten anything."""
    cluster = Cluster(seed=7)
    for i in cluster.ids:
        cluster.restart(i, wiped=True)
    cluster.run_ms(1500, 5)
    assert cluster.leader() is None
    for i in cluster.ids:
        cluster[i].raft.become_voter()
    cluster.commit(b"first")
    assert all(m.journal.voter for m in cluster.members.values())
