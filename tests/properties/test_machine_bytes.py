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
from raftstore.ownership import REASONS, Applied, Machine, SessionRecord, invariants
from raftstore.ownership import commands as c
from raftstore.ownership.events import REFUSED
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


class Maker:
    """Makes random entries one by one, each with an eye on the machine that the earlier ones led to."""

    def __init__(self, rng: random.Random, machine: Machine) -> None:
        self.rng, self.machine, self.stamp_ms = rng, machine, 1_000
        self.incs, self.seqs, self.ops = dict.fromkeys("abc", 1), dict.fromkeys("abc", 0), 0

    def entry(self) -> bytes:
        rng = self.rng
        self.stamp_ms += rng.choice((0, 0, 1, 10, 20, 300))
        groups = []
        for node in "abc":
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
        return c.encode_batch(self.stamp_ms, self.stamp_ms * 2, jump, groups)

    def op(self, node: str, seq: int) -> bytes:
        if seq == 1:
            return c.join(1, 2**50)
        if self.rng.random() < 0.004:
            return self.rng.choice((c.drain, c.leave, c.join))(seq, 2**50)
        return random_op(self.rng, node, seq, self.machine)


def entries(seed: int, ops: int, machine: Machine) -> list[bytes]:
    """A random history of `ops` ops, driven through `machine` while it is made."""
    maker, history = Maker(random.Random(seed), machine), []
    while maker.ops < ops:
        history.append(maker.entry())
        machine.apply(len(history), 1, history[-1])
    return history


def transcript(seed: int) -> str:
    """State digest, chain head, and a digest of all results and audit bytes of one random history."""
    maker, machine, told = Machine(), Machine(), hashlib.sha256()
    for index, data in enumerate(entries(seed, OPS, maker), 1):
        applied = machine.apply(index, 1, data)
        told.update(repr(applied).encode())
        told.update(applied.events_packed)
    assert machine.state_digest() == maker.state_digest()
    granted = sum(record.state_version for record in machine.sessions.values())
    return f"{machine.state_digest().hex()} {machine.head.hex()} {told.hexdigest()} {granted}"


def test_equal_input_gives_equal_bytes_in_every_process():
    """Ten thousand random ops: the same state, results and audit bytes whatever the hash seed of the process."""
    code = f"import sys; sys.path.insert(0, {str(Path(raftstore.__file__).parent.parent)!r})\n"
    code += Path(__file__).read_text().replace("from __future__ import annotations", "") + "\nprint(transcript(7))\n"
    told = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        told.add(done.stdout)
    assert len(told) == 1
    assert int(told.pop().split()[-1]) > 500


def test_a_random_history_meets_every_outcome():
    """The histories of these tests are worth something: they reach every answer, and keep every invariant."""
    machine, seen = Machine(), set()
    for index, data in enumerate(entries(1, OPS, Machine()), 1):
        applied = machine.apply(index, 1, data)
        seen |= {REASONS[code] for _, _, results in applied.groups for _, (code, _) in results}
    assert invariants.check(machine) == []
    assert seen == set(REASONS) - {Reason.MALFORMED}


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
def test_whatever_the_bytes_apply_answers_and_the_table_alone_changes_sessions():
    """Mutated and random entries: never an exception, never a change that is not one step of the table."""
    understood = transitions = 0
    for round_ in range(FUZZ_STRINGS // FUZZ_ROUND):
        machine, rng = Machine(), random.Random(round_)
        maker = Maker(rng, machine)
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
    assert understood > FUZZ_STRINGS // 4
    assert transitions > FUZZ_STRINGS // 20


def apply_checked(machine: Machine, index: int, data: bytes, known: dict[str, SessionRecord]) -> Applied:
    """Apply, and hold every change against the rules for one step."""
    clock_ms, event_seq = machine.clock_ms, machine.event_seq
    applied = machine.apply(index, 1, data)
    assert machine.clock_ms >= clock_ms
    assert machine.event_seq == event_seq + len(applied.events)
    for record in applied.changed:
        assert invariants.check_change(known.get(record.session_id), record) == []
        known[record.session_id] = record
    for event in applied.events:
        kind, from_state, to_state = event[7], event[10], event[11]
        if kind in TABLE and event[4] != REFUSED:
            assert from_state in TABLE[kind].from_states
            assert to_state in (TABLE[kind].to_states or (from_state,))
    return applied
