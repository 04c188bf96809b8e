"""Lets the properties import the Raft cluster in memory, and worlds of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "raft"))
sys.path.insert(0, str(Path(__file__).parent))
