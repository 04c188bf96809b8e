"""Holes by which an acknowledged entry is lost, or two clients own one session (H1, H2, H3, H4, H20, H21, H23)."""

import pytest
from harness import Driver, Told, two_owners
from pysyncobj.node import Node
from raft_cluster import MemoryStorage

from raftstore.raft.journal import HardenedJournal
from raftstore.raft.seams import CANDIDATE


def test_h1_snapshot_messages_commit_nothing(stock, ours):
    """A deposed leader with an uncommitted tail meets a leader that cut its log: the tail stays uncommitted."""

    def schedule(c: Driver) -> tuple[Told, Told]:
        assert c.elect("A", "BC")
        c.settle("A")
        c.isolate("A")
        first = c.acquire("A", "s", "A")
        assert c.elect("B", "C")
        c.settle("B", "BC")
        second = c.acquire("B", "s", "B")
        for n in range(10):
            c.put("B", n)
        c.settle("B", "BC")
        c.compact("B")
        c.settle("B", "BC")
        assert c.log("B")[0][0] > c.log("A")[-1][0]
        c.connect_all()
        for _ in range(3):
            c.beat("B")
            while c.queues["B", "A"] and not first.calls:
                c.deliver("B", "A", 1)
                c.tick("A")
                c.deliver("A", "B")
        c.settle("B")
        return first, second

    assert two_owners(*schedule(stock(logCompactionBatchSize=64)))
    driver = ours()
    first, second = schedule(driver)
    assert second.succeeded
    assert not first.succeeded
    assert {driver.owner(i, "s") for i in "ABC"} == {"B"}


def test_h2a_a_late_append_cuts_nothing(stock, ours):
    """A late copy of an ordinary heartbeat or append leaves acknowledged entries in place."""

    def schedule(c: Driver) -> tuple[Told, Told]:
        assert c.elect("A", "BC")
        c.settle("A")
        early = c.put("A", "early")
        c.beat("A")
        stale = list(c.queues["A", "B"])
        c.flush()
        assert early.calls or c.settle("A") is None
        c.isolate("C")
        first = c.acquire("A", "s", "one")
        c.settle("A", "AB")
        for raw in stale:
            c.inject("A", "B", raw)
        c.isolate("A")
        c.connect("B", "C")
        _ = c.elect("C", "B") or c.elect("B", "C")
        leader = "C" if c.leads("C") else "B"
        c.settle(leader, "BC", 8)
        second = c.acquire(leader, "s", "two")
        c.settle(leader, "BC", 8)
        return first, second

    assert two_owners(*schedule(stock()))
    first, second = schedule(ours())
    assert first.succeeded
    assert second.calls == [(False, "SUCCESS")]


def test_h2b_stale_resets_lose_nothing(stock, ours):
    """A dropped connection makes the leader hear two resets; the second, stale, rewinds nothing acknowledged."""

    def schedule(c: Driver) -> list[int]:
        assert c.elect("A", "BC")
        c.settle("A")
        c.isolate("C")
        c.put("A", 0, 150)
        c.beat("A")
        c.cut("A", "B")
        c.connect("A", "B")
        c.beat("A")
        c.beat("A")
        c.deliver("A", "B")
        tolds = [c.put("A", n, 150) for n in range(1, 5)]
        c.deliver("B", "A", 1)
        c.beat("A")
        c.deliver("B", "A", 1)
        c.beat("A")
        waiting = len(c.queues["A", "B"])
        c.deliver("A", "B", waiting // 2)
        c.deliver("B", "A")
        c.tick("A")
        full = c.log("B")[-1]
        while c.queues["A", "B"] and c.log("B")[-1] >= full:
            c.deliver("A", "B", 1)
        c.isolate("A")
        c.connect("B", "C")
        assert c.elect("B", "C")
        c.settle("B", "BC", 8)
        return [n for n, told in enumerate(tolds, 1) if told.succeeded and n not in c.history("C")]

    assert schedule(stock(batch_bytes=200))
    assert schedule(ours(batch_bytes=200)) == []


def test_h3_acknowledgements_of_an_older_term_count_nothing(stock, ours):
    """Answers of a first leadership arrive in the second, whose entries at those places are others."""

    def schedule(c: Driver) -> tuple[Told, Told]:
        assert c.elect("A", "BCDE")
        c.settle("A")
        for other in "CDE":
            c.cut("A", other)
        for n in range(6):
            c.put("A", n)
        c.beat("A")
        delayed = []
        for _ in range(6):
            c.deliver("A", "B")
            delayed += list(c.queues["B", "A"])
            c.tick("A")
        c.queues["B", "A"].clear()
        c.isolate("B")
        assert c.elect("C", "DE")
        c.queues["C", "D"].clear()
        c.queues["C", "E"].clear()
        c.cut("C", "D")
        c.cut("C", "E")
        c.connect("A", "C")
        for _ in range(4):
            c.beat("C")
            c.deliver("C", "A")
            c.deliver("A", "C")
        c.isolate("C")
        c.connect("A", "D")
        c.connect("A", "E")
        assert c.elect("A", "DE")
        c.cut("A", "E")
        c.settle("A", "AD", 1)
        first = c.acquire("A", "s", "one")
        c.settle("A", "AD", 3)
        for raw in delayed:
            c.inject("B", "A", raw)
        c.tick("A")
        c.tick("A")
        c.isolate("A")
        c.isolate("D")
        c.connect_all("BCE")
        _ = any(c.elect("C", "BE") for _ in range(4))
        c.settle("C", "BCE", 6)
        second = c.acquire("C", "s", "two")
        c.settle("C", "BCE", 6)
        return first, second

    assert two_owners(*schedule(stock("ABCDE")))
    first, second = schedule(ours("ABCDE"))
    assert not first.succeeded
    assert second.succeeded


def test_h4_a_vote_counts_once(stock, ours):
    """One vote delivered twice elects nobody, so no second leader can be elected in the same term."""

    def schedule(c: Driver) -> bool:
        c.campaign("A")
        c.deliver("A", "B")
        vote = c.take("B", "A")
        c.inject("B", "A", vote)
        c.inject("B", "A", vote)
        return c.leads("A")

    assert schedule(stock("ABCDE"))
    assert not schedule(ours("ABCDE"))


def test_h4_only_members_vote(stock, ours):
    """An anonymous read-only connection casts no vote."""
    c = stock()
    c.campaign("A")
    c._transport("A")._onReadonlyNodeConnected(Node("0"))
    c._transport("A")._onMessageReceived(Node("0"), {"type": "response_vote", "term": c.term("A")})
    assert c.leads("A")

    d = ours()
    d.campaign("A")
    raft = d.members["A"].raft
    raft._SyncObj__onReadonlyNodeConnected(Node("0"))
    vote = {"type": "response_vote", "term": d.term("A"), "granted": True, "anchored": True, "cluster_ms": 0}
    raft._SyncObj__onMessageReceived(Node("0"), vote)
    assert raft.role == CANDIDATE


def test_h20_an_older_snapshot_rolls_nobody_back(stock, ours):
    """A late reset asks for what the leader only has as a snapshot: the follower keeps what it acknowledged."""

    def schedule(c: Driver) -> tuple[Told, Told]:
        assert c.elect("A", "BC")
        c.settle("A")
        for n in range(10):
            c.put("A", n)
        c.settle("A")
        c.compact("A")
        c.settle("A")
        c.isolate("C")
        first = c.acquire("A", "s", "one")
        c.settle("A", "AB")
        before = c.applied("B")
        c.late_reset("B", "A", 3)
        c.beat("A")
        while c.queues["A", "B"] and c.applied("B") >= before:
            c.deliver("A", "B", 1)
            c.tick("B")
        c.isolate("A")
        c.connect("B", "C")
        _ = c.elect("C", "B") or c.elect("B", "C")
        leader = "C" if c.leads("C") else "B"
        c.settle(leader, "BC", 8)
        second = c.acquire(leader, "s", "two")
        c.settle(leader, "BC", 8)
        return first, second

    assert two_owners(*schedule(stock()))
    first, second = schedule(ours())
    assert first.succeeded
    assert second.calls == [(False, "SUCCESS")]


def test_h21_a_restart_forgets_nothing(stock, ours):
    """By default the stock class keeps log, term and vote in memory: a restart loses what it acknowledged."""

    def schedule(c: Driver) -> tuple[Told, Told]:
        assert c.elect("A", "BC")
        c.settle("A")
        c.isolate("C")
        first = c.acquire("A", "s", "one")
        c.settle("A", "AB")
        c.isolate("A")
        c.restart("B")
        c.connect("B", "C")
        _ = c.elect("C", "B") or c.elect("B", "C")
        leader = "C" if c.leads("C") else "B"
        c.settle(leader, "BC", 8)
        second = c.acquire(leader, "s", "two")
        c.settle(leader, "BC", 8)
        return first, second

    assert two_owners(*schedule(stock()))
    first, second = schedule(ours())
    assert first.succeeded
    assert second.calls == [(False, "SUCCESS")]


def test_h21_no_second_vote_after_a_restart(stock, ours):
    """A node that voted, died and came back gives no other candidate of that term its vote."""

    def schedule(c: Driver) -> bool:
        c.isolate("C")
        assert c.elect("A", "B")
        c.isolate("A")
        c.restart("B")
        c.connect("B", "C")
        c.elect("C", "B")
        return c.leads("A") and c.leads("C") and c.term("A") == c.term("C")

    assert schedule(stock())
    assert not schedule(ours())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_h23_the_commit_index_never_outruns_the_log(stock, tmp_path):
    """The stock class restores a commit index of its own file; with the log's tail lost it acknowledges alone."""
    c = stock(files=True)
    assert c.elect("A", "BC")
    c.settle("A")
    early = {i: (tmp_path / f"{i}.j").read_bytes() for i in "ABC"}  # what had reached the disk
    for n in range(5):
        c.put("A", n)
    c.settle("A")
    for node in c.nodes.values():
        node._SyncObj__raftLog.onOneSecondTimer()
    for i in "ABC":
        c.isolate(i)
        c.nodes[i]._doDestroy()
        (tmp_path / f"{i}.j").write_bytes(early[i])
        c.nodes[i] = c._new(i)
    c.connect_all()
    assert c.elect("A", "B")
    c.isolate("A")
    first = c.acquire("A", "s", "one")
    c.tick("A")
    c.tick("A")
    assert c.elect("B", "C")
    c.settle("B", "BC")
    second = c.acquire("B", "s", "two")
    c.settle("B", "BC")
    assert two_owners(first, second)


def test_h23_ours_learns_the_commit_index_again(ours):
    """After a power loss nothing but the snapshot is known to be committed, and a lone leader acknowledges nothing."""
    journal = HardenedJournal(MemoryStorage())
    journal.setRaftCommitIndex(99)
    assert journal.getRaftCommitIndex() == 0
    d = ours()
    assert d.elect("A", "BC")
    d.settle("A")
    for n in range(5):
        d.put("A", n)
    d.settle("A")
    for i in "ABC":
        d.restart(i)
        assert d.members[i].raft.commit_index == 0
    d.connect_all()
    assert d.elect("A", "B")
    d.isolate("A")
    told = d.acquire("A", "s", "one")
    d.tick("A")
    assert not told.succeeded
    assert d.members["A"].raft.commit_index == 0
