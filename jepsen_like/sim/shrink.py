"""A failing plan made smaller while it still fails: fewer kinds of faults, then fewer faults, then fewer ops.

Each fault and op keeps its own source of chance, so what is left out leaves the others as they were. A smaller plan may
fail for another reason than the first: any failure found by the same checker counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from jepsen_like.sim.plan import Moment, Plan

Fails = Callable[[Plan], bool]


def shrink(plan: Plan, fails: Fails) -> Plan:
    """The smallest plan that was found; `plan` itself fails."""
    for kind in plan.fault_kinds:
        fewer = replace(plan, faults=tuple(fault for fault in plan.faults if fault.kind != kind))
        if fails(fewer):
            plan = fewer
    plan = replace(plan, faults=_smaller(plan.faults, lambda kept: fails(replace(plan, faults=kept))))
    return replace(plan, ops=_smaller(plan.ops, lambda kept: fails(replace(plan, ops=kept))))


def _smaller(moments: tuple[Moment, ...], fails: Callable[[tuple[Moment, ...]], bool]) -> tuple[Moment, ...]:
    """Leave out halves, quarters, eighths ... of what is left, as long as it goes on failing."""
    parts = 2
    while moments and parts <= 2 * len(moments):
        size = max(1, len(moments) // parts)
        for start in range(0, len(moments), size):
            kept = moments[:start] + moments[start + size :]
            if fails(kept):
                moments = kept
                break
        else:
            if size == 1:
                break
            parts *= 2
    return moments


def describe(plan: Plan) -> Sequence[str]:
    """The plan in lines for people."""
    lines = [f"{plan.size} nodes, {len(plan.ops)} ops, faults:"]
    lines += [f"  {fault.at_ms:>8} ms  {fault.kind}" for fault in plan.faults]
    if len(plan.ops) <= 20:
        lines += [f"  {op.at_ms:>8} ms  op" for op in plan.ops]
    return lines
