"""raftstore mapping: what it shows, what it asks, what it sends, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raftstore.cli import mapping_ask
from raftstore.cli.main import main
from raftstore.cli.mapping_view import Stage, notes, progress, stage
from tests.admin.fake_node import sticky_view
from tests.cli.conftest import FakeCluster, cli

EQUAL = {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1}


@pytest.fixture
def sticky(tmp_path: Path) -> Iterator[FakeCluster]:
    """Three running sticky nodes with one settled mapping."""
    cluster = FakeCluster(tmp_path)
    cluster.path.write_text('strategy = "sticky"\n' + cluster.path.read_text())
    agree(cluster, 4)
    cluster.start()
    yield cluster
    cluster.close()


def agree(cluster: FakeCluster, epoch: int, **changes: Any) -> None:
    for name, node in cluster.nodes.items():
        node.sticky = sticky_view(name, epoch, EQUAL, **changes)


def typed(cluster: FakeCluster, text: str, *arguments: str) -> Result:
    """A command with somebody at the keyboard."""
    return CliRunner().invoke(main, [*arguments, "--config", str(cluster.path)], input=text)


def changes_at(cluster: FakeCluster, name: str = "vpn-1") -> list[dict[str, Any]]:
    return [arguments for op, _, arguments in cluster.nodes[name].calls if op == "change_mapping"]


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_is_a_table_and_a_verdict(sticky: FakeCluster) -> None:
    """One row per node, by the asked node's word; then "settled"."""
    sticky.nodes["vpn-1"].sticky = sticky_view("vpn-1", 4, {"vpn-1": 2, "vpn-2": 1, "vpn-3": 1})
    result = sticky.run("mapping", "show", "--node", "vpn-1")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert rows[1] == ["vpn-1", "2", "50.0%", "no", "asked", "4", "yes", "yes", "0"]
    assert rows[2] == ["vpn-2", "1", "25.0%", "no", "yes", "4", "yes", "yes", "-"]
    assert result.stdout.endswith("settled: mapping epoch 4\n")
    found = sticky.json("mapping", "show", "--all")
    assert (found["stage"], [node["node"] for node in found["nodes"]]) == ("settled", list(EQUAL))


def test_show_says_what_is_waited_for_and_what_to_do(sticky: FakeCluster) -> None:
    """Exit status 3 while the mapping is not settled."""
    peers = {
        "vpn-2": {"connected": True, "epoch": 3, "agrees": False, "settled": True},
        "vpn-3": {"connected": False, "epoch": None, "agrees": None, "settled": False},
    }
    changes = {"settled": False, "closed": False, "waits_for": ["vpn-2", "vpn-3"], "leaving": {"vpn-2": 9}}
    sticky.nodes["vpn-1"].sticky = sticky_view("vpn-1", 4, EQUAL, peers=peers, **changes)
    result = sticky.run("mapping", "show", "-n", "vpn-1")
    assert result.exit_code == 3
    for note in (
        "vpn-1 still has 9 sessions to give to vpn-2",
        "vpn-1 waits for vpn-2 to adopt epoch 4",
        "vpn-1 waits for vpn-3, which is not connected: start it; if it will never run again",
        "not settled: mapping epoch 4; `raftstore mapping wait` waits, `raftstore mapping rollback` goes back",
    ):
        assert note in result.stdout


def test_show_all_says_where_nodes_differ(sticky: FakeCluster) -> None:
    """Two mappings of one epoch, a node that lags, one that is silent, one that has stopped."""
    sticky.nodes["vpn-2"].sticky = sticky_view("vpn-2", 4, EQUAL | {"vpn-2": 5}, digest="ff" * 32)
    sticky.nodes["vpn-3"].sticky = sticky_view("vpn-3", 3, EQUAL)
    result = sticky.run("mapping", "show", "--all")
    assert result.exit_code == 3
    assert "vpn-2 and vpn-1 DIFFER in epoch 4: vpn-1=1 vpn-2=5 vpn-3=1 at vpn-2" in result.stdout
    assert "until you set one of epoch 5 (raftstore mapping set)" in result.stdout
    assert "vpn-3 goes by epoch 3, vpn-1 by 4" in result.stdout
    agree(sticky, 4)
    sticky.nodes["vpn-2"].extra_status = {"stopped": "DECLARED_LOST: wipe it"}
    sticky.stop("vpn-3")
    result = sticky.run("mapping", "show", "--all")
    assert result.exit_code == 0
    assert "vpn-2 does not answer: it has stopped serving: DECLARED_LOST" in result.stdout
    assert "vpn-3  1       33.3%  no        no answer" in result.stdout
    sticky.stop()
    assert sticky.run("mapping", "show", "--all").exit_code == 1


def test_nodes_without_a_mapping_say_why(sticky: FakeCluster) -> None:
    """Missing nodes are named; different tables are told as the node reports them."""
    unfounded = {"epoch": 0, "nodes": [], "settled": False, "closed": False, "waits_for": ["vpn-3"]}
    for node in sticky.nodes.values():
        node.sticky = unfounded
    result = sticky.run("mapping", "show", "--all")
    assert result.exit_code == 3
    assert "vpn-1 has no mapping yet and waits for vpn-3: start all nodes" in result.stdout
    assert sticky.run("mapping", "show").exit_code == 3
    assert sticky.run("mapping", "set", "vpn-1=1").exit_code == 3
    sticky.nodes["vpn-1"].sticky = unfounded | {"waits_for": []}
    detail = "vpn-2 and vpn-1 have different [[node]] tables"
    sticky.nodes["vpn-1"].extra_status = {"security_events": [{"kind": "MAPPING_MISMATCH", "detail": detail}] * 2}
    said = sticky.run("mapping", "show", "--all").stdout
    assert said.count(f"vpn-1 reports: {detail}") == 1


def test_a_shared_cluster_has_no_mapping_to_change(cluster: FakeCluster) -> None:
    """Every command says what to use instead, with exit status 2."""
    for command in (["show"], ["set", "vpn-1=1"], ["rollback"], ["wait"]):
        result = cluster.run("mapping", *command)
        assert (result.exit_code, "raftstore session migrate" in result.stderr) == (2, True)


# --- set -----------------------------------------------------------------------------------------------------------


def test_set_goes_through_the_newest_node_under_the_next_epoch(sticky: FakeCluster) -> None:
    """Weights, drains and epoch as given; --no-wait returns when the change is in that node's log."""
    sticky.nodes["vpn-2"].sticky = sticky_view("vpn-2", 6, EQUAL)
    result = sticky.run("mapping", "set", "vpn-1=2", "vpn-2=0", "--drain", "vpn-2", "--no-wait")
    assert result.exit_code == 0, result.stderr
    assert changes_at(sticky, "vpn-2") == [
        {"nodes": {"vpn-1": 2, "vpn-2": 0}, "draining": ["vpn-2"], "lost": [], "epoch": 7}
    ]
    assert "mapping epoch 7 is in the log of vpn-2: vpn-1=2 vpn-2=0,draining" in result.stdout
    assert "the change goes on by itself" in result.stdout
    result = sticky.run("mapping", "set", "vpn-1=1", "--node", "vpn-1", "--epoch", "9", "--no-wait")
    assert (result.exit_code, result.stderr) == (2, "raftstore: epoch: the next is 5\n")


def test_set_waits_and_says_who_is_waited_for(sticky: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other nodes never adopt it here: exit status 3 after --timeout, with progress on stderr meanwhile."""
    monkeypatch.setattr(mapping_ask, "TELL_EVERY_S", 0.0)
    sticky.nodes["vpn-1"].sticky = sticky_view("vpn-1", 4, EQUAL, leaving={"vpn-3": 5}, waits_for=["vpn-3"])
    result = sticky.run("mapping", "set", "vpn-1=1", "vpn-2=1", "vpn-3=2", "--timeout", "0.3")
    assert result.exit_code == 3
    assert result.stderr == "vpn-1 has 5 to give to vpn-3; not confirmed yet: vpn-3\n"
    assert "vpn-2 goes by epoch 4, vpn-1 by 5" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["vpn-1"], "is not NODE=WEIGHT"),
        (["vpn-1=x"], "is not NODE=WEIGHT"),
        (["vpn-1=1", "vpn-1=2"], "given twice"),
        (["vpn-1=1", "--drain", "vpn-2"], "is not among the nodes"),
        ([], "Missing argument"),
        (["vpn-1=1", "--epoch", "0"], "--epoch"),
        (["vpn-9=1", "--dry-run"], "no node 'vpn-9'"),
        (["vpn-1=0", "--dry-run"], "no node would take sessions"),
        (["vpn-1=1001", "--dry-run"], "weight: of vpn-1"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(sticky: FakeCluster, arguments: list[str], problem: str) -> None:
    """Exit status 2, and no node was asked to change anything."""
    result = sticky.run("mapping", "set", *arguments)
    assert (result.exit_code, problem in result.stderr) == (2, True), result.stderr
    assert not changes_at(sticky)


def test_a_dry_run_says_which_share_moves_and_changes_nothing(sticky: FakeCluster) -> None:
    """From where to where; no session moves between nodes that stay as they were."""
    found = sticky.json("mapping", "set", "vpn-1=1", "vpn-2=1", "vpn-3=0", "--dry-run")
    assert 0.30 < found["share"] < 0.36 and found["epoch"] == 5
    assert {(move["from"], move["to"]) for move in found["moves"]} == {("vpn-3", "vpn-1"), ("vpn-3", "vpn-2")}
    result = sticky.run("mapping", "set", "vpn-1=1", "vpn-2=1", "--lost", "vpn-3", "--dry-run")
    assert result.exit_code == 0 and "gone" in result.stdout
    result = sticky.run("mapping", "set", "vpn-1=1", "vpn-2=1", "vpn-3=1", "--dry-run")
    assert result.stdout == "0.0% of 10000 sampled ids change their node in epoch 5; nothing was changed\n"
    assert not changes_at(sticky)


def test_a_node_is_declared_lost_only_by_typing_its_name(sticky: FakeCluster) -> None:
    """And only while nobody sees it run. Anything else changes nothing; a script says so with an option."""
    command = ("mapping", "set", "vpn-1=1", "vpn-2=1", "--lost", "vpn-3", "--no-wait")
    result = sticky.run(*command, "--yes-it-will-never-run-again")
    assert (result.exit_code, "vpn-3 runs (it is connected to vpn-1)" in result.stderr) == (2, True)
    agree(sticky, 4, peers={})
    result = sticky.run(*command, "--yes-it-will-never-run-again")
    assert (result.exit_code, "vpn-3 runs (it answers)" in result.stderr) == (2, True)
    sticky.stop("vpn-3")
    for text in ("\n", "y\n", "vpn-2\n"):
        result = typed(sticky, text, *command)
        assert (result.exit_code, "nothing was changed" in result.stderr) == (2, True)
        assert "stay closed for 7 d" in result.stderr and "two nodes could own one session" in result.stderr
    assert not changes_at(sticky)
    assert typed(sticky, "vpn-3\n", *command).exit_code == 0
    assert sticky.run(*command, "--yes-it-will-never-run-again").exit_code == 0
    assert [change["lost"] for change in changes_at(sticky)] == [["vpn-3"], ["vpn-3"]]


# --- rollback and wait ---------------------------------------------------------------------------------------------


def test_rollback_takes_the_newest_mapping_before_that_anybody_remembers(sticky: FakeCluster) -> None:
    """With its weights and drains, under the next epoch; settled or not makes no difference."""
    nodes = [{"node_id": "vpn-1", "weight": 3, "draining": False}, {"node_id": "vpn-2", "weight": 1, "draining": True}]
    agree(sticky, 4, settled=False, closed=False, waits_for=["vpn-3"])
    views = {name: node.sticky or {} for name, node in sticky.nodes.items()}
    views["vpn-2"]["previous"] = {"epoch": 2, "nodes": []}
    views["vpn-3"]["previous"] = {"epoch": 3, "nodes": nodes}
    result = sticky.run("mapping", "rollback", "--no-wait")
    assert result.exit_code == 0, result.stderr
    assert "back to the nodes of epoch 3: vpn-1=3 vpn-2=1,draining" in result.stdout
    assert changes_at(sticky)[0] == {"nodes": {"vpn-1": 3, "vpn-2": 1}, "draining": ["vpn-2"], "lost": [], "epoch": 5}


def test_rollback_does_not_choose_between_two_mappings_of_one_epoch(sticky: FakeCluster) -> None:
    """After a conflict nodes went by different ones before: both are named, and nothing is changed."""
    for name, weight in (("vpn-1", 3), ("vpn-2", 5), ("vpn-3", 3)):
        before = {"epoch": 3, "nodes": [{"node_id": "vpn-1", "weight": weight, "draining": False}]}
        sticky.nodes[name].sticky = sticky_view(name, 4, EQUAL, previous=before)
    result = sticky.run("mapping", "rollback")
    assert (result.exit_code, changes_at(sticky)) == (1, [])
    assert "two mappings of epoch 3 came before: vpn-1=3 at vpn-1, vpn-1=5 at vpn-2" in result.stderr


def test_rollback_of_the_first_mapping_says_that_there_is_none_before(sticky: FakeCluster) -> None:
    """It changes nothing."""
    result = sticky.run("mapping", "rollback")
    assert (result.exit_code, "nobody knows the mapping before" in result.stderr) == (1, True)
    assert changes_at(sticky) == []


def test_wait_ends_when_all_who_answer_have_settled_and_closed(sticky: FakeCluster) -> None:
    """0 then, 3 when it takes longer, 1 when nobody answers."""
    assert sticky.run("mapping", "wait").exit_code == 0
    sticky.nodes["vpn-3"].sticky = sticky_view("vpn-3", 4, EQUAL, closed=False)
    result = sticky.run("mapping", "wait", "--timeout", "0.1")
    assert (result.exit_code, "vpn-3 has settled, and waits until all others have" in result.stdout) == (3, True)
    sticky.stop("vpn-3")
    assert sticky.run("mapping", "wait").exit_code == 0
    sticky.stop()
    assert sticky.run("mapping", "wait", "--timeout", "0.1").exit_code == 1


def test_an_interrupted_wait_says_that_the_change_goes_on(sticky: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the waiting and nothing else."""

    async def interrupted(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("raftstore.cli.mapping.wait_settled", interrupted)
    result = sticky.run("mapping", "wait")
    assert (result.exit_code, "the change goes on by itself" in result.stderr) == (1, True)


def test_what_only_time_can_settle_is_not_waited_for(sticky: FakeCluster) -> None:
    """After a node was declared lost: `set` is done, `wait` says when, and neither waits for a week."""
    view = {"settled": False, "closed": False, "opens_in_ms": 604_800_000, "lost": ["vpn-3"]}
    views = {n: sticky_view(n, 5, {"vpn-1": 1, "vpn-2": 1}, **view) for n in ("vpn-1", "vpn-2")}
    assert stage(views) is Stage.OPENS_LATER
    assert "at vpn-1 session ids that vpn-3 may have held open in 7 d" in notes(views)
    for name in views:
        sticky.nodes[name].sticky = views[name]
    sticky.stop("vpn-3")
    assert sticky.run("mapping", "wait").exit_code == 3


def test_progress_is_one_line() -> None:
    """Who still has how many sessions to give, who is counting, who is silent."""
    views = {
        "vpn-1": sticky_view("vpn-1", 4, EQUAL, leaving={"vpn-2": 3}, waits_for=["vpn-2"]),
        "vpn-2": sticky_view("vpn-2", 4, EQUAL, leaving=None),
        "vpn-3": {"unanswered": "gone"},
    }
    assert progress(views) == (
        "vpn-3 does not answer; vpn-1 has 3 to give to vpn-2; vpn-2 is counting; not confirmed yet: vpn-2"
    )


# --- other commands in the sticky strategy -------------------------------------------------------------------------


def test_status_shows_mappings_and_agreement_instead_of_leaders(sticky: FakeCluster) -> None:
    """Chain heads are each node's own, so different ones are no divergence."""
    sticky.nodes["vpn-2"].extra_status = {"chain_head": "cd" * 32, "ready": True, "security_events": [{"kind": "X"}]}
    result = sticky.run("status")
    assert result.exit_code == 0
    assert "leader" not in result.stdout and "DIFFER" not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[2][:8] == ["vpn-2", "sticky", "epoch", "4", "yes", "vpn-1,", "vpn-3", "-"]
    assert "settled: mapping epoch 4" in result.stdout and "vpn-2 reports security events: X" in result.stdout
    sticky.nodes["vpn-2"].sticky = sticky_view("vpn-2", 4, EQUAL, settled=False, waits_for=["vpn-3"])
    assert sticky.run("status").exit_code == 3
    sticky.stop()
    assert sticky.run("status").exit_code == 1


def test_audit_tail_tells_mappings_in_words(sticky: FakeCluster) -> None:
    """An event about no session has nothing else to tell."""
    sticky.call(lambda: sticky.nodes["vpn-1"].add_event(event="MappingAdopted", detail="epoch 2: vpn-1=1", wall_ms=0))
    assert sticky.run("audit", "tail", "--lines", "1").stdout.endswith("MappingAdopted  epoch 2: vpn-1=1\n")


def test_drain_says_how_the_node_is_brought_back(sticky: FakeCluster) -> None:
    """With a command that can be pasted: the mapping as it is, without that drain."""
    nodes = [{"node_id": n, "weight": w, "draining": n != "vpn-3"} for n, w in EQUAL.items()]
    agree(sticky, 4, nodes=nodes)
    result = sticky.run("drain", "--node", "vpn-1")
    assert result.exit_code == 0
    assert "until: raftstore mapping set vpn-1=1 vpn-2=1 vpn-3=1 --drain vpn-2\n" in result.stdout
    assert "vpn-1 is draining (raftstore mapping set without --drain vpn-1 ends it)" in sticky.run("status").stdout


def test_route_can_ask_a_node_for_its_mapping(sticky: FakeCluster) -> None:
    """Without --from-node no node is asked, whatever its mapping has become since the founding."""
    sticky.nodes["vpn-2"].sticky = sticky_view("vpn-2", 7, {"vpn-2": 1})
    conf = ("-c", str(sticky.path))
    found = json.loads(cli("route", "a", "b", "--from-node", "vpn-2", "-o", "json", *conf).stdout)
    assert (found["epoch"], {route["node"] for route in found["routes"]}) == (7, {"vpn-2"})
    assert "mapping epoch 7" in cli("route", "--map", "nginx", "--from-node", "vpn-2", *conf).stdout
    sticky.nodes["vpn-2"].sticky = {"epoch": 0, "nodes": [], "settled": False, "closed": False, "waits_for": []}
    assert cli("route", "a", "--from-node", "vpn-2", *conf).exit_code == 3
    assert cli("route", "a", "--from-node", "vpn-9", *conf).exit_code == 2
    sticky.stop()
    assert cli("route", "a", *conf).exit_code == 0
    assert cli("route", "a", "--from-node", "vpn-2", *conf).exit_code == 1
