"""Disks: failing and slow while the node runs, damaged while it does not.

A node may end when its disk fails; it is started again when the disk works. A node whose files were damaged refuses to
start, or it finds the damage harmless, perhaps until a later start. Where it refuses, it is rebuilt: its disk is
emptied and it comes back as a new one, at once or when the faults are healed, and the history tells. Only one disk at a
time is damaged or wiped: what a majority has on disk is what the cluster promises to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

from jepsen_like.cluster.cluster import Cluster
from jepsen_like.nemeses.fault import Detail, Done, NotNow, minority, named, one_or_leader

ERRORS = {"write-eio": ("writes", "EIO"), "full": ("writes", "ENOSPC"), "sync-eio": ("syncs", "EIO")}
DAMAGES = ("flip", "truncate")
START_LOOK_S = 6.0  # a node that finds its files damaged has ended by then, on a machine that is not too busy
END_LOOK_S = 0.5  # from a failed write to the end of the process
POLL_S = 0.1
DAMAGED_BYTES_MIN = 8_192  # a file with less is spared
SNAPSHOT_SHARE = 0.5  # of damages hit a snapshot, where there is one
BACK_WAIT_S = 20.0  # for a node with an empty disk to catch up


class Disk:
    """Errors and slowness through the shim; `flip` a bit or `truncate` a file at rest."""

    name = "disk"

    def why_not(self, cluster: Cluster) -> str:
        return cluster.unavailable.get("disk errors", "")

    def plan(self, rng: random.Random, nodes: Sequence[str]) -> Detail:
        form = rng.choice((*ERRORS, "slow", "slow", *DAMAGES))
        targets = minority(rng, nodes) if form == "slow" and rng.random() < 0.6 else [one_or_leader(rng, nodes)]
        if form == "slow" and rng.random() < 0.2:
            targets = sorted(nodes)
        return {
            "form": form,
            "targets": targets,
            "delay_ms": rng.choice((5, 50, 300, 1_500)),
            "file": rng.random(),
            "place": rng.random(),
        }

    async def start(self, cluster: Cluster, detail: Detail) -> Done:
        nodes = [await named(cluster, target) for target in detail["targets"]]
        form = detail["form"]
        if form in DAMAGES:
            if cluster.is_sticky:
                raise NotNow("a sticky node keeps its sessions alone: damaged files would be lost sessions")
            return await self._damage(cluster, nodes[0], detail)
        for node in nodes:
            shim = cluster.shims[node]
            if form != "slow":
                cluster.may_end.add(node)
            if form == "slow":
                shim.slow_syncs(detail["delay_ms"])
            elif ERRORS[form][0] == "writes":
                shim.fail_writes(ERRORS[form][1])
            else:
                shim.fail_syncs(ERRORS[form][1])
        return Done(nodes, {"form": form, **({"delay_ms": detail["delay_ms"]} if form == "slow" else {})})

    async def _damage(self, cluster: Cluster, node: str, detail: Detail) -> Done:
        if cluster.lost_disks or cluster.changing or cluster.without_power:
            raise NotNow("another disk has been lost and is not replaced yet")
        cluster.changing.add(node)
        cluster.may_end.add(node)
        try:
            cluster.kill(node)
            what = damage(cluster.data_dir(node), detail["form"], detail["file"], detail["place"])
            if what is None:
                raise NotNow(f"{node} has no file yet that could be damaged")
            cluster.damaged.add(node)
            cluster.lost_disks.add(node)  # until it serves
            cluster.start(node)
            await judged_its_files(cluster, node)
            refused = cluster.refuses(node) is not None
            if refused:
                cluster.rebuild(node)
        finally:
            cluster.changing.discard(node)
        return Done([node], {"form": detail["form"], "file": what, "refused_to_start": refused})

    async def stop(self, cluster: Cluster, detail: Detail) -> None:
        await self.heal(cluster)
        await rebuild_refusing(cluster)
        await back(cluster)

    async def heal(self, cluster: Cluster) -> None:
        for shim in cluster.shims.values():
            shim.heal_disk()
        ailing = set(cluster.may_end)
        if ailing:
            await asyncio.sleep(END_LOOK_S)  # a node that has met the error just now is on its way out
        cluster.start_all()
        cluster.may_end -= ailing


async def judged_its_files(cluster: Cluster, node: str) -> None:
    """Returns when a node that was started answers, or has ended, or took too long for either."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_LOOK_S):
            while cluster.is_running(node) and await cluster.status(node) is None:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(POLL_S)


async def rebuild_refusing(cluster: Cluster) -> None:
    """Rebuild every node that refuses its damaged files, one after the other: each waits until the one before is back.

    A node that refuses while another one's disk is lost for longer than `back` waits stays down until the next time.
    """
    for node in sorted(cluster.damaged - cluster.changing - cluster.without_power):
        await judged_its_files(cluster, node)
        if cluster.refuses(node) is None:
            continue
        await back(cluster, besides=node)
        if cluster.lost_disks <= {node} and cluster.refuses(node) is not None:
            cluster.rebuild(node)


async def back(cluster: Cluster, besides: str | None = None) -> None:
    """Wait a while for nodes that lost their disks; one that is not back keeps others from losing theirs."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BACK_WAIT_S):
            while cluster.lost_disks - {besides}:
                for node in sorted(cluster.lost_disks):
                    status = await cluster.status(node)
                    if status is not None and status["ready"]:
                        cluster.note_serving(node)
                await asyncio.sleep(POLL_S)


def damage(data_dir: Path, form: str, which: float, place: float) -> str | None:
    """Damage one log segment or snapshot, chosen by two numbers from 0 to 1; which, and where. None: there is none.

    Never the last written bytes of a log: a torn end is what a crash leaves, and is cut off without a complaint.
    """
    files = [path for path in sorted(data_dir.rglob("*")) if path.is_file() and written_bytes(path) > DAMAGED_BYTES_MIN]
    logs = [path for path in files if path.suffix == ".wal"]
    snapshots = [path for path in files if "snapshot" in str(path.relative_to(data_dir))]
    chosen = snapshots if snapshots and (which < SNAPSHOT_SHARE or not logs) else logs
    if not chosen:
        return None
    path = chosen[int(which * len(chosen))]
    at = int(place * 0.8 * written_bytes(path))
    with path.open("r+b") as file:
        if form == "truncate":
            file.truncate(at)
        else:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << (at % 8))]))
    return f"{path.relative_to(data_dir)} at {at}"


def written_bytes(path: Path) -> int:
    """How far a file is filled: segments are made in full size, of zeros."""
    return len(path.read_bytes().rstrip(b"\0"))
