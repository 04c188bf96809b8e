"""The demo under `partition_policy = "terminate"`: what is lost with its owner ends, for one reason on both sides."""

from __future__ import annotations

from raftstore.cli.demo_scenes import Demo
from raftstore.types import Reason, Session, SessionState

OWNER_LOST = "OWNER_LOST"


class TerminateDemo(Demo):
    """Ownership model, section 5, option B; a session may be created under the other policy."""

    async def _ended(self, session_id: str) -> Session:
        """The session once vpn-1 has seen it end."""

        async def ended() -> Session | None:
            seen = await self.clients["vpn-1"].get(session_id)
            return seen if seen.state == SessionState.TERMINATED else None

        session: Session = await self._until(f"{session_id} ends with its owner", ended)
        return session

    async def heal(self, session: Session) -> None:
        """The majority ends the sessions of the cut off node once its lease has lapsed; after the heal all agree."""
        ended = await self._ended(session.session_id)
        self.say(f"the majority ends its sessions: {ended.state.name} ({ended.reason}), version {ended.state_version}")
        await self.clients["vpn-3"].isolate([])
        await self.cluster.wait_ready("vpn-3")
        seen = [await self.clients[n].get(session.session_id) for n in self.cluster.node_ids]
        events = await self.cluster.events_of("vpn-3", session.session_id)
        for event in events:
            self.say(f"audit: event {event['number']}, cluster time {event['at_ms']} ms: {event['event']}")
        reattach = self.clients["vpn-3"].reattach(
            session.session_id, expected_version=ended.state_version, binding=self._binding()
        )
        refusal = await self._rejected(reattach)
        self.say(f"healed; a reattach at vpn-3: {refusal}")
        self.promises.note(
            "a lost owner's sessions end for good, and both sides agree on why (option B)",
            all(s == ended for s in seen) and ended.reason == OWNER_LOST and refusal == Reason.SESSION_TERMINATED,
            f"{ended.reason} on {len(seen)} nodes, then {refusal}",
        )
        self.promises.note(
            "a refused request never takes effect, not even after the heal",
            [e["event"] for e in events] == ["SessionCreated", "Terminated"],
            "created and terminated, and no audit event between",
        )

    async def kill_owner(self) -> None:
        """One session of the killed node is under the cluster's policy, the other was created under "deny"."""
        doomed = await self._attached("vpn-2", "doomed")
        await super().kill_owner()
        ended = await self._ended(doomed.session_id)
        self.say(f"{doomed.session_id}, under the cluster's own policy: {ended.state.name} ({ended.reason})")
        self.promises.note(
            "the policy is the session's own: one may be failed over while the others end",
            ended.reason == OWNER_LOST,
            f"orphan (deny) failed over, {doomed.session_id} ({ended.reason})",
        )
