"""The two sides of a move alone, question by question: what the giver lets go, and what the taker believes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from node_parts import FakeClock
from sticky_parts import DONE, STORES, UNKNOWN, A, B, C, D, FakeLog, all_at, away, mapping, placement, row, session

from raftstore.node.proposals import Answer
from raftstore.node.sticky.giver import Giver
from raftstore.node.sticky.taker import Taker
from raftstore.ownership import SessionRecord
from raftstore.ownership.records import Mark
from raftstore.types import Reason, SessionState

FROZEN, TERMINATED = SessionState.FROZEN, SessionState.TERMINATED


def giver_of(*sessions: SessionRecord, maps_to: str = B) -> tuple[Giver, FakeLog]:
    """A node all of whose sessions map elsewhere, after it has looked at them."""
    log = FakeLog(placement(mapping(2, A, B, C)), *sessions)
    giver = Giver(log)
    giver.begin(all_at(maps_to))
    giver.scan()
    return giver, log


# -- the giver --------------------------------------------------------------------------------------------------------


def test_a_session_leaves_by_freeze_and_transfer_and_is_given_up_by_both() -> None:
    """Each op ends what this node may do, from its proposal on; the row travels behind the second one."""
    giver, log = giver_of(session("s"))
    giver.pulled(B, 1, [], [])
    assert [(op.kind, op.gives_up) for op in log.ops] == [("freeze", True)] and log.sent == []
    log.taken_in(session("s", FROZEN, target=B, state_version=2))
    assert [(op.kind, op.gives_up) for op in log.ops] == [("transfer", True)] and log.sent == []
    log.taken_in(away("s", B))
    ((peer, answer),) = log.sent
    assert peer == B and [r.session_id for r in answer["rows"]] == ["s"] and not answer["done"]


def test_a_session_frozen_for_another_node_is_not_transferred() -> None:
    """The transfer would go to its former target: it is thawed, and frozen again for the right one."""
    giver, log = giver_of(session("s", FROZEN, target=C, state_version=2))
    giver.pulled(B, 1, [], [])
    assert [(op.kind, op.gives_up) for op in log.ops] == [("thaw", False)]


def test_who_asks_is_told_of_doubts_first_and_never_that_nothing_is_left() -> None:
    """What went to it under an earlier mapping is settled before rows travel, and all must fit one message."""
    giver, log = giver_of(away("s", B), maps_to=C)
    giver._leaving.setdefault(B, {})["t"] = None
    log.machine.sessions["t"] = session("t", TERMINATED, reason="LOGOUT")
    giver.pulled(B, 1, [], [])
    ((_, answer),) = log.sent
    assert answer["doubtful"] == [("s", 3, 1)] and answer["rows"] == [] and not answer["done"]


def test_a_doubt_that_is_being_decided_is_neither_asked_again_nor_over() -> None:
    """Until the reclaim is in the log the peer hears nothing: `done` would let it settle."""
    giver, log = giver_of(away("s", B), maps_to=A)
    giver.pulled(B, 1, [], [["s", 3]])
    assert log.kinds() == ["reclaim"] and log.sent == []
    log.taken_in(session("s", FROZEN, target=A, transferred=True, epoch=3, state_version=4))
    ((_, answer),) = log.sent
    assert answer["done"] and answer["doubtful"] == []


def test_a_tombstone_that_came_back_is_in_no_doubt() -> None:
    """It rests under the peer as its last owner: asked whether it has it, the peer would say so, and nobody would."""
    giver, log = giver_of(away("s", B), maps_to=C)
    log.machine.sessions["s"] = session("s", TERMINATED, owner=B, state_version=4, reason="TTL_EXPIRED")
    giver.pulled(B, 1, [], [])
    ((_, answer),) = log.sent
    assert answer["doubtful"] == [] and answer["done"]


@pytest.mark.parametrize(
    ("record", "maps_to", "peer_id", "version"),
    [
        (away("s", B), B, B, 3),  # by this mapping it may still be admitted there
        (away("s", B), C, C, 3),  # it never went to the one that declines
        (away("s", B), A, D, 3),
        (away("s", B), C, B, 2),  # another version of it
        (session("s"), C, B, 1),  # it did not go anywhere
    ],
)
def test_what_a_peer_cannot_decline_is_not_taken_back(
    record: SessionRecord, maps_to: str, peer_id: str, version: int
) -> None:
    """Only its own, of that version, and only what by this mapping it can never admit."""
    giver, log = giver_of(record, maps_to=maps_to)
    giver.pulled(peer_id, 1, [], [["s", version]])
    assert "reclaim" not in log.kinds()


def test_a_session_whose_op_is_undecided_stays_untouched_until_it_is() -> None:
    """Nobody waits for the op any more, and it may still be applied: nothing else is proposed, nothing travels."""
    giver, log = giver_of(session("s", TERMINATED, reason="LOGOUT"))
    giver.pulled(B, 1, [["s", 1]], [])
    assert log.kinds() == ["forget"]
    log.taken_in(log.machine.sessions["s"], UNKNOWN)
    giver.tick()
    giver.pulled(B, 2, [["s", 1]], [])
    assert giver.is_busy("s") and log.ops == [] and log.sent == []
    log.machine.clock_ms = log.clock_ms + 1
    giver.tick()
    assert not giver.is_busy("s")
    giver.pulled(B, 3, [["s", 1]], [])
    assert log.kinds() == ["forget"]


def test_an_undecided_op_keeps_its_session_from_being_judged_by_the_next_mapping() -> None:
    """A transfer that may still come to pass would be in doubt: the count of what leaves is not over before."""
    giver, log = giver_of(session("s", FROZEN, target=B, state_version=2))
    giver.pulled(B, 1, [], [])
    assert log.kinds() == ["transfer"]
    log.taken_in(log.machine.sessions["s"], UNKNOWN)
    giver.begin(all_at(A, 3))
    giver.scan()
    giver.pulled(B, 2, [], [])
    assert giver.is_scanning and log.sent == []
    log.machine.sessions["s"] = away("s", B)
    log.machine.clock_ms = log.clock_ms + 1
    giver.tick()
    giver.scan()
    ((_, answer),) = log.sent
    assert answer["doubtful"] == [("s", 3, 1)] and not answer["done"]


def test_a_session_on_which_an_op_is_under_way_does_not_travel() -> None:
    """What is being forgotten may be gone when the row arrives."""
    giver, log = giver_of(session("s", TERMINATED, reason="LOGOUT"), session("t", TERMINATED, reason="LOGOUT"))
    giver.pulled(B, 1, [["s", 1]], [])
    ((_, answer),) = log.sent
    assert log.kinds() == ["forget"] and [r.session_id for r in answer["rows"]] == ["t"]


def test_what_went_to_a_lost_node_is_given_up_with_it() -> None:
    """Whether it arrived can never be known: its record goes, its mark stays, and who takes over is told `done`."""
    giver, log = giver_of(away("s", C))
    giver.pulled(B, 1, [], [])
    assert log.sent == []
    giver.lost(D)
    assert log.ops == []
    giver.lost(C)
    assert log.kinds() == ["forget"]
    log.taken_in(None)
    ((peer, answer),) = log.sent
    assert peer == B and answer["done"]


# -- the taker --------------------------------------------------------------------------------------------------------


class TakerRig:
    """A node to which every session maps, but those of `others`."""

    def __init__(self, *sessions: SessionRecord, maps_to: str = A) -> None:
        self.log = FakeLog(placement(mapping(2, A, B, C)), *sessions)
        self.clock = FakeClock()
        self.busy: set[str] = set()
        self.taker = Taker(self.log, self.clock, 100, self.busy.__contains__)
        self.taker.begin(all_at(maps_to))

    def ask(self) -> int:
        self.taker.ask(B)
        assert self.log.sent[-1][1]["type"] == "pull"
        return int(self.log.sent[-1][1]["number"])

    def handed(self, number: int, **fields: Any) -> None:
        message = {"number": number, "store_id": STORES[B], "rows": [], "doubtful": [], "done": False, "involved": [B]}
        self.taker.handed(B, {**message, **fields})

    def acknowledged(self) -> list[tuple[str, int]]:
        return [mark for _, message in self.log.sent for mark in message["have"]]

    def declined(self) -> list[tuple[str, int]]:
        return [mark for _, message in self.log.sent for mark in message["declined"]]


def admitted(session_id: str, version: int = 3) -> SessionRecord:
    return session(session_id, FROZEN, target=A, transferred=True, epoch=2, state_version=version)


def test_what_came_is_acknowledged_when_it_is_in_the_log_and_not_before() -> None:
    """Of two sessions one is taken in: nothing is said until both ops are decided, and then of that one alone."""
    rig = TakerRig()
    rig.handed(rig.ask(), rows=[row("s"), row("t")])
    assert rig.log.kinds() == ["admit", "admit"]
    rig.clock.pass_ms(5_000)
    rig.taker.ask(B)
    assert len(rig.log.sent) == 1
    rig.log.taken_in(admitted("s"))
    assert rig.acknowledged() == []
    rig.log.taken_in(None, Answer(True, Reason.LIMIT_EXCEEDED))
    assert rig.acknowledged() == [("s", 3)]


def test_nothing_is_acknowledged_because_its_op_was_answered() -> None:
    """Refused, unknown or granted: the machine says whether the session is here."""
    for answer in (UNKNOWN, Answer(True, Reason.OWNERSHIP_CONFLICT), DONE):
        rig = TakerRig()
        rig.handed(rig.ask(), rows=[row("s")])
        rig.log.taken_in(None, answer)
        rig.clock.pass_ms(5_000)
        rig.taker.ask(B)
        assert rig.acknowledged() == []


def test_a_ttl_is_counted_from_before_the_question() -> None:
    """However long the answer took, the session ends no later for it."""
    rig = TakerRig()
    number = rig.ask()
    rig.log.clock_ms += 700
    rig.handed(number, rows=[row("s")])
    op = msgpack.unpackb(rig.log.ops[0].build(1, 9_000))
    assert 11_000 in op and 900 in op and 11_700 not in op  # asked at 1000, 10,000 left, 100 old


def test_an_answer_counts_for_the_very_question_that_waits() -> None:
    """Not for an earlier one, not for none, and not twice: what it says may be past."""
    rig = TakerRig()
    number = rig.ask()
    for other in (number - 1, number + 1, 0):
        rig.handed(other, done=True)
        rig.handed(other, rows=[row("s")])
    assert rig.log.ops == []
    rig.handed(number, done=True)
    assert rig.log.kinds() == ["confirm"]
    rig.handed(number, done=True)
    rig.handed(0, done=True)
    assert rig.log.kinds() == ["confirm"]


def test_a_session_that_does_not_map_here_is_not_admitted() -> None:
    """Whatever a peer hands over: the log would take it in, and two nodes would have it."""
    rig = TakerRig(maps_to=C)
    rig.handed(rig.ask(), rows=[row("s")])
    assert rig.log.ops == []


@pytest.mark.parametrize(
    "fields",
    [{"rows": [row("s")], "done": True}, {"doubtful": [("s", 3, 1)], "done": True}, {}, {"done": False}],
    ids=["rows", "doubts", "nothing", "not done"],
)
def test_only_an_answer_without_anything_in_it_confirms(fields: dict[str, Any]) -> None:
    """It says `done`, and brings neither sessions nor doubts."""
    rig = TakerRig()
    rig.handed(rig.ask(), **fields)
    assert "confirm" not in rig.log.kinds()


def test_of_what_is_in_doubt_only_that_is_declined_which_can_never_come() -> None:
    """What maps here may be on its way into this log; what is here is acknowledged."""
    rig = TakerRig(maps_to=A)
    rig.handed(rig.ask(), doubtful=[("s", 3, 1)])
    rig.clock.pass_ms(5_000)
    rig.taker.ask(B)
    assert rig.declined() == [] == rig.acknowledged()
    rig = TakerRig(admitted("here"), maps_to=C)
    rig.handed(rig.ask(), doubtful=[("s", 3, 1), ("here", 3, 1)])
    assert rig.declined() == [("s", 3)] and rig.acknowledged() == [("here", 3)]


def test_a_tombstone_that_comes_back_while_it_is_being_forgotten_waits() -> None:
    """It is still here now, and an acknowledgement would let the giver forget it, too: then it would be nowhere."""
    rig = TakerRig(session("s", TERMINATED, state_version=3, reason="LOGOUT"))
    rig.busy.add("s")
    rig.handed(rig.ask(), rows=[row("s", reason="LOGOUT")])
    rig.clock.pass_ms(5_000)
    rig.taker.ask(B)
    assert rig.log.ops == [] and rig.acknowledged() == []
    rig.busy.clear()
    del rig.log.machine.sessions["s"]
    rig.log.machine.departed["s"] = Mark(3, 2)
    rig.handed(int(rig.log.sent[-1][1]["number"]), rows=[row("s", reason="LOGOUT")])
    assert rig.log.kinds() == ["admit"]
