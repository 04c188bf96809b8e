"""Asking sticky nodes for their mapping, all at once, and waiting until a change is done.

Knows how to ask and how long; leaves what the answers mean to `mapping_view`. A change goes on whoever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click

from raftstore.cli.exits import NO_QUORUM, USAGE, Failure
from raftstore.cli.mapping_view import (
    Stage,
    View,
    Views,
    answered,
    described,
    newest,
    opens_in_ms,
    progress,
    stage,
    view_of,
)
from raftstore.cli.target import Target
from raftstore.config import NodeConfig
from raftstore.errors import RaftstoreError

NODE_TIMEOUT_MAX_S = 2.0  # a node that hangs must not hide the others for longer
POLL_S = 0.1
TELL_EVERY_S = 2.0
WAIT_DEFAULT_S = 60.0


def require_sticky(target: Target) -> None:
    """Failure where there is no mapping to look at or to change."""
    if not target.config.is_sticky:
        raise Failure(
            f'{target.config.source}: strategy is "shared": the cluster agrees on each owner, and the mapping '
            "is a hint from the weights of cluster.conf (raftstore route); sessions move by `raftstore drain` and "
            "`raftstore session migrate`",
            USAGE,
        )


async def ask(target: Target, node: NodeConfig) -> View:
    """The node's view, or {"unanswered": why}."""
    try:
        async with target.client(node, min(target.timeout_s, NODE_TIMEOUT_MAX_S)) as client:
            return view_of(await client.status())
    except RaftstoreError as problem:
        return {"unanswered": getattr(problem, "detail", "") or str(problem)}


async def ask_all(target: Target, nodes: Sequence[NodeConfig] | None = None) -> dict[str, View]:
    """The views of all nodes of cluster.conf, or of these."""
    nodes = target.config.nodes if nodes is None else nodes
    views = await asyncio.gather(*(ask(target, node) for node in nodes))
    return {node.id: view for node, view in zip(nodes, views, strict=True)}


async def best(target: Target) -> tuple[str, View, Views]:
    """The node through which to change the mapping: the one named, else the one with the newest. With all views."""
    views = await ask_all(target)
    choice = views if target.node_id is None else {target.config.node(target.node_id).id: views[target.node_id]}
    found = newest(choice)
    if found is not None:
        return *found, views
    silent = ", ".join(f"{name} ({view['unanswered']})" for name, view in choice.items() if "unanswered" in view)
    if not answered(choice):
        raise Failure(f"no node answers: {silent} (start one with `raftstore run -c {target.config_path} --node ID`)")
    raise Failure("no node has a mapping yet: it is founded when all nodes of cluster.conf are connected", NO_QUORUM)


async def wait_settled(target: Target, timeout_s: float, since_epoch: int = 0) -> tuple[Stage, Views]:
    """Returns when the mapping is settled and closed on every node that answers, or when waiting longer is no use.

    Tells on stderr every two seconds who still has what to give. `since_epoch`: an older mapping does not count.
    """
    begun = told = time.monotonic()
    last = ""
    while True:
        views = await ask_all(target)
        now, found, waited_s = stage(views), newest(views), time.monotonic() - begun
        if now is Stage.SETTLED and found is not None and found[1]["epoch"] >= since_epoch:
            return now, views
        hopeless = now is Stage.OPENS_LATER and opens_in_ms(views) / 1000 > timeout_s - waited_s
        if hopeless or waited_s >= timeout_s:
            return (Stage.UNSETTLED if now is Stage.SETTLED else now), views
        if time.monotonic() - told >= TELL_EVERY_S and progress(views) != last:
            told, last = time.monotonic(), progress(views)
            click.echo(last, err=True)
        await asyncio.sleep(POLL_S)


def mapping_before(views: Views, epoch: int) -> View | None:
    """The mapping that held before that epoch, as the nodes remember it. Failure when they remember two of one."""
    held = {name: view["previous"] for name, view in answered(views).items() if view.get("previous")}
    remembered = {name: view for name, view in held.items() if view["epoch"] < epoch}
    newest_of_them = max(remembered.values(), key=lambda view: int(view["epoch"]), default=None)
    for name, view in remembered.items():
        if newest_of_them and view["epoch"] == newest_of_them["epoch"] and view["nodes"] != newest_of_them["nodes"]:
            other = next(n for n, v in remembered.items() if v is newest_of_them)
            raise Failure(
                f"two mappings of epoch {view['epoch']} came before: {described(newest_of_them)} at {other}, "
                f"{described(view)} at {name}: say which one with `raftstore mapping set`"
            )
    return newest_of_them
