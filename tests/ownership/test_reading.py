"""Views for people: pages of sessions, nodes, and why a reattach would be refused."""

from __future__ import annotations

from raftstore.ownership import commands as c
from raftstore.ownership import reading
from raftstore.types import Reason, SessionState

B1 = ("t1", "udp", "198.51.100.7:51820")


def test_pages_follow_each_other_without_gap_or_double(driver):
    """A cursor walks all sessions in order of creation, filters included."""
    for number in range(7):
        driver.do("ab"[number % 2], c.create, f"s{number}", B1 if number < 5 else None, 60_000)
    seen, after = [], None
    while True:
        page = driver.machine.list_sessions(after=after, limit=3)
        seen += [session.session_id for session in page.sessions]
        after = page.next_after
        if after is None:
            break
    assert seen == [f"s{number}" for number in range(7)]
    of_b = driver.machine.list_sessions(owner="b", state=SessionState.ATTACHED)
    assert [session.session_id for session in of_b.sessions] == ["s1", "s3"]
    assert [record.session_id for record in driver.machine.sessions_of("a")] == ["s0", "s2", "s4", "s6"]
    assert driver.machine.list_sessions(after="unknown") == ([], None)


def test_a_page_looks_at_a_bounded_number_of_records(driver, monkeypatch):
    """A rare match gives an empty page with a cursor rather than a stall."""
    monkeypatch.setattr(reading, "PAGE_VISITS_MAX", 2)
    for number in range(3):
        driver.session("attached", f"s{number}")
    assert driver.machine.list_sessions(owner="b") == ([], "s1")
    assert driver.machine.list_sessions(owner="b", after="s1") == ([], None)


def test_nodes_are_shown_with_leases_and_counts(driver):
    """Who lives, and how many sessions each has."""
    driver.session("transferred")
    driver.session("attached", "t")
    driver.do("c", c.leave)
    a, b, left = driver.machine.list_nodes()
    assert (a.node_id, a.is_live, a.sessions_owned, a.sessions_attached) == ("a", True, 1, 1)
    assert (b.sessions_owned, b.sessions_attached) == (1, 0)
    assert (left.is_live, left.left) == (False, True)
    assert driver.machine.lease_until_ms("a") == 4_030
    assert driver.machine.lease_until_ms("nobody") == 0


def test_explain_says_what_a_reattach_would_be_told(driver):
    """The answer of `explain` is the answer of the machine."""
    driver.session("attached")
    driver.session("frozen", "f")
    driver.session("terminated", "t")
    driver.do("b", c.join, inc=222)
    cases = (("s", "a", 101), ("s", "c", 303), ("s", "b", 202), ("f", "a", 101), ("t", "a", 101), ("none", "a", 101))
    for session_id, actor, inc in cases:
        told = driver.machine.explain(session_id, actor, inc, driver.now_ms)
        record = driver.machine.sessions.get(session_id)
        answer, _ = driver.do(actor, c.reattach, session_id, record.state_version if record else 1, B1, inc=inc)
        assert answer == str(told or "OK")
    assert driver.machine.explain("s", "a", 101, driver.now_ms + 10_000) is Reason.NODE_NOT_LIVE
    assert driver.machine.explain("s", "nobody", 1, driver.now_ms) is Reason.NODE_NOT_LIVE


def test_get_returns_tombstones_and_nothing_for_strangers(driver):
    """A terminated session is still known."""
    driver.session("terminated")
    assert driver.machine.get("s").state is SessionState.TERMINATED
    assert driver.machine.get("never") is None
