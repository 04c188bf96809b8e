"""Disks that can lose power: an ext4 file system per node in a file, shut down as a power cut would do it.

What was synced is there after the next mount, what was not is gone: the shutdown drops all that the file system holds
in memory, its journal included, and unallocated writes are kept back for long (`noauto_da_alloc,commit=600`). Mounts
live in a mount namespace of this process's main thread and its children, so none is left behind, however it ends.
Needs root of the machine: root of a user namespace may not mount file systems from files.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

DISK_BYTES = 96 << 20  # of each node; sparse
_CLONE_NEWNS = 0x00020000
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
_OPTIONS = "loop,noauto_da_alloc,commit=600"


class DiskError(Exception):
    """Such disks cannot be had here; the message says why."""


class PowerDisks:
    """`points`: node to the directory where its disk is mounted. DiskError when that cannot be had here."""

    def __init__(self, directory: Path, points: dict[str, Path]) -> None:
        self._images = {node: directory / f"{node}.img" for node in points}
        self._points = points
        self._mounted: set[str] = set()
        _need("mkfs.ext4", "mount", "umount")
        _own_mount_namespace()
        try:
            for node, image in self._images.items():
                with image.open("wb") as file:
                    file.truncate(DISK_BYTES)
                _run("mkfs.ext4", "-q", "-F", str(image))
                self.mount(node)
        except BaseException:
            self.close()
            raise

    def mount(self, node: str) -> None:
        """Power is back: the file system replays its journal. Nothing when it is mounted already."""
        if node not in self._mounted:
            self._points[node].mkdir(exist_ok=True)
            _run("mount", "-o", _OPTIONS, str(self._images[node]), str(self._points[node]))
            self._mounted.add(node)

    def is_on(self, node: str) -> bool:
        return node in self._mounted

    def cut_power(self, nodes: Sequence[str]) -> None:
        """From now on these disks take nothing, and have forgotten what was not synced. Their processes see EIO."""
        for node in nodes:
            handle = os.open(self._points[node], os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(handle, _EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH)
            finally:
                os.close(handle)

    def unmount(self, node: str) -> None:
        """After `cut_power`, and with no process on it any more."""
        if node in self._mounted:
            _run("umount", str(self._points[node]))
            self._mounted.discard(node)

    def close(self) -> None:
        """Unmounted, by force if need be."""
        for node in sorted(self._mounted):
            subprocess.run(["umount", "--lazy", str(self._points[node])], capture_output=True, check=False)
        self._mounted.clear()


def _need(*tools: str) -> None:
    missing = [
        tool for tool in tools if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None
    ]
    if missing:
        raise DiskError(f"not installed: {', '.join(missing)}")


def _own_mount_namespace() -> None:
    if os.geteuid() != 0:
        raise DiskError("needs root, to mount file systems")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise DiskError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")


def _run(*command: str) -> None:
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise DiskError(f"{command[0]}: {said}")
