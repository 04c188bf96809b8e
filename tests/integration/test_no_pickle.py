"""Nothing is unpickled, in the whole of a node's life: the library below could, so it is made deadly and looked at."""

import subprocess
import sys
from pathlib import Path

import raftstore
from tests.poisoned import POISONED

RUN = (
    POISONED
    + """
import asyncio, socket, sys
from raftstore import Binding, ClusterConfig, Node

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
config = ClusterConfig.from_dict(
    {"cluster": "lone", "storage": {"wal_segment_bytes": 4194304, "disk_free_min_bytes": 0},
     "node": [{"id": "vpn-1", "peer": f"127.0.0.1:{port}"}]},
    base_dir=sys.argv[1],
)

async def main():
    async with Node(config, "vpn-1", insecure=True) as node:
        s = await node.create("kept", binding=Binding("t1", "udp", "198.51.100.7:51820"))
        assert node.owns("kept", s.epoch)
        s = await node.detach("kept", expected_version=1)
    async with Node(config, "vpn-1", insecure=True) as node:
        again = await node.get("kept")
        assert (again.state_version, again.owner) == (2, "vpn-1"), again
        async for event in node.events(after=0):
            if event["session_id"] == "kept" and event["state_version"] == 2:
                break

asyncio.run(main())
print("done")
"""
)


def test_a_node_lives_and_restarts_where_unpickling_is_poisoned(tmp_path):
    """Every module imports; a node starts, commits, stops, restarts and reads, with pickle made deadly."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(tmp_path)],
        cwd=Path(raftstore.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
