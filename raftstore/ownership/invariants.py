"""What must hold in every state and across every change, whatever happened: for tests and the simulator.

Answers to section 8 of the ownership model (one binding, monotonic versions, explicit termination). Returns
sentences rather than raising, so that a checker can report all that is wrong at once.
"""

from __future__ import annotations

from raftstore.ownership import records as r
from raftstore.ownership.machine import Machine
from raftstore.ownership.records import SessionRecord
from raftstore.ownership.step import Tally


def check(machine: Machine) -> list[str]:
    """Every broken invariant of the state, as sentences; empty when all hold."""
    problems = [
        f"session {session_id}: {problem}"
        for session_id, record in machine.sessions.items()
        for problem in _check_session(machine, session_id, record)
    ]
    problems += _check_nodes(machine)
    tally = Tally()
    for record in machine.sessions.values():
        tally.add(record, 1)
    for name, kept, counted in (
        ("owned", machine.tally.owned, tally.owned),
        ("attached", machine.tally.attached, tally.attached),
    ):
        if {k: v for k, v in kept.items() if v} != {k: v for k, v in counted.items() if v}:
            problems.append(f"tally of sessions {name} is {kept}, counted {counted}")
    if len(machine.head) != 32:
        problems.append("chain head is not 32 bytes")
    return problems


def _check_session(machine: Machine, session_id: str, s: SessionRecord) -> list[str]:
    rules = (
        (s.session_id == session_id, "filed under another id"),
        (r.ATTACHED <= s.state <= r.TERMINATED, "unknown state"),
        (s.owner in machine.nodes or _is_away(machine, s), "owner never joined"),
        (1 <= s.epoch <= s.state_version, "epoch outside 1 to state_version"),
        ((s.binding is not None) == (s.state == r.ATTACHED), "bound exactly while ATTACHED"),
        ((s.reattach_by_ms is not None) == (s.state == r.RECOVERING), "reattach_by exactly while RECOVERING"),
        ((s.freeze_by_ms is not None) == (s.state == r.FROZEN), "freeze_by exactly while FROZEN"),
        ((s.target is not None) == (s.state == r.FROZEN), "target exactly while FROZEN"),
        (not s.transferred or (s.state == r.FROZEN and s.owner == s.target), "transferred means owned by the target"),
        (s.state != r.FROZEN or s.transferred == (s.owner == s.target), "owned by the target means transferred"),
        (s.state != r.TERMINATED or bool(s.reason), "terminated without a reason"),
        (s.created_at_ms <= machine.clock_ms and s.created_at_ms < s.expires_at_ms, "impossible times"),
    )
    return [problem for holds, problem in rules if not holds]


def _is_away(machine: Machine, s: SessionRecord) -> bool:
    """Whether it was transferred to a node of another machine, or ended under one."""
    return machine.placement is not None and (s.state == r.TERMINATED or (s.state == r.FROZEN and s.transferred))


def _check_nodes(machine: Machine) -> list[str]:
    problems = []
    if list(machine.nodes) != list(machine.remembered):
        problems.append("nodes and remembered results differ")
    for node_id, node in machine.nodes.items():
        memory = machine.remembered[node_id]
        if node.node_id != node_id:
            problems.append(f"node {node_id}: filed under another id")
        if node.incarnation in node.former:
            problems.append(f"node {node_id}: current incarnation is a former one")
        if node.left and node.lease_until_ms > machine.clock_ms:
            problems.append(f"node {node_id}: left with a running lease")
        if any(seq < memory.low_seq for seq in memory.results):
            problems.append(f"node {node_id}: remembers what it forgot")
    return problems


def check_change(old: SessionRecord | None, new: SessionRecord) -> list[str]:
    """Every broken rule of one transition: version + 1, epoch + 1 exactly with a new owner, no way back."""
    if old is None:
        first = new.state_version == 1 and new.epoch == 1
        return [] if first else [f"session {new.session_id}: begins at version {new.state_version}"]
    rules = (
        (old.session_id == new.session_id, "became another session"),
        (old.state != r.TERMINATED, "changed after termination"),
        (new.state_version == old.state_version + 1, "state_version did not grow by one"),
        (new.epoch == old.epoch + (new.owner != old.owner), "epoch + 1 exactly when the owner changes"),
        (new.nonce >= old.nonce, "nonce went back"),
        (new.created_at_ms == old.created_at_ms and new.policy == old.policy, "origin changed"),
    )
    return [f"session {new.session_id}: {problem}" for holds, problem in rules if not holds]
