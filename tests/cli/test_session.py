"""`raftstore session`: what people type, what they read, and how scripts learn the outcome."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.node.answers import BEFORE_PROPOSAL
from raftstore.routing import Mapping
from raftstore.types import Binding, OpId, Reason, SessionState

if TYPE_CHECKING:
    from tests.cli.conftest import FakeCluster


def test_a_session_is_moved_through_its_states(cluster: FakeCluster) -> None:
    """Each command does one transition and shows the session as of it."""
    steps = [
        (["create", "s", "--binding", "t1", "udp", "h:1", "--ttl", "90s", "--policy", "deny"], "ATTACHED"),
        (["detach", "s", "-e", "1", "--reason", "NO_DELIVERY"], "RECOVERING"),
        (["reattach", "s", "-e", "2", "-b", "t2", "udp", "h:2", "--nonce", "3"], "ATTACHED"),
        (["renew", "s", "-e", "3", "--ttl", "1h"], "ATTACHED"),
        (["migrate", "s", "-e", "4", "--to", "vpn-2"], "FROZEN"),
        (["resume", "s", "-e", "5"], "RECOVERING"),
        (["failover", "s", "-e", "6"], "RECOVERING"),
        (["terminate", "s", "-e", "7", "--operator"], "TERMINATED"),
    ]
    for version, (arguments, state) in enumerate(steps, 1):
        session = cluster.json("session", *arguments)["session"]
        assert (session["state"], session["state_version"]) == (state, version)
    calls = cluster.nodes["vpn-1"].calls
    assert calls[0][2] == {
        "binding": Binding("t1", "udp", "h:1"),
        "ttl_ms": 90_000,
        "policy": "deny",
        "timeout_ms": 5000,
    }
    assert calls[3][2]["ttl_ms"] == 3_600_000
    assert calls[7][2]["operator"] is True


def test_tables_are_for_people(cluster: FakeCluster) -> None:
    """A session line by line, many in a table, nothing cut off in a pipe."""
    name = "a-very-long-session-id-that-must-not-be-cut-off-anywhere-in-here"
    assert re.search(
        r"^binding +t1 udp h:1 *$", cluster.run("session", "create", name, "-b", "t1", "udp", "h:1").stdout, re.M
    )
    assert re.search(r"^expires +in 60 min *$", cluster.run("session", "get", name).stdout, re.M)
    listed = cluster.run("session", "list").stdout
    assert listed.startswith("SESSION ")
    assert name in listed


def test_every_view_of_a_session_shows_where_it_belongs(cluster: FakeCluster) -> None:
    """Made at vpn-1 while the mapping says vpn-2 or vpn-3: people and scripts read both nodes, after ops and reads."""
    prefers = cluster.nodes["vpn-1"].preferred_owner
    for name in (next(f"s{i}" for i in range(99) if prefers(f"s{i}") == node) for node in ("vpn-2", "vpn-3")):
        line = re.compile(rf"^preferred owner +{prefers(name)} *$", re.M)
        assert line.search(cluster.run("session", "create", name).stdout)
        for command in (["get", name], ["get", name, "--local"], ["explain", name]):
            assert line.search(cluster.run("session", *command).stdout), command
            shown = cluster.json("session", *command)["session"]
            assert (shown["owner"], shown["preferred_owner"]) == ("vpn-1", prefers(name)), command
        made = cluster.json("session", "create", f"{name}-too")["session"]
        assert made["preferred_owner"] == prefers(f"{name}-too")
    listed = cluster.json("session", "list")["sessions"]
    assert len(listed) == 4
    assert [s["preferred_owner"] for s in listed] == [prefers(s["session_id"]) for s in listed]


def test_a_mapping_without_nodes_prefers_none(cluster: FakeCluster) -> None:
    """Nothing is named where no node takes sessions."""
    cluster.nodes["vpn-1"].places = Mapping.of(1, {"vpn-1": 0})
    assert re.search(r"^preferred owner +- *$", cluster.run("session", "create", "s").stdout, re.M)
    assert cluster.json("session", "get", "s")["session"]["preferred_owner"] is None


def test_the_wrong_door_names_the_right_one(cluster: FakeCluster) -> None:
    """The refusal's own sentence, the option to type next, and all of it for scripts."""
    cluster.run("session", "create", "s")
    node = cluster.nodes["vpn-1"]
    node.failure = Rejected(Reason.OWNERSHIP_CONFLICT, owner="vpn-2", detail="session maps to vpn-2")
    result = cluster.run("session", "renew", "s", "-e", "1", "--ttl", "1h", "-o", "json")
    assert result.stderr == (
        "raftstore: rejected: OWNERSHIP_CONFLICT: session maps to vpn-2 (ask it with --node vpn-2)\n"
    )
    assert (result.exit_code, json.loads(result.stdout)) == (
        4,
        {
            "outcome": "rejected",
            "reason": "OWNERSHIP_CONFLICT",
            "session": None,
            "owner": "vpn-2",
            "detail": "session maps to vpn-2",
            "preferred_owner": node.preferred_owner("s"),
        },
    )
    node.failure = None
    body = json.loads(cluster.run("session", "detach", "s", "-e", "9", "-o", "json").stdout)
    assert body["session"]["preferred_owner"] == node.preferred_owner("s")
    for read in ("get", "explain"):
        body = json.loads(cluster.run("session", read, "none", "-o", "json").stdout)
        assert (body["reason"], body["preferred_owner"]) == ("SESSION_NOT_FOUND", node.preferred_owner("none"))


def test_operators_find_every_reason(cluster: FakeCluster) -> None:
    """Each reason has its row in the handbook; those that nothing was proposed for say so on the command line too."""
    handbook = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert [r for r in Reason if r is not Reason.DEADLINE_PASSED and f"| `{r}` |" not in handbook] == []
    for reason in sorted(BEFORE_PROPOSAL):
        cluster.nodes["vpn-1"].failure = Unavailable(reason)
        assert "nothing was changed)" in cluster.run("session", "create", "s").stderr, reason


def test_markup_in_names_is_shown_as_it_is(cluster: FakeCluster) -> None:
    """A session id cannot colour or hide anything on an operator's screen."""
    cluster.run("session", "create", "[red]x[/red]")
    assert "[red]x[/red]" in cluster.run("session", "list").stdout


def test_lists_are_filtered_and_paged(cluster: FakeCluster) -> None:
    """By owner and state; a full page says how to go on, on stderr so that pipes stay clean."""
    for i in range(3):
        cluster.run("session", "create", f"s{i}")
    page = cluster.json("session", "list", "--limit", "2")
    assert ([s["session_id"] for s in page["sessions"]], page["next"]) == (["s0", "s1"], "s1")
    page = cluster.json("session", "list", "--after", "s1", "--state", "recovering", "--owner", "vpn-1")
    assert [s["session_id"] for s in page["sessions"]] == ["s2"]
    assert "--after s1" in cluster.run("session", "list", "--limit", "2").stderr


def test_explain_says_who_since_when_and_why_not(cluster: FakeCluster) -> None:
    """The owner, the log index of the change, and the reason that a reattach here would get."""
    cluster.run("session", "create", "s")
    shown = cluster.run("session", "explain", "s").stdout
    assert "log index 17" in shown
    assert "OWNERSHIP_CONFLICT" in shown
    assert cluster.json("session", "explain", "s")["owned_since_index"] == 17
    assert cluster.run("session", "explain", "none").exit_code == 4


def test_explain_does_not_deny_a_session_that_belongs_to_another_node(cluster: FakeCluster) -> None:
    """A sticky node knows its own sessions alone: it names the node to ask, or says that it cannot tell yet."""
    node = cluster.nodes["vpn-1"]
    node.places = Mapping.of(1, {"vpn-2": 1})
    node.elsewhere = {"reason": "OWNERSHIP_CONFLICT", "detail": "the session maps to vpn-2: ask there"}
    refused = cluster.run("session", "explain", "s", "-o", "json")
    assert (refused.exit_code, json.loads(refused.stdout)["owner"]) == (4, "vpn-2")
    assert "the session maps to vpn-2: ask there (ask it with --node vpn-2)" in refused.stderr
    node.elsewhere = {"reason": "MAPPING_UNSETTLED", "detail": "vpn-1 waits for vpn-3, who may hold it"}
    untold = cluster.run("session", "explain", "s")
    assert (untold.exit_code, "waits for vpn-3, who may hold it" in untold.stderr) == (3, True)


def test_explain_says_why_a_session_has_ended(cluster: FakeCluster) -> None:
    """Not only that it has."""
    cluster.run("session", "create", "s")
    node = cluster.nodes["vpn-1"]
    node.sessions["s"] = node.sessions["s"]._replace(state=SessionState.TERMINATED, reason="OWNER_LOST")
    assert "TERMINATED (OWNER_LOST), version 1" in cluster.run("session", "explain", "s").stdout


OUTCOMES = [
    (Rejected(Reason.OWNER_STILL_LIVE), 4, "rejected: OWNER_STILL_LIVE (the owner's lease may still run", "rejected"),
    (Rejected(Reason.SESSION_NOT_FOUND), 4, "rejected: SESSION_NOT_FOUND", "rejected"),
    (Unavailable(Reason.NO_QUORUM, "cut off"), 3, "unavailable: NO_QUORUM: cut off", "unavailable"),
    (Unavailable(Reason.LEASE_LOST), 3, "unavailable: LEASE_LOST", "unavailable"),
    (Unavailable(Reason.MAPPING_UNSETTLED, "waits for n3"), 3, "MAPPING_UNSETTLED: waits for n3 (see", "unavailable"),
    (Unavailable(Reason.OVERLOADED), 1, "unavailable: OVERLOADED (try again", "unavailable"),
    (OutcomeUnknown(OpId("vpn-1", 0xA1, 7)), 5, "raftstore outcome vpn-1:00000000000000a1:7", "unknown"),
    (RuntimeError("bug"), 1, "HTTP 500: internal error", "error"),
]


@pytest.mark.parametrize(("failure", "code", "line", "outcome"), OUTCOMES, ids=[str(o[0])[:18] for o in OUTCOMES])
def test_every_outcome_has_its_exit_status(
    cluster: FakeCluster, failure: Exception, code: int, line: str, outcome: str
) -> None:
    """0 ok, 1 error, 3 no quorum, 4 rejected, 5 unknown; one line on stderr; an object for scripts."""
    cluster.nodes["vpn-1"].failure = failure
    result = cluster.run("session", "create", "s")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("raftstore: ")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    result = cluster.run("session", "create", "s", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (code, outcome)


def test_a_rejection_shows_the_session_as_it_stands(cluster: FakeCluster) -> None:
    """The next command can be typed from what this one said."""
    cluster.run("session", "create", "s")
    result = cluster.run("session", "detach", "s", "-e", "9")
    assert "s is RECOVERING at vpn-1, epoch 1, version 1" in result.stderr


def test_no_answer_in_time_is_unknown_for_changes_only(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hangs: a change may have happened (5), a read has just failed (1)."""
    monkeypatch.setattr("raftstore.cli.target.ANSWER_MARGIN_S", 0.05)
    monkeypatch.setattr("raftstore.client.client.ANSWER_MARGIN_S", 0.05)
    node = cluster.nodes["vpn-1"]
    node.hold = cluster.call(asyncio.Event)
    assert cluster.run("session", "create", "s", "-n", "vpn-1", "--timeout", "0.05").exit_code == 5
    result = cluster.run("session", "get", "s", "-n", "vpn-1", "--timeout", "0.05")
    assert (result.exit_code, "no answer in time" in result.stderr) == (1, True)
    cluster.call(node.hold.set)


USAGE = [
    (["session", "detach", "s"], "--expected-version"),
    (["session", "detach", "s", "-e", "0"], "0 is not in the range"),
    (["session", "detach", "s", "-e", "x"], "not a valid integer"),
    (["session", "renew", "s", "-e", "1", "--ttl", "5"], "no time with a unit"),
    (["session", "renew", "s", "-e", "1", "--ttl", "-5s"], "no time with a unit"),
    (["session", "renew", "s", "-e", "1", "--ttl", "0s"], "ttl_ms: must be from 1"),
    (["session", "create", "a b"], "session_id: must be"),
    (["session", "create", ""], "session_id: must be"),
    (["session", "create", "x" * 65], "session_id: must be"),
    (["session", "create", "s", "-b", "t", "udp", "é"], "binding.remote: must be"),
    (["session", "migrate", "s", "-e", "1", "--to", "vpn-1"], "to: is this node itself"),
    (["session", "list", "--state", "GONE"], "is not one of"),
    (["session", "get", "s", "--timeout", "0"], "is not in the range"),
    (["session", "get", "s", "-n", "vpn-9"], "no node 'vpn-9' (use one of: vpn-1, vpn-2, vpn-3)"),
    (["session", "steal", "s"], "No such command"),
    (["drain"], "--node ID"),
    (["leader", "transfer", "--to", "vpn-9"], "no node 'vpn-9'"),
    (["outcome", "x"], "NODE:INCARNATION:SEQ"),
]


@pytest.mark.parametrize(("arguments", "problem"), USAGE, ids=[" ".join(a)[8:40] for a, _ in USAGE])
def test_mistakes_are_usage_errors(cluster: FakeCluster, arguments: list[str], problem: str) -> None:
    """Exit status 2, the problem by name, nothing asked of a node that could change anything."""
    result = cluster.run(*arguments)
    assert result.exit_code == 2, result.output
    assert problem in " ".join(result.stderr.split())
    assert not any(node.sessions for node in cluster.nodes.values())
