"""Small configurations that the tests of cluster.conf share, and how they look at a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from raftstore.config import ClusterConfig
from raftstore.errors import ConfigError


def three_nodes() -> dict[str, Any]:
    nodes = [{"id": f"vpn-{i}", "peer": f"127.0.0.1:{7400 + i}"} for i in (1, 2, 3)]
    return {"cluster": "test", "node": nodes}


def config(**changes: Any) -> ClusterConfig:
    return ClusterConfig.from_dict(three_nodes() | changes, base_dir="/etc/raftstore")


def problem_of(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        ClusterConfig.from_dict(data, base_dir="/etc/raftstore", source="cluster.conf")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("cluster.conf: ")
    assert text.endswith(")"), "every refusal says what to do"
    return text


def nodes_of(count: int) -> list[dict[str, Any]]:
    return [{"id": f"n{i}", "peer": f"h:{i + 1}"} for i in range(count)]
