"""Nothing of raftstore unpickles: not on the wire, not on disk, not on the way to the machine."""

import subprocess
import sys
from pathlib import Path

import raftstore
from tests.poisoned import POISONED

RUN = (
    POISONED
    + """
import sys

sys.path.insert(0, sys.argv[1])
from raft_cluster import Cluster

cluster = Cluster(seed=1)
leader = cluster.elect()
for n in range(20):
    cluster.commit(b"%d" % n)
away = next(i for i in cluster.ids if i != leader.id)
cluster.isolate(away)
for n in range(20):
    cluster.propose(leader, b"more %d" % n)
    cluster.run_ms(2)
leader.snapshot()
cluster.run_ms(20)
cluster.connect_all()
cluster.run_until(lambda: cluster[away].raft.snapshots_installed == 1)
cluster.commit(b"after the snapshot")
for i in cluster.ids:
    cluster.restart(i)
cluster.connect_all()
cluster.commit(b"after the restart")
assert len({tuple(cluster.payloads(i)) for i in cluster.ids}) == 1
assert len(cluster.payloads("a")) == 42
print("done")
"""
)


def test_a_cluster_runs_where_unpickling_is_poisoned():
    """Every module imports, and three nodes commit, install a snapshot and restart, with pickle made deadly."""
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(here)],
        cwd=Path(raftstore.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout == "done\n", run.stderr


def test_no_module_names_pickle():
    """The only pickles near are in the library below, behind methods that never run."""
    for path in Path(raftstore.__file__).parent.rglob("*.py"):
        assert "import pickle" not in path.read_text(), path
