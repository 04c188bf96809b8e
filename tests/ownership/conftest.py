"""A small cluster around one machine: every call becomes an entry of its own, time moves only when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftstore.ownership import REASONS, Applied, Machine, SessionRecord, batches, commands, invariants, restore
from raftstore.ownership.events import SESSION_ADMITTED, SESSION_HANDED_OVER

INCARNATIONS = {"a": 101, "b": 202, "c": 303}
BINDING = ("t1", "udp", "198.51.100.7:51820")
FAR_MS = 2**50
STORES = {"b": 22, "c": 33, "d": 44, "e": 55}  # of the peers of a node alone in its log


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
        return self.raw(batches.encode_batch(self.now_ms, wall_ms, jump, groups))

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


def equal(ids: str) -> list[tuple[str, int, bool]]:
    """Nodes of equal weight."""
    return [(node_id, 1, False) for node_id in ids]


class Alone:
    """Node a, alone in its log; every call is an entry of its own and is held against a restored twin."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.machine = driver.machine

    def do(self, build: Any, *args: Any, **kwargs: Any) -> str:
        if build in (commands.forget, commands.reclaim) and len(args) < (4 if build is commands.forget else 3):
            args = (*args, self.place.mapping.epoch if self.place else 0)  # the present epoch, unless one is named
        before = self.machine.state_digest()
        twin = restore(list(self.machine.freeze_state().chunks()))
        assert twin.state_digest() == before
        answer = self.driver.do("a", build, *args, **kwargs)[0]
        index, data = self.driver.entries[-1]
        assert twin.apply(index, 1, data) == self.driver.applied
        assert twin.state_digest() == self.machine.state_digest()
        assert not self.machine.departed.keys() & self.machine.sessions.keys()
        return str(answer)

    def ok(self, build: Any, *args: Any) -> None:
        assert self.do(build, *args) == "OK"

    def twice(self, build: Any, *args: Any) -> None:
        """Granted, and granted again without any effect."""
        self.ok(build, *args)
        assert len(self.driver.applied.events) == 1
        before = self.state()
        self.ok(build, *args)
        assert self.state() == before
        assert self.driver.applied.events == []
        assert self.driver.applied.changed == []

    def refused(self, reason: str, build: Any, *args: Any) -> None:
        """Refused with that reason, in the audit trail, and with no other effect."""
        before = self.state()
        assert self.do(build, *args) == reason
        assert self.state() == before
        assert len(self.driver.applied.events) == 1
        assert self.driver.applied.changed == []

    def state(self) -> Any:
        return dict(self.machine.sessions), self.machine.placement, dict(self.machine.departed)

    @property
    def place(self) -> Any:
        return self.machine.placement

    def adopt(self, epoch: int, ids: str = "abc", sources: str = "", lost: str = "") -> None:
        self.ok(commands.adopt, epoch, equal(ids), sources, lost)

    def confirm(self, peer: str, others: str = "", store: int | None = None) -> tuple[Any, ...]:
        """The op by which `peer` confirms the present mapping."""
        mapping = self.place.mapping
        return (
            commands.confirm,
            peer,
            mapping.epoch,
            mapping.digest(),
            STORES[peer] if store is None else store,
            others,
        )

    def settle(self) -> None:
        """All confirm and it is settled."""
        for peer in self.place.waits_for("a"):
            self.ok(*self.confirm(peer))
        self.ok(commands.settle, self.place.mapping.epoch)

    def away(self, session_id: str = "s", target: str = "b") -> None:
        """A session of version 3, epoch 2, given to another machine."""
        self.ok(commands.create_mapped, session_id, BINDING, 600_000, None, self.place.mapping.epoch)
        self.ok(commands.freeze, session_id, 1, "MAPPING", target)
        self.ok(commands.transfer, session_id, 2)

    def record(self, session_id: str = "s") -> Any:
        return self.machine.sessions[session_id]


@pytest.fixture
def node(new_driver: type[Driver]) -> Alone:
    """Node a in a log of its own, without a mapping."""
    return Alone(new_driver("a"))


@pytest.fixture
def settled(node: Alone) -> Alone:
    """Node a with nodes b and c in a settled mapping of epoch 1."""
    node.adopt(1)
    node.settle()
    return node
