"""Lets the tests of this directory import `virtual_cluster`, a cluster on virtual time."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
