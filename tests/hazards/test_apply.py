"""Holes of applying and decoding entries (H8, H9, H13, H18)."""

import contextlib
import itertools
import pickle
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from harness import Driver
from pysyncobj import syncobj as stock_module
from raft_messages import Alone, append, entry

from raftstore.codec.messages import MalformedMessage
from raftstore.ownership import Machine
from raftstore.raft.peer_messages import decode, encode
from raftstore.raft.seams import InvariantViolation


class Touch:
    """Unpickling this makes a file: the harmless stand-in for any code at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_h8_a_command_that_raises_wedges_the_stock_class(stock):
    """It is applied again at every tick, on every node, and nothing behind it ever is."""
    c = stock()
    assert c.elect("A", "BC")
    c.settle("A")
    c.nodes["A"].poison()
    told = c.put("A", "behind")
    raised = 0
    for _ in range(6):
        for i in "ABC":
            try:
                c.tick(i, ms=110 if i == "A" else 1)
            except ValueError:
                raised += 1
        c.flush()
    assert raised > 3
    assert c.history("A").count("poison") > 1
    assert told.calls == []


def test_h8_a_callback_that_raises_applies_twice_on_the_stock_class(stock):
    """A client's bug makes one replica differ from the others."""
    c = stock()
    assert c.elect("A", "BC")
    c.settle("A")

    def boom(result: Any, error: int) -> None:
        raise RuntimeError("a client's bug")

    c.nodes["A"].put("once", callback=boom)
    for _ in range(6):
        for i in "ABC":
            with contextlib.suppress(RuntimeError):
                c.tick(i, ms=110 if i == "A" else 1)
        c.flush()
    assert [c.history(i).count("once") for i in "ABC"] == [2, 1, 1]


def test_h8_each_entry_is_applied_once_whatever_happens():
    """An apply that raises is a broken invariant: it surfaces, and the entry is never handed over a second time."""
    node = Alone()
    seen: list[int] = []

    def apply(index: int, term: int, payload: bytes) -> None:
        seen.append(index)
        if index == 2:
            raise RuntimeError("a bug")

    node.raft._apply = apply
    with pytest.raises(RuntimeError):
        node.hear_only("b", append(1, entries=[entry(i, 1) for i in (1, 2, 3)], commit=3))
    node.member.step()
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\xff" * 50, b"cos\nsystem\n", pickle.dumps([1, 2]), msgpack.packb({"a": [1] * 9})]
)
def test_h8_our_machine_refuses_what_it_does_not_understand(payload):
    """Whatever bytes an entry holds, applying them returns, alike on every replica."""
    one, two = Machine(), Machine()
    assert repr(one.apply(1, 1, payload)) == repr(two.apply(1, 1, payload))


def test_h9_an_entry_is_a_program_for_the_stock_class(stock, tmp_path):
    """Applying a command unpickles it, and so runs it."""
    c = stock()
    assert c.elect("A", "BC")
    c.settle("A")
    made = tmp_path / "made"
    c.nodes["A"]._applyCommand(pickle.dumps(Touch(made)), None, 0)
    c.tick("A")
    try:
        c.settle("A")
    except Exception as problem:  # a path is no command; by then it has run
        assert not isinstance(problem, AssertionError)
    assert made.exists()


def test_h9_anybody_commands_the_stock_class(stock, tmp_path):
    """A message of an unknown node is obeyed: it sets the term, names the leader, and unpickles its data."""
    c = stock()
    message = {"type": "append_entries", "term": 10**9, "commit_index": 0, "prevLogIdx": 1, "prevLogTerm": 0}
    made = tmp_path / "made"
    data = pickle.dumps(Touch(made))
    for transmission in ("start", "finish"):
        chunk = {"transmission": transmission, "data": data if transmission == "start" else b""}
        with contextlib.suppress(TypeError):  # what was unpickled is no entry; by then it has run
            c.inject("stranger", "B", pickle.dumps({**message, **chunk}))
    assert c.term("B") == 10**9
    assert made.exists()


def test_h9_pickles_are_bytes_for_ours(tmp_path, monkeypatch):
    """On the wire they are malformed, in an entry they are payload, and a stranger is not heard."""
    made = tmp_path / "made"
    evil = pickle.dumps(Touch(made))
    for data in (evil, zlib.compress(evil), msgpack.packb([5, evil])):
        with pytest.raises(MalformedMessage):
            decode(data)
    node = Alone()
    node.hear("b", append(1, entries=[entry(1, 1, evil)], commit=1))
    assert node.member.applied == [(1, 1, evil)]
    stranger = type("Stranger", (), {"id": "stranger"})()
    node.raft._SyncObj__onMessageReceived(stranger, append(10**9))
    assert node.raft.term == 1
    assert not made.exists()


def test_h9_stock_code_that_unpickles_cannot_run(ours):
    """The ways to unpickled commands, dumps and memberships end in an error that stops the node."""
    raft = ours().members["A"].raft
    for name in (
        "_SyncObj__doApplyCommand",
        "_SyncObj__loadDumpFile",
        "_SyncObj__tryLogCompaction",
        "_SyncObj__changeCluster",
        "_SyncObj__doChangeCluster",
        "_SyncObj__updateClusterConfiguration",
        "_SyncObj__sendAppendEntries",
        "_SyncObj__sendNextNodeIdx",
        "addNodeToCluster",
        "removeNodeFromCluster",
        "setCodeVersion",
    ):
        with pytest.raises(InvariantViolation):
            getattr(raft, name)(b"")


def test_h13_a_large_entry_raises_in_the_stock_follower(stock):
    """The end of a split entry is told by the wrong length, so a follower unpickles half of one."""
    raised = 0
    for size, filler in itertools.product((65_600, 131_100, 196_600), ("a", "é")):
        c = stock(batch_bytes=65536)
        assert c.elect("A", "BC")
        c.settle("A")
        c.nodes["A"].put("k", filler * size)
        c.tick("A", ms=1000)
        for _ in range(4):
            c.beat("A")
            while c.queues["A", "B"]:
                try:
                    c.deliver("A", "B", 1)
                except (pickle.UnpicklingError, EOFError, IndexError, KeyError, ValueError):
                    raised += 1
            c.deliver("B", "A")
            c.tick("A")
    assert raised


def test_h13_entries_beyond_the_bound_are_never_appended(ours):
    """A payload is refused before it is anywhere; the largest allowed one travels whole, in one message."""
    d = ours()
    assert d.elect("A", "BC")
    d.settle("A")
    raft = d.members["A"].raft
    with pytest.raises(ValueError, match="at most"):
        raft.propose(b"x" * (raft.timing.entry_bytes_max + 1))
    told = d.put("A", "large", padding=raft.timing.entry_bytes_max - 40)
    d.settle("A")
    assert told.succeeded
    assert d.history("C") == ["large"]
    assert len(encode(append(1, entries=[entry(1, 1, b"x" * raft.timing.entry_bytes_max)]))) < 4 << 20


def lagging(c: Driver) -> None:
    """A cluster whose follower C needs a snapshot."""
    assert c.elect("A", "BC")
    c.settle("A")
    c.isolate("C")
    for n in range(20):
        c.put("A", n)
    c.settle("A", "AB")
    c.compact("A")
    c.settle("A", "AB")


def test_h18_a_snapshot_that_is_not_there_yet_costs_nothing(stock, stock_time, ours, monkeypatch):
    """While its dump is being written the stock leader spins, sending messages without content."""
    c = stock()
    lagging(c)
    c.nodes["A"]._SyncObj__serializer._Serializer__pid = 1 << 22  # stands for a child that still writes
    c.nodes["A"]._SyncObj__serializer.checkSerializing = lambda: (1, None)
    c.connect("A", "C")
    for peer in list(c.nodes["A"]._SyncObj__raftNextIndex):
        if peer.id == "C":
            c.nodes["A"]._SyncObj__raftNextIndex[peer] = 3
    stock_time.step_s = 0.0001
    c.beat("A")
    assert len(c.queues["A", "C"]) > 100

    d = ours()
    lagging(d)
    monkeypatch.setattr(d.members["A"], "read", lambda snapshot, offset, size: b"")
    d.connect("A", "C")
    started = time.monotonic()
    for _ in range(20):
        d.beat("A")
        d.flush("AC")
    assert time.monotonic() - started < 5
    d.beat("A")
    assert len(d.queues["A", "C"]) <= 2
    assert stock_module.monotonicTime is stock_time
