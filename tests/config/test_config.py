"""cluster.conf: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from raftstore.config import ClusterConfig, key_table
from raftstore.errors import ConfigError
from tests.config.scenes import config, nodes_of, problem_of, three_nodes

EXAMPLE = Path(__file__).parents[2] / "cluster.conf.example"


def test_example_names_every_key_with_its_default() -> None:
    """The example file is the table: it states each key, at its default, and no other."""
    data = tomllib.loads(EXAMPLE.read_text())
    for spec in key_table():
        place: Any = data
        for part in spec.name.split("."):
            assert part in place, f"cluster.conf.example lacks {spec.name}"
            place = place[part]
        assert place == spec.default, spec.name
    ClusterConfig.load(EXAMPLE)


def test_example_states_every_range_and_every_shared_key() -> None:
    """An operator reads the range, and whether all nodes must agree, on the line of the key."""
    lines = EXAMPLE.read_text().splitlines()
    for spec in key_table():
        name = spec.name.rpartition(".")[2]
        line = next(text for text in lines if text.startswith(f"{name} "))
        assert ("[all]" in line) == spec.shared, spec.name
        if spec.low is not None:
            assert f"{spec.low} to {spec.high}" in line, spec.name


def test_example_shows_every_optional_node_key() -> None:
    """The optional keys of [[node]] are shown, commented out."""
    text = EXAMPLE.read_text()
    for key in ("bind", "api", "weight", "data_dir", "cert", "key"):
        assert f"\n# {key} = " in text, key


def test_defaults_fill_what_the_file_leaves_out() -> None:
    """A file with a cluster name and nodes is complete; paths become absolute from the file's directory."""
    c = config()
    node = c.node("vpn-2")
    assert (c.timing.lease_ttl_ms, c.limits.frame_bytes_max) == (3000, 4_194_304)
    assert node.bind == node.peer
    assert str(node.api) == "unix:/etc/raftstore/run/vpn-2.sock"
    assert str(node.data_dir) == "/etc/raftstore/data/vpn-2"
    assert str(node.audit_dir) == "/etc/raftstore/data/vpn-2/audit"
    assert (str(node.cert), str(node.key)) == ("/etc/raftstore/vpn-2.pem", "/etc/raftstore/vpn-2.key")


def test_node_keys_override_the_defaults() -> None:
    """A node may listen elsewhere than the others dial, and keep its files elsewhere."""
    data = three_nodes()
    data["node"][0] |= {"peer": "[::1]:7401", "bind": "0.0.0.0:9", "api": "tcp:VPN.example:7", "data_dir": "/d"}
    data["node"][0] |= {"cert": "c.pem", "key": "/k.pem"}
    node = ClusterConfig.from_dict(data, base_dir="/e").node("vpn-1")
    assert (str(node.peer), str(node.bind), str(node.api)) == ("[::1]:7401", "0.0.0.0:9", "tcp:vpn.example:7")
    assert [str(p) for p in (node.data_dir, node.cert, node.key)] == ["/d", "/e/c.pem", "/k.pem"]


@pytest.mark.parametrize("spec", [s for s in key_table() if s.low is not None], ids=lambda s: s.name)
def test_every_number_is_held_to_its_range_and_type(spec: Any) -> None:
    """Below, above, a float, a text and a truth value are each refused by the key's full name."""
    table, name = spec.name.split(".")
    for bad in (spec.low - 1, spec.high + 1, float(spec.default), str(spec.default), True, [1]):
        text = problem_of(three_nodes() | {table: {name: bad}})
        assert f"cluster.conf: {spec.name}: bad value {bad!r}" in text
        assert f"from {spec.low} to {spec.high}" in text


def test_every_default_lies_in_its_range() -> None:
    """The table does not contradict itself."""
    for spec in key_table():
        if spec.low is not None and spec.high is not None:
            assert isinstance(spec.default, int)
            assert spec.low <= spec.default <= spec.high, spec.name


BAD = [
    ({"cluster": ""}, "cluster: bad name ''"),
    ({"cluster": "a b"}, "cluster: bad name 'a b'"),
    ({"cluster": 7}, "cluster: bad name 7"),
    ({"strategy": "other"}, 'strategy: bad value \'other\' (use "shared" or "sticky")'),
    ({"strategy": "Sticky"}, "strategy: bad value 'Sticky'"),
    ({"strategy": ""}, "strategy: bad value ''"),
    ({"strategy": ["sticky"]}, "strategy: bad value ['sticky']"),
    ({"partition_policy": "allow"}, 'partition_policy: bad value \'allow\' (use "deny" or "terminate")'),
    ({"partition_policy": ["deny"]}, "partition_policy: bad value ['deny']"),
    ({"partition_polcy": "deny"}, "partition_polcy: unknown key (did you mean 'partition_policy'?)"),
    ({"zzz": 1}, "zzz: unknown key (remove it; known: "),
    ({"lease_ttl_ms": 9}, "lease_ttl_ms: unknown key (it belongs in [timing])"),
    ({"timing": {"lease_tll_ms": 9}}, "timing.lease_tll_ms: unknown key (did you mean 'lease_ttl_ms'?)"),
    ({"timing": {"ttl_max_ms": 9}}, "timing.ttl_max_ms: unknown key (it belongs in [sessions])"),
    ({"timing": 3}, "timing: must be a table (write [timing] on a line of its own)"),
    ({"storage": {"data_dir": ""}}, "storage.data_dir: bad value ''"),
    ({"storage": {"data_dir": "a\nb"}}, "storage.data_dir: bad value 'a\\nb'"),
    ({"tls": {"ca": 1}}, "tls.ca: bad value 1"),
    ({"timing": {"heartbeat_interval_ms": 101}}, "timing.heartbeat_interval_ms: 101 is more than a third"),
    ({"timing": {"election_timeout_max_ms": 300}}, "timing.election_timeout_min_ms: 300 is not below"),
    ({"timing": {"lease_ttl_ms": 1199}}, "timing.lease_ttl_ms: 1199 is less than twice"),
    ({"timing": {"op_timeout_ms": 60001}}, "timing.op_timeout_ms: 60001 is above op_timeout_max_ms 60000"),
    ({"sessions": {"ttl_default_ms": 604800001}}, "sessions.ttl_default_ms: it is 604800001, above ttl_max_ms"),
    ({"limits": {"entry_bytes_max": 2097153}}, "limits.entry_bytes_max: twice it is 4194306, above frame_bytes_max"),
    ({"limits": {"send_queue_bytes_max": 65536}}, "limits.frame_bytes_max: it is 4194304, above send_queue_byt"),
    ({"storage": {"wal_segment_bytes": 1048576}}, "limits.entry_bytes_max: twice it is 2097152, above wal_seg"),
    ({"node": []}, "node: no nodes (add one [[node]] table"),
    ({"node": {"id": "vpn-1"}}, "node: no nodes"),
    ({"node": [1, 2, 3]}, "node: no nodes"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD, ids=[expected[:40] for _, expected in BAD])
def test_a_bad_value_is_refused_in_one_line(changes: dict[str, Any], expected: str) -> None:
    """File, key, problem and remedy, in that order, whatever is wrong."""
    assert f"cluster.conf: {expected}" in problem_of(three_nodes() | changes)


BAD_NODE = [
    ({"id": "VPN"}, "node[2].id: bad value 'VPN' (1 to 32 of a-z, 0-9 and '-')"),
    ({"id": "a" * 33}, "node[2].id: bad value"),
    ({"id": None}, "node[2].id: missing"),
    ({"id": "vpn-1"}, "node vpn-1.id: vpn-1 is also that of vpn-1"),
    ({"peer": None}, "node vpn-2.peer: missing (the address that the other nodes dial"),
    ({"peer": 7400}, "node vpn-2.peer: bad value 7400"),
    ({"peer": "127.0.0.1:7401"}, "node vpn-2.peer: 127.0.0.1:7401 is also that of vpn-1 (each its own)"),
    ({"peer": "host"}, "node vpn-2.peer: bad address 'host': not host:port"),
    ({"peer": "host:0"}, "node vpn-2.peer: bad address 'host:0': bad port '0'"),
    ({"peer": "host:65536"}, "bad port '65536'"),
    ({"peer": "host:99999999999999"}, "bad port"),
    ({"peer": "host:-1"}, "bad port '-1'"),
    ({"peer": "host:٣"}, "bad port"),
    ({"peer": "::1:7400"}, "an IPv6 address goes in brackets"),
    ({"peer": "[::g]:7400"}, "bad address '[::g]:7400'"),
    ({"peer": "[1.2.3.4]:7400"}, "brackets are for IPv6 addresses only"),
    ({"peer": "a b:7400"}, "bad host name 'a b'"),
    ({"bind": "x"}, "node vpn-2.bind: bad address 'x'"),
    ({"api": "http://x"}, "node vpn-2.api: bad endpoint 'http://x': must be \"unix:PATH\""),
    ({"api": "unix:"}, "node vpn-2.api: bad endpoint 'unix:'"),
    ({"api": "unix:" + "x" * 101}, "is longer than 100 bytes"),
    ({"api": "tcp-insecure:10.0.0.1:80"}, "plain TCP is for loopback only, 10.0.0.1 is not"),
    ({"api": "unix:run/vpn-1.sock"}, "node vpn-2.api: unix:/etc/raftstore/run/vpn-1.sock is also that of vpn-1"),
    ({"data_dir": "data/vpn-1"}, "node vpn-2.data_dir: /etc/raftstore/data/vpn-1 is also that of vpn-1"),
    ({"weight": 1001}, "node vpn-2.weight: bad value 1001 (an integer from 0 to 1000)"),
    ({"weight": -1}, "node vpn-2.weight: bad value -1"),
    ({"weight": True}, "node vpn-2.weight: bad value True"),
    ({"weight": "1"}, "node vpn-2.weight: bad value '1'"),
    ({"weight": 1.0}, "node vpn-2.weight: bad value 1.0"),
    ({"pear": "h:1"}, "node vpn-2.pear: unknown key (did you mean 'peer'?)"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_NODE, ids=[str(changes)[:40] for changes, _ in BAD_NODE])
def test_a_bad_node_table_is_refused_by_the_node_it_describes(changes: dict[str, Any], expected: str) -> None:
    """The line names the node by id, or by its place while it has none."""
    data = copy.deepcopy(three_nodes())
    data["node"][1] = {k: v for k, v in (data["node"][1] | changes).items() if v is not None}
    assert expected in problem_of(data)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_odd_clusters_are_accepted(count: int) -> None:
    """One node for development, three, five or seven for service."""
    assert len(ClusterConfig.from_dict({"cluster": "c", "node": nodes_of(count)}).nodes) == count


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (2, "2 nodes survive no more failures than 1, and fail more often (use 1 or 3)"),
        (6, "than 5, and fail more often (use 5 or 7)"),
        (8, "(use at most 7)"),
        (9, "9 nodes are too many"),
    ],
)
def test_other_counts_are_refused_with_the_reason(count: int, reason: str) -> None:
    """An even cluster buys nothing, and a large one only waits."""
    for strategy in ({}, {"strategy": "shared"}):
        assert reason in problem_of({"cluster": "c", "node": nodes_of(count)} | strategy)


@pytest.mark.parametrize("heartbeat_ms", [5, 50, 20_000])
def test_drift_always_leaves_a_lease_longer_than_a_heartbeat(heartbeat_ms: int) -> None:
    """A lease that drift eats up would fence a healthy node: at the tightest timing that is accepted it does not."""
    election_ms = max(20, 3 * heartbeat_ms)
    longest_ms = max(30, election_ms + 1)
    drift_ppm = next(spec.high for spec in key_table() if spec.name == "timing.max_clock_drift_ppm")
    timing = {
        "heartbeat_interval_ms": heartbeat_ms,
        "election_timeout_min_ms": election_ms,
        "election_timeout_max_ms": longest_ms,
        "lease_ttl_ms": 2 * longest_ms,
        "max_clock_drift_ppm": drift_ppm,
    }
    lease_ms = config(timing=timing).timing.lease_ttl_ms
    assert drift_ppm is not None
    assert lease_ms - lease_ms * drift_ppm / 1_000_000 > 4 * heartbeat_ms
    assert "timing.lease_ttl_ms" in problem_of(
        three_nodes() | {"timing": timing | {"lease_ttl_ms": 2 * longest_ms - 1}}
    )


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(data)
    table, _, key = path.rpartition(".")
    place = data.setdefault(table, {}) if table else data
    place[key] = value
    return data


def test_digest_covers_exactly_what_nodes_must_agree_on() -> None:
    """Changing any shared key changes the digest; changing any other does not."""
    base = config().digest()
    for spec in key_table():
        if isinstance(spec.default, int):
            other: Any = spec.default + 1
        else:
            other = {"strategy": "sticky", "partition_policy": "terminate"}.get(spec.name, "elsewhere")
        data = changed(three_nodes(), spec.name, other)
        digest = ClusterConfig.from_dict(data, base_dir="/etc/raftstore").digest()
        assert (digest != base) == spec.shared, spec.name
        sticky = ClusterConfig.from_dict({"strategy": "sticky"} | data, base_dir="/etc/raftstore").digest()
        assert (sticky != config(strategy="sticky").digest()) == (spec.shared and spec.name != "strategy"), spec.name


def test_digest_covers_members_but_not_their_order_or_local_addresses() -> None:
    """Who the members are and how they are dialled is shared; where each listens is its own affair."""
    base = config()
    data = three_nodes()
    data["node"].reverse()
    data["node"][0] |= {"bind": "0.0.0.0:1", "api": "tcp:h:1", "data_dir": "/x", "cert": "c", "key": "k"}
    assert ClusterConfig.from_dict(data, base_dir="/elsewhere").digest() == base.digest()
    data["node"][0]["peer"] = "127.0.0.1:1"
    assert ClusterConfig.from_dict(data).digest() != base.digest()
    assert config(cluster="other").digest() != base.digest()


def test_weights_are_shared_and_one_unless_given() -> None:
    """A node's share is 1 by default, all nodes must agree on it, and one node at least has some."""
    assert [node.weight for node in config().nodes] == [1, 1, 1]
    data = three_nodes()
    data["node"][0]["weight"] = 1
    assert ClusterConfig.from_dict(data).digest() == config().digest()
    data["node"][0]["weight"] = 1000
    assert ClusterConfig.from_dict(data).digest() != config().digest()
    assert ClusterConfig.from_dict(data).weights == {"vpn-1": 1000, "vpn-2": 1, "vpn-3": 1}


def test_machine_params_are_those_of_the_file() -> None:
    """What the replicated machine is configured with comes from the file, whole."""
    params = config(partition_policy="terminate", sessions={"sessions_max": 7}).machine_params()
    assert params["partition_policy"] == "terminate"
    assert params["sessions_max"] == 7
    assert sorted(params) == [
        "clock_resume_max_ms",
        "freeze_timeout_ms",
        "lease_ttl_ms",
        "max_clock_drift_ppm",
        "partition_policy",
        "reattach_window_ms",
        "sessions_max",
        "ttl_max_ms",
    ]


def test_an_unknown_node_is_refused_with_the_known_ones() -> None:
    """A mistyped --node is answered with the ids to choose from."""
    with pytest.raises(ConfigError, match=r"node: no node 'vpn-9' \(use one of: vpn-1, vpn-2, vpn-3\)"):
        config().node("vpn-9")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "file not found (write one with: raftstore init DIR)"),
        (b"cluster = \n", "not valid TOML: Invalid value (at line 1, column 11) (correct that line)"),
        (b"a = 1\nb = \xff\n", "line 2: not UTF-8"),
        (b"#" * (1 << 20) + b"\n", "longer than 1048576 bytes"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"", "cluster: missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """Whatever is in the file, the answer is one line that begins with its path."""
    path = tmp_path / "cluster.conf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ClusterConfig.load(path)
    assert str(caught.value).startswith(f"{path}: {expected}"), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    """A path that is not a file is refused in the same form."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        ClusterConfig.load(tmp_path)


def test_a_config_is_frozen() -> None:
    """Nobody can change a checked configuration into an unchecked one."""
    c = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.timing.lease_ttl_ms = 1  # type: ignore[misc]  # that it is refused is what is tested
