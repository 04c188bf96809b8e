"""What the demo shows of the shared strategy: real operations against real processes, and what was promised of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raftstore.cli.demo_cluster import POLL_S, DemoFailed
from raftstore.cli.demo_stage import WAIT_S, Scene, Stage
from raftstore.errors import OutcomeUnknown, Rejected, Unavailable
from raftstore.node.audit_verify import compare, verify_files
from raftstore.types import Reason, Session, SessionState

SESSIONS = 60
RACES = 20
GUESTS = 5
NOTICE_SLACK_MS = 250  # between the end of the lease and the poll of this process that sees it


class Demo(Stage):
    """The shared strategy: one Raft cluster, every session known to all."""

    def scenes(self) -> Sequence[Scene]:
        return (
            self.create,
            self.race,
            self.migrate,
            self.partition,
            self.kill_owner,
            self.expire,
            self.drain,
            self.audit,
        )

    # --- scenes --------------------------------------------------------------------------------------------------
    async def create(self) -> None:
        leader = await self.cluster.leader()
        self.title("Sessions are created, each on the node where its client arrived")
        self.say(f"three processes serve; {leader} leads")
        begun = time.perf_counter()
        owners = [self.cluster.node_ids[i % 3] for i in range(SESSIONS)]
        sessions = await asyncio.gather(
            *(self.clients[n].create(f"session-{i}", binding=self._binding()) for i, n in enumerate(owners))
        )
        took_ms = (time.perf_counter() - begun) * 1000
        self.say(f"{SESSIONS} sessions in {took_ms:.0f} ms, each durable on a majority before its answer")
        seen = await asyncio.gather(*(self.clients["vpn-3"].get(s.session_id) for s in sessions))
        right = all(a == b for a, b in zip(seen, sessions, strict=True))
        self.promises.note("an acknowledged session is there for everybody", right, f"{len(seen)} read back on vpn-3")

    async def race(self) -> None:
        self.title("Two nodes race to reattach the same session")
        session = await self._attached("vpn-1", "racer")
        accepted = rejected = 0
        refusal: Rejected | None = None
        for _ in range(RACES):
            version = session.state_version
            answers = await asyncio.gather(
                *(
                    self.clients[n].reattach("racer", expected_version=version, binding=self._binding())
                    for n in ("vpn-1", "vpn-2")
                ),
                return_exceptions=True,
            )
            winners = [a for a in answers if isinstance(a, Session)]
            refusals = [a for a in answers if isinstance(a, Rejected) and a.reason == Reason.OWNERSHIP_CONFLICT]
            if len(winners) != 1 or len(refusals) != 1:
                break
            accepted, rejected = accepted + 1, rejected + 1
            session, refusal = winners[0], refusals[0]
        if refusal is not None and refusal.session is not None:
            current = refusal.session
            self.say(f"vpn-1: accepted, version {session.state_version}, epoch {session.epoch}")
            owner = f"owner {current.owner}, epoch {current.epoch}, version {current.state_version}"
            self.say(f"vpn-2: REATTACH_REJECT ({refusal.reason}): {owner}")
        self.say(f"{RACES} races: {accepted} accepted, {rejected} rejected")
        self.promises.note(
            "of two racing nodes exactly one wins, the other is told OWNERSHIP_CONFLICT",
            accepted == rejected == RACES,
            f"{accepted} of {RACES} races",
        )

    async def migrate(self) -> None:
        self.title("Controlled migration in four steps: vpn-1 to vpn-2")
        session = await self._attached("vpn-1", "traveller")
        first = session.state_version
        moved = await self.clients["vpn-1"].migrate("traveller", expected_version=first, to="vpn-2")
        owned_after = await self.clients["vpn-1"].owns("traveller")

        async def resumed() -> Session | None:
            seen = await self.clients["vpn-2"].get("traveller")
            return seen if seen.state == SessionState.RECOVERING else None

        waiting: Session = await self._until("vpn-2 resumes the session", resumed)
        bound = await self.clients["vpn-2"].reattach(
            "traveller", expected_version=waiting.state_version, binding=self._binding()
        )
        self.say(f"1 freeze     version {first} -> {first + 1}   nothing may bind")
        self.say(
            f"2 transfer   version {first + 1} -> {moved.state_version}   owner {moved.owner}, epoch {moved.epoch}"
        )
        self.say(f"3 resume     version {moved.state_version} -> {waiting.state_version}   by {waiting.owner}")
        self.say(f"4 reattach   version {waiting.state_version} -> {bound.state_version}   {bound.state.name}")
        kept = (
            bound.state_version == first + 4
            and bound.owner == "vpn-2"
            and bound.epoch == session.epoch + 1
            and not owned_after
            and await self.clients["vpn-2"].owns("traveller", bound.epoch)
        )
        self.promises.note(
            "a migration moves the session step by step: version +1 each, epoch +1 with the owner",
            kept,
            f"version {first} to {bound.state_version}, epoch {session.epoch} to {bound.epoch}",
        )

    async def partition(self) -> None:
        self.title("A partition leaves vpn-3 alone")
        session = await self._attached("vpn-3", "islander")
        cut_off = self.clients["vpn-3"]
        await cut_off.isolate(["vpn-1", "vpn-2"])
        cut_ns = time.perf_counter_ns()
        lease_ms = int((await cut_off.status())["lease_remaining_ms"])
        self.say("vpn-3's links to the others are cut; its client tries to reattach there")

        async def alone() -> bool:
            return not (await cut_off.status())["quorum"]

        await self._until("vpn-3 notices that it is alone", alone)
        refused_ms, reason = await self._refused("islander", session)
        held = await cut_off.owns("islander")
        self.say(f"refused with {reason} after {refused_ms:.1f} ms; owns() is still {held}: the lease runs")

        async def fenced() -> bool:
            return not await cut_off.owns("islander")

        await self._until("owns() turns false on vpn-3", fenced)
        fenced_ms = (time.perf_counter_ns() - cut_ns) / 1e6
        self.say(f"owns() turned false {fenced_ms:.0f} ms after the cut; its lease had {lease_ms} ms left then")
        late_ms, late_reason = await self._refused("islander", session)
        self.promises.note(
            "the minority refuses reattach at once",
            reason == late_reason == Reason.NO_QUORUM,
            f"NO_QUORUM in {refused_ms:.1f} and {late_ms:.1f} ms",
        )
        self.promises.note(
            "owns() ends with the lease, without a word from anybody",
            lease_ms > 0 and fenced_ms <= lease_ms + NOTICE_SLACK_MS,
            f"{fenced_ms:.0f} ms after the cut, {lease_ms} ms of lease left",
        )
        await self.heal(session)

    async def _refused(self, session_id: str, session: Session) -> tuple[float, str]:
        """How long vpn-3 takes to refuse a reattach, and with which reason."""
        begun = time.perf_counter()
        try:
            await self.clients["vpn-3"].reattach(
                session_id, expected_version=session.state_version, binding=self._binding(), timeout_ms=1000
            )
        except (Unavailable, OutcomeUnknown, Rejected) as refusal:
            return (time.perf_counter() - begun) * 1000, str(refusal.reason)
        return (time.perf_counter() - begun) * 1000, "accepted"

    async def heal(self, session: Session) -> None:
        await self.clients["vpn-3"].isolate([])
        await self.cluster.wait_ready("vpn-3")
        seen = [await self.clients[n].get("islander") for n in self.cluster.node_ids]
        events = await self.cluster.events_of("vpn-1", "islander")
        self.say(f"healed: {len(seen)} nodes agree on version {seen[0].state_version}; audit events: {len(events)}")
        again = await self.clients["vpn-3"].reattach(
            "islander", expected_version=session.state_version, binding=self._binding()
        )
        self.say(
            f"the client reattaches at vpn-3: version {again.state_version}, the one after {session.state_version}"
        )
        self.promises.note(
            "a refused request never takes effect, not even after the heal",
            all(s == session for s in seen) and len(events) == 1 and again.state_version == session.state_version + 1,
            f"version still {session.state_version} everywhere, one audit event",
        )

    async def kill_owner(self) -> None:
        self.title("kill -9 of an owner, and failover")
        session = await self._attached("vpn-2", "orphan", policy="deny")
        self.cluster.kill("vpn-2")
        killed = time.perf_counter()
        self.say(f"vpn-2 (owner of {session.session_id}) is killed; vpn-1 tries to fail over right away")
        refused, taken = 0, None
        while taken is None and time.perf_counter() - killed < WAIT_S:
            try:
                taken = await self.clients["vpn-1"].failover(
                    "orphan", expected_version=session.state_version, binding=self._binding()
                )
            except Rejected as refusal:
                if refusal.reason != Reason.OWNER_STILL_LIVE:
                    raise
                refused += 1
            except Unavailable:
                pass  # the killed node was the leader: an election is under way
            await asyncio.sleep(POLL_S)
        took_ms = (time.perf_counter() - killed) * 1000
        if taken is None:
            raise DemoFailed(f"failover was not accepted within {WAIT_S:g} s")
        self.say(f"refused {refused} times with OWNER_STILL_LIVE, accepted after {took_ms:.0f} ms")
        self.say(f"owner {taken.owner}, epoch {session.epoch} -> {taken.epoch}, version {taken.state_version}")
        self.promises.note(
            "failover waits until the dead owner's lease has lapsed",
            refused > 0 and taken.epoch == session.epoch + 1,
            f"{refused} refusals, then accepted {took_ms:.0f} ms after the kill",
        )
        self.cluster.start("vpn-2")
        await self.cluster.wait_ready("vpn-2")
        self.say("vpn-2 is back and follows")

    async def expire(self) -> None:
        self.title("Strict TTL")
        ttl_ms = 700
        session = await self._attached("vpn-1", "mayfly", ttl_ms=ttl_ms)

        async def ended() -> bool:
            return not await self.clients["vpn-1"].owns("mayfly")

        await self._until("owns() ends with the TTL", ended)
        reason = await self._rejected(
            self.clients["vpn-1"].reattach("mayfly", expected_version=session.state_version, binding=self._binding())
        )

        async def swept() -> Session | None:
            seen = await self.clients["vpn-1"].get("mayfly")
            return seen if seen.state == SessionState.TERMINATED else None

        tombstone: Session = await self._until("the sweep ends the session", swept)
        forked = await self._rejected(self.clients["vpn-3"].create("mayfly", binding=self._binding()))
        self.say(f"TTL of {ttl_ms} ms passed: a reattach is refused with {reason}")
        self.say(f"the sweep ended it ({tombstone.reason}); creating the same id again: {forked}")
        self.promises.note(
            "a TTL is strict, and an ended identity is never forked",
            reason in (Reason.SESSION_EXPIRED, Reason.SESSION_TERMINATED) and forked == Reason.SESSION_TERMINATED,
            f"{reason}, then {forked}",
        )

    async def drain(self) -> None:
        self.title("vpn-3 is drained for maintenance")
        for i in range(GUESTS):
            await self._attached("vpn-3", f"guest-{i}")
        before = await self._owned_by("vpn-3")
        report = await self.clients["vpn-3"].drain()
        after = await self._owned_by("vpn-3")
        self.say(f"{before} sessions before, {after} after; moved {report.get('moved')}, failed {report.get('failed')}")
        refusal = await self._rejected(self.clients["vpn-3"].create("late-guest", binding=self._binding()))
        self.say(f"a new session on vpn-3: {refusal}")
        self.promises.note(
            "a drain moves every session and takes no new one",
            before > 0 and after == 0 and refusal == Reason.NODE_DRAINING,
            f"{before} moved, then {refusal}",
        )

    async def _owned_by(self, node_id: str) -> int:
        status = await self.clients[node_id].status()  # its own replica: the others may be a moment behind
        return sum(int(n["sessions"]) for n in status["nodes"] if n["node"] == node_id)

    async def audit(self) -> None:
        self.title("The audit trail is the same on every node")

        async def settled() -> list[Any] | None:
            paths = [self._audit_files(n) for n in self.cluster.node_ids]
            reports = [await asyncio.to_thread(verify_files, p) for p in paths]
            numbers = {r.last for r in reports}
            return reports if len(numbers) == 1 and not any(r.problems for r in reports) else None

        reports = await self._until("the audit files of all nodes reach the same event", settled)
        problems = compare(reports)
        heads = {r.head for r in reports}
        for report in reports:
            self.say(f"{report.node}: events {report.first} to {report.last}, chain head {str(_hex(report.head))[:16]}")
        self.promises.note(
            "every transition and refusal has one audit event, chained alike on every node",
            not problems and len(heads) == 1 and all(r.first == 1 and not r.gaps for r in reports),
            "; ".join(problems) or f"{reports[0].last} events, equal chain heads recomputed from three files",
        )

    def _audit_files(self, node_id: str) -> list[Path]:
        return sorted(self.cluster.config.node(node_id).audit_dir.glob("audit-*.jsonl"))


def _hex(head: bytes | str) -> str:
    return head.hex() if isinstance(head, bytes) else head
