"""Ten thousand callers at once against a node with few places: a bounded answer for each, and bounded memory."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_cluster import RealCluster
from real_waiting import created

CALLERS = 10_000
PENDING_OPS_MAX = 64
GROWTH_MAX_KIB = 200_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """One node that takes few ops at a time."""
    with RealCluster(1, pending_ops_max=PENDING_OPS_MAX) as real:
        yield real


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:")]
    return int(line.split()[1])


def connections_possible() -> int:
    """How many connections this process may have open, and that one hear out: it has as many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CALLERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CALLERS if soft == resource.RLIM_INFINITY else min(CALLERS, soft // 2)


async def ask(path: str, number: int, places: asyncio.Semaphore) -> str:
    """One caller with a connection of its own: "200", or the reason of the refusal."""
    body = b'{"ttl_ms": 60000}'
    head = b"POST /v1/sessions/many-%d/create HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    async with places:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(head % (number, len(body)) + body)
            answer = await reader.read()
        finally:
            writer.close()
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    return "200" if answer.startswith(b"HTTP/1.1 200 ") else said["reason"]


def test_callers_beyond_the_bound_are_refused_and_the_node_goes_on(cluster):
    """Each of 10,000 callers is answered: committed, or OVERLOADED; memory stays bounded; the next op commits."""
    path, pid = f"{cluster.directory}/run/vpn-1.sock", cluster.pid("vpn-1")

    async def main():
        before = memory_kib(pid)
        places = asyncio.Semaphore(connections_possible())
        answers = Counter(await asyncio.gather(*(ask(path, i, places) for i in range(CALLERS))))
        assert set(answers) == {"200", "OVERLOADED"} and answers.total() == CALLERS, answers
        assert memory_kib(pid) - before < GROWTH_MAX_KIB
        async with cluster.connect() as nodes:
            status = await cluster.ready(nodes["vpn-1"], "vpn-1")
            assert status["sessions_total"] == answers["200"] > 0
            assert status["counters"]["refused:OVERLOADED"] > 0  # by the bound on ops, not on connections alone
            await created(nodes["vpn-1"], "after-the-rush")

    asyncio.run(main())
