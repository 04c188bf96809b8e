"""First results of the ops of one node incarnation: what makes a retry return its first result (exactly once).

A node says with every group below which seq everything is answered (`low_seq`); results below it are forgotten, and
an op below it is refused from then on, so a number that was forgotten can never be applied a second time. The same
holds when a node keeps more than REMEMBERED_OPS_MAX ops open: the lower half is closed.
"""

from __future__ import annotations

from raftstore.ownership.records import Result

REMEMBERED_OPS_MAX = 131_072  # results kept per node


class Remembered:
    """Results by seq, none of them below `low_seq`."""

    __slots__ = ("low_seq", "results")

    def __init__(self, low_seq: int = 0, results: dict[int, Result] | None = None) -> None:
        self.low_seq = low_seq
        self.results: dict[int, Result] = {} if results is None else results

    def forget_below(self, low_seq: int) -> None:
        """Everything below is answered. A lower value than before is an old message, and ignored."""
        if low_seq <= self.low_seq:
            return
        results = self.results
        if low_seq - self.low_seq <= len(results):
            for seq in range(self.low_seq, low_seq):
                results.pop(seq, None)
        elif results:
            self.results = {seq: result for seq, result in results.items() if seq >= low_seq}
        self.low_seq = low_seq

    def make_room(self) -> None:
        """Keep the bound. Called before a group is applied; a group adds at most its own ops to it."""
        if len(self.results) > REMEMBERED_OPS_MAX:
            self.forget_below(sorted(self.results)[len(self.results) // 2])

    def copy(self) -> Remembered:
        """A copy that later ops do not touch."""
        return Remembered(self.low_seq, self.results.copy())
