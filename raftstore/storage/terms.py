"""Which term stands at which index, for a whole log in a few numbers.

Terms only grow along a log, so the log is a short row of runs. The log needs it to check what is appended and to tell
whether an installed snapshot is part of it, without keeping the entries themselves.
"""

from __future__ import annotations

from bisect import bisect_right


class TermRuns:
    """The terms of the entries `base_index + 1` to `last_index`, and of the base itself where it is known."""

    def __init__(self, base_index: int, base_term: int | None) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self.last_index = base_index
        self._firsts: list[int] = []
        self._terms: list[int] = []

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 where it is not known."""
        return self._terms[-1] if self._terms else self.base_term or 0

    def at(self, index: int) -> int | None:
        """Term of the entry at `index`; None when the log does not reach it or does not know."""
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            return None
        return self._terms[bisect_right(self._firsts, index) - 1]

    def problem_with(self, index: int, term: int) -> str | None:
        """Why an entry cannot come next; None when it can."""
        if index != self.last_index + 1:
            return f"entry {index} does not follow entry {self.last_index}"
        if term < self.last_term:
            return f"entry {index} has term {term}, the one before has {self.last_term}"
        return None

    def append(self, index: int, term: int) -> None:
        """The entry comes next; the caller has asked `problem_with`."""
        if not self._terms or self._terms[-1] != term:
            self._firsts.append(index)
            self._terms.append(term)
        self.last_index = index

    def truncate_from(self, index: int) -> None:
        """Forget the entries from `index` on. Below the base, the log goes on from there with an unknown base term."""
        if index <= self.base_index:
            self.base_index = self.last_index = index - 1
            self.base_term = None
            self._firsts.clear()
            self._terms.clear()
            return
        while self._firsts and self._firsts[-1] >= index:
            self._firsts.pop()
            self._terms.pop()
        self.last_index = min(self.last_index, index - 1)

    def forget_through(self, index: int) -> None:
        """Make the entry at `index` the base, where that is further on than the base is now."""
        index = min(index, self.last_index)
        if index <= self.base_index:
            return
        self.base_index, self.base_term = index, self.at(index)
        keep = bisect_right(self._firsts, index + 1) - 1 if index < self.last_index else len(self._firsts)
        del self._firsts[:keep], self._terms[:keep]
