"""What a node stands on: disk, storage threads, audit files, links, watchdog and chance, and who makes them.

The defaults are the production ones. A simulator hands in others that keep the same contracts, and then runs the very
same node. Knows nothing of what they do.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raftstore.node.audit import AuditTrail
from raftstore.node.link_adapter import make_links
from raftstore.node.watchdog import Watchdog
from raftstore.ports import Disk
from raftstore.storage.disk import OsDisk
from raftstore.storage.worker import StorageWorker

KEEP_ENTRIES = 10_000  # kept in memory behind a snapshot, so that a slow follower needs none


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Factories, each called as the production class or function it stands for."""

    disk: Callable[[], Disk] = OsDisk
    storage_worker: Callable[..., Any] = StorageWorker
    audit_trail: Callable[..., Any] = AuditTrail
    links: Callable[..., Any] = make_links
    watchdog: Callable[..., Any] = Watchdog
    random_bits: Callable[[int], int] = secrets.randbits  # nobody may guess or repeat an incarnation
    entropy: Callable[[int], bytes] = os.urandom  # names of log segments
    keep_entries: int = KEEP_ENTRIES


PRODUCTION = Surroundings()
