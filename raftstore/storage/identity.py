"""Whose data directory this is: a small checksummed file, written last when a directory is set up.

It exists, so the log exists: the order lets the store tell a directory whose setup was cut short (nothing was ever
promised from it) from one that has lost its log.
"""

from __future__ import annotations

import json
from typing import NamedTuple
from zlib import crc32

from raftstore.errors import StorageError
from raftstore.ports import Disk
from raftstore.storage.wal_reading import corrupt, read_file

FILE_NAME = "identity"
FORMAT_VERSION = 1
DEFAULT_STRATEGY = "shared"  # of a directory that names none


class Identity(NamedTuple):
    """Name of the cluster, id of the node, when (wall milliseconds, for people) the directory was set up, and for what.

    The strategy stands in the file only where it is not "shared": so a shared node's directory is what it was before
    there was a choice, and reads the same.
    """

    cluster: str
    node_id: str
    created_wall_ms: int
    strategy: str = DEFAULT_STRATEGY


def read_identity(disk: Disk, directory: str) -> Identity | None:
    """The identity of the data directory; None when it has none. Raises CorruptionError, StorageError."""
    path = f"{directory}/{FILE_NAME}"
    if not disk.exists(path):
        return None
    try:
        checksum, text = read_file(disk, path).split(b"\n", 1)
        if int(checksum, 16) != crc32(text):
            raise ValueError("the checksum is wrong")
        fields = json.loads(text)
        version = fields.pop("format_version")
        if version != FORMAT_VERSION:
            needed = f"format version {version}, this program reads {FORMAT_VERSION}; use its version"
            raise StorageError(f"{path}: {needed}")
        return Identity(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(path, 0, f"not an identity file ({error})") from None


def write_identity(disk: Disk, directory: str, identity: Identity) -> None:
    """Set up the identity; durable on return. May raise OSError."""
    path = f"{directory}/{FILE_NAME}"
    fields = {"format_version": FORMAT_VERSION, **identity._asdict()}
    if identity.strategy == DEFAULT_STRATEGY:
        del fields["strategy"]
    text = json.dumps(fields, sort_keys=True).encode() + b"\n"
    file = disk.open(f"{path}.tmp", create=True)
    try:
        file.truncate(0)
        file.pwrite(b"%08x\n" % crc32(text) + text, 0)
        file.datasync()
    finally:
        file.close()
    disk.rename(f"{path}.tmp", path)
    disk.sync_dir(directory)


def check_identity(directory: str, found: Identity, wanted: Identity) -> None:
    """Raises StorageError, naming found and wanted, when the directory is another's or of the other strategy.

    Both strategies keep the same kind of log, but it does not mean the same: one is a copy of what a majority decided
    for all nodes, the other is one node's own word. Taken for the other, either could own a session twice.
    """
    if (found.cluster, found.node_id) != (wanted.cluster, wanted.node_id):
        raise StorageError(
            f"{directory}: belongs to node {found.node_id!r} of cluster {found.cluster!r}, not to node "
            f"{wanted.node_id!r} of cluster {wanted.cluster!r}; give this node a data directory of its own"
        )
    if found.strategy != wanted.strategy:
        raise StorageError(
            f"{directory}: belongs to strategy {found.strategy!r}, this node is to run with {wanted.strategy!r}, and "
            f"sessions do not travel between strategies; go back to {found.strategy!r}, or let the sessions end (or "
            "accept that they end), stop all nodes, give every node an empty data directory (and audit directory, "
            f"where that is kept elsewhere), and start them with {wanted.strategy!r}"
        )
