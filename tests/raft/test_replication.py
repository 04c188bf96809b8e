"""Replication and commit: Raft paper, sections 5.3 and 5.4.2, figure 8."""

import pytest
from raft_cluster import MS, Cluster
from raft_messages import Alone, ack, append, entry, heartbeat

from raftstore.raft.seams import LEADER, InvariantViolation, RaftTiming


def answers(messages):
    return [(m["success"], m["next_node_idx"] - 1) for m in messages if m["type"] == "next_node_idx"]


def test_appends_only_after_a_matching_entry():
    """Without the entry before, nothing is stored, and the answer says where to go on."""
    node = Alone()
    out = node.hear("b", append(1, (5, 1), [entry(6, 1)]))
    assert node.terms() == []
    assert [(m["success"], m["rejected"], m["next_node_idx"]) for m in out] == [(False, 5, 1)]


def test_a_late_append_cuts_nothing_that_matches():
    """A repeated, shorter append leaves the longer log alone and acknowledges only what it verified (H2a)."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in (1, 2, 3)]))
    out = node.hear("b", append(1, entries=[entry(1, 1)]))
    assert node.terms() == [1, 1, 1]
    assert answers(out) == [(True, 1)]


def test_a_conflict_is_cut_and_replaced():
    """An entry of another term at the same index goes, with all that follow (section 5.3)."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in (1, 2, 3)]))
    assert answers(node.hear("c", append(2, (1, 1), [entry(2, 2)]))) == [(True, 2)]
    assert node.terms() == [1, 2]
    node.restart()
    assert node.terms() == [1, 2]


@pytest.mark.parametrize("message", [append(2, entries=[entry(1, 2)]), append(2, (1, 2), [])])
def test_a_conflict_with_a_committed_entry_stops_the_node(message):
    """A leader that disagrees with what is committed cannot exist; following it would lose it."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(1, 1)], commit=1))
    with pytest.raises(InvariantViolation):
        node.hear_only("c", message)


def test_the_hint_skips_a_whole_term():
    """A conflicting term is skipped at once, however many entries it has."""
    node = Alone()
    node.hear("b", append(3, entries=[entry(1, 1), *[entry(i, 3) for i in range(2, 60)]]))
    out = node.hear("c", append(4, (50, 2), []))
    assert answers(out) == [(False, 1)]


def test_stale_leaders_are_told_the_term():
    """An append of an older term is refused with the term that replaced it."""
    node = Alone()
    node.hear("b", heartbeat(5))
    out = node.hear("c", append(3, entries=[entry(1, 3)]))
    assert [(m["term"], m["success"]) for m in out] == [(5, False)]
    assert node.terms() == []


def test_commit_follows_only_what_the_message_verified():
    """The leader's commit index counts up to the last entry that this very message proved equal."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in (1, 2, 3)]))
    node.hear("c", append(2, (1, 1), [], commit=3))
    assert node.raft.commit_index == 1


def test_a_heartbeat_commits_nothing_that_this_leader_did_not_verify():
    """A leader that remembers another process of this member cannot make it commit an old leader's tail."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in (1, 2, 3)]))
    node.hear("c", heartbeat(2, commit=3))
    assert node.raft.commit_index == 0
    node.hear("c", append(2, (2, 1), []))
    node.hear("c", heartbeat(2, commit=3))
    assert node.raft.commit_index == 2


def test_a_follower_acknowledges_only_what_is_on_its_disk():
    """The answer waits for the entries that it promises."""
    node = Alone()
    node.take()
    node.hear_only("b", append(1, entries=[entry(1, 1)]))
    assert node.take() == []
    node.member.sync()
    assert answers([m for _, _, m in node.take()]) == [(True, 1)]


def test_a_leader_counts_itself_only_when_its_own_disk_is_done():
    """One follower of two has it durably and the leader not yet: that is no majority."""
    node = Alone()
    node.lead()
    node.hear("c", ack(1, 1))
    index = node.raft.propose(b"x")
    node.member.step()
    node.hear_only("b", ack(1, index))
    assert node.raft.commit_index < index
    node.member.sync()
    assert node.raft.commit_index == index


def test_a_majority_of_followers_commits_without_the_leaders_disk():
    """Both followers have it durably: the leader's own slow disk delays nobody."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    index = node.raft.propose(b"x")
    node.member.step()
    node.hear_only("b", ack(1, index))
    node.hear_only("c", ack(1, index))
    assert node.raft.commit_index == index


def test_the_stream_to_followers_does_not_wait_for_the_leaders_disk():
    """Entries leave for the peers while the leader's own write is under way."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.take()
    node.raft.propose(b"x")
    node.member.step()
    assert any(m["type"] == "append_entries" and m["entries"] for _, _, m in node.take())
    assert node.member.storage.jobs


def test_entries_of_older_terms_commit_only_below_one_of_the_own():
    """Figure 8: an old entry on a majority is not committed by counting."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(1, 1), entry(2, 1)]))
    node.lead(2)
    node.hear("b", ack(2, 2))
    node.hear("c", ack(2, 2))
    assert node.raft.commit_index == 0
    node.hear("b", ack(2, 3))
    assert node.raft.commit_index == 3


def test_acknowledgements_of_other_terms_do_not_count():
    """An answer given to an earlier leadership says nothing about this one (H3)."""
    node = Alone()
    node.lead(1)
    node.hear("c", ack(1, 1))
    for n in range(4):
        node.raft.propose(b"%d" % n)
    node.member.step()
    node.hear("c", heartbeat(2))
    node.lead(3)
    assert node.raft.last_log_index == 6
    node.hear("b", ack(1, 6))
    assert node.raft.commit_index == 1
    assert node.raft.role == LEADER


def test_an_acknowledgement_beyond_the_log_stops_the_node():
    """Nobody can hold what this leader never wrote."""
    node = Alone()
    node.lead()
    with pytest.raises(InvariantViolation):
        node.hear_only("b", ack(1, 99))


def test_a_repeated_probe_carries_no_entries():
    """While no answer comes, the question is repeated without the megabytes."""
    node = Alone()
    node.lead()
    node.take()
    for _ in range(4):
        node.cluster.now += 60 * MS
        node.member.step()
    probes = [m for _, to, m in node.take() if to == "b" and m["type"] == "append_entries"]
    assert len(probes) == 4
    assert all(not m["entries"] for m in probes)


def test_the_pipeline_is_bounded():
    """A follower that does not answer is sent no more than the bounds allow."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.take()
    for n in range(50):
        node.raft.propose(b"%d" % n)
        node.member.step()
    sent = [m for _, to, m in node.take() if to == "b" and m["type"] == "append_entries"]
    assert len(sent) == node.raft.timing.inflight_appends_max


def test_lost_appends_are_sent_again():
    """An append that never arrived is repeated once nothing moved for a while."""
    cluster = Cluster(seed=2)
    leader = cluster.elect()
    cluster.commit(b"one")
    lost = []
    cluster.dropped = lambda a, b, m: m["type"] == "append_entries" and bool(m["entries"]) and not lost.append(m)
    index = cluster.propose(leader, b"two")
    cluster.run_ms(20)
    assert lost
    cluster.dropped = lambda a, b, m: False
    cluster.run_until(lambda: all(m.raft.last_applied >= index for m in cluster.members.values()), 1000)


@pytest.mark.parametrize("seed", range(150))
def test_catching_up_always_ends(seed):
    """An old leader with an uncommitted tail catches up over slow links within a second and a half."""
    cluster = Cluster(seed=seed, delay_ms=50, timing=RaftTiming())
    old = cluster.elect()
    cluster.commit(b"before")
    for n in range(5 + seed % 30):
        cluster.propose(old, b"tail%d" % n)
    cluster.isolate(old.id)
    cluster.run_until(lambda: cluster.leader() not in (None, old), 6000, 10)
    leader = cluster.leader()
    for n in range(20):
        cluster.propose(leader, b"new%d" % n)
        cluster.run_ms(10, 10)
    cluster.connect_all()
    for n in range(20):
        cluster.propose(leader, b"more%d" % n)
        cluster.run_ms(10, 10)
    cluster.run_until(lambda: old.raft.last_applied == leader.raft.last_log_index, 1500, 10)
    assert cluster.payloads(old.id) == cluster.payloads(leader.id)


def test_applies_in_order_once_and_in_bounded_steps():
    """A long backlog is applied a slice per step, and asks for the next step at once."""
    node = Alone()
    bound = node.raft.timing.apply_entries_max
    total = bound * 2 + 10
    node.member.clock.ns = node.cluster.now
    node.raft.receive("b", append(1, entries=[entry(i, 1) for i in range(1, total + 1)], commit=total))
    node.member.step()
    assert node.raft.last_applied == bound
    assert node.raft.next_deadline_ns() <= node.member.clock.now_ns()
    node.member.step()
    node.member.step()
    assert [index for index, _, _ in node.member.applied] == list(range(1, total + 1))


def test_a_backlog_of_large_entries_is_applied_in_steps_as_small():
    """Bytes count as well as entries: what thousands of callers wrote must not stall the loop at a restart."""
    node = Alone()
    large = node.raft.timing.apply_bytes_max // 2
    node.member.clock.ns = node.cluster.now
    node.raft.receive("b", append(1, entries=[entry(i, 1, b"x" * large) for i in range(1, 6)], commit=5))
    applied = []
    while node.raft.last_applied < 5:
        node.member.step()
        applied.append(node.raft.last_applied)
    assert applied == [2, 4, 5]


def test_an_entry_that_fits_no_frame_is_refused():
    """A payload beyond the bound is a caller's bug and is never appended (H13)."""
    node = Alone()
    node.lead()
    with pytest.raises(ValueError, match="at most"):
        node.raft.propose(b"x" * (node.raft.timing.entry_bytes_max + 1))


def test_a_slow_follower_disk_costs_no_quorum():
    """Answers to heartbeats do not wait for log writes: a stalled disk alone deposes no leader."""
    cluster = Cluster(seed=4)
    leader = cluster.elect()
    cluster.commit(b"x")
    cluster.auto_sync = False
    leader.sync()
    index = cluster.propose(leader, b"y")
    cluster.run_ms(1500, 5)
    assert cluster.leaders() == [leader.id]
    assert leader.raft.commit_index < index
    cluster.auto_sync = True
    cluster.run_until(lambda: leader.raft.commit_index >= index, 1000)


def test_whoever_waits_for_an_entry_hears_of_its_commit_at_once():
    """Others hear with the next message, or after `commit_notice_ns`: idle followers cost a busy leader nothing."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    node.hear("c", ack(1, 1))
    index = node.raft.propose(b"x")
    node.member.sync()
    node.raft.want_commit("b", index)
    node.hear("c", ack(1, index))
    node.take()
    node.hear_only("b", ack(1, index))
    node.member.step()
    node.member.sync()
    told = {peer for _, peer, m in node.take() if m["type"] == "heartbeat" and m["commit_index"] == index}
    assert told == {"b"}
    assert node.raft.next_deadline_ns() <= node.member.clock.now_ns() + node.raft.timing.commit_notice_ns
    node.cluster.now += node.raft.timing.commit_notice_ns
    node.member.step()
    node.member.sync()
    told = {peer for _, peer, m in node.take() if m["type"] == "heartbeat" and m["commit_index"] == index}
    assert told == {"c"}


@pytest.mark.parametrize("lost", [1, 4, 100])
def test_a_follower_whose_disk_lost_the_end_of_its_log_is_fed_again(lost):
    """It rejects below what it once acknowledged; over a new link the leader believes it, and gives it back."""
    world = Cluster()
    leader = world.elect()
    for number in range(6):
        world.commit(b"entry %d" % number)
    other = next(i for i in world.ids if i != leader.id)
    world.run_until(lambda: world.payloads(other) == world.payloads(leader.id))
    world.crash(other)
    del world[other].storage.log[-lost:]
    world.restart(other)
    world.commit(b"one more")
    world.run_until(lambda: world.payloads(other) == world.payloads(leader.id))
    assert world.leader() is leader
