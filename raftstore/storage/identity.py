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


class Identity(NamedTuple):
    """Name of the cluster, id of the node, and when (wall milliseconds, for people) the directory was set up."""

    cluster: str
    node_id: str
    created_wall_ms: int


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
        identity = Identity(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(path, 0, f"not an identity file ({error})") from None
    if version != FORMAT_VERSION:
        raise StorageError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; use its version")
    return identity


def write_identity(disk: Disk, directory: str, identity: Identity) -> None:
    """Set up the identity; durable on return. May raise OSError."""
    path = f"{directory}/{FILE_NAME}"
    text = json.dumps({"format_version": FORMAT_VERSION, **identity._asdict()}, sort_keys=True).encode() + b"\n"
    file = disk.open(f"{path}.tmp", create=True)
    try:
        file.truncate(0)
        file.pwrite(b"%08x\n" % crc32(text) + text, 0)
        file.datasync()
    finally:
        file.close()
    disk.rename(f"{path}.tmp", path)
    disk.sync_dir(directory)


def check_identity(directory: str, found: Identity, *, cluster: str, node_id: str) -> None:
    """Raises StorageError, naming what was found and expected, when the directory is another's."""
    if (found.cluster, found.node_id) != (cluster, node_id):
        raise StorageError(
            f"{directory}: belongs to node {found.node_id!r} of cluster {found.cluster!r}, not to node {node_id!r} of "
            f"cluster {cluster!r}; give this node a data directory of its own"
        )
