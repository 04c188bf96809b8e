"""Disks that fail or fill up under a running node: it stops serving and says why, the others go on."""

import asyncio
import resource

from real_waiting import binding, created, outcome_of, until

from raftstore.errors import RaftstoreError

FILE_BYTES_MAX = 65_536  # beyond it every write of the node fails, as on a full disk
SHORT_OF_BYTES = 1 << 40


def test_a_node_that_cannot_write_its_log_stops_and_the_others_go_on(cluster):
    """Writes fail under the leader: STORAGE_FAILED, exit status 1, nothing acknowledged lost, a new leader."""

    async def main():
        async with cluster.connect() as nodes:
            victim = await cluster.leader(nodes)
            left = [n for n in cluster.node_ids if n != victim]
            resource.prlimit(cluster.pid(victim), resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
            acknowledged = 0
            remote = binding("t" * 128)._replace(remote="r" * 128)
            try:
                while acknowledged < 10_000:
                    name = f"disk-{acknowledged}"
                    await until("one more", lambda n=name: nodes[victim].create(n, binding=remote), wait_s=2)
                    acknowledged += 1
            except (RaftstoreError, AssertionError):
                pass  # the disk is full, and the node gone
            assert await asyncio.to_thread(cluster.wait_exit, victim) == 1
            said = cluster.log(victim)
            assert "STORAGE_FAILED" in said and "Traceback" not in said, said
            await created(nodes[left[0]], "without-it")
            kept = [s async for s in sessions(nodes[left[1]]) if s.session_id.startswith("disk-")]
            assert 0 <= len(kept) - acknowledged <= 1 and acknowledged > 10
            cluster.start(victim)  # the disk is sound again
            await cluster.ready(nodes[victim], victim)
            assert (await nodes[victim].get("without-it")).owner == left[0]
            await cluster.audit_settled()

    asyncio.run(main())


async def sessions(client):
    """All sessions that a node lists, page by page."""
    after = None
    while page := await client.list_sessions(limit=1_000, after=after):
        for session in page:
            yield session
        after = page[-1].session_id


def test_a_node_whose_disk_is_nearly_full_refuses_and_does_not_lead(cluster):
    """Less free than disk_free_min_bytes: OVERLOADED here with the directory named, served elsewhere, no leadership."""
    config = cluster.write_config("short.conf", disk_free_min_bytes=SHORT_OF_BYTES)
    short = "vpn-3"

    async def main():
        async with cluster.connect() as nodes:
            assert await asyncio.to_thread(cluster.stop, short) == 0
            cluster.start(short, config=config)

            async def refuses():
                status = await nodes[short].status()
                return status["quorum"] and "disk space is short" in str(status["not_ready"])

            await until("the node is short of space", refuses)
            refused, _ = await outcome_of(nodes[short].create("no-room", binding=binding()))
            assert refused == "OVERLOADED"
            await created(nodes["vpn-1"], "room-here")
            assert await cluster.leader(nodes, ["vpn-1", "vpn-2"]) != short
            kinds = [e["kind"] for e in (await nodes[short].status())["security_events"]]
            assert kinds.count("DISK_SHORT") == 1
            assert await asyncio.to_thread(cluster.stop, short) == 0
            cluster.start(short)
            await cluster.ready(nodes[short], short)

    asyncio.run(main())
