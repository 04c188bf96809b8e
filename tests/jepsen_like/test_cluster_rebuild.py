"""A node that will not start on damaged files is rebuilt, whenever it refuses, and the history tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.cluster.cluster import REFUSAL, Cluster
from jepsen_like.cluster.hosts import Hosts, LoopbackHosts
from jepsen_like.nemeses.disk import back, judged_its_files, rebuild_refusing
from jepsen_like.nemeses.schedule import Nemeses
from raftstore.storage.values import REMEDY

NODES = ["n1", "n2", "n3"]
NODE = """
if [ -e "$1/damaged" ]; then echo "damaged: {refusal}"; exit 1; fi
if [ -e "$1/broken" ]; then echo "no such luck"; exit 1; fi
mkdir -p "$1"; touch "$1/serves"; exec sleep 60
"""


class Shell:
    """A program that serves as soon as it has looked at its files."""

    def write(self, directory: Path, nodes: Sequence[str], hosts: Hosts) -> None:
        """It reads nothing."""

    def command(self, directory: Path, node: str, hosts: Hosts) -> list[str]:
        return ["sh", "-c", NODE.format(refusal=REFUSAL), "node", str(directory / "data" / node)]

    def parameters(self) -> dict[str, object]:
        return {}


class Shells(Cluster):
    """A cluster of such, which are asked by a look at their files."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Shell(), NODES, LoopbackHosts(NODES, 1), directory)
        self.told: list[tuple[str, Any, Any]] = []
        self.nemeses = Nemeses(self, [], lambda: 0.0, self._tell)

    def _tell(self, f: str, value: dict[str, Any]) -> None:
        self.told.append((f, value["kind"], value["nodes"]))

    def damage(self, node: str, file: str = "damaged") -> None:
        (self.data_dir(node) / file).touch()
        self.damaged.add(node)

    def kill(self, node: str) -> None:
        super().kill(node)
        (self.data_dir(node) / "serves").unlink(missing_ok=True)

    async def status(self, node: str) -> dict[str, Any] | None:
        serves = self.is_running(node) and (self.data_dir(node) / "serves").exists()
        return {"ready": True} if serves else None


@contextlib.asynccontextmanager
async def shells(directory: Path) -> AsyncIterator[Shells]:
    cluster = Shells(directory)
    (directory / "run").mkdir()
    try:
        for node in NODES:
            cluster.start(node)
        await cluster.wait_ready(NODES)
        yield cluster
    finally:
        await cluster.close()


def test_what_nodes_say_is_understood() -> None:
    """The words by which a refusal is known are those of the remedy that a node names."""
    assert REFUSAL in REMEDY


def test_a_node_that_refuses_its_files_is_rebuilt(tmp_path: Path) -> None:
    """Its disk is emptied, it is started again, and the history has a fault and its end; nothing else is wrong."""

    async def main() -> None:
        async with shells(tmp_path) as cluster:
            cluster.kill("n2")
            cluster.damage("n2")
            cluster.start("n2")
            await judged_its_files(cluster, "n2")
            assert REFUSAL in (cluster.refuses("n2") or "")
            await rebuild_refusing(cluster)
            await back(cluster)
            assert cluster.is_running("n2") and not (cluster.data_dir("n2") / "damaged").exists()
            assert cluster.told == [("fault", "rebuild", ["n2"]), ("heal", "rebuild", ["n2"])]
            assert cluster.ended == [] and cluster.lost_disks == set() and cluster.damaged == set()

    asyncio.run(main())


def test_a_node_that_refuses_only_at_a_later_start_is_rebuilt_then(tmp_path: Path) -> None:
    """Damage that a start has not noticed is remembered: the healing at the end finds all who refuse."""

    async def main() -> None:
        async with shells(tmp_path) as cluster:
            for node in ("n1", "n3"):
                cluster.damage(node)
            await rebuild_refusing(cluster)
            assert cluster.told == [] and cluster.damaged == {"n1", "n3"}  # both run: there is nothing to do yet
            for node in ("n1", "n3"):
                cluster.kill(node)
            await cluster.nemeses.heal()  # starts both
            await cluster.wait_ready(NODES)
            rebuilt = [event for event in cluster.told if event[1] == "rebuild"]
            assert rebuilt == [(f, "rebuild", [node]) for node in ("n1", "n3") for f in ("fault", "heal")]
            assert cluster.nemeses.rebuilt == ["n1", "n3"] and cluster.ended == []

    asyncio.run(main())


def test_a_node_that_ends_for_another_reason_is_not_rebuilt(tmp_path: Path) -> None:
    """Damaged or not: who does not name the remedy keeps its disk, and its end is held against the run."""

    async def main() -> None:
        async with shells(tmp_path) as cluster:
            cluster.kill("n2")
            cluster.damage("n2", "broken")
            cluster.start("n2")
            await judged_its_files(cluster, "n2")
            await rebuild_refusing(cluster)
            assert cluster.told == [] and (cluster.data_dir("n2") / "broken").exists()
            assert len(cluster.ended) == 1 and "no such luck" in cluster.ended[0]

    asyncio.run(main())
