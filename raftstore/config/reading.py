"""From TOML to checked values: the first problem found is a ConfigError of one line "FILE: KEY: problem (what to do)".

Knows which values can work together (the timing inequalities, the bounds that contain each other, how many nodes make
a cluster) and how relative paths become absolute. Leaves to others: what the values are for.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from raftstore.config.addresses import Address, ApiEndpoint
from raftstore.config.tables import (
    POLICIES,
    STICKY_NODES_MAX,
    STRATEGIES,
    TABLES,
    WEIGHT_MAX,
    Limits,
    Sessions,
    Storage,
    Timing,
)
from raftstore.errors import ConfigError

CONFIG_BYTES_MAX = 1 << 20  # a larger file is not a configuration
SHARED_NODE_COUNTS = (1, 3, 5, 7)

_NODE_ID = re.compile(r"[a-z0-9-]{1,32}\Z")
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TOP_KEYS = ("cluster", "strategy", "partition_policy", "node", *TABLES)
_NODE_KEYS = ("id", "peer", "bind", "api", "weight", "data_dir", "cert", "key")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node: addresses, and absolute paths of everything it reads and writes."""

    id: str
    peer: Address  # what the others dial
    bind: Address  # where it listens; equal to `peer` unless given
    api: ApiEndpoint
    data_dir: Path
    audit_dir: Path
    cert: Path
    key: Path
    weight: int  # its share of the sessions, relative to the others; the default is 1


def read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: file not found (write one with: raftstore init DIR)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror} (check path and permissions)") from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {CONFIG_BYTES_MAX} bytes (is this a cluster.conf?)")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 (save the file as UTF-8)") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid TOML: {problem} (correct that line)") from None


class Reader:
    """Turns plain data into the arguments of ClusterConfig, or stops at the first problem."""

    def __init__(self, source: str, base_dir: Path) -> None:
        self.source = source
        self.base_dir = base_dir

    def fail(self, key: str, problem: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key}: {problem} ({remedy})")

    def read(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self.known("", data, _TOP_KEYS)
        values: dict[str, Any] = {"base_dir": self.base_dir, "source": self.source}
        values["cluster"] = self.cluster_name(data)
        values["strategy"] = self.choice(data, "strategy", STRATEGIES)
        values["partition_policy"] = self.choice(data, "partition_policy", POLICIES)
        for name, kind in TABLES.items():
            values[name] = self.table(name, kind, data.get(name, {}))
        self.check_timing(values["timing"])
        self.check_bounds(values["sessions"], values["limits"], values["storage"])
        values["nodes"] = self.nodes(data.get("node"), values)
        return values

    def known(self, where: str, data: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for name in data:
            if name in keys:
                continue
            near = difflib.get_close_matches(str(name), keys, n=1)
            home = next((t for t, kind in TABLES.items() if name in (f.name for f in fields(kind))), None)
            if home is not None and home != where:
                remedy = f"it belongs in [{home}]"
            else:
                remedy = f"did you mean {near[0]!r}?" if near else "remove it; known: " + ", ".join(keys)
            raise self.fail(f"{where}.{name}" if where else str(name), "unknown key", remedy)

    def cluster_name(self, data: Mapping[str, Any]) -> str:
        name = data.get("cluster")
        if isinstance(name, str) and _CLUSTER_NAME.match(name):
            return name
        problem = "missing" if name is None else f"bad name {name!r}"
        raise self.fail("cluster", problem, "1 to 64 of letters, digits, '.', '_' and '-', such as cluster = \"vpn\"")

    def choice(self, data: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
        value = data.get(key, allowed[0])
        if value in allowed and isinstance(value, str):
            return value
        raise self.fail(key, f"bad value {value!r}", "use " + " or ".join(f'"{a}"' for a in allowed))

    def table(self, name: str, kind: type[_T], data: Any) -> _T:
        if not isinstance(data, Mapping):
            raise self.fail(name, "must be a table", f"write [{name}] on a line of its own")
        specs = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # every kind is a dataclass
        self.known(name, data, tuple(specs))
        for key, value in data.items():
            meta = specs[key].metadata
            if "low" not in meta:
                self.text(f"{name}.{key}", value, empty=key == "dir" and name == "audit")
            elif type(value) is not int or not meta["low"] <= value <= meta["high"]:
                raise self.fail(
                    f"{name}.{key}",
                    f"bad value {value!r}",
                    f"an integer from {meta['low']} to {meta['high']}",
                )
        return kind(**data)

    def text(self, key: str, value: Any, *, empty: bool = False) -> str:
        if isinstance(value, str) and value.isprintable() and (value or empty):
            return value
        raise self.fail(key, f"bad value {value!r}", "a text without control characters")

    def check_timing(self, t: Timing) -> None:
        # Together with the range of max_clock_drift_ppm these leave every lease more than four heartbeats after drift.
        rules = [
            (
                t.heartbeat_interval_ms * 3 <= t.election_timeout_min_ms,
                "heartbeat_interval_ms",
                f"{t.heartbeat_interval_ms} is more than a third of election_timeout_min_ms "
                f"{t.election_timeout_min_ms}: one lost heartbeat would start an election",
                f"at most {t.election_timeout_min_ms // 3}",
            ),
            (
                t.election_timeout_min_ms < t.election_timeout_max_ms,
                "election_timeout_min_ms",
                f"{t.election_timeout_min_ms} is not below election_timeout_max_ms {t.election_timeout_max_ms}: "
                "elections would tie",
                "raise election_timeout_max_ms",
            ),
            (
                t.lease_ttl_ms >= 2 * t.election_timeout_max_ms,
                "lease_ttl_ms",
                f"{t.lease_ttl_ms} is less than twice election_timeout_max_ms {t.election_timeout_max_ms}: "
                "an election would cost every node its lease",
                f"at least {2 * t.election_timeout_max_ms}",
            ),
            (
                t.op_timeout_ms <= t.op_timeout_max_ms,
                "op_timeout_ms",
                f"{t.op_timeout_ms} is above op_timeout_max_ms {t.op_timeout_max_ms}",
                "lower it or raise op_timeout_max_ms",
            ),
        ]
        for holds, key, problem, remedy in rules:
            if not holds:
                raise self.fail(f"timing.{key}", problem, remedy)

    def check_bounds(self, sessions: Sessions, limits: Limits, storage: Storage) -> None:
        ordered = [
            ("sessions.ttl_default_ms", sessions.ttl_default_ms, "ttl_max_ms", sessions.ttl_max_ms),
            ("limits.entry_bytes_max", 2 * limits.entry_bytes_max, "frame_bytes_max", limits.frame_bytes_max),
            (
                "limits.frame_bytes_max",
                limits.frame_bytes_max,
                "send_queue_bytes_max",
                limits.send_queue_bytes_max,
            ),
            (
                "limits.entry_bytes_max",
                2 * limits.entry_bytes_max,
                "wal_segment_bytes",
                storage.wal_segment_bytes,
            ),
        ]
        for key, value, bound, bound_value in ordered:
            if value > bound_value:
                what = "twice it is" if key.endswith("entry_bytes_max") else "it is"
                raise self.fail(key, f"{what} {value}, above {bound} {bound_value}", f"lower it or raise {bound}")

    # ---- [[node]]

    def nodes(self, tables: Any, values: dict[str, Any]) -> tuple[NodeConfig, ...]:
        if not isinstance(tables, list) or not tables or not all(isinstance(t, Mapping) for t in tables):
            raise self.fail("node", "no nodes", "add one [[node]] table with id and peer per node")
        problem = _count_problem(values["strategy"], len(tables))
        if problem is not None:
            raise self.fail("node", *problem)
        nodes = tuple(self.node(i, table, values) for i, table in enumerate(tables, 1))
        self.check_unique(nodes)
        if not any(node.weight for node in nodes):
            raise self.fail(
                "node.weight", "0 on every node: no session would belong anywhere", "give one node a weight"
            )
        return nodes

    def node(self, i: int, table: Mapping[str, Any], values: dict[str, Any]) -> NodeConfig:
        node_id = table.get("id")
        if not isinstance(node_id, str) or not _NODE_ID.match(node_id):
            problem = "missing" if node_id is None else f"bad value {node_id!r}"
            raise self.fail(f"node[{i}].id", problem, "1 to 32 of a-z, 0-9 and '-'")
        where = f"node {node_id}"
        self.known(where, table, _NODE_KEYS)
        for key, value in table.items():
            if key != "weight":
                self.text(f"{where}.{key}", value)
        if "peer" not in table:
            raise self.fail(
                f"{where}.peer", "missing", 'the address that the other nodes dial, such as "10.0.0.1:7400"'
            )
        peer = self.address(f"{where}.peer", table["peer"])
        data_dir = self.base_dir / (table.get("data_dir") or Path(values["storage"].data_dir) / node_id)
        audit, tls_dir = values["audit"].dir, self.base_dir / values["tls"].dir
        return NodeConfig(
            id=node_id,
            peer=peer,
            bind=self.address(f"{where}.bind", table["bind"]) if "bind" in table else peer,
            api=self.api(f"{where}.api", table.get("api", f"unix:run/{node_id}.sock")),
            data_dir=data_dir,
            audit_dir=self.base_dir / audit / node_id if audit else data_dir / "audit",
            cert=self.base_dir / table["cert"] if "cert" in table else tls_dir / f"{node_id}.pem",
            key=self.base_dir / table["key"] if "key" in table else tls_dir / f"{node_id}.key",
            weight=self.weight(f"{where}.weight", table.get("weight", 1)),
        )

    def weight(self, key: str, value: Any) -> int:
        if type(value) is int and 0 <= value <= WEIGHT_MAX:
            return value
        raise self.fail(key, f"bad value {value!r}", f"an integer from 0 to {WEIGHT_MAX}")

    def address(self, key: str, text: str) -> Address:
        try:
            return Address.parse(text)
        except ValueError as error:
            raise self.fail(key, f"bad address {text!r}: {error}", 'write "host:port" or "[IPv6]:port"') from None

    def api(self, key: str, text: str) -> ApiEndpoint:
        try:
            return ApiEndpoint.parse(text, self.base_dir)
        except ValueError as error:
            raise self.fail(key, f"bad endpoint {text!r}: {error}", "see api in cluster.conf.example") from None

    def check_unique(self, nodes: tuple[NodeConfig, ...]) -> None:
        for key in ("id", "peer", "api", "data_dir"):
            seen: dict[str, str] = {}
            for node in nodes:
                value = str(getattr(node, key))
                if value in seen:
                    raise self.fail(f"node {node.id}.{key}", f"{value} is also that of {seen[value]}", "each its own")
                seen[value] = node.id


def _count_problem(strategy: str, count: int) -> tuple[str, str] | None:
    """What is wrong with so many nodes, and what to do; None when nothing is."""
    if strategy == "sticky":  # no majority decides anything, so an even number is as good as an odd one
        too_many = count > STICKY_NODES_MAX
        return (f"{count} nodes are too many for one mapping", f"use at most {STICKY_NODES_MAX}") if too_many else None
    if count in SHARED_NODE_COUNTS:
        return None
    if count % 2 == 0:
        most = SHARED_NODE_COUNTS[-1]
        return (
            f"{count} nodes survive no more failures than {count - 1}, and fail more often",
            f"use {count - 1} or {count + 1}" if count < most else f"use at most {most}",
        )
    return f"{count} nodes are too many", "every commit waits for a majority: use 1, 3, 5 or 7"
