"""One partition, told step by step: stock PySyncObj has two owners in it, raftstore has not, by the same judge."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jepsen_like import history
from jepsen_like.checkers import dual_owner
from jepsen_like.cluster.cluster import Cluster
from jepsen_like.cluster.hosts import LoopbackHosts
from jepsen_like.cluster.programs import Raftstore
from jepsen_like.cluster.stock_cluster import StockCaller, StockCluster, StockProgram
from jepsen_like.history import Verdict
from jepsen_like.recorder import Recorder
from jepsen_like.workloads.base import Caller, Op
from jepsen_like.workloads.raftstore_caller import RaftstoreCaller

NODES = ["n1", "n2", "n3"]
TAKEOVER_WAIT_S = 30.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """With a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="jl", dir="/tmp") as made:
        yield Path(made)


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, caller: Caller) -> AsyncIterator[None]:
    try:
        await cluster.open()
        yield
    finally:
        await caller.close()
        await cluster.close()


async def asked(cluster: Cluster, caller: Caller, nodes: Sequence[str], op: Op, *, leads: bool) -> Mapping[str, Any]:
    """The session once one of the nodes owns it, by this op or by an earlier try that was not heard of.

    `leads`: asks only who leads. A stock node notices a silent peer when it sends to it, and followers do not.
    """
    deadline = time.monotonic() + TAKEOVER_WAIT_S
    while time.monotonic() < deadline:
        for node in nodes:
            if leads and (await cluster.status(node) or {}).get("role") != "leader":
                continue
            outcome = await caller.call(node, op)
            session = outcome.value if outcome.type == "ok" else (outcome.value or {}).get("session")
            if session is not None and session["owner"] in nodes:
                return dict(session)
    raise AssertionError(f"{op.f}: nobody of {nodes}")


async def cut_off_owner(cluster: Cluster, caller: Caller, recorder: Recorder) -> None:
    """One owns and is cut off, another takes over; then both are asked while the first is still cut off.

    Stock nodes dial those with lower addresses, and a proxy takes every call: the owner is one whom nobody dials.
    """
    owner, *others = sorted(NODES, key=cluster.hosts.peer, reverse=True)

    async def ask(node: str) -> None:
        asked_ns = recorder.now_ns()
        epoch = await cluster.owned_epoch(node, "s")
        if epoch is not None:
            value = {"owns": True, "epoch": epoch, "asked": asked_ns}
            recorder.event("dataplane", "owns", value, kind="ok", key="s", node=node)

    create = Op("create", "s", {"binding": "t1"})
    created = await asked(cluster, caller, [owner], create, leads=False)
    await ask(owner)
    await cluster.cut([pair for node in NODES if node != owner for pair in ((owner, node), (node, owner))])
    arguments = {"expected_version": created["state_version"], "binding": "t2"}
    taken = await asked(cluster, caller, others, Op("failover", "s", arguments), leads=True)
    await ask(taken["owner"])
    await ask(owner)


def judged(cluster: Cluster, caller: Caller, directory: Path) -> Verdict:
    path = directory / "history.jsonl"
    recorder = Recorder(path)

    async def main() -> None:
        async with opened(cluster, caller):
            await cut_off_owner(cluster, caller, recorder)

    try:
        asyncio.run(main())
    finally:
        recorder.close()
    return dual_owner.check(history.load(path).events, {})


def test_stock_pysyncobj_has_two_owners_when_the_owner_is_cut_off(directory: Path) -> None:
    """The old owner goes by its own copy of the dictionary, which nobody can tell it is out of date."""
    cluster = StockCluster(StockProgram(), NODES, LoopbackHosts(NODES, 1), directory)
    verdict = judged(cluster, StockCaller(cluster.endpoint), directory)
    assert verdict.valid is False
    assert re.search(r"an epoch went back: n\d \(epoch 1, .* after n\d \(epoch 2, ", verdict.errors[0])


def test_raftstore_has_one_owner_when_the_owner_is_cut_off(directory: Path) -> None:
    """The same steps: by the time that the majority lets another node take over, the old owner has stopped."""
    cluster = Cluster(Raftstore(), NODES, LoopbackHosts(NODES, 1), directory)
    verdict = judged(cluster, RaftstoreCaller(cluster.endpoint), directory)
    assert verdict.valid is True, verdict.errors
    assert verdict.stats["sights"] == 2
