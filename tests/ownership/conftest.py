"""A small cluster around one machine: every call becomes an entry of its own, time moves only when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftstore.ownership import REASONS, Applied, Machine, SessionRecord, commands, invariants
from raftstore.ownership.events import SESSION_ADMITTED, SESSION_HANDED_OVER

INCARNATIONS = {"a": 101, "b": 202, "c": 303}
BINDING = ("t1", "udp", "198.51.100.7:51820")
FAR_MS = 2**50


class Driver:
    """Nodes a, b and c, joined. `do` returns (reason text or "OK", record)."""

    def __init__(self, nodes: str = "abc") -> None:
        self.machine = Machine()
        self.now_ms = 1_000
        self.index = 0
        self.seq = 0
        self.low = 0
        self.applied: Applied
        self.entries: list[tuple[int, bytes]] = []
        for node in nodes:
            assert self.do(node, commands.join)[0] == "OK"

    def raw(self, data: bytes) -> Applied:
        self.index += 1
        self.entries.append((self.index, data))
        before = dict(self.machine.sessions)
        self.applied = self.machine.apply(self.index, 1, data)
        told = {event[5]: event[4] for event in self.applied.events}
        for record in self.applied.changed:
            if told[record.session_id] != SESSION_ADMITTED:  # not a transition: it comes as another log left it
                assert invariants.check_change(before.get(record.session_id), record) == []
            before[record.session_id] = record
        for session_id in [sid for sid, event in told.items() if event == SESSION_HANDED_OVER]:
            del before[session_id]
        assert before == self.machine.sessions
        assert invariants.check(self.machine) == []
        return self.applied

    def batch(self, *groups: tuple[str, int, int, list[bytes]], jump: int | None = None, wall_ms: int = 0) -> Applied:
        return self.raw(commands.encode_batch(self.now_ms, wall_ms, jump, groups))

    def send(
        self, node: str, build: Callable[..., bytes], *args: Any, inc: int | None = None, deadline: int = FAR_MS
    ) -> list[tuple[int, Any]]:
        self.seq += 1
        incarnation = INCARNATIONS[node] if inc is None else inc
        return self.batch((node, incarnation, self.low, [build(self.seq, deadline, *args)])).groups[0][2]

    def do(self, node: str, build: Callable[..., bytes], *args: Any, **kwargs: Any) -> tuple[str, SessionRecord | None]:
        ((_, (code, record)),) = self.send(node, build, *args, **kwargs)
        return str(REASONS[code] or "OK"), record

    def pass_ms(self, ms: int, alive: str = "") -> None:
        """Let cluster time pass, with the named nodes renewing their leases."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(end_ms, self.now_ms + 3_000)
            for node in alive:
                assert self.do(node, commands.renew_lease)[0] == "OK"
        if not alive:
            self.batch()

    def version(self, session_id: str = "s") -> int:
        return self.machine.sessions[session_id].state_version

    def session(self, state: str, session_id: str = "s") -> None:
        """Bring a session of node a into a state: attached, recovering, frozen, transferred (to b), terminated."""
        binding = None if state == "recovering" else BINDING
        assert self.do("a", commands.create, session_id, binding, 600_000)[0] == "OK"
        if state in ("frozen", "transferred"):
            assert self.do("a", commands.freeze, session_id, 1, "MIGRATION", "b")[0] == "OK"
        if state == "transferred":
            assert self.do("a", commands.transfer, session_id, 2)[0] == "OK"
        if state == "terminated":
            assert self.do("a", commands.terminate, session_id, 1, "POLICY")[0] == "OK"


@pytest.fixture
def driver() -> Driver:
    """A cluster of three live nodes at cluster time 1000."""
    return Driver()


@pytest.fixture
def new_driver() -> type[Driver]:
    """For tests that need more than one cluster."""
    return Driver
