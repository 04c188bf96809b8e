"""Linearizable reads: Raft paper, section 8; dissertation, section 6.4."""

from raft_cluster import MS, Cluster
from raft_messages import Alone, ack, heartbeat

from raftstore.raft.seams import FOLLOWER


def answer_probe(node: Alone, peer: str, probe: int, term: int = 1) -> None:
    beat = {"type": "heartbeat_response", "term": term, "probe": probe, "sent_ns": node.member.clock.now_ns()}
    node.hear(peer, beat | {"learner": 0})


def reading() -> tuple[Alone, list[int | None], int]:
    """A ready leader with one read under way, and the number of the round that can confirm it."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    answers: list[int | None] = []
    assert node.raft.read_index(answers.append)
    round_before = node.raft._probe
    node.member.step()
    return node, answers, round_before + 1


def test_a_majority_must_answer_a_round_that_began_after_the_read():
    """Answers to older heartbeats and appends confirm nothing."""
    node, answers, number = reading()
    answer_probe(node, "b", number - 1)
    node.hear("b", ack(1, 1, probe=number - 1))
    assert answers == []
    answer_probe(node, "b", number)
    assert answers == [1]


def test_five_members_need_two_answers():
    """One of four others is no majority."""
    cluster = Cluster("abcde", seed=3)
    leader = cluster.elect()
    cluster.commit(b"x")
    away = [i for i in cluster.ids if i != leader.id]
    for i in away[1:]:
        cluster.cut(leader.id, i)
    answers: list[int | None] = []
    assert leader.raft.read_index(answers.append)
    cluster.run_ms(100)
    assert answers == []
    cluster.run_ms(400)
    assert answers == [None]


def test_no_read_before_an_entry_of_the_own_term_is_committed():
    """A fresh leader does not know what earlier ones committed: it refuses."""
    node = Alone()
    node.lead()
    assert not node.raft.read_index(lambda index: None)
    node.hear("b", ack(1, 1))
    assert node.raft.read_index(lambda index: None)


def test_reads_fail_when_leadership_is_lost():
    """A deposed leader answers "not here", once."""
    node, answers, number = reading()
    node.hear("b", heartbeat(2))
    answer_probe(node, "c", number, term=1)
    assert answers == [None]


def test_a_read_from_within_the_failure_is_refused():
    """A caller that asks again from its callback finds no leader, instead of waiting for ever."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    again: list[bool] = []
    node.raft.read_index(lambda index: again.append(node.raft.read_index(lambda _: None)))
    node.hear("b", heartbeat(2))
    assert again == [False]
    assert not node.raft._reads


def test_one_round_confirms_many_reads():
    """Reads of one step share a heartbeat round; none writes the log."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.take()
    answers: list[int | None] = []
    for _ in range(100):
        node.raft.read_index(answers.append)
    last = node.raft.last_log_index
    node.member.step()
    assert sum(m["type"] == "heartbeat" for _, _, m in node.take()) == 2
    answer_probe(node, "c", node.raft._probe)
    assert answers == [1] * 100
    assert node.raft.last_log_index == last


def test_waiting_reads_are_bounded():
    """Past the bound a read is refused at once."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    results = [node.raft.read_index(lambda index: None) for _ in range(node.raft.timing.reads_max + 1)]
    assert results.count(False) == 1
    assert results[-1] is False


def test_a_wiped_members_answer_confirms_no_read():
    """A learner is no witness of leadership."""
    node, answers, number = reading()
    beat = {"type": "heartbeat_response", "term": 1, "probe": number, "sent_ns": 0, "learner": 7}
    node.hear("c", beat)
    node.hear("c", beat)
    assert answers == []


def test_a_cut_off_leader_answers_no_read():
    """Behind a partition the answer is None within an election timeout, never a stale index."""
    cluster = Cluster(seed=9)
    leader = cluster.elect()
    cluster.commit(b"x")
    cluster.isolate(leader.id)
    answers: list[int | None] = []
    leader.raft.read_index(answers.append)
    cluster.run_ms(cluster.timing.election_timeout_max_ns // MS)
    assert answers == [None]
    assert leader.raft.role == FOLLOWER
