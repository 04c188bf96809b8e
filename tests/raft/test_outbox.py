"""Durable before visible (outbox.py), and the wire schemas (peer_messages.py)."""

import pytest
from raft_cluster import MemoryStorage
from raft_messages import ack, append, entry, heartbeat, request_vote, vote

from raftstore.codec.messages import MalformedMessage
from raftstore.raft import outbox as outbox_module
from raftstore.raft.journal import HardenedJournal
from raftstore.raft.outbox import Outbox
from raftstore.raft.peer_messages import SCHEMAS, decode, encode


class Peer:
    def __init__(self, name):
        self.id = name


def make():
    sent = []
    log = HardenedJournal(MemoryStorage())
    return log, Outbox(log, lambda peer, data: not sent.append((peer, decode(data)["type"]))), sent


def test_acknowledgements_wait_for_the_log():
    """An answer leaves when everything written before it is on disk, and not one job earlier."""
    log, box, sent = make()
    log.add(*entry(1, 1))
    box.send(Peer("b"), ack(1, 1))
    box.release()
    assert sent == []
    box.on_durable(log.submitted)
    assert sent == [("b", "next_node_idx")]


@pytest.mark.parametrize("message", [append(1), heartbeat(1), request_vote(1), vote(1), ack(1, 0)])
def test_everything_waits_for_term_and_vote(message):
    """No message of a term leaves before the term is on disk."""
    log, box, sent = make()
    log.setCurrentTerm(1, "a")
    box.send(Peer("b"), message)
    box.release()
    assert sent == []
    box.on_durable(log.submitted)
    assert len(sent) == 1


def test_a_leaders_stream_does_not_wait_for_its_own_log():
    """Entries travel while they are written here."""
    log, box, sent = make()
    log.add(*entry(1, 1))
    box.send(Peer("b"), append(1, entries=[entry(1, 1)]))
    box.release()
    assert sent == [("b", "append_entries")]


def test_order_is_kept_among_what_waits():
    """Messages that wait leave in the order in which they were sent."""
    log, box, sent = make()
    for index in (1, 2, 3):
        log.add(*entry(index, 1))
        box.send(Peer("b"), ack(1, index))
        box.release()
    box.on_durable(2)
    assert len(sent) == 2
    box.on_durable(3)
    assert len(sent) == 3


def test_a_lost_link_drops_what_waits_for_it():
    """Held and fresh messages of an old connection never enter the new one."""
    log, box, sent = make()
    log.add(*entry(1, 1))
    box.send(Peer("b"), ack(1, 1))
    box.send(Peer("c"), ack(1, 1))
    box.release()
    box.send(Peer("b"), heartbeat(1))
    box.drop_peer("b")
    box.release()
    box.on_durable(log.submitted)
    assert sent == [("c", "next_node_idx")]


def test_what_waits_is_bounded(monkeypatch):
    """Behind a dead disk the oldest answers are dropped and counted."""
    monkeypatch.setattr(outbox_module, "HELD_MESSAGES_MAX", 3)
    log, box, sent = make()
    log.add(*entry(1, 1))
    for _ in range(5):
        box.send(Peer("b"), ack(1, 1))
    box.release()
    assert box.dropped == 2
    box.on_durable(log.submitted)
    assert len(sent) == 3


def test_messages_survive_the_wire():
    """What is encoded is what is decoded, entries as tuples."""
    message = append(3, (4, 2), [entry(5, 2), entry(6, 3)], commit=4)
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "bad",
    [
        append(3, (4, 2), [entry(6, 3)]),
        append(3, (4, 2), [entry(5, 3), entry(7, 3)]),
        append(3, (4, 2), [entry(5, 3), entry(6, 2)]),
        append(3, (4, 2), [entry(5, 4)]),
        append(3, (4, 2), [entry(5, 1)]),
        {**append(3), "commit_index": -1},
        {**append(3), "entries": None},
        {**heartbeat(1), "term": True},
        {**ack(1, 1), "success": 1},
        {**ack(1, 1), "next_node_idx": 0},
    ],
)
def test_impossible_messages_are_malformed(bad):
    """What no correct peer sends is refused before Raft sees it."""
    with pytest.raises(MalformedMessage):
        decode(encode(bad))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x91\x63", b"\x92\x01\x01", b"\x80\x05K.", b"\xff" * 40])
def test_bytes_that_are_no_message_are_malformed(data):
    """Not msgpack, no array, an unknown kind, too few fields, a pickle."""
    with pytest.raises(MalformedMessage):
        decode(data)


def test_kinds_are_never_reused():
    """Every kind number has one schema."""
    kinds = [kind for kind, _ in SCHEMAS.values()]
    assert len(set(kinds)) == len(kinds)
