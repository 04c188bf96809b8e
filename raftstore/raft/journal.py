"""The log as PySyncObj sees it: a list in memory whose every change is handed to durable storage.

Position 0 always holds the base: the last entry that a snapshot covers (index 0, term 0 in a new log). The list
is what this node would say; `durable_index` is what it may promise. Submits to storage, never waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol, overload

from pysyncobj.journal import Journal

from raftstore.errors import StorageError

Entry = tuple[bytes, int, int]  # (command, index, term), the stock library's own order
ENTRY_OVERHEAD_BYTES = 32  # of an entry in a message or a log record, at most


def entry_bytes(entry: Entry) -> int:
    """What an entry takes in a message: small ones are mostly overhead."""
    return len(entry[0]) + ENTRY_OVERHEAD_BYTES


class LogStorage(Protocol):
    """Where the log becomes durable. Jobs run in the order submitted; each returns a growing number."""

    def append(self, entries: Sequence[Entry]) -> int: ...

    def truncate_from(self, index: int) -> int: ...

    def set_hard_state(self, term: int, voted_for: str | None, voter: bool) -> int: ...


class HardenedJournal(Journal):  # type: ignore[misc]  # the library ships no type information
    """Raft paper, figure 2: the persistent state, with a durable mark of its own."""

    def __init__(
        self,
        storage: LogStorage,
        *,
        base_index: int = 0,
        base_term: int = 0,
        entries: Sequence[Entry] = (),
        term: int = 0,
        voted_for: str | None = None,
        voter: bool = True,
    ) -> None:
        self._storage = storage
        self._log: list[Entry] = [(b"\x01", base_index, base_term), *entries]
        self._term = term
        self._voted_for = voted_for
        self.voter = voter
        self.durable_index = self._log[-1][1]  # what recovery returned is on disk
        self._unsubmitted: list[Entry] = []
        self._waiting: deque[tuple[int, int]] = deque()  # (job number, last index it makes durable)
        self.submitted = 0  # number of the last job
        self.hard_state_job = 0  # number of the last job that stored term or vote

    # --- reading -------------------------------------------------------------------------------------
    @property
    def base_index(self) -> int:
        return self._log[0][1]

    @property
    def base_term(self) -> int:
        return self._log[0][2]

    @property
    def last_index(self) -> int:
        return self._log[-1][1]

    @property
    def last_term(self) -> int:
        return self._log[-1][2]

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None when it is before the base or beyond the end."""
        position = index - self._log[0][1]
        if 0 <= position < len(self._log):
            return self._log[position][2]
        return None

    def entries_from(self, index: int, bytes_max: int) -> list[Entry]:
        """Entries from `index` on (above the base): at least one where there is one, then up to `bytes_max`."""
        position = index - self._log[0][1]
        if position < 1:
            raise IndexError(f"entry {index} is at or before the base {self.base_index}")
        total, end = 0, position
        log = self._log
        while end < len(log):
            total += entry_bytes(log[end])
            if total > bytes_max and end > position:
                break
            end += 1
        return log[position:end]

    def base_that_keeps(self, last: int, entries_max: int, bytes_max: int) -> int:
        """The base under which the newest entries up to `last` stay, as many as fit both bounds.

        The present base when `last` lies before it: a snapshot was installed while an own one was being written.
        """
        position = max(0, last - self._log[0][1])
        lowest, total = max(0, position - entries_max), 0
        while position > lowest:
            total += len(self._log[position][0])
            if total > bytes_max:
                break
            position -= 1
        return self._log[position][1]

    def first_index_of_term_at(self, index: int) -> int:
        """First index held here of the term that stands at `index` (Raft paper, section 5.3, fast backtracking)."""
        term = self.term_at(index)
        position = index - self._log[0][1]
        while position > 1 and self._log[position - 1][2] == term:
            position -= 1
        return self._log[position][1]

    def __len__(self) -> int:
        return len(self._log)

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._log[item]

    # --- writing -------------------------------------------------------------------------------------
    def add(self, command: bytes, idx: int, term: int) -> None:
        if idx != self.last_index + 1:
            raise IndexError(f"entry {idx} does not follow {self.last_index}")
        entry = (command, idx, term)
        self._log.append(entry)
        self._unsubmitted.append(entry)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from list position `entryFrom` on: a conflict, so never a committed entry."""
        if entryFrom < 1 or entryFrom >= len(self._log):
            return
        index = self._log[entryFrom][1]
        self.submit()
        del self._log[entryFrom:]
        self.submitted = self._storage.truncate_from(index)
        self.durable_index = min(self.durable_index, index - 1)
        self._waiting = deque((job, min(last, index - 1)) for job, last in self._waiting)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Forget what a durable snapshot covers: list position `entryTo` becomes the base."""
        if entryTo < 1:
            return
        _, index, term = self._log[entryTo]
        self._log[: entryTo + 1] = [(b"\x01", index, term)]

    def reset(self, base_index: int, base_term: int) -> None:
        """Start again after an installed snapshot; storage has already been told to do the same."""
        self._unsubmitted.clear()
        self._waiting.clear()
        self._log = [(b"\x01", base_index, base_term)]
        self.durable_index = base_index

    def clear(self) -> None:
        """The stock way to throw a whole log away at a restart (H6b). Whoever comes here stops the node."""
        raise StorageError("a log is never thrown away: it is only reset to an installed snapshot")

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        if (term, votedForNodeId) == (self._term, self._voted_for):
            return
        self._term, self._voted_for = term, votedForNodeId
        self._store_hard_state()

    def set_voter(self, voter: bool) -> None:
        self.voter = voter
        self._store_hard_state()

    def _store_hard_state(self) -> None:
        self.submit()
        self.submitted = self.hard_state_job = self._storage.set_hard_state(self._term, self._voted_for, self.voter)

    @property
    def has_unsubmitted(self) -> bool:
        return bool(self._unsubmitted)

    def submit(self) -> int:
        """Hand entries added since the last call to storage as one job; the number of the last job."""
        if self._unsubmitted:
            entries, self._unsubmitted = self._unsubmitted, []
            self.submitted = self._storage.append(entries)
            self._waiting.append((self.submitted, entries[-1][1]))
        return self.submitted

    def mark_durable(self, job: int) -> None:
        """Storage has made every job up to and including `job` durable."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= job:
            self.durable_index = max(self.durable_index, min(waiting.popleft()[1], self.last_index))

    # --- the rest of the stock interface -----------------------------------------------------------------
    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: after a restart the commit index is learnt from the leader (H23)."""

    def getRaftCommitIndex(self) -> int:
        return self.base_index

    def onOneSecondTimer(self) -> None:
        """Nothing is written by a timer: what must be durable is written when it is promised (H5)."""

    def _destroy(self) -> None:
        """Files belong to storage."""
