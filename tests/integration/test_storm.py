"""Random faults under random load, and then an account of every single answer that a caller was given.

Each attempt binds a transport with a name of its own, which the audit files name too. So afterwards one can see what
really happened to it: committed must be there exactly once, refused never, unknown at most once. The seed of a run is
its parameter: a failure shows it.
"""

import asyncio
import random
from collections import Counter, defaultdict
from itertools import pairwise
from types import SimpleNamespace

import pytest
from real_cluster import RealCluster
from real_waiting import binding, until

from raftstore.client import NoAnswer, Unreachable
from raftstore.errors import OutcomeUnknown, RaftstoreError, Rejected, Unavailable

CALLERS = 24
WATCHERS = 4
LOOK_MAX_S = 0.5  # a frozen node does not answer: look elsewhere
FAULTS = 5
OP_TIMEOUT_MS = 700
OWNER_ASKED = 0.7  # so often a caller goes to the owner, else anywhere: a race or a failover
CALM_S = 0.3  # between faults, so that there is something to break
FAULT_MIN_S, FAULT_MAX_S = 0.2, 2.6  # shorter and longer than a lease


class Storm:
    """Callers, faults and the watch for two owners, all from one seed."""

    def __init__(self, cluster, nodes, seed):
        self.cluster, self.nodes = cluster, nodes
        self.chance = random.Random(seed)
        self.outcomes = {}  # name of the attempt -> (what the caller was told, session id, the session it got)
        self.over = False
        self.two_owners = []
        self.looks = 0

    async def attempt(self, node_id, name, known):
        """One op by the node; what its caller then knows of the session."""
        client, attempt = self.nodes[node_id], f"a{len(self.outcomes)}"
        self.outcomes[attempt] = ("unknown", name, None)
        arguments = {"binding": binding(attempt), "timeout_ms": OP_TIMEOUT_MS}
        try:
            if known is None:
                session = await client.create(name, **arguments)
            elif known.owner == node_id:
                session = await client.reattach(name, expected_version=known.state_version, **arguments)
            else:
                session = await client.failover(name, expected_version=known.state_version, **arguments)
        except Rejected as refusal:
            self.outcomes[attempt] = ("refused", name, None)
            return refusal.session or known
        except (Unavailable, Unreachable):
            self.outcomes[attempt] = ("refused", name, None)
            return known
        except (OutcomeUnknown, NoAnswer):
            return known
        self.outcomes[attempt] = ("committed", name, session)
        return session

    async def caller(self, number):
        name, known = f"storm-{number}", None
        while not self.over:
            node_id = self.chance.choice(self.cluster.node_ids)
            if known is not None and self.chance.random() < OWNER_ASKED:
                node_id = known.owner
            known = await self.attempt(node_id, name, known)
            await asyncio.sleep(self.chance.uniform(0.01, 0.05))

    async def watch(self):
        """Two owners are proven by: one says yes, another says yes, the first still says yes, epochs unchanged."""
        while not self.over:
            name = f"storm-{self.chance.randrange(CALLERS)}"
            first, second = self.chance.sample(self.cluster.node_ids, 2)
            try:
                one, two = await self.epoch(first, name), await self.epoch(second, name)
                self.looks += 1
                if one is not None and two is not None and await self.epoch(first, name) == one:
                    self.two_owners.append((name, first, one, second, two))
            except (RaftstoreError, TimeoutError):
                await asyncio.sleep(0.01)

    async def epoch(self, node_id, name):
        return await asyncio.wait_for(self.nodes[node_id].owned_epoch(name), LOOK_MAX_S)

    async def fault(self):
        """One fault of some kind at some nodes, for some time, then its end."""
        kind = self.chance.choice(["kill", "freeze", "cut", "kill all", "freeze two"])
        victims = self.chance.sample(self.cluster.node_ids, {"kill all": 3, "freeze two": 2}.get(kind, 1))
        lasting_s = self.chance.uniform(FAULT_MIN_S, FAULT_MAX_S)
        if kind == "kill all":
            lasting_s = 0.0
        print(f"{kind}: {', '.join(victims)} for {lasting_s:.2f} s")
        if kind.startswith("kill"):
            self.cluster.kill(*victims)
        elif kind.startswith("freeze"):
            self.cluster.freeze(*victims)
        else:
            await self.cut(victims[0], [n for n in self.cluster.node_ids if n not in victims])
        await asyncio.sleep(lasting_s)
        if kind.startswith("kill"):
            self.cluster.start(*victims)
        elif kind.startswith("freeze"):
            self.cluster.thaw(*victims)
        else:
            await self.cut(victims[0], [])

    async def cut(self, node_id, peers):
        async def done():
            return await self.nodes[node_id].isolate(peers)

        await until(f"{node_id} is cut off from {peers}", done)

    async def rage(self):
        """All of it, then peace: every node serves again."""
        callers = [asyncio.create_task(self.caller(n)) for n in range(CALLERS)]
        watchers = [asyncio.create_task(self.watch()) for _ in range(WATCHERS)]
        for _ in range(FAULTS):
            await asyncio.sleep(CALM_S)
            await self.fault()
        for node_id in self.cluster.node_ids:
            await self.cluster.ready(self.nodes[node_id], node_id)
        await asyncio.sleep(CALM_S)
        self.over = True
        await asyncio.gather(*callers, *watchers)


def account(storm, events):
    """Every answer against what the audit files say; the wrong ones."""
    happened = defaultdict(list)
    for event in events:
        if event["event"] != "Refused":
            happened[event["detail"]].append(event)
    wrong = []
    for attempt, (told, name, session) in storm.outcomes.items():
        found = happened[attempt]
        if told == "committed":
            right = len(found) == 1 and all(
                (found[0][key] == getattr(session, key)) for key in ("session_id", "owner", "epoch", "state_version")
            )
        else:
            right = len(found) == 0 if told == "refused" else len(found) <= 1
        if not right:
            wrong.append((attempt, told, name, session, found))
    return wrong


@pytest.mark.parametrize("seed", [20_261_121])
def test_every_answer_given_in_a_storm_of_faults_was_true(seed):
    """Kills, freezes and cuts at random: no two owners, no lost or repeated commit, no refusal that took effect."""
    with RealCluster() as cluster:

        async def main():
            async with cluster.connect() as nodes:
                storm = Storm(cluster, nodes, seed)
                await storm.rage()
                reports = await cluster.audit_settled()
                assert all(r.first == 1 and not r.gaps for r in reports) and len({r.head for r in reports}) == 1
                return storm

        storm = asyncio.run(main())
        kinds = Counter(told for told, _, _ in storm.outcomes.values())
        print(kinds, storm.looks, "looks")
        assert not storm.two_owners and storm.looks > 100
        assert kinds["committed"] > 50 and kinds["refused"] > 10
        names = [f"storm-{n}" for n in range(CALLERS)]
        events = {name: cluster.audit_events("vpn-1", name) for name in names}
        assert account(storm, [e for of_one in events.values() for e in of_one]) == []
        for name in names:
            history = cluster.audit_history("vpn-1", name)
            assert [version for _, _, version in history] == list(range(1, len(history) + 1))
            for (owner, epoch, _), (next_owner, next_epoch, _) in pairwise(history):
                assert next_epoch == epoch + (owner != next_owner)


def test_the_account_finds_every_kind_of_lie():
    """A lost commit, a doubled one, one under another epoch, a refusal that took effect: each is named."""
    fields = {"event": "Reattached", "session_id": "s", "owner": "vpn-1", "epoch": 1}
    events = [fields | {"detail": d, "state_version": v} for v, d in enumerate(["a0", "a2", "a2", "a3", "a4"], start=2)]
    told = SimpleNamespace(session_id="s", owner="vpn-1", epoch=1)
    storm = SimpleNamespace(
        outcomes={
            "a0": ("committed", "s", SimpleNamespace(**vars(told), state_version=2)),
            "a1": ("committed", "s", SimpleNamespace(**vars(told), state_version=9)),
            "a2": ("unknown", "s", None),
            "a3": ("refused", "s", None),
            "a4": ("committed", "s", SimpleNamespace(session_id="s", owner="vpn-1", epoch=2, state_version=6)),
            "a5": ("unknown", "s", None),
        }
    )
    assert [attempt for attempt, *_ in account(storm, events)] == ["a1", "a2", "a3", "a4"]
