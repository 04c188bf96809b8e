"""One run against real processes: set up, load and faults together, healing, last reads, verdict, and nothing left.

Whatever ends a run (its time, a failure, an interrupt), faults are healed as far as that goes, and processes,
namespaces, mounts and files go; the run's directory in the store stays. Leaves to `store` how runs are kept and judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepsen_like import store
from jepsen_like.cluster import hosts as host_kinds
from jepsen_like.cluster.cluster import Cluster, ClusterError
from jepsen_like.cluster.stock_cluster import CHECKERS as STOCK_CHECKERS
from jepsen_like.cluster.stock_cluster import StockCaller, StockCluster, StockProgram
from jepsen_like.history import Verdict
from jepsen_like.load import Load
from jepsen_like.nemeses import schedule
from jepsen_like.recorder import Recorder
from jepsen_like.report import write_report
from jepsen_like.workloads.base import Caller, Op, Workload
from jepsen_like.workloads.catalogue import WORKLOADS
from jepsen_like.workloads.raftstore_caller import RaftstoreCaller
from raftstore.cli.temp_cluster import temporary_directory

FINAL_KEYS_MAX = 40  # sessions read from every node at the end
FINAL_TRIES = 20
LAST_OPS_WAIT_S = 8.0
ANSWER_DELAY_MAX_MS = 1_000  # how late this process may record an answer, on a busy machine

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run does. The same plan with the same seed orders the same faults and draws the same ops."""

    workload: str = "ownership"
    nemeses: Sequence[str] = ()
    nodes: int = 5
    time_limit_s: float = 60.0
    workers: int = 10
    rate: float = 200.0
    seed: int = 0
    policy: str = "deny"
    hosts: str = "auto"
    stock: bool = False
    store: Path = Path("store")

    @property
    def name(self) -> str:
        faults = "all" if list(self.nemeses) == list(schedule.NEMESES) else "+".join(self.nemeses) or "none"
        return f"{'stock-' if self.stock else ''}{self.workload}-{faults}"

    @property
    def node_ids(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.nodes + 1)]


@dataclass
class Run:
    """One run of a plan. `progress` holds what people want to know while it goes on."""

    plan: Plan
    say: Say
    directory: Path = field(init=False)
    problems: list[str] = field(default_factory=list)
    phase: str = "starting"
    recorder: Recorder | None = None
    nemeses: schedule.Nemeses | None = None
    is_unavailable: bool = False  # faults were asked for, and this machine can do none of them

    async def run(self) -> dict[str, Any]:
        """To the verdict. asyncio.CancelledError when interrupted, after everything is cleaned up."""
        plan = self.plan
        self.directory = store.make_directory(plan.store, plan.name)
        (self.directory / "final").mkdir()
        self.say(f"run directory {self.directory}")
        cluster_dir = temporary_directory()
        try:
            self.recorder = Recorder(self.directory / "history.jsonl")
            try:
                await self._on_hosts(cluster_dir)
            finally:
                self.recorder.close()
            return self._judged(cluster_dir)
        except BaseException:
            store.keep_files(cluster_dir, self.directory, plan.node_ids, with_data=True)
            raise
        finally:
            shutil.rmtree(cluster_dir, ignore_errors=True)

    def _judged(self, cluster_dir: Path) -> dict[str, Any]:
        self.phase = "checking"
        self.say("checking the history")
        results = store.judge(self.directory, [self._own_verdict()])
        with_data = results["valid"] is not True
        store.keep_files(cluster_dir, self.directory, self.plan.node_ids, with_data=with_data)
        self.say("drawing the report")
        write_report(self.directory)
        return results

    def _own_verdict(self) -> Verdict:
        if self.is_unavailable and not self.problems:
            return Verdict("unknown", "run", ["nothing was run: none of the faults asked for is available"])
        return Verdict(not self.problems, "run", self.problems, self._told())

    def _told(self) -> dict[str, Any]:
        if self.nemeses is None or self.recorder is None:
            return {}
        return {
            "faults": self.nemeses.done,
            "left_out": self.nemeses.left_out,
            "rebuilt": self.nemeses.rebuilt,
            "events": self.recorder.counts,
        }

    async def _on_hosts(self, cluster_dir: Path) -> None:
        plan = self.plan
        shaped = "packet" in plan.nemeses
        hosts = host_kinds.choose(plan.hosts, plan.node_ids, cluster_dir, plan.seed, shaped=shaped)
        workload = WORKLOADS[plan.workload]
        cluster = self._cluster_for(workload, hosts, cluster_dir)
        try:
            await cluster.open(can_lose_power="power" in plan.nemeses)
            offered = self._offered(cluster)
            lanes = schedule.plan(offered, plan.node_ids, plan.seed, plan.time_limit_s)
            self._write_test(cluster, lanes)
            self.is_unavailable = bool(plan.nemeses) and not offered
            if not self.is_unavailable:
                await self._with_load(cluster, workload, lanes)
        except ClusterError as problem:
            self.problems.append(str(problem))
            self._write_test(cluster, [])
        finally:
            await cluster.close()

    def _cluster_for(self, workload: Workload, hosts: host_kinds.Hosts, directory: Path) -> Cluster:
        if self.plan.stock:
            return StockCluster(StockProgram(), self.plan.node_ids, hosts, directory)
        return Cluster(workload.program(self.plan.policy), self.plan.node_ids, hosts, directory)

    def _caller_for(self, cluster: Cluster) -> Caller:
        if self.plan.stock:
            return StockCaller(cluster.endpoint)
        return RaftstoreCaller(cluster.endpoint)

    def _offered(self, cluster: Cluster) -> list[str]:
        """The nemeses that this machine can do; the others are named with the reason."""
        self.say(f"hosts: {cluster.hosts.kind}")
        offered = []
        for name in self.plan.nemeses:
            why = schedule.NEMESES[name].why_not(cluster)
            if why:
                cluster.unavailable[name] = why
            else:
                offered.append(name)
        for what, why in cluster.unavailable.items():
            if what in self.plan.nemeses or what not in schedule.NEMESES:
                self.say(f"unavailable: {what}: {why}")
        return offered

    def _write_test(self, cluster: Cluster, lanes: Sequence[Sequence[schedule.Planned]]) -> None:
        plan = self.plan
        test = {
            "name": plan.name,
            "workload": plan.workload,
            "nemeses": list(plan.nemeses),
            "nodes": plan.node_ids,
            "time_limit_s": plan.time_limit_s,
            "workers": plan.workers,
            "rate": plan.rate,
            "seed": plan.seed,
            "stock": plan.stock,
            "hosts": cluster.hosts.kind,
            "unavailable": cluster.unavailable,
            "clock_uncertainty_ms": 0,  # one clock, that of the client
            "answer_delay_max_ms": ANSWER_DELAY_MAX_MS,
            "plan": [[fault._asdict() for fault in lane] for lane in lanes],
            **cluster.program.parameters(),
        }
        checkers = STOCK_CHECKERS if plan.stock else WORKLOADS[plan.workload].checkers
        if checkers is not None:
            test["checkers"] = list(checkers)
        store.write_json(self.directory / "test.json", test)

    # -- load and faults ---------------------------------------------------------------------------------------------

    async def _with_load(
        self, cluster: Cluster, workload: Workload, lanes: Sequence[Sequence[schedule.Planned]]
    ) -> None:
        assert self.recorder is not None
        recorder, plan = self.recorder, self.plan
        _tell_quorum(cluster, recorder)
        load = Load(cluster, workload, recorder, lambda: self._caller_for(cluster), plan.seed)
        began_s = recorder.now_s()
        self.nemeses = schedule.Nemeses(
            cluster,
            lanes,
            lambda: recorder.now_s() - began_s,
            lambda f, value: recorder.event("nemesis", f, value),
        )
        self.phase = "running"
        tasks = [asyncio.create_task(work) for work in self._works(load, cluster, workload)]
        faults = asyncio.create_task(self.nemeses.run())
        try:
            await _until(began_s + plan.time_limit_s, recorder, [*tasks, faults])
        finally:
            self.phase = "healing"
            await _ended([faults], 0)
            load.stop()
            with contextlib.suppress(RuntimeError):
                await self._heal()
            await _ended(tasks, LAST_OPS_WAIT_S)
        await self._last_words(cluster, load)

    async def _heal(self) -> None:
        assert self.nemeses is not None
        try:
            await self.nemeses.heal()
        except RuntimeError as problem:
            self.problems.append(f"healing: {problem}")

    def _works(self, load: Load, cluster: Cluster, workload: Workload) -> list[Any]:
        plan, nodes = self.plan, cluster.nodes
        rate = plan.rate / plan.workers
        works: list[Any] = [load.work(i, nodes[i % len(nodes)], rate) for i in range(plan.workers)]
        works += [load.watch(node) for node in nodes]
        if workload.probes_every_s:
            works += [load.probe(node, workload.probes_every_s) for node in nodes]
        if workload.packets_per_s:
            works.append(load.send_packets(1 / workload.packets_per_s))
        return works

    # -- afterwards --------------------------------------------------------------------------------------------------

    async def _last_words(self, cluster: Cluster, load: Load) -> None:
        """All faults are healed: the cluster must serve again, everybody reads everything, and nodes are asked."""
        self.phase = "reading"
        await cluster.wait_ready(cluster.nodes)
        cluster.note_ends()
        self.problems += cluster.ended
        keys = load.book.all_keys[-FINAL_KEYS_MAX:]

        async def read(node: str) -> None:
            caller = self._caller_for(cluster)
            process = load.new_process()
            for key in keys:
                process = await load.do(caller, process, node, Op("get", key, {}))
            await caller.close()

        await asyncio.gather(*(read(node) for node in cluster.nodes))
        for node, final in (await self._finals(cluster)).items():
            store.write_json(self.directory / "final" / f"{node}.json", final)

    async def _finals(self, cluster: Cluster) -> dict[str, dict[str, Any]]:
        """The last state of all nodes, taken again until nothing happened in between."""
        for _ in range(FINAL_TRIES):
            await cluster.settled()
            finals = dict(zip(cluster.nodes, await asyncio.gather(*map(cluster.final, cluster.nodes)), strict=True))
            if cluster.agree(finals):
                return finals
            await asyncio.sleep(0.1)
        self.problems.append("the nodes never told of the same last state")
        return finals


async def _until(end_s: float, recorder: Recorder, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Until that time of the run; the exception of a task that failed before."""
    while (left_s := end_s - recorder.now_s()) > 0:
        done, _ = await asyncio.wait([t for t in tasks if not t.done()], timeout=left_s, return_when="FIRST_EXCEPTION")
        for task in done:
            task.result()
        if all(task.done() for task in tasks):
            return


async def _ended(tasks: Sequence[asyncio.Task[Any]], wait_s: float) -> None:
    """Let tasks end, then make them."""
    if wait_s:
        await asyncio.wait(tasks, timeout=wait_s)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def _tell_quorum(cluster: Cluster, recorder: Recorder) -> None:
    """Whether each node can reach a majority, whenever that changes, into the history."""
    known: dict[str, bool] = {}

    def changed() -> None:
        for node, has in cluster.with_quorum().items():
            if known.get(node) is not has:
                known[node] = has
                recorder.event("observer", "quorum", has, node=node)

    cluster.on_change = changed
    changed()


async def show_progress(run: Run, say: Say, every_s: float) -> None:
    """One line now and then: time, ops, outcomes, current faults."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        counts = run.recorder.counts if run.recorder is not None else {}
        faults = "; ".join(run.nemeses.current.values()) if run.nemeses is not None else ""
        ops = ", ".join(f"{counts.get(kind, 0)} {kind}" for kind in ("ok", "fail", "info"))
        say(f"{time.monotonic() - began:5.0f} s  {run.phase:8}  {ops}  {faults}")
