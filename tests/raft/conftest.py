"""Lets the tests of this directory import `raft_cluster`, the cluster in memory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
