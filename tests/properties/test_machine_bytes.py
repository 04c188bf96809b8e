"""The machine as a function of bytes: equal in every process, total on garbage, changed by the table only."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import raftstore
from raftstore.ownership import REASONS, Applied, Machine, SessionRecord, batches, invariants, restore
from raftstore.ownership import commands as c
from raftstore.ownership.events import REFUSED, SESSION_ADMITTED, SESSION_HANDED_OVER
from raftstore.ownership.transitions import TABLE
from raftstore.types import Reason

OPS = 10_000
SESSIONS_MAX = 300
FUZZ_ROUND = 400  # strings thrown at one machine, before a flipped stamp has aged all its sessions
FUZZ_STRINGS = int(os.environ.get("RAFTSTORE_FUZZ", "100000"))
BINDINGS = (("t1", "udp", "198.51.100.7:51820"), ("t2", "tcp", "203.0.113.9:4500"), None)


FOREIGN = (
    b"\xc0",
    b"\xc1",
    b"\xc3",
    b"\xa0",
    b"\xcb\x7f\xf8" + bytes(6),
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 600,
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xa2\xff\xfe",
    b"\xd6\xff" + bytes(4),
    b"\x81\x90\x01",
)


def random_op(rng: random.Random, node: str, seq: int, machine: Machine) -> bytes:
    """Some op of `node`, most often one that could be granted."""
    sid = f"s{rng.randrange(len(machine.sessions) + 5)}"
    record = machine.sessions.get(sid)
    for _ in range(8):
        if record is None or (record.owner == node and record.state != 4) or not machine.sessions:
            break
        sid = f"s{rng.randrange(len(machine.sessions))}"
        record = machine.sessions.get(sid)
    fresh = f"s{len(machine.sessions) + rng.randrange(3)}"
    version = max(0, (record.state_version if record else 1) + rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, -1)))
    deadline = max(0, machine.clock_ms + (-5_000 if rng.random() < 0.02 else 50_000))
    binding, ttl = rng.choice(BINDINGS), rng.choice((5_000, 600_000, 600_000))
    bound = binding or BINDINGS[0]
    some = [(s.session_id, s.state_version) for s in list(machine.sessions.values())[-rng.randrange(1, 30) :]]
    reason, target = rng.choice(("MIGRATION", "DRAIN")), rng.choice("abcd")
    ops = (
        (
            20,
            lambda: c.create(
                seq, deadline, rng.choice((sid, fresh, fresh)), binding, ttl, rng.choice((None, "deny", "terminate"))
            ),
        ),
        (12, lambda: c.reattach(seq, deadline, sid, version, bound, rng.choice((None, None, version, 1)))),
        (8, lambda: c.detach(seq, deadline, sid, version, "NO_DELIVERY")),
        (5, lambda: c.renew(seq, deadline, sid, version, ttl)),
        (6, lambda: c.freeze(seq, deadline, sid, version, reason, target)),
        (8, lambda: c.transfer(seq, deadline, sid, version)),
        (6, lambda: c.resume(seq, deadline, sid, version, binding)),
        (3, lambda: c.thaw(seq, deadline, sid, version)),
        (6, lambda: c.failover(seq, deadline, sid, version, binding)),
        (1, lambda: c.terminate(seq, deadline, sid, version, "POLICY", rng.random() < 0.5)),
        (2, lambda: c.sweep(seq, deadline, some)),
        (12, lambda: c.renew_lease(seq, deadline)),
        (
            1,
            lambda: c.configure(
                seq, deadline, {"freeze_timeout_ms": rng.randrange(1, 9_000), "sessions_max": SESSIONS_MAX}
            ),
        ),
    )
    return rng.choices([build for _, build in ops], [weight for weight, _ in ops])[0]()


def random_placement_op(rng: random.Random, seq: int, machine: Machine) -> bytes:
    """Some op of the sticky strategy for node a alone in its log, most often one that could be granted."""
    far, place = 2**50, machine.placement
    epoch = 0 if place is None else place.mapping.epoch
    digest = bytes(32) if place is None else place.mapping.digest()
    named = max(0, epoch + rng.choice((0, 0, 0, 0, 0, 0, 1, -1)))
    peer, some = rng.choice("bcd"), sorted(rng.sample("abcd", rng.randrange(3)))
    known = list(machine.sessions.values())
    record = rng.choice(known) if known else None
    sid = rng.choice((f"s{rng.randrange(40)}", record.session_id if record else "s", *list(machine.departed)[-1:]))
    record = machine.sessions.get(sid)
    version = record.state_version if record else machine.departed.get(sid, (3, 0))[0]
    version = max(1, version + rng.choice((0, 0, 0, 0, 2, -1)))
    ttl, policy = rng.choice((5_000, 600_000)), rng.choice(c.POLICIES)
    nodes = [("a", 1, False), *((node, rng.randrange(3), rng.random() < 0.2) for node in some if node != "a")]
    lost = [node for node in "bcd" if node not in some and rng.random() < 0.02]
    times = (rng.randrange(machine.clock_ms + 500), machine.clock_ms + rng.choice((500, 600_000)))
    reason = rng.choice((None, None, "WHY"))
    ops = (
        (1, lambda: c.adopt(seq, far, epoch + rng.choice((0, 1, 1, 1)), nodes, some, lost)),
        (9, lambda: c.confirm(seq, far, peer, named, digest, rng.choice((7,) * 20 + (8,)), some)),
        (5, lambda: c.settle(seq, far, named)),
        (2, lambda: c.close(seq, far, named)),
        (8, lambda: c.create_mapped(seq, far, sid, rng.choice(BINDINGS), ttl, None, named)),
        (8, lambda: c.freeze(seq, far, sid, version, "MAPPING", peer)),
        (8, lambda: c.transfer(seq, far, sid, version)),
        (
            6,
            lambda: c.admit(
                seq, far, sid, named, peer, 1, version + 1, 0, policy, *times, reason, reason and peer, rng.randrange(4)
            ),
        ),
        (4, lambda: c.forget(seq, far, sid, version, record.owner if record else peer, named)),
        (4, lambda: c.reclaim(seq, far, sid, version, named)),
        (30, lambda: random_op(rng, "a", seq, machine)),
    )
    return rng.choices([build for _, build in ops], [weight for weight, _ in ops])[0]()


class Maker:
    """Makes random entries one by one, each with an eye on the machine that the earlier ones led to."""

    nodes = "abc"

    def __init__(self, rng: random.Random, machine: Machine) -> None:
        self.rng, self.machine, self.stamp_ms = rng, machine, 1_000
        self.incs, self.seqs, self.ops = dict.fromkeys("abc", 1), dict.fromkeys("abc", 0), 0

    def entry(self) -> bytes:
        rng = self.rng
        self.stamp_ms += rng.choice((0, 0, 1, 10, 20, 300))
        groups = []
        for node in self.nodes:
            ops = []
            if rng.random() < 0.01:
                self.incs[node], self.seqs[node] = self.incs[node] + 1, 0
            for _ in range(rng.randrange(6)):
                self.seqs[node] += 1
                ops.append(self.op(node, self.seqs[node]))
                if rng.random() < 0.05:
                    ops.append(ops[-1])
            inc = self.incs[node] - (rng.random() < 0.01)
            groups.append((node, inc, max(0, self.seqs[node] - 20), ops))
            self.ops += len(ops)
        jump = rng.randrange(5_000) if rng.random() < 0.01 else None
        return batches.encode_batch(self.stamp_ms, self.stamp_ms * 2, jump, groups)

    def op(self, node: str, seq: int) -> bytes:
        if seq == 1:
            return c.join(1, 2**50)
        if self.rng.random() < 0.004:
            return self.rng.choice((c.drain, c.leave, c.join))(seq, 2**50)
        return random_op(self.rng, node, seq, self.machine)


class SoloMaker(Maker):
    """Entries of node a alone in its log, as the sticky strategy has it."""

    nodes = "a"

    def op(self, node: str, seq: int) -> bytes:
        return random_placement_op(self.rng, seq, self.machine) if seq > 1 else super().op(node, seq)


def entries(seed: int, ops: int, machine: Machine, kind: type[Maker] = Maker) -> list[bytes]:
    """A random history of `ops` ops, driven through `machine` while it is made."""
    maker, history = kind(random.Random(seed), machine), []
    while maker.ops < ops:
        history.append(maker.entry())
        machine.apply(len(history), 1, history[-1])
    return history


def transcript(seed: int, kind: type[Maker] = Maker) -> str:
    """State digest, chain head, and a digest of all results and audit bytes of one random history."""
    maker, machine, told = Machine(), Machine(), hashlib.sha256()
    for index, data in enumerate(entries(seed, OPS, maker, kind), 1):
        applied = machine.apply(index, 1, data)
        told.update(repr(applied).encode())
        told.update(applied.events_packed)
    assert machine.state_digest() == maker.state_digest()
    granted = sum(record.state_version for record in machine.sessions.values())
    return f"{machine.state_digest().hex()} {machine.head.hex()} {told.hexdigest()} {granted}"


def test_equal_input_gives_equal_bytes_in_every_process():
    """Ten thousand random ops: the same state, results and audit bytes whatever the hash seed of the process."""
    code = f"import sys; sys.path.insert(0, {str(Path(raftstore.__file__).parent.parent)!r})\n"
    code += Path(__file__).read_text().replace("from __future__ import annotations", "")
    code += "\nprint(transcript(7), transcript(7, SoloMaker))\n"
    told = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        told.add(done.stdout)
    assert len(told) == 1
    words = told.pop().split()
    assert (int(words[3]) > 500, int(words[7]) > 200) == (True, True)


def test_a_random_history_meets_every_outcome():
    """The histories of these tests are worth something: they reach every answer, and keep every invariant."""
    machine, seen = Machine(), set()
    for index, data in enumerate(entries(1, OPS, Machine()), 1):
        applied = machine.apply(index, 1, data)
        seen |= {REASONS[code] for _, _, results in applied.groups for _, (code, _) in results}
    assert invariants.check(machine) == []
    assert seen == set(REASONS) - {Reason.MALFORMED}


def test_a_random_history_of_a_node_alone_meets_every_outcome_of_every_op():
    """Sessions come, go, are taken back and come home; each op of the sticky strategy is granted and refused."""
    machine, seen, index = Machine(), set(), 0
    for seed in range(5):
        machine, index = Machine(), 0
        for index, data in enumerate(entries(seed, OPS // 2, Machine(), SoloMaker), 1):
            applied = machine.apply(index, 1, data)
            seen |= {(event[7], event[15] if event[4] == REFUSED else "OK") for event in applied.events}
        assert invariants.check(machine) == []
        twin = restore(list(machine.freeze_state().chunks()))
        assert (twin.state_digest(), twin.departed) == (machine.state_digest(), machine.departed)
    for kind in range(c.ADOPT, c.RECLAIM + 1):
        assert kind not in c.OP_NAMES or (kind, "OK") in seen, c.OP_NAMES[kind]
    refusals = {
        c.ADOPT: ("VERSION_MISMATCH",),
        c.CONFIRM: ("VERSION_MISMATCH", "NODE_FENCED"),
        c.SETTLE: ("VERSION_MISMATCH", "INVALID_TRANSITION"),
        c.CLOSE: ("VERSION_MISMATCH", "INVALID_TRANSITION"),
        c.CREATE_MAPPED: ("OWNERSHIP_CONFLICT", "SESSION_EXISTS", "SESSION_EXPIRED", "SESSION_TERMINATED"),
        c.ADMIT: ("OWNERSHIP_CONFLICT", "INVALID_TRANSITION"),
        c.FORGET: ("SESSION_NOT_FOUND", "VERSION_MISMATCH", "INVALID_TRANSITION"),
        c.RECLAIM: ("SESSION_NOT_FOUND", "VERSION_MISMATCH", "INVALID_TRANSITION"),
    }
    assert {(kind, reason) for kind, reasons in refusals.items() for reason in reasons} <= seen


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with something wrong: flipped, cut, doubled, or replaced by foreign values."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place:place] = rng.choice(FOREIGN)
        elif kind == 2:
            del changed[place : place + rng.randrange(4)]
        elif kind == 3 and place < len(changed):
            changed[place] = rng.randrange(256)
        else:
            changed[place:place] = changed[: rng.randrange(20)]
    return bytes(changed)


@pytest.mark.timeout(120 + FUZZ_STRINGS // 1_000)
@pytest.mark.parametrize("kind", [Maker, SoloMaker])
def test_whatever_the_bytes_apply_answers_and_the_table_alone_changes_sessions(kind):
    """Mutated and random entries: never an exception, never a change that is not one step of the table."""
    understood = transitions = 0
    strings = FUZZ_STRINGS // (1 if kind is Maker else 4)
    for round_ in range(strings // FUZZ_ROUND):
        machine, rng = Machine(), random.Random(round_)
        maker = kind(rng, machine)
        for index in range(1, 30):
            machine.apply(index, 1, maker.entry())
        known = dict(machine.sessions)
        for index in range(30, 30 + FUZZ_ROUND):
            if index % 4 == 2:
                data = valid = maker.entry()
                maker.stamp_ms = min(machine.clock_ms, 2**52)
            else:
                data = rng.randbytes(rng.randrange(40)) if index % 4 == 3 else mutated(rng, valid)
            applied = apply_checked(machine, index, data, known)
            understood += bool(applied.groups)
            transitions += len(applied.changed)
        assert known == machine.sessions
        assert invariants.check(machine) == []
    assert understood > strings // 4
    assert transitions > strings // (20 if kind is Maker else 40)


def apply_checked(machine: Machine, index: int, data: bytes, known: dict[str, SessionRecord]) -> Applied:
    """Apply, and hold every change against the rules for one step."""
    clock_ms, event_seq = machine.clock_ms, machine.event_seq
    applied = machine.apply(index, 1, data)
    assert machine.clock_ms >= clock_ms
    assert machine.event_seq == event_seq + len(applied.events)
    changed = iter(applied.changed)
    for event in applied.events:
        if event[4] == SESSION_HANDED_OVER:
            old = known.pop(event[5])
            assert machine.placement is not None
            assert old.state == 4 or old.owner == event[12] != event[6]
        elif event[4] != REFUSED and event[5] is not None:
            record = next(changed)
            old = known.get(record.session_id)
            if event[4] == SESSION_ADMITTED:
                assert machine.placement is not None
                assert old is None or (old.owner not in machine.nodes and old.state_version < record.state_version)
            else:
                assert invariants.check_change(old, record) == []
            known[record.session_id] = record
    assert next(changed, None) is None
    for event in applied.events:
        kind, from_state, to_state = event[7], event[10], event[11]
        if kind in TABLE and event[4] != REFUSED:
            assert from_state in TABLE[kind].from_states
            assert to_state in (TABLE[kind].to_states or (from_state,))
    return applied
