"""`raftstore route`: where sessions map, from the configuration alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftstore.routing import FORMS, Mapping, map_text
from tests.cli.conftest import CONFIG, cli

EQUAL = Mapping.of(1, {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1})


@pytest.fixture
def conf(tmp_path: Path) -> str:
    path = tmp_path / "cluster.conf"
    path.write_text(CONFIG)
    return str(path)


def test_route_shows_the_node_of_each_session(conf: str) -> None:
    """One line a session, in the order asked, without any node running."""
    result = cli("route", "alice", "bob", "-c", conf)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows == [["SESSION", "NODE"], ["alice", EQUAL.owner("alice")], ["bob", EQUAL.owner("bob")]]


def test_route_tells_programs_the_mapping_too(conf: str) -> None:
    """With -o json the answer names formula, epoch and digest, so that two answers can be compared."""
    found = json.loads(cli("route", "alice", "-c", conf, "-o", "json").stdout)
    assert found["routes"] == [{"session_id": "alice", "node": EQUAL.owner("alice")}]
    assert (found["formula"], found["epoch"], found["digest"]) == ("raftstore-rendezvous-1", 1, EQUAL.digest())


def test_route_follows_the_weights_of_the_configuration(tmp_path: Path) -> None:
    """A node of weight 0 gets no session."""
    path = tmp_path / "cluster.conf"
    path.write_text(
        CONFIG.replace('id = "vpn-2"', 'id = "vpn-2"\nweight = 0').replace('"vpn-3"', '"vpn-3"\nweight = 5')
    )
    sessions = [f"s-{i}" for i in range(200)]
    found = json.loads(cli("route", *sessions, "-c", str(path), "-o", "json").stdout)
    mapping = Mapping.of(1, {"vpn-1": 1, "vpn-2": 0, "vpn-3": 5})
    assert [r["node"] for r in found["routes"]] == [mapping.owner(s) for s in sessions]
    assert {r["node"] for r in found["routes"]} == {"vpn-1", "vpn-3"}


@pytest.mark.parametrize("form", FORMS)
def test_route_prints_maps_for_load_balancers(conf: str, form: str) -> None:
    """The text alone is on stdout, ready for a file."""
    result = cli("route", "--map", form, "-c", conf)
    assert (result.exit_code, result.stdout) == (0, map_text(EQUAL, form))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name sessions, or a form with --map; not both"),
        (["alice", "--map", "json"], "name sessions, or a form with --map; not both"),
        (["--map", "envoy"], "is not one of"),
        (["a b"], "session_id: must be 1 to 64 printable ASCII"),
        (["é"], "session_id: must be 1 to 64 printable ASCII"),
        (["x" * 65], "session_id: must be 1 to 64 printable ASCII"),
    ],
)
def test_a_wrong_question_is_a_usage_error(conf: str, arguments: list[str], problem: str) -> None:
    """Exit status 2 and what was wrong; no part of an answer."""
    result = cli("route", *arguments, "-c", conf)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
