"""Reads of a leader that nobody can have replaced yet: dissertation, section 6.4.1."""

from dataclasses import replace

import pytest
from raft_cluster import LEASED, MS, Cluster
from raft_messages import Alone, ack, heartbeat, pre_vote, request_vote

from raftstore.raft.seams import LEADER


def leading(ids: str = "abc") -> Alone:
    """A leader whose first entry waits for acknowledgements."""
    node = Alone(ids, timing=LEASED)
    node.lead()
    return node


def sent_now(node: Alone) -> int:
    """The leader's clock, as its messages of this instant would say."""
    node.member.clock.ns = node.cluster.now
    return node.member.clock.now_ns()


def holds(node: Alone) -> bool:
    node.member.clock.ns = node.cluster.now
    return node.raft.holds_read_lease()


def test_it_counts_from_the_sending_of_what_was_answered():
    """Not from the answer: the voter may have set itself free by then."""
    node = leading()
    sent = sent_now(node)
    node.cluster.now += 200 * MS
    assert not holds(node)
    node.hear("b", ack(1, 1, sent_ns=sent))
    assert holds(node)
    node.cluster.now += 94 * MS - 1
    assert holds(node)
    node.cluster.now += 1
    assert not holds(node)


def test_a_read_within_it_is_answered_at_once_and_one_beyond_it_asks_a_majority():
    """Both with the commit index of their own time."""
    node = leading()
    node.hear("b", ack(1, 1, sent_ns=sent_now(node)))
    answers: list[int | None] = []
    assert node.raft.read_index(answers.append) and answers == [1]
    node.cluster.now += 294 * MS
    node.member.clock.ns = node.cluster.now
    assert node.raft.read_index(answers.append) and answers == [1]


def test_there_is_none_before_an_entry_of_the_own_term_is_committed():
    """What earlier leaders committed is not known to be all here before that."""
    node = leading()
    node.hear("b", ack(1, 0, sent_ns=sent_now(node)))
    assert node.raft.role == LEADER and not holds(node)
    node.hear("b", ack(1, 1, sent_ns=sent_now(node)))
    assert holds(node)


def test_five_members_need_two_answers():
    """One of four others is no majority; neither is one that lost its disk."""
    node = leading("abcde")
    sent = sent_now(node)
    for peer in "bc":
        node.hear(peer, ack(1, 1, sent_ns=sent))
    assert holds(node)
    node.cluster.now += 294 * MS
    sent = sent_now(node)
    node.hear("b", ack(1, 1, sent_ns=sent))
    node.hear("d", ack(1, 1, sent_ns=sent, learner=5))
    assert not holds(node)
    node.hear("e", ack(1, 1, sent_ns=sent))
    assert holds(node)


def test_it_ends_with_the_leadership():
    """Whoever hears of a higher term reads no more."""
    node = leading()
    node.hear("b", ack(1, 1, sent_ns=sent_now(node)))
    assert holds(node)
    node.hear("c", heartbeat(2))
    assert not holds(node)


def test_nobody_is_told_of_a_commit_that_is_not_applied_here_while_it_runs():
    """Another node could answer its caller before this one could show it."""
    node = leading()
    node.raft.timing = replace(LEASED, apply_entries_max=1)
    node.hear("b", ack(1, 1, sent_ns=sent_now(node)))
    for number in range(4):
        node.raft.propose(b"%d" % number)
    node.member.sync()
    node.take()
    node.hear("b", ack(1, 5, sent_ns=sent_now(node)))
    behind = 0
    while node.raft.last_applied < 5:
        behind += 1
        assert node.raft.commit_index == 5 and not holds(node)
        node.member.step()
    assert behind and holds(node)


def test_who_asked_for_a_transfer_has_none_for_the_rest_of_its_term():
    """The question may arrive at any time, and the voters are free from then on."""
    node = leading()
    node.hear("b", ack(1, 1, sent_ns=sent_now(node)))
    assert node.raft.transfer_leadership("b") == "b"
    assert holds(node)  # nobody was asked yet
    node.take()
    node.member.step()
    assert [m["type"] for _, _, m in node.take() if m["type"] == "timeout_now"] == ["timeout_now"]
    assert not holds(node)
    node.cluster.now += 700 * MS
    for peer in "bc":
        node.hear(peer, ack(1, 1, sent_ns=sent_now(node)))
    assert node.raft.role == LEADER and not node.raft.is_transferring
    assert not holds(node)
    node.lead(2) if node.raft.role != LEADER else None
    node.hear("c", heartbeat(2))
    node.lead(3)
    node.hear("b", ack(3, node.raft.last_log_index, sent_ns=sent_now(node)))
    assert holds(node)  # a term of its own


@pytest.mark.parametrize("question", [request_vote(9, (1, 1)), pre_vote(9, (1, 1))])
def test_who_restarts_helps_no_candidate_against_a_leader_that_it_may_have_answered(question):
    """For the minimum election timeout from its start; one that never promised anything is free at once."""
    node = Alone()
    assert [m["granted"] for m in node.hear("c", question)] == [True]
    node = Alone()
    node.hear("b", heartbeat(1))
    node.restart()
    node.cluster.now += 299 * MS
    assert True not in [m["granted"] for m in node.hear("c", question)]
    node.cluster.now += 1 * MS
    assert [m["granted"] for m in node.hear("c", question)] == [True]


@pytest.mark.parametrize("seed", range(10))
def test_a_leader_that_is_cut_off_has_none_when_another_one_leads(seed):
    """Whatever the election timeouts and the moment."""
    cluster = Cluster(seed=seed, timing=LEASED)
    old = cluster.elect()
    cluster.commit(b"x")
    cluster.isolate(old.id)
    cluster.run_until(lambda: any(cluster[i].raft.role == LEADER for i in cluster.ids if i != old.id), 5_000)
    old.clock.ns = cluster.now
    assert not old.raft.holds_read_lease()
