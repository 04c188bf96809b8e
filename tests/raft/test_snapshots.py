"""Snapshot transfer and compaction: Raft paper, section 7."""

from hashlib import sha256

import msgpack
import pytest
from raft_cluster import MS, Cluster
from raft_messages import Alone, ack, append, entry, heartbeat

from raftstore.raft.seams import InvariantViolation, RaftTiming


def chunks(state, index, term=1, size=10):
    """The messages that carry a snapshot of `state`."""
    data = msgpack.packb(state)
    return [
        {
            "type": "install_snapshot",
            "term": term,
            "index": index,
            "snapshot_term": term,
            "size": len(data),
            "sha256": sha256(data).digest(),
            "offset": offset,
            "data": data[offset : offset + size],
            "probe": 1,
            "sent_ns": 0,
        }
        for offset in range(0, len(data), size)
    ]


STATE = [[index, b"value %d" % index] for index in range(1, 9)]


def matches(answers):
    return [m["match"] for m in answers if m["type"] == "snapshot_response"]


def offsets(answers):
    return [m["offset"] for m in answers if m["type"] == "snapshot_response"]


def test_installs_what_arrived_whole_and_then_acknowledges():
    """Only the answer to the last chunk, after verifying and syncing, says that the snapshot is held."""
    node = Alone()
    parts = chunks(STATE, 9)
    for part in parts[:-1]:
        assert matches(node.hear("b", part)) == [0]
    node.hear_only("b", parts[-1])
    assert matches([m for _, _, m in node.take()]) == [], "nothing is promised before the disk is done"
    assert node.raft.last_applied == 0
    node.member.sync()
    node.member.outbox.release()
    assert matches([m for _, _, m in node.take()]) == [9]
    assert (node.raft.last_applied, node.raft.commit_index, node.member.state) == (9, 9, STATE)
    node.restart()
    assert (node.raft.last_applied, node.member.state) == (9, STATE)


def test_an_older_snapshot_rolls_nothing_back():
    """What is committed here is answered with "I have that" (H20)."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in range(1, 13)], commit=12))
    applied = list(node.member.state)
    for part in chunks(STATE, 9):
        assert matches(node.hear("b", part)) == [12]
    assert node.member.state == applied
    assert node.raft.snapshots_installed == 0


def test_snapshot_messages_commit_nothing():
    """A chunk verifies no entry, so an uncommitted tail stays uncommitted (H1)."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in range(1, 4)]))
    node.hear("b", chunks(STATE, 9)[0])
    assert (node.raft.commit_index, node.member.applied) == (0, [])


def test_a_lost_chunk_is_noticed_and_sent_again():
    """The offset in every answer tells the sender where to go on."""
    node = Alone()
    parts = chunks(STATE, 9)
    assert offsets(node.hear("b", parts[0])) == [10]
    assert offsets(node.hear("b", parts[2])) == [10]
    assert offsets(node.hear("b", parts[1])) == [20]


def test_a_damaged_snapshot_is_discarded_and_not_acknowledged():
    """A wrong checksum leaves the node as it was, ready for another try (H15)."""
    node = Alone()
    for part in chunks(STATE, 9):
        node.hear("b", {**part, "sha256": b"x" * 32})
    assert (node.raft.last_applied, node.raft.snapshots_installed) == (0, 0)
    for part in chunks(STATE, 9):
        node.hear("b", part)
    assert node.member.state == STATE


def test_entries_behind_the_snapshot_are_kept():
    """A log that holds the snapshot's last entry keeps what follows it (section 7, figure 13)."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in range(1, 13)]))
    for part in chunks(STATE, 9):
        node.hear("b", part)
    assert (node.member.journal.base_index, node.raft.last_log_index) == (9, 12)
    node.restart()
    assert (node.member.journal.base_index, node.raft.last_log_index) == (9, 12)


def test_a_log_that_differs_is_dropped_whole():
    """Entries of another history than the snapshot's do not survive it."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in range(1, 13)]))
    for part in chunks(STATE, 9, term=2):
        node.hear("c", part)
    assert (node.member.journal.base_index, node.raft.last_log_index, node.raft.last_log_term) == (9, 9, 2)
    node.restart()
    assert (node.raft.last_log_index, node.raft.last_log_term) == (9, 2)


def test_entries_of_the_same_step_reach_storage_before_the_snapshot():
    """Memory and disk cut the same log, although append and last chunk came in together."""
    node = Alone()
    parts = chunks(STATE, 9)
    for part in parts[:-1]:
        node.hear("b", part)
    node.raft.receive("b", append(1, entries=[entry(i, 1) for i in range(1, 13)]))
    node.raft.receive("b", parts[-1])
    node.member.step()
    node.member.sync()
    node.member.outbox.release()
    node.member.sync()
    assert node.raft.last_log_index == 12
    node.restart()
    assert (node.member.journal.base_index, node.raft.last_log_index) == (9, 12)


def test_appends_wait_while_a_snapshot_is_installed():
    """The log is about to be replaced: nothing is stored or acknowledged meanwhile, and nothing applied."""
    node = Alone()
    for part in chunks(STATE, 9):
        node.hear_only("b", part)
    node.take()
    node.hear_only("b", append(1, entries=[entry(1, 1)], commit=1))
    node.hear_only("b", chunks(STATE, 9)[-1])
    assert (node.take(), node.member.applied) == ([], [])
    node.member.sync()
    assert node.raft.last_applied == 9


def behind(seed=3, size=60):
    """A cluster whose follower needs a snapshot of several chunks."""
    cluster = Cluster(seed=seed)
    leader = cluster.elect()
    away = next(i for i in cluster.ids if i != leader.id)
    cluster.isolate(away)
    for n in range(size):
        cluster.propose(leader, b"entry number %d" % n)
        cluster.run_ms(2)
    leader.snapshot()
    cluster.run_ms(10)
    assert leader.journal.base_index > cluster[away].raft.last_log_index
    return cluster, leader, away


def installs(cluster, to):
    return [m for _, b, m in cluster.sent if b == to and m["type"] == "install_snapshot"]


def test_a_follower_behind_the_log_gets_the_snapshot():
    """Then it follows the log again."""
    cluster, leader, away = behind()
    cluster.connect_all()
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 1000)
    assert cluster[away].raft.snapshots_installed == 1
    cluster.commit(b"after")
    assert cluster.payloads(away) == cluster.payloads(leader.id)


def test_a_transfer_goes_on_where_the_link_broke():
    """After a reconnect only what is missing is sent."""
    cluster, leader, away = behind()
    cluster.sent = []
    cluster.connect(leader.id, away)
    cluster.run_until(lambda: len(cluster[away].storage.received) > 600, 1000)
    cluster.cut(leader.id, away)
    held = len(cluster[away].storage.received)
    cluster.sent.clear()
    cluster.connect(leader.id, away)
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 1000)
    window = cluster.timing.snapshot_window_chunks
    resent = [m["offset"] for m in installs(cluster, away) if m["offset"] < held]
    assert len(resent) <= window, "the first window asks, the rest goes on from what is held"


def test_a_lost_window_is_sent_again():
    """Chunks that vanish are repeated after an election timeout, from what was acknowledged."""
    cluster, leader, away = behind()
    lost = []
    cluster.dropped = lambda a, b, m: m["type"] == "install_snapshot" and len(lost) < 3 and not lost.append(m)
    cluster.connect(leader.id, away)
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 2000)
    assert len(lost) == 3


def test_the_window_is_bounded():
    """A follower that answers nothing is sent no more than the window."""
    cluster, leader, away = behind()
    cluster.sent = []
    cluster.dropped = lambda a, b, m: m["type"] == "snapshot_response"
    cluster.connect(leader.id, away)
    cluster.run_ms(cluster.timing.election_timeout_max_ns // MS - 50)
    assert len(installs(cluster, away)) == cluster.timing.snapshot_window_chunks


def test_a_newer_snapshot_does_not_restart_a_transfer():
    """Otherwise a transfer that takes longer than the time between two snapshots would never end."""
    cluster, leader, away = behind()
    cluster.sent = []
    cluster.delay_ns = 20 * MS
    cluster.connect(leader.id, away)
    cluster.run_ms(100)
    first = installs(cluster, away)[0]["index"]
    cluster.propose(leader, b"more")
    cluster.run_ms(60)
    leader.snapshot(keep=100)
    cluster.run_until(lambda: cluster[away].raft.snapshots_installed == 1, 3000)
    assert {m["index"] for m in installs(cluster, away)} == {first}
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 1000)


def test_a_bad_copy_is_sent_again_from_the_start():
    """A follower whose disk refused the first install gets it once more."""
    cluster, leader, away = behind()
    cluster[away].storage.fail_installs = 1
    cluster.connect(leader.id, away)
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 3000)


def test_the_log_is_cut_only_under_a_durable_snapshot():
    """Without one, or beyond what is applied, cutting is refused."""
    node = Alone()
    node.hear("b", append(1, entries=[entry(i, 1) for i in range(1, 5)], commit=4))
    with pytest.raises(InvariantViolation):
        node.raft.compact(3)
    node.member.snapshot()
    assert node.member.journal.base_index == 0
    node.member.sync()
    assert node.member.journal.base_index == 4
    with pytest.raises(InvariantViolation):
        node.raft.compact(5)


def test_a_stale_snapshot_answer_moves_nothing_back():
    """An answer to an older transfer neither rewinds the log position nor counts as more than it says."""
    node = Alone()
    node.lead()
    node.hear("b", ack(1, 1))
    answer = {"type": "snapshot_response", "term": 1, "probe": 0, "sent_ns": 0, "learner": 0}
    node.hear("b", answer | {"index": 77, "match": 0, "offset": 5})
    assert [row["match_index"] for row in node.raft.peer_status()] == [1, 0]


def test_a_deposed_leaders_chunk_is_answered_with_the_term():
    """It installs nothing."""
    node = Alone()
    node.hear("b", heartbeat(5))
    out = node.hear("c", chunks(STATE, 9)[0])
    assert [(m["term"], m["match"], m["offset"]) for m in out] == [(5, 0, 0)]


def test_a_follower_that_can_take_nothing_is_not_flooded():
    """A full disk answers every chunk with "I hold nothing": the leader tries again a window at a time, slowly."""
    cluster, leader, away = behind()
    cluster[away].storage.receive = lambda snapshot, offset, data: 0
    cluster.sent = []
    cluster.connect(leader.id, away)
    cluster.run_ms(2000)
    rounds = 2000 * MS // cluster.timing.election_timeout_max_ns + 1
    assert len(installs(cluster, away)) <= rounds * cluster.timing.snapshot_window_chunks
    del cluster[away].storage.receive
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 3000)


def test_chunks_keep_the_bound_of_appends():
    """Where frames are configured small, chunks are small too."""
    cluster, leader, away = behind()
    leader.raft.timing = RaftTiming(append_bytes_max=50)
    cluster.sent = []
    cluster.connect(leader.id, away)
    cluster.run_until(lambda: cluster[away].raft.last_applied == leader.raft.last_applied, 2000)
    assert max(len(m["data"]) for m in installs(cluster, away)) == 50
