"""status, drain, leader, outcome: the cluster as operators see and steer it; and which node is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raftstore.types import OpId
from tests.cli.conftest import cli

if TYPE_CHECKING:
    from tests.cli.conftest import FakeCluster


def test_status_has_one_row_per_node(cluster: FakeCluster) -> None:
    """Role, log, lag and last contact as the leader sees them, sessions, chain head."""
    result = cluster.run("status")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1][:6] == ["vpn-1", "leader", "7", "41", "41", "0"]
    assert rows[2][:8] == ["vpn-2", "follower", "7", "41", "41", "1", "12", "ms"]
    assert "abababababab @41" in result.stdout


def test_a_node_that_does_not_answer_has_a_row_that_says_so(cluster: FakeCluster) -> None:
    """The others are shown all the same, and as long as there is a quorum all is well."""
    cluster.stop("vpn-3")
    result = cluster.run("status")
    assert result.exit_code == 0
    assert "vpn-3  no answer" in result.stdout
    assert "vpn-3 does not answer: No such file" in result.stdout


def test_status_tells_lost_quorum_and_silence_apart(cluster: FakeCluster) -> None:
    """3 when nodes answer but none knows of a quorum, 1 when none answers."""
    for node in cluster.nodes.values():
        node.leader = None
    result = cluster.run("status")
    assert (result.exit_code, "no node knows of a quorum" in result.stdout) == (3, True)
    cluster.stop()
    assert cluster.run("status").exit_code == 1


def test_status_shows_divergence_and_troubles(cluster: FakeCluster) -> None:
    """Different chain heads at one log index are an error; security events, drains and stops are named."""
    cluster.nodes["vpn-2"].extra_status = {"chain_head": "cd" * 32, "stopped": "STATE_DIVERGENCE"}
    cluster.nodes["vpn-3"].extra_status = {"security_events": [{"kind": "PARTIAL_WRITE"}]}
    cluster.nodes["vpn-1"].drained = True
    result = cluster.run("status")
    assert result.exit_code == 1
    for note in (
        "vpn-1 and vpn-2 DIFFER at log index 41",
        "vpn-2 has stopped serving: STATE_DIVERGENCE",
        "vpn-3 reports security events: PARTIAL_WRITE",
        "vpn-1 is draining",
    ):
        assert note in result.stdout


def test_status_for_programs_and_as_a_watch(cluster: FakeCluster) -> None:
    """JSON holds each node's whole status; a watch shows the table again and again."""
    found = cluster.json("status")
    assert [node["node"] for node in found["nodes"]] == ["vpn-1", "vpn-2", "vpn-3"]
    assert found["nodes"][0]["leader"] == "vpn-1"
    result = cluster.run("status", "--watch", "--interval", "0.1", "--rounds", "2")
    assert (result.exit_code, "abababababab" in result.stdout) == (0, True)


def test_the_first_node_that_answers_is_asked(cluster: FakeCluster) -> None:
    """Unless one is named: then that one or none."""
    cluster.stop("vpn-1")
    assert cluster.json("session", "create", "s")["session"]["owner"] == "vpn-2"
    assert cluster.json("session", "create", "t", "-n", "vpn-3")["session"]["owner"] == "vpn-3"
    result = cluster.run("session", "create", "u", "--node", "vpn-1")
    assert result.exit_code == 1
    assert "no answer from unix:" in result.stderr
    assert "raftstore run --node ID" in result.stderr


def test_when_nobody_answers_all_are_named(cluster: FakeCluster) -> None:
    """One line: which nodes were tried, why each failed, and how to start one."""
    cluster.stop()
    result = cluster.run("session", "list")
    assert result.exit_code == 1
    assert result.stderr.startswith("raftstore: no node answers: vpn-1 (No such file or directory), vpn-2 (")
    assert result.stderr.count("\n") == 1


def test_drain_moves_sessions_or_says_which_could_not(cluster: FakeCluster) -> None:
    """The node is named; sessions that stay behind make it an error."""
    cluster.run("session", "create", "s")
    assert "moved   1" in cluster.run("drain", "-n", "vpn-1").stdout
    assert cluster.nodes["vpn-1"].drained
    assert cluster.json("drain", "-n", "vpn-2")["moved"] == 0


def test_leadership_is_asked_of_the_leader(cluster: FakeCluster) -> None:
    """Whoever answers names the leader, and the leader is asked."""
    for node in cluster.nodes.values():
        node.leader = "vpn-3"
    assert cluster.run("leader", "transfer", "--to", "vpn-2").stdout == "vpn-2 leads\n"
    assert cluster.nodes["vpn-3"].calls == [("transfer", "", {"to": "vpn-2"})]
    for node in cluster.nodes.values():
        node.leader = None
    assert cluster.run("leader", "transfer").exit_code == 3
    cluster.stop()
    assert cluster.run("leader", "transfer").exit_code == 1


def test_the_fate_of_an_op_is_asked_of_its_node(cluster: FakeCluster) -> None:
    """By the id that "outcome unknown" named."""
    op_id = OpId("vpn-2", 0xA1, 7)
    cluster.nodes["vpn-2"].outcomes[op_id] = {"outcome": "committed", "reason": None, "session": None}
    assert cluster.json("outcome", str(op_id))["outcome"] == "committed"
    assert "outcome  committed" in cluster.run("outcome", str(op_id)).stdout
    assert cluster.run("outcome", str(OpId("vpn-1", 0xA1, 7))).exit_code == 1


def test_audit_tail_shows_the_last_events(cluster: FakeCluster) -> None:
    """Lines for people, JSON lines for programs, a gap as what it is."""
    node = cluster.nodes["vpn-1"]
    for session in ("a", "b", "c"):
        fields = {"session_id": session, "from_state": "ATTACHED", "to_state": "RECOVERING", "wall_ms": 0, "epoch": 2}
        cluster.call(lambda fields=fields: node.add_event(**fields))
    cluster.call(lambda: node.add_event(event="AuditGap", **{"from": 4, "to": 4}))
    shown = cluster.run("audit", "tail", "--lines", "2").stdout.splitlines()
    assert shown[0] == "       3 1970-01-01T00:00:00.000Z Detached  c  ATTACHED -> RECOVERING  epoch 2"
    assert "events 4 to 4 are not in the files" in shown[1]
    lines = cluster.run("audit", "tail", "--after", "0", "-o", "json").stdout.splitlines()
    assert len(lines) == 4


@pytest.mark.parametrize("command", ["status", "session list", "leader transfer", "audit tail", "run -n vpn-1"])
def test_a_bad_configuration_is_one_line_and_status_2(tmp_path: Path, command: str) -> None:
    """File, key, problem and remedy; no traceback, whatever the command."""
    path = tmp_path / "cluster.conf"
    path.write_text('cluster = "c"\n[timing]\nlease_tll_ms = 1\n')
    for file, problem in ((path, "timing.lease_tll_ms: unknown key"), (tmp_path / "none", "file not found")):
        result = cli(*command.split(), "-c", str(file))
        assert result.exit_code == 2
        assert result.stderr.startswith(f"raftstore: {file}: {problem}")
        assert result.stderr.count("\n") == 1
