"""What `raftstore run` does with data directories that it must not use, cannot trust, or has to repair."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_cluster import RealCluster
from real_waiting import binding, created

from raftstore.storage.disk import OsDisk
from raftstore.storage.wal_format import GROUP_HEADER_BYTES, HEADER_BYTES, Record, RecordType, encode_group
from raftstore.storage.wal_reading import LogContents, list_segments, read_log

SESSIONS = 20


@pytest.fixture
def lone() -> Iterator[RealCluster]:
    """A cluster of one that held sessions when it was killed."""
    with RealCluster(1) as real:

        async def fill():
            async with real.connect() as nodes:
                for number in range(SESSIONS):
                    await created(nodes["vpn-1"], f"kept-{number}")

        asyncio.run(fill())
        real.kill("vpn-1")
        yield real


async def all_kept(cluster: RealCluster) -> dict:
    """The status of the restarted node, which has every session."""
    async with cluster.connect() as nodes:
        status = await cluster.ready(nodes["vpn-1"], "vpn-1")
        kept = [await nodes["vpn-1"].get(f"kept-{number}") for number in range(SESSIONS)]
        assert all(s.owner == "vpn-1" and s.state_version >= 1 for s in kept)
        await created(nodes["vpn-1"], "and-one-more")
        return status


def log_of(cluster: RealCluster) -> tuple[Path, LogContents]:
    """The newest segment of the node's log, and what the log says."""
    directory = f"{cluster.data_dir('vpn-1')}/wal"
    return Path(list_segments(OsDisk(), directory)[-1]), read_log(OsDisk(), directory, None)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        os.fsync(file.fileno())


def test_a_directory_in_use_or_of_another_node_or_cluster_is_refused(lone):
    """Exit status 1 and one line that names the directory, whose it is and what to do; then it serves its owner."""
    directory = str(lone.data_dir("vpn-1"))
    other_cluster = lone.write_config("other-cluster.conf", name="other")
    said = lone.refused_start("vpn-1", config=other_cluster)
    assert directory in said and "'itest'" in said and "data directory of its own" in said

    text = lone.config_path.read_text().replace('id = "vpn-1"', f'id = "vpn-9"\ndata_dir = "{directory}"')
    other_node = lone.directory / "other-node.conf"
    other_node.write_text(text)
    said = lone.refused_start("vpn-9", config=other_node)
    assert directory in said and "'vpn-1'" in said and "data directory of its own" in said

    lone.start("vpn-1")
    asyncio.run(all_kept(lone))
    said = lone.refused_start("vpn-1")
    assert directory in said and f"process {lone.pid('vpn-1')}" in said and "stop that process first" in said
    asyncio.run(all_kept_still(lone))


async def all_kept_still(cluster: RealCluster) -> None:
    """The running node was not harmed by the one that was refused."""
    async with cluster.connect() as nodes:
        s = await nodes["vpn-1"].get("and-one-more")
        again = await nodes["vpn-1"].reattach(s.session_id, expected_version=1, binding=binding("t2"))
        assert again.state_version == 2


def test_damage_in_the_middle_of_the_log_is_refused_with_file_and_offset(lone):
    """One flipped bit in what was durable: exit status 1, the file, the offset, the remedy; so says `wal verify`."""
    path, contents = log_of(lone)
    offset = HEADER_BYTES + (contents.tail.offset - HEADER_BYTES) // 2
    [byte] = path.read_bytes()[offset : offset + 1]
    overwrite(path, offset, bytes([byte ^ 0x10]))
    said = lone.refused_start("vpn-1")
    assert f"{path}: offset " in said and "peers" in said, said
    named = int(said.split(": offset ")[1].split(":")[0])
    assert HEADER_BYTES <= named <= offset
    verified = lone.run("wal", "verify", str(lone.data_dir("vpn-1")))
    assert verified.returncode == 1 and path.name in verified.stdout + verified.stderr, verified
    overwrite(path, offset, bytes([byte]))
    lone.start("vpn-1")
    asyncio.run(all_kept(lone))


def test_a_directory_with_a_part_missing_is_refused(lone):
    """A lost file or directory is not taken for an empty node: exit status 1, naming what is missing."""
    directory = lone.data_dir("vpn-1")
    for missing in ("identity", "hard_state", "wal"):
        (directory / missing).rename(directory / "aside")
        said = lone.refused_start("vpn-1")
        assert f"{directory}/{missing}" in said and "missing" in said, said
        (directory / "aside").rename(directory / missing)
    lone.start("vpn-1")
    asyncio.run(all_kept(lone))


def test_a_torn_group_at_the_end_of_the_log_is_cut_and_reported(lone):
    """A write that the crash tore was never acknowledged: the node starts, says PARTIAL_WRITE, and has all the rest."""
    path, contents = log_of(lone)
    record = Record(RecordType.ENTRY, contents.runs.last_index + 1, contents.runs.last_term, b"x" * 500)
    tail = contents.tail
    group = encode_group([record], tail.next_seq, tail.offset, contents.segments[-1].header.segment_id)
    overwrite(path, tail.offset, group[: GROUP_HEADER_BYTES + 100])
    lone.start("vpn-1")
    status = asyncio.run(all_kept(lone))
    events = [e for e in status["security_events"] if e["kind"] == "PARTIAL_WRITE"]
    assert len(events) == 1 and path.name in events[0]["detail"], status["security_events"]
