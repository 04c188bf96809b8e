"""The store of sessions: a dict by any other name, whatever is packed, and a frozen state that stays as it was."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftstore.ownership import sessions as module
from raftstore.ownership.records import ATTACHED, FROZEN, SessionRecord
from raftstore.ownership.sessions import Sessions

IDS = ("a", "b" * 31, "c" * 32, "d" * 64, "e")


def record(session_id: str, version: int = 1, state: int = ATTACHED, owner: str = "n1") -> SessionRecord:
    return SessionRecord(
        session_id, state, owner, 1, version, "t\nudp\nx:1", 5, 2**53 + version, None, None, None, None,
        2**62 + 1, 0, False, "deny", 7,
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is packed at once of what was put aside, and nothing stays there for long."""
    monkeypatch.setattr(module, "AT_HAND", 0)
    monkeypatch.setattr(module, "PACK_LEAST", 1)
    monkeypatch.setattr(module, "LET_IN_LEAST", 2)


STEPS = st.lists(
    st.tuples(st.sampled_from(("put", "remove", "pack", "freeze", "release")), st.sampled_from(IDS)), max_size=60
)


@given(steps=STEPS, at_hand=st.integers(0, 3))
def test_it_is_a_dict_whatever_was_packed_and_whoever_reads_a_frozen_state(
    steps: list[tuple[str, str]], at_hand: int
) -> None:
    """Beside a plain dict, through any sequence of changes: the same content, and frozen states stay what they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_HAND", at_hand)
        patch.setattr(module, "PACK_LEAST", 1)
        patch.setattr(module, "LET_IN_LEAST", 2)
        sessions, plain = Sessions(), dict[str, SessionRecord]()
        frozen, expected = [], []
        for version, (what, session_id) in enumerate(steps, 1):
            if what == "put":
                sessions[session_id] = plain[session_id] = record(session_id, version)
            elif what == "remove" and session_id in plain:
                del sessions[session_id], plain[session_id]
            elif what == "pack":
                sessions.pack_some()
            elif what == "freeze":
                frozen.append(sessions.freeze())
                expected.append(dict(plain))
            elif what == "release" and frozen:
                frozen.pop().release()
                expected.pop()
            assert sessions == plain and len(sessions) == len(plain)
            assert sorted(sessions) == sorted(plain) == sorted(sessions.keys())
            assert [session_id in sessions for session_id in IDS] == [session_id in plain for session_id in IDS]
            for one, then in zip(frozen, expected, strict=True):
                assert len(one) == len(then) and {s: one[s] for s in one} == then
                assert {found.session_id: found for found in one.values()} == then


@pytest.mark.usefixtures("small")
def test_records_stay_in_the_order_of_their_creation_when_some_are_put_aside() -> None:
    """Changes leave the order alone, and so does packing, whether or not a frozen state was read meanwhile."""
    sessions = Sessions()
    for session_id in IDS[:2]:
        sessions[session_id] = record(session_id)
    frozen = sessions.freeze()
    for session_id in IDS[:4]:
        sessions[session_id] = record(session_id, 2)
    frozen.release()
    sessions.pack_some()
    sessions[IDS[4]] = record(IDS[4])
    assert list(sessions) == list(IDS)
    sessions.pack_some()
    sessions.pack_some()
    assert list(sessions) == list(IDS) == [found.session_id for found in sessions.values()]
    assert sessions[IDS[3]].state_version == 2


@pytest.mark.usefixtures("small")
def test_a_session_that_is_gone_is_gone_packed_or_not() -> None:
    """Removing takes it from everywhere, also while a frozen state still has it; twice is an error."""
    sessions = Sessions()
    for session_id in IDS:
        sessions[session_id] = record(session_id)
    frozen = sessions.freeze()
    for session_id in IDS:
        del sessions[session_id]
        with pytest.raises(KeyError):
            del sessions[session_id]
        assert sessions.get(session_id) is None
    assert len(sessions) == 0 and sessions == {} and len(list(frozen)) == len(IDS)
    frozen.release()
    frozen.release()
    sessions.pack_some()
    assert list(sessions) == []


@pytest.mark.usefixtures("small")
def test_a_quick_look_finds_state_and_owner_in_packed_and_recent_alike() -> None:
    """Few in one state are found among all; nobody's session is overlooked for its owner."""
    sessions = Sessions()
    sessions["a"] = record("a", state=FROZEN)
    sessions["b"] = record("b", owner="n10")
    sessions["c"] = record("c", state=FROZEN, owner="n10")
    sessions.pack_some()
    sessions.pack_some()
    sessions.freeze()
    sessions["d"] = record("d", state=FROZEN)
    assert [found.session_id for found in sessions.in_state(FROZEN)] == ["a", "c", "d"]
    look = sessions.may_be_owned_by("n1")
    assert look("a") and look("d") and not look("b") and not look("nobody")
    sessions["b"] = record("b", 2)
    assert look("b")
    sessions.pack_some()
    assert not sessions._aside and look("a") and look("b") and look("d")
    assert [found.session_id for found in sessions.in_state(FROZEN)] == ["a", "c", "d"]


def test_many_are_put_in_at_once_but_none_twice() -> None:
    """What a snapshot brings: the second of two with one id is refused."""
    sessions = Sessions()
    assert sessions.add([record("a")[:], record("b")[:]])
    assert not sessions.add([record("a", 2)[:]])
    assert sessions["a"] == record("a") and len(sessions) == 2


class Watched(dict[str, Any]):
    """A dict that has somebody look after every single change of it."""

    def __init__(self, content: dict[str, Any], look: Callable[[], None]) -> None:
        super().__init__(content)
        self._look = look

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._look()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._look()

    def pop(self, key: str, *default: Any) -> Any:
        found = super().pop(key, *default)
        self._look()
        return found


def test_what_changed_last_stays_at_hand_and_what_came_before_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are kept unpacked, the oldest go first, and not one by one."""
    monkeypatch.setattr(module, "AT_HAND", 3)
    monkeypatch.setattr(module, "PACK_LEAST", 2)
    sessions = Sessions()
    for session_id in IDS[:4]:
        sessions[session_id] = record(session_id)
    sessions.pack_some()
    assert list(sessions._aside) == list(IDS[:4])
    sessions[IDS[4]] = record(IDS[4])
    sessions.pack_some()
    assert list(sessions._aside) == list(IDS[2:]) and list(sessions._packed) == list(IDS[:2])
    assert sessions.keys() == IDS and [found.session_id for found in sessions.values()] == list(IDS)


@pytest.mark.usefixtures("small")
def test_another_thread_is_never_shown_an_older_record_again() -> None:
    """Whenever it looks: while a change is put aside, packed, or gone."""
    sessions, seen = Sessions(), [0]
    gone = 99

    def look() -> None:
        found = sessions.get("s")
        seen.append(gone if found is None else found.state_version)

    sessions["s"] = record("s", 1)
    sessions._packed = Watched(sessions._packed, look)
    sessions._aside = Watched(sessions._aside, look)
    sessions._waiting = Watched(sessions._waiting, look)
    frozen = sessions.freeze()
    sessions["s"] = record("s", 2)
    sessions["s"] = record("s", 3)
    frozen.release()
    sessions.pack_some()
    assert sessions["s"].state_version == 3 and not sessions._aside
    frozen = sessions.freeze()
    sessions["s"] = record("s", 4)
    sessions.pack_some()
    assert sessions._waiting and not sessions._aside
    sessions["s"] = record("s", 5)
    frozen.release()
    sessions.pack_some()
    assert sessions["s"].state_version == 5 and not sessions._aside and not sessions._waiting
    sessions._waiting = Watched(sessions._waiting, look)
    frozen = sessions.freeze()
    sessions["s"] = record("s", 6)
    sessions.pack_some()
    sessions["s"] = record("s", 7)
    frozen.release()
    del sessions["s"]
    assert sessions.get("s") is None
    sessions.pack_some()
    sessions.pack_some()
    assert seen == sorted(seen) and seen[-1] == gone and len(sessions) == 0 and not sessions._packed


@pytest.mark.usefixtures("small")
def test_what_changes_while_a_frozen_state_is_read_is_no_work_for_the_garbage_collector() -> None:
    """However long somebody reads: what changed is packed beside, and let in a little at a time afterwards."""
    sessions = Sessions()
    for session_id in IDS:
        sessions[session_id] = record(session_id)
    sessions.pack_some()
    frozen = sessions.freeze()
    for version in (2, 3):
        for session_id in IDS:
            sessions[session_id] = record(session_id, version)
            sessions.pack_some()
    sessions.pack_some()
    assert not sessions._aside and set(sessions._waiting) == set(IDS)
    assert not any(map(gc.is_tracked, sessions._waiting.values()))
    assert {found.state_version for found in frozen.values()} == {1}
    assert {found.state_version for found in sessions.values()} == {3}
    frozen.release()
    sessions.pack_some()
    assert 0 < len(sessions._waiting) < len(IDS)
    for _ in IDS:
        sessions.pack_some()
    assert not sessions._waiting and set(sessions._packed) == set(IDS)
    assert {found.state_version for found in sessions.values()} == {3}
