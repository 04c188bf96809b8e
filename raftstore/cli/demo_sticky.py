"""The demo of `strategy = "sticky"`: nodes that share no log, and a mapping that says whose each session is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from raftstore.cli.demo_mapping import MappingScenes
from raftstore.cli.demo_stage import Scene
from raftstore.cli.demo_sticky_stage import shown, weights_text
from raftstore.errors import Rejected, Unavailable
from raftstore.routing import mint
from raftstore.types import Reason, Session

NAMED = 45
MINTED = 5  # per node
ALONE_S = 1.5  # longer than the lease: in the shared strategy a lost owner's sessions could be taken over by then
NOT_THERE = "unavailable until"


class StickyDemo(MappingScenes):
    """Ownership model, section 2.1: SessionID to node."""

    def scenes(self) -> Sequence[Scene]:
        return (self.found, self.alone, self.restart, self.weigh, self.drain, self.interrupt, self.stale, self.conflict)

    async def found(self) -> None:
        self.title("Three nodes found one mapping; a session lives where its id maps to")
        views = [await self.clients[node_id].mapping() for node_id in self.cluster.node_ids]
        self.say(f"epoch 1 from cluster.conf: {weights_text(self.mapping)}; each node keeps a log of its own")
        self.promises.note(
            "all nodes go by one mapping: same epoch, same digest, settled",
            all(view["settled"] and view["epoch"] == 1 for view in views) and len({v["digest"] for v in views}) == 1,
            f"epoch 1, digest {str(views[0]['digest'])[:16]} on {len(views)} nodes",
        )
        ids = [f"session-{i}" for i in range(NAMED)]
        for node_id in self.cluster.node_ids:
            ids += [mint(node_id, os.urandom) for _ in range(MINTED)]
        wrong = [(sid, n) for sid in ids for n in self._others(self._owner(sid))]
        answers = await asyncio.gather(*(self._knock(n, sid) for sid, n in wrong))
        refused = [
            answer
            for (sid, _), answer in zip(wrong, answers, strict=True)
            if isinstance(answer, Rejected)
            and (answer.reason, answer.owner) == (Reason.OWNERSHIP_CONFLICT, self._owner(sid))
        ]
        if refused:
            self.say(f"{wrong[0][0]} is asked for at {wrong[0][1]}: {refused[0]}")
        begun = time.perf_counter()
        sessions = await self._create(ids)
        took_ms = (time.perf_counter() - begun) * 1000
        self.watcher.watch_only(ids[::4])
        counts = ", ".join(f"{len(self._of(n))} at {n}" for n in self.cluster.node_ids)
        self.say(f"{len(ids)} sessions in {took_ms:.0f} ms, each durable at its node before its answer: {counts}")
        minted = ids[-1]
        self.say(f"{minted[:18]}... names its node: a router needs no table ({MINTED} minted for each node)")
        self.promises.note(
            "every other node refuses and names the right one; there it is created at once",
            len(refused) == len(wrong) and all(s.owner == self._owner(s.session_id) for s in sessions),
            f"{len(refused)} of {len(wrong)} wrong doors: OWNERSHIP_CONFLICT with the node to ask",
        )

    async def _knock(self, node_id: str, session_id: str) -> Session | Rejected | Unavailable:
        """Try to create the session there."""
        try:
            return await self.clients[node_id].create(session_id, binding=self._binding())
        except (Rejected, Unavailable) as refusal:
            return refusal

    # --- without consensus ---------------------------------------------------------------------------------------
    async def alone(self) -> None:
        self.title("No consensus per transition: kill -9 of vpn-1 and vpn-2, and vpn-3 goes on")
        for node_id in ("vpn-1", "vpn-2"):
            self.cluster.kill(node_id)
        ended = time.monotonic() + ALONE_S
        own = [session.session_id for session in self._of("vpn-3")]
        slowest_ms, done = 0.0, 0
        while time.monotonic() < ended:
            session_id = own[done % len(own)]
            begun = time.perf_counter()
            await self._again(session_id)
            slowest_ms = max(slowest_ms, (time.perf_counter() - begun) * 1000)
            done += 1
        self.say(
            f"vpn-3, the only one of three: {done} reattaches in {ALONE_S:g} s, the slowest took {slowest_ms:.1f} ms"
        )
        self.promises.note(
            "with two of three nodes dead the third serves its own sessions as before",
            done > 0 and await self._owning(self._of("vpn-3")) == len(own),
            f"{done} transitions accepted, none refused, version +1 each",
        )
        await self._nobody_takes_over()

    async def _again(self, session_id: str) -> None:
        """A reattach that must be accepted, as the very next version."""
        before = self.sessions[session_id]
        after = await self.clients[before.owner].reattach(
            session_id, expected_version=before.state_version, binding=self._binding()
        )
        if (after.state_version, after.epoch) != (before.state_version + 1, before.epoch):
            self.promises.note("a reattach is the next version under the same epoch", False, f"{before} -> {after}")
        self.sessions[session_id] = after

    async def _nobody_takes_over(self) -> None:
        lost = self._of("vpn-1", "vpn-2")
        sentences, taken = [], []
        for session in lost:
            refusal = await self._refusal("vpn-3", session.session_id)
            if isinstance(refusal, Rejected) and refusal.owner == session.owner and NOT_THERE in refusal.detail:
                sentences.append(str(refusal))
            client, version = self.clients["vpn-3"], session.state_version
            tries = (
                client.failover(session.session_id, expected_version=version, binding=self._binding()),
                client.reattach(session.session_id, expected_version=version, binding=self._binding()),
                client.create(session.session_id, binding=self._binding()),
            )
            answers = [await self._rejected(attempt) for attempt in tries]
            taken += [session.session_id for answer in answers if answer != Reason.OWNERSHIP_CONFLICT]
        if sentences:
            self.say(f"sessions of the others, at vpn-3: {sentences[0]}")
        self.promises.note(
            "a dead node's sessions wait for it: refused with the reason, taken over by nobody",
            bool(lost) and len(sentences) == len(lost) and not taken,
            f"{len(lost)} sessions: get, failover, reattach and create refused{shown(taken)}",
        )

    async def restart(self) -> None:
        self.title("vpn-1 and vpn-2 come back, each with its own log")
        killed = ("vpn-1", "vpn-2")
        for node_id in killed:
            self.cluster.start(node_id)
        await asyncio.gather(*(self.cluster.wait_ready(n) for n in killed))
        holdings = await self._holdings()
        problems = self._wrong(holdings, self.mapping, restarted=killed)
        owning = await self._owning(self._of(*killed))
        same = sum(copies[0].session == self.sessions.get(sid) for sid, copies in holdings.items())
        self.say(
            f"{same} of {len(self.sessions)} sessions stand as they did; owns() is true for {owning} of those killed"
        )
        self.promises.note(
            "after kill -9 and restart every session is there, none in two logs",
            not problems,
            f"{same} of {len(self.sessions)} with the same version and binding{shown(problems)}",
        )
        await self._released(*killed)
        self._take_over(await self._holdings(), self.mapping)
        self.say("once the leases of the former processes have lapsed, their bindings are released: clients reattach")
        for session in self._of(*killed):
            await self._again(session.session_id)
        back = self._of(*killed)
        owning_again = await self._owning(back)
        self.promises.note(
            "owns() is true again only after a new reattach: what a former process bound counts no more",
            bool(back) and owning == 0 and owning_again == len(back),
            f"{owning} before, {owning_again} of {len(back)} after",
        )
