"""/v1/mapping over real HTTP: the mapping as the node has it, changes, and what must not be asked for; and metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftstore.errors import OutcomeUnknown, Unavailable
from raftstore.types import OpId, Reason
from tests.admin.fake_node import FakeNode, sticky_view
from tests.admin.serving import serving

WEIGHTS = {"vpn-1": 1, "vpn-2": 2}


def sticky_node(**changes: Any) -> FakeNode:
    node = FakeNode()
    node.sticky = sticky_view("vpn-1", 4, WEIGHTS, **changes)
    return node


def test_the_mapping_is_the_node_s_own(tmp_path: Path) -> None:
    """In the sticky strategy with how far it is settled; in the shared one it is the placement hint."""

    async def main() -> None:
        async with serving(tmp_path, sticky_node()) as served:
            status, told = await served.call("GET", "/v1/mapping")
            assert (status, told["strategy"], told["epoch"], told["settled"]) == (200, "sticky", 4, True)
            assert (await served.call("GET", "/v1/mapping?epoch=4"))[1]["field"] == "epoch"
            served.node.sticky = None
            told = (await served.call("GET", "/v1/mapping"))[1]
            assert (told["strategy"], [n["node_id"] for n in told["nodes"]]) == ("shared", ["vpn-1", "vpn-2", "vpn-3"])

    asyncio.run(main())


def test_a_change_is_handed_to_the_node_as_it_was_sent(tmp_path: Path) -> None:
    """And answered with the mapping that is in its log."""

    async def main() -> None:
        async with serving(tmp_path, sticky_node()) as served:
            body = {"nodes": {"vpn-1": 0, "vpn-3": 7}, "draining": ["vpn-1"], "lost": ["vpn-2"], "epoch": 5}
            status, told = await served.call("POST", "/v1/mapping", body)
            assert (status, told["outcome"], told["epoch"]) == (200, "adopted", 5)
            assert served.node.calls == [("change_mapping", "", body)]
            told = (await served.call("POST", "/v1/mapping", {"nodes": {"vpn-1": 1}, "epoch": None}))[1]
            assert told["epoch"] == 6

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "nodes"),
        ({"nodes": {}}, "nodes"),
        ({"nodes": ["vpn-1"]}, "nodes"),
        ({"nodes": {f"n{i}": 1 for i in range(65)}}, "nodes"),
        ({"nodes": {"VPN": 1}}, "nodes"),
        ({"nodes": {"vpn-1": 1001}}, "nodes.vpn-1"),
        ({"nodes": {"vpn-1": -1}}, "nodes.vpn-1"),
        ({"nodes": {"vpn-1": True}}, "nodes.vpn-1"),
        ({"nodes": {"vpn-1": 1}, "draining": "vpn-1"}, "draining"),
        ({"nodes": {"vpn-1": 1}, "draining": [1]}, "draining[0]"),
        ({"nodes": {"vpn-1": 1}, "lost": ["x"] * 65}, "lost"),
        ({"nodes": {"vpn-1": 1}, "epoch": 0}, "epoch"),
        ({"nodes": {"vpn-1": 1}, "epoch": 2**53}, "epoch"),
        ({"nodes": {"vpn-1": 1}, "epoch": 9}, "epoch"),  # the node's own refusal
        ({"nodes": {"vpn-1": 1}, "force": True}, "force"),
    ],
)
def test_a_bad_change_is_refused_with_its_field(tmp_path: Path, body: dict[str, Any], field: str) -> None:
    """400, before anything is changed."""

    async def main() -> None:
        async with serving(tmp_path, sticky_node()) as served:
            status, told = await served.call("POST", "/v1/mapping", body)
            assert (status, told["outcome"], told["field"]) == (400, "invalid", field)
            assert served.node.sticky is not None and served.node.sticky["epoch"] == 4

    asyncio.run(main())


def test_a_change_ends_as_every_op_can_end(tmp_path: Path) -> None:
    """503 when refused before it was proposed, 504 when its fate is not known; 400 where the strategy has none."""

    async def main() -> None:
        async with serving(tmp_path, sticky_node()) as served:
            for failure, status in (
                (Unavailable(Reason.MAPPING_UNSETTLED, "no mapping yet"), 503),
                (OutcomeUnknown(OpId("vpn-1", 1, 0)), 504),
            ):
                served.node.failure = failure
                assert (await served.call("POST", "/v1/mapping", {"nodes": {"vpn-1": 1}}))[0] == status
            served.node.failure = served.node.sticky = None
            status, told = await served.call("POST", "/v1/mapping", {"nodes": {"vpn-1": 1}})
            assert (status, told["field"]) == (400, "strategy")

    asyncio.run(main())


def test_metrics_tell_how_far_the_mapping_is(tmp_path: Path) -> None:
    """Epoch, settled or not, and per node what is still to be given, 0 included; nothing while that is counted."""

    async def main() -> None:
        async with serving(tmp_path, sticky_node(settled=False, leaving={"vpn-2": 12})) as served:
            page = (await served.text("/metrics"))[1].splitlines()
            assert "raftstore_mapping_epoch 4.0" in page and "raftstore_mapping_settled 0.0" in page
            assert 'raftstore_mapping_sessions_leaving{to="vpn-2"} 12.0' in page
            served.node.sticky = sticky_view("vpn-1", 4, WEIGHTS)
            page = (await served.text("/metrics"))[1].splitlines()
            assert 'raftstore_mapping_sessions_leaving{to="vpn-2"} 0.0' in page
            for view in (sticky_view("vpn-1", 4, WEIGHTS, leaving=None), None):
                served.node.sticky = view
                assert "mapping_sessions_leaving{" not in (await served.text("/metrics"))[1]
            assert "raftstore_mapping_epoch" not in (await served.text("/metrics"))[1]
            served.node.sticky = {"epoch": 0, "nodes": [], "settled": False, "closed": False, "waits_for": ["vpn-2"]}
            assert "raftstore_mapping_epoch 0.0" in (await served.text("/metrics"))[1].splitlines()

    asyncio.run(main())
