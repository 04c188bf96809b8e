"""Power cuts of the whole cluster under load, and disks that are lost: nothing acknowledged is lost, or there twice."""

import asyncio

import pytest
from real_waiting import binding, created, until

from raftstore.errors import RaftstoreError

LOADERS_PER_NODE = 8
ACKNOWLEDGED_MIN = 300  # before each cut


class Load:
    """Callers that reattach their own sessions as fast as they can, and remember what they were told."""

    def __init__(self, clients, round_number):
        self._clients = clients
        self._round = round_number
        self.acknowledged = {}  # session id -> the highest version that a caller was told
        self.total = 0

    async def caller(self, node_id, number):
        """One session, from its creation to the first answer that is no commit."""
        client, name = self._clients[node_id], f"load-{self._round}-{node_id}-{number}"
        session = await created(client, name)
        while True:
            self.acknowledged[name] = session.state_version
            self.total += 1
            try:
                session = await client.reattach(
                    name, expected_version=session.state_version, binding=binding(f"t{session.state_version}")
                )
            except RaftstoreError:
                return

    async def run_until_cut(self, cut):
        """Load all nodes; `cut()` once enough was acknowledged."""
        callers = [asyncio.create_task(self.caller(n, i)) for n in self._clients for i in range(LOADERS_PER_NODE)]

        async def enough():
            return self.total >= ACKNOWLEDGED_MIN

        try:
            await until("enough is acknowledged", enough)
            cut()
            await asyncio.wait_for(asyncio.gather(*callers), 20)
        finally:
            for caller in callers:
                caller.cancel()


@pytest.mark.parametrize("round_number", [1, 2])
def test_nothing_acknowledged_is_lost_when_all_are_killed_at_once(cluster, round_number):
    """kill -9 of all three under load, then a restart: every version that a caller was told is there, once."""

    async def main():
        async with cluster.connect() as nodes:
            load = Load(nodes, round_number)
            await load.run_until_cut(lambda: cluster.kill(*cluster.node_ids))
            cluster.start(*cluster.node_ids)
            for node_id in cluster.node_ids:
                await cluster.ready(nodes[node_id], node_id)
            reports = await cluster.audit_settled()
            assert all(r.first == 1 and not r.gaps for r in reports) and len({r.head for r in reports}) == 1
            for name, version in load.acknowledged.items():
                seen = await nodes["vpn-1"].get(name)
                assert 0 <= seen.state_version - version <= 2, (name, version, seen)  # one in flight, one sweep
            for name, version in list(load.acknowledged.items())[::5]:
                versions = [version for _, _, version in cluster.audit_history("vpn-2", name)]
                assert versions == list(range(1, len(versions) + 1)) and len(versions) >= version, (name, versions)

    asyncio.run(main())


def test_a_node_that_lost_its_disk_has_no_vote_until_it_has_caught_up(cluster):
    """With one peer away, an empty node gives the other no majority; with both it catches up and votes again."""

    async def main():
        async with cluster.connect() as nodes:
            await created(nodes["vpn-1"], "before-the-loss")
            cluster.kill("vpn-3")
            cluster.wipe("vpn-3")
            await created(nodes["vpn-2"], "during-the-loss")  # the cluster serves meanwhile
            cluster.freeze("vpn-1")
            cluster.start("vpn-3")

            async def empty_node_is_up():
                status = await nodes["vpn-3"].status()
                others = {p["node"]: p for p in status["peers"]}
                return status["role"] == "learner" and others["vpn-2"]["connected"]

            await until("vpn-3 is a learner, connected to vpn-2", empty_node_is_up)

            async def lease_is_over():
                status = await nodes["vpn-2"].status()
                assert not (status["ready"] and status["lease_remaining_ms"] == 0)
                return status["lease_remaining_ms"] == 0 and not status["quorum"]

            await until("vpn-2 has found no majority for a whole lease", lease_is_over)
            assert (await nodes["vpn-3"].status())["role"] == "learner"
            cluster.thaw("vpn-1")
            for node_id in cluster.node_ids:
                await cluster.ready(nodes[node_id], node_id)

            async def votes():
                return (await nodes["vpn-3"].status())["role"] in ("follower", "leader")

            await until("vpn-3 is a voter again", votes)
            assert (await nodes["vpn-3"].get("during-the-loss")).owner == "vpn-2"
            cluster.kill("vpn-1")
            await created(nodes["vpn-3"], "with-its-vote")  # two of three, and it is one of them
            cluster.start("vpn-1")
            await cluster.ready(nodes["vpn-1"], "vpn-1")
            await cluster.audit_settled()

    asyncio.run(main())
