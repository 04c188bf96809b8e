"""Mapping changes in the demo: under load, interrupted by kill -9, refused, and in conflict with each other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from itertools import islice

from raftstore.cli.demo_callers import PAUSE_S, Caller, Load
from raftstore.cli.demo_cluster import POLL_S, DemoFailed
from raftstore.cli.demo_sticky_stage import Holdings, StickyStage, shown, weights_text
from raftstore.errors import InvalidArgument, Rejected, Unavailable
from raftstore.routing import Mapping, moved
from raftstore.types import Reason, Session

CALLERS = 15
CROWD = 900  # sessions of one node that are to move at once: more than fit into two messages
CROWD_TRIES_MAX = 100_000  # ids tried to find them
INTERRUPTIONS_MAX = 3  # a change may be over before the kill: then it is made again
ASKED = 20  # of the sessions on their way
POLL_FAST_S = 0.002

EVEN = {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1}
HEAVY = {"vpn-1": 1, "vpn-2": 1, "vpn-3": 3}
OTHER = {"vpn-1": 1, "vpn-2": 3, "vpn-3": 1}


class MappingScenes(StickyStage):
    """Scenes in which sessions move, or must not."""

    # --- under load ----------------------------------------------------------------------------------------------
    async def weigh(self) -> None:
        self.title("A mapping change under load: vpn-3 gets three times the weight")
        new = self._next(HEAVY)
        await self._under_load("weight", new, self._change("vpn-1", new))

    async def drain(self) -> None:
        self.title("A second one: vpn-2 is drained")
        new = self._next(HEAVY, draining=["vpn-2"])
        await self._under_load("drain", new, self.clients["vpn-2"].drain())
        left = [session for session in self.sessions.values() if session.owner == "vpn-2"]
        self.say(f"vpn-2 has {len(left)} sessions left")

    async def _under_load(self, what: str, new: Mapping, change: Awaitable[object]) -> None:
        """Make a change while clients go on, and compare what came of it with what was computed before."""
        moving = {sid: (before, after) for sid, before, after in moved(self.mapping, new, self.sessions)}
        ways = ", ".join(f"{n} {a} to {b}" for (a, b), n in sorted(Counter(moving.values()).items(), key=str))
        self.say(f"epoch {new.epoch}: {weights_text(new)}; computed beforehand: {len(moving)} must move ({ways})")
        callers = self._callers([*list(moving)[: CALLERS // 2], *(sid for sid in self.sessions if sid not in moving)])
        checks = self.watcher.checks
        async with Load(callers) as load:
            begun = time.perf_counter()
            await change
            await self._settled(new)
            took_ms = (time.perf_counter() - begun) * 1000
            await self._until("every client is served where its session is now", lambda: _all_served(load))
        looks = self.watcher.checks - checks
        holdings = await self._at_rest()
        busy = {caller.session.session_id for caller in callers}
        problems = self._wrong(holdings, new, busy=busy)
        self.say(
            f"settled on every node after {took_ms:.0f} ms; {load.accepted} reattaches meanwhile, "
            f"the longest wait of a client {load.longest_wait_ms:.0f} ms"
        )
        self.promises.note(
            f"{what}: exactly the sessions that must move have moved, epoch +1 each; no other changed",
            bool(moving) and not problems and looks > 0,
            f"{len(moving)} moved, {len(self.sessions) - len(moving)} stayed; "
            f"{looks} looks at all owns() meanwhile{shown(problems)}",
        )
        self._take_over(holdings, new)

    def _callers(self, session_ids: list[str]) -> list[Caller]:
        """Clients for the first of these sessions, which are the ones to be watched now."""
        used = session_ids[:CALLERS]
        self.watcher.watch_only(used)
        return [Caller(self.clients, self.sessions[sid], self._binding) for sid in used]

    # --- interrupted ---------------------------------------------------------------------------------------------
    async def interrupt(self) -> None:
        self.title("A mapping change is interrupted: kill -9 of the giving node in the middle of it")
        for _ in range(INTERRUPTIONS_MAX):
            new = self._next(HEAVY)
            crowd = self._crowd(new)
            await self._create(crowd)
            moving = sum(1 for _ in moved(self.mapping, new, self.sessions))
            self.say(f"epoch {new.epoch}: {weights_text(new)}: vpn-2 serves again, {moving} sessions must move")
            async with Load(self._callers(crowd[:: CROWD // CALLERS])) as load:
                over = not await self._interrupted(new, load)
            if over:
                await self._drain_again(new)
                continue
            await self._goes_on(new, moving, load)
            return
        raise DemoFailed(f"{INTERRUPTIONS_MAX} changes were over before their node was killed")

    async def _interrupted(self, new: Mapping, load: Load) -> bool:
        """Make the change, kill vpn-1 in the middle, start it again, wait for the end. False: there was no middle."""
        on_way, arrived = await self._cut(new)
        self.say(f"vpn-1 is killed: {len(arrived)} of its sessions are at vpn-2, {len(on_way)} are on their way")
        if on_way:
            await self._refused_on_the_way(on_way, arrived)
        else:
            self.cluster.start("vpn-1")
        begun = time.perf_counter()
        await self.cluster.wait_ready("vpn-1")
        await self._settled(new)
        self.say(f"nobody did anything; settled {(time.perf_counter() - begun) * 1000:.0f} ms after vpn-1 came back")
        await self._until("every client is served where its session is now", lambda: _all_served(load))
        self.say(f"the longest wait of a client was {load.longest_wait_ms:.0f} ms")
        return bool(on_way)

    async def _goes_on(self, new: Mapping, moving: int, load: Load) -> None:
        await self._released("vpn-1")
        holdings = await self._at_rest()
        busy = {caller.session.session_id for caller in load.callers}
        problems = self._wrong(holdings, new, busy=busy, restarted=["vpn-1"])
        self.promises.note(
            "an interrupted change goes on by itself after the restart: nothing lost, nothing twice",
            not problems,
            f"{moving} moved, epoch +1 each; {len(self.sessions)} sessions, each in one log{shown(problems)}",
        )
        self._take_over(holdings, new)

    def _crowd(self, new: Mapping) -> list[str]:
        """Ids of many sessions that live at vpn-1 and will have to move to vpn-2."""
        tried = (f"crowd-{new.epoch}-{i}" for i in range(CROWD_TRIES_MAX))
        fit = (sid for sid in tried if (self.mapping.owner(sid), new.owner(sid)) == ("vpn-1", "vpn-2"))
        return list(islice(fit, CROWD))

    async def _cut(self, new: Mapping) -> tuple[list[str], list[str]]:
        """Begin the change and kill vpn-1 once the first sessions are through: those on their way, those that came."""
        taken = int((await self.clients["vpn-2"].mapping())["taken"])
        ways = {sid: way for sid, *way in moved(self.mapping, new, self.sessions)}
        given = [sid for sid, way in ways.items() if way == ["vpn-1", "vpn-2"]]
        taken += len(ways) - len(given) + CROWD // 20  # more than those: some have come from vpn-1
        await self._change("vpn-2", new)

        async def passing() -> bool:
            return int((await self.clients["vpn-2"].mapping())["taken"]) > taken

        await self._until("the first sessions arrive at vpn-2", passing, POLL_FAST_S)
        self.cluster.kill("vpn-1")

        async def quiet() -> bool:
            before = await self.clients["vpn-2"].mapping()
            await asyncio.sleep(POLL_S)
            after = await self.clients["vpn-2"].mapping()
            return not after["peers"]["vpn-1"]["connected"] and before["taken"] == after["taken"]

        await self._until("vpn-2 notices that vpn-1 is gone", quiet)
        there = {session.session_id for session in await self._log_of("vpn-2")}
        return [sid for sid in given if sid not in there], [sid for sid in given if sid in there]

    async def _drain_again(self, new: Mapping) -> None:
        """The change was over too soon: back to where vpn-2 is drained."""
        await self._released("vpn-1")
        self._take_over(await self._at_rest(), new)
        drained = self._next(HEAVY, draining=["vpn-2"])
        await self._change("vpn-2", drained)
        await self._settled(drained)
        self._take_over(await self._at_rest(), drained)

    async def _refused_on_the_way(self, on_way: list[str], arrived: list[str]) -> None:
        """By the node that they go to, by the one that they come from, and by the third; then vpn-1 runs again."""
        asked = on_way[:: max(1, len(on_way) // ASKED)]
        taker = [await self._refusal("vpn-2", sid) for sid in asked]
        third = [await self._refusal("vpn-3", sid) for sid in asked]
        served = [await self._refusal("vpn-2", sid) is None for sid in arrived[:ASKED]]
        self.say(f"one of them, at vpn-2: {taker[0]}")
        self.cluster.start("vpn-1")

        async def answers_of_giver() -> list[Rejected | Unavailable | None]:
            return [await self._refusal("vpn-1", sid) for sid in asked]

        giver = await self._until("vpn-1 answers again", answers_of_giver)
        await self.cluster.wait_ready("vpn-1")
        ready = await answers_of_giver()
        self.say(f"at vpn-1, which runs again: {ready[0]}")
        kept = (
            all(
                isinstance(r, Unavailable) and r.reason == Reason.MAPPING_UNSETTLED and "vpn-1" in r.detail
                for r in taker
            )
            and all(isinstance(r, Rejected) and r.owner == "vpn-2" for r in (*third, *ready))
            and all(r is not None for r in giver)
        )
        self.promises.note(
            "what is on its way is refused by both sides; what has arrived is served",
            kept and all(served),
            f"{len(asked)} of {len(on_way)} asked for at each node; {len(served)} of {len(arrived)} that came",
        )

    # --- refused -------------------------------------------------------------------------------------------------
    async def stale(self) -> None:
        self.title("A mapping whose epoch goes back, or stays, is refused")
        old = {session_id: session.state_version for session_id, session in self.sessions.items()}
        refusals = []
        for epoch in (1, self.mapping.epoch):
            try:
                await self.clients["vpn-1"].change_mapping(EVEN, epoch=epoch)
            except InvalidArgument as refusal:
                refusals.append(refusal)
                self.say(str(refusal))
        views = [await self.clients[node_id].mapping() for node_id in self.cluster.node_ids]
        holdings = await self._holdings()
        now = {sid: copies[0].session.state_version for sid, copies in holdings.items()}
        self.promises.note(
            "a mapping epoch never goes back",
            len(refusals) == 2 and {view["epoch"] for view in views} == {self.mapping.epoch} and now == old,
            f"{len(refusals)} of 2 refused, epoch {self.mapping.epoch} everywhere, no session changed",
        )

    # --- in conflict ---------------------------------------------------------------------------------------------
    async def conflict(self) -> None:
        self.title("Two operators, a cut cable, two different mappings of one epoch")
        here, there = self._next(EVEN), self._next(OTHER)
        await self._linked("vpn-1", False)
        await self._change("vpn-1", here)
        await self._change("vpn-3", there)
        self.say(f"epoch {here.epoch} at vpn-1: {weights_text(here)}")
        self.say(f"epoch {there.epoch} at vpn-2 and vpn-3: {weights_text(there)}; the cable is mended")
        await self._linked("vpn-1", True)
        await self._until("both sides see that they disagree", self._disagree)
        disputed = [sid for sid in self.sessions if here.owner(sid) != there.owner(sid)]
        agreed = [sid for sid in self.sessions if here.owner(sid) == there.owner(sid) == self.mapping.owner(sid)]
        asked = disputed[:: max(1, len(disputed) // ASKED)]
        answers = [await self._refusal(n, sid) for sid in asked for n in self.cluster.node_ids]
        unsettled = [a for a in answers if isinstance(a, Unavailable) and a.reason == Reason.MAPPING_UNSETTLED]
        served = [await self._refusal(self._owner(sid), sid) is None for sid in agreed[:: max(1, len(agreed) // ASKED)]]
        if unsettled:
            self.say(f"a disputed session: {unsettled[0]}")
        self.promises.note(
            "two mappings of one epoch: what they dispute is refused by every node, the rest is served",
            bool(unsettled) and None not in answers and bool(served) and all(served),
            f"{len(asked)} of {len(disputed)} disputed ones asked for at every node, {len(served)} others served",
        )
        await self._reconcile(self._next(EVEN, step=2))

    async def _disagree(self) -> bool:
        views = {node_id: await self.clients[node_id].mapping() for node_id in self.cluster.node_ids}
        pairs = (("vpn-1", "vpn-2"), ("vpn-1", "vpn-3"), ("vpn-2", "vpn-1"), ("vpn-3", "vpn-1"))
        return all(
            views[node]["epoch"] == self.mapping.epoch + 1 and views[node]["peers"][peer]["agrees"] is False
            for node, peer in pairs
        )

    async def _linked(self, node_id: str, linked: bool) -> None:
        """Cut a node off or take it back, and wait until everybody knows."""
        others = self._others(node_id)
        await self.clients[node_id].isolate([] if linked else others)

        async def known() -> bool:
            peers = (await self.clients[node_id].mapping())["peers"]
            return all(peers[other]["connected"] is linked for other in others)

        await self._until(f"{node_id} is {'linked' if linked else 'cut off'}", known)

    async def _reconcile(self, new: Mapping) -> None:
        await self._change("vpn-2", new)
        await self._settled(new)
        holdings = await self._at_rest()
        problems = [sid for sid, before in self.sessions.items() if not _found(holdings, sid, before, new)]
        problems += [sid for sid in holdings if sid not in self.sessions]
        self.say(f"epoch {new.epoch}: {weights_text(new)}: settled on every node")
        self.promises.note(
            "a mapping of a higher epoch settles it: every session in one log, where it maps to",
            not problems,
            f"{len(holdings)} sessions, no epoch or version went back{shown(problems)}",
        )
        self._take_over(holdings, new)


def _found(holdings: Holdings, session_id: str, before: Session, mapping: Mapping) -> bool:
    """Whether the session is in one log, at its node, and no older than it was."""
    copies = holdings.get(session_id, [])
    if len(copies) != 1:
        return False
    node, now = copies[0]
    older = now.epoch < before.epoch or now.state_version < before.state_version
    return not older and node == now.owner == mapping.owner(session_id)


async def _all_served(load: Load) -> bool:
    """Whether each caller has been accepted since this was asked."""
    before = [caller.accepted for caller in load.callers]
    await asyncio.sleep(PAUSE_S)
    return all(caller.accepted > count for caller, count in zip(load.callers, before, strict=True))
