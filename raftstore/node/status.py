"""What a node says of itself: status, readiness, explanations. Reads the replica, changes nothing.

Plain JSON types throughout, so that the API, the CLI and an embedder see the same. Called on the node's loop.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
from typing import TYPE_CHECKING, Any

from raftstore.errors import InvalidArgument, Rejected, Unavailable
from raftstore.node.answers import BEFORE_PROPOSAL
from raftstore.ownership import FrozenSessions, to_session, validate_session_id
from raftstore.raft.seams import CANDIDATE, LEADER
from raftstore.types import OpId, Reason, Session, SessionState

if TYPE_CHECKING:
    from raftstore.node.runtime import Runtime

LIST_LIMIT_MAX = 1_000

EXPLANATIONS: dict[Reason, str] = {
    Reason.OWNERSHIP_CONFLICT: "another node owns it: reattach there, or fail over once that node's lease has lapsed",
    Reason.SESSION_NOT_FOUND: "it was never created in this cluster",
    Reason.SESSION_EXPIRED: "its TTL has passed: the sweep will end it",
    Reason.SESSION_TERMINATED: "it has ended; its id is never used again",
    Reason.SESSION_FROZEN: "it is being transferred: its new owner resumes it, or the sweep thaws it",
    Reason.NODE_NOT_LIVE: "this node's lease has lapsed, or it has left",
    Reason.NODE_FENCED: "a newer process runs under this node's id",
    Reason.OWNER_STILL_LIVE: "an older process of this node may still act for it: wait until its lease has lapsed",
}


def get_session(runtime: Runtime, session_id: str) -> Session:
    """The replica's record. Rejected(SESSION_NOT_FOUND) when there is none, once it can tell. Any thread."""
    validate_session_id(session_id)
    record = runtime.machine.sessions.get(session_id)
    if record is not None:
        return to_session(record)
    if not runtime.core.replica.is_joined:
        detail = f"{runtime.node_id} has not caught up since its start: it cannot tell what exists"
        raise Unavailable(Reason.NO_QUORUM, detail)
    raise Rejected(Reason.SESSION_NOT_FOUND)


async def page_of_sessions(
    runtime: Runtime, owner: str | None, state: SessionState | str | None, limit: int, after: str | None
) -> list[Session]:
    """See Node.list_sessions: another thread looks through the sessions as they are now."""
    frozen = runtime.machine.sessions.freeze()
    try:
        work = functools.partial(list_sessions, frozen, owner, state, limit, after)
        return await asyncio.get_running_loop().run_in_executor(None, work)
    finally:
        frozen.release()


def list_sessions(
    sessions: FrozenSessions,
    owner: str | None,
    state: SessionState | str | None,
    limit: int,
    after: str | None,
) -> list[Session]:
    """One page of a copy of the replica's sessions, in the order of their ids."""
    if type(limit) is not int or not 1 <= limit <= LIST_LIMIT_MAX:
        raise InvalidArgument("limit", f"must be an integer from 1 to {LIST_LIMIT_MAX}")
    wanted = _state(state)
    found = (
        record
        for record in map(sessions.__getitem__, sessions if after is None else (s for s in sessions if s > after))
        if (owner is None or record.owner == owner) and (wanted is None or record.state == wanted)
    )
    return [to_session(record) for record in heapq.nsmallest(limit, found)]


def _state(state: SessionState | str | None) -> SessionState | None:
    if state is None or isinstance(state, SessionState):
        return state
    try:
        return SessionState[state]
    except KeyError:
        names = ", ".join(s.name for s in SessionState)
        raise InvalidArgument("state", f"must be one of {names}") from None


def role(runtime: Runtime) -> str:
    raft = runtime.core.raft
    if raft.is_learner:
        return "learner"
    return {LEADER: "leader", CANDIDATE: "candidate"}.get(raft.role, "follower")


def node_status(runtime: Runtime) -> dict[str, Any]:
    """Everything an operator asks first."""
    core, raft, machine = runtime.core, runtime.core.raft, runtime.machine
    refusal = runtime.why_not_ready()
    return {
        "cluster": runtime.config.cluster,
        "node": runtime.node_id,
        "incarnation": f"{runtime.incarnation:016x}",
        "role": role(runtime),
        "leader": raft.leader_id,
        "term": raft.term,
        "commit_index": raft.commit_index,
        "applied_index": raft.last_applied,
        "last_index": raft.last_log_index,
        "quorum": raft.has_quorum,
        "ready": refusal is None,
        "not_ready": None if refusal is None else str(refusal),
        "lease_remaining_ms": core.lease.remaining_ms(),
        "cluster_time_ms": core.cluster_clock.now_ms(),
        "sessions_owned": len(core.owned),
        "sessions_total": len(machine.sessions),
        "chain_head": machine.head.hex(),
        "chain_index": machine.index,
        "event_seq": max(machine.event_seq, runtime.audit.durable_number),  # files know more until caught up
        "peers": _peers(runtime),
        "nodes": _nodes(runtime),
        "counters": _counters(runtime),
        "histograms": {
            "op_latency_seconds": core.replica.commit_latency.as_dict(),
            "log_sync_seconds": runtime.persistence.sync_latency.as_dict(),
        },
        "security_events": list(runtime.security_events),
        "drain": None if runtime.drain_job is None else runtime.drain_job.progress(),
        "stopped": core.stopped,
        "strategy": runtime.config.strategy,
        "mapping": None if runtime.sticky is None else runtime.sticky.status(),
    }


def mapping(runtime: Runtime) -> dict[str, Any]:
    """The mapping of session ids to nodes, and in the sticky strategy how far it is settled."""
    config = runtime.config
    if runtime.sticky is not None:
        return {"node": runtime.node_id, "strategy": config.strategy, **runtime.sticky.status()}
    nodes = [{"node_id": node_id, "weight": weight, "draining": False} for node_id, weight in config.weights.items()]
    return {"node": runtime.node_id, "strategy": config.strategy, "epoch": 1, "nodes": nodes}


def _peers(runtime: Runtime) -> list[dict[str, Any]]:
    rows = runtime.core.raft.peer_status()
    for row in rows:
        info = runtime.links.peer_info(row["node"])
        row["incarnation"] = None if info is None else f"{info.incarnation:016x}"
        row["address"] = None if info is None else info.address
        row["rtt_us"] = None if info is None else info.rtt_us
        row["queued_bytes"] = None if info is None else info.queued_bytes
    return rows


def _nodes(runtime: Runtime) -> list[dict[str, Any]]:
    now_ms = runtime.core.cluster_clock.now_ms()
    return [
        {
            "node": view.node_id,
            "incarnation": f"{view.incarnation:016x}",
            "live": not view.left and view.lease_until_ms > now_ms,
            "draining": view.draining,
            "left": view.left,
            "lease_until_ms": view.lease_until_ms,  # cluster time
            "lease_remaining_ms": max(0, view.lease_until_ms - now_ms),
            "sessions": view.sessions_owned,
            "attached": view.sessions_attached,
        }
        for view in runtime.machine.list_nodes()
    ]


def _counters(runtime: Runtime) -> dict[str, int]:
    core = runtime.core
    counters = {f"ops:{kind}:{outcome}": n for (kind, outcome), n in sorted(core.replica.outcomes.items())}
    counters.update(sorted(runtime.counters.items()))
    counters.update(
        {
            "batches": core.leader.batches,
            "batched_ops": core.leader.batched_ops,
            "pending_ops": len(core.proposals),
            "audit_backlog": runtime.audit.backlog,
            "audit_durable_number": runtime.audit.durable_number,
            "messages_dropped": core.outbox.dropped,
            "snapshots_installed": core.raft.snapshots_installed,
            **runtime.persistence.counters(),
            **{f"link:{name}": n for name, n in runtime.links.counters.as_dict().items()},
        }
    )
    return counters


def explain(runtime: Runtime, session_id: str) -> dict[str, Any]:
    """Who owns it and why a reattach here would be refused now: by this replica, without asking the others."""
    validate_session_id(session_id)
    core, machine = runtime.core, runtime.machine
    record = machine.sessions.get(session_id)
    refusal = core.why_refused()
    elsewhere = None if runtime.sticky is None else runtime.sticky.refusal(session_id)
    if refusal is not None:
        reason: str | None = refusal.reason
        detail = refusal.detail
    elif elsewhere is not None:
        reason, detail = elsewhere.reason, elsewhere.detail
    else:
        now_ms = core.cluster_clock.now_ms()
        reason = machine.explain(session_id, runtime.node_id, runtime.incarnation, now_ms)
        detail = "" if reason is None else EXPLANATIONS.get(reason, "")
    return {
        "session": None if record is None else to_session(record).as_dict(),
        "owner": None if record is None else record.owner,
        "owned_since_index": None if record is None else record.owned_since,
        "owned_here": core.owned.owns(session_id),
        "reattach_here": "would be accepted with the current version" if reason is None else "would be refused",
        "reason": reason,
        "detail": detail,
        "replica_index": machine.index,
        "node": runtime.node_id,
    }


def outcome(runtime: Runtime, op_id: OpId) -> dict[str, Any] | None:
    """What became of an op of this very process. None when it is another's, or forgotten."""
    if (op_id.node_id, op_id.incarnation) != (runtime.node_id, runtime.incarnation):
        return None
    answer = runtime.core.proposals.outcome(op_id.seq)
    if answer is None:
        return None
    if not answer.decided:
        kind = "unknown"
    elif answer.reason is None:
        kind = "committed"
    else:
        kind = "unavailable" if answer.reason in BEFORE_PROPOSAL else "rejected"
    session = None if answer.record is None else to_session(answer.record).as_dict()
    return {"outcome": kind, "reason": answer.reason, "session": session, "log_index": answer.log_index}


def ready(runtime: Runtime) -> list[tuple[str, bool, str]]:
    """Whether this node can serve ops now, check by check."""
    core, raft = runtime.core, runtime.core.raft
    refusal = runtime.why_not_ready()
    lag = raft.commit_index - raft.last_applied
    return [
        ("serving", core.stopped is None and not core.is_stopping, core.stopped or "ok"),
        ("quorum", raft.has_quorum, f"leader {raft.leader_id}" if raft.has_quorum else "no leader with a majority"),
        ("voter", not raft.is_learner, "learner: catching up" if raft.is_learner else "ok"),
        ("lease", core.lease.is_held, f"{core.lease.remaining_ms()} ms left"),
        ("caught_up", lag <= runtime.config.limits.inflight_entries_max, f"{lag} committed entries not applied"),
        ("accepting", refusal is None, "ok" if refusal is None else str(refusal)),
    ]


def alive(runtime: Runtime) -> list[tuple[str, bool, str]]:
    """Whether the process works, whatever the cluster does: the loop turns and the disk answers."""
    stall_ms = (runtime.clock.now_ns() - runtime.core.last_pulse_ns) // 1_000_000
    limit_ms = runtime.config.timing.loop_stall_max_ms
    failed = runtime.failed
    disk_ok, disk_detail = runtime.persistence.health()
    return [
        ("loop", stall_ms <= limit_ms, f"last turn {stall_ms} ms ago"),
        ("disk", disk_ok, disk_detail),
        ("node", failed is None, "ok" if failed is None else f"{failed[0]}: {failed[1]}"),
    ]
