"""Reading a node's own audit files while its writer goes on.

Shows only what is durable: a line that a failure takes back was never seen by anyone. Finds its place by
bisecting a file, because a follower asks again and again for the last few lines of a large one. Checks
nothing: that is the verifier's work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from raftstore.node.audit_lines import GAP_EVENT, LINE_BYTES_MAX, Line, first_of, list_files, parse_line

BISECT_BYTES_MIN = 1 << 14  # a stretch this short is read line by line


def read_events(directory: Path, after: int, up_to: int) -> Iterator[Line]:
    """Events and gaps with numbers above `after`, not above `up_to`, in order.

    Events whose files were removed for their age show as one gap. OSError when the disk fails.
    """
    files = list_files(directory) if after < up_to else []
    starts = [at for at, path in enumerate(files) if first_of(path) <= after + 1]
    for path in files[starts[-1] if starts else 0 :]:
        if first_of(path) > after + 1:
            yield _removed(after + 1, first_of(path) - 1)
            after = first_of(path) - 1
        try:
            file = path.open("rb")
        except FileNotFoundError:  # removed for its age since the listing; the next file says what is missing
            continue
        with file:
            for fields in _events_after(file, after):
                number = fields["number"]
                if number > up_to:
                    return
                if number > after:
                    yield fields
                    after = number


def _removed(first: int, last: int) -> Line:
    return {"event": GAP_EVENT, "from": first, "to": last, "reason": "FILE_REMOVED", "number": last}


def _events_after(file: BinaryIO, after: int) -> Iterator[Line]:
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > BISECT_BYTES_MIN:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline(LINE_BYTES_MAX)  # the rest of a line that begins before the middle
        begins = file.tell()
        fields = _event(file.readline(LINE_BYTES_MAX))
        if fields is not None and fields["number"] <= after:
            low = begins
        else:
            high = middle
    file.seek(low)
    while line := file.readline(LINE_BYTES_MAX):
        fields = _event(line)
        if fields is not None:
            yield fields


def _event(line: bytes) -> Line | None:
    """An event or gap with its `number`; None for a header, and for a line that is not whole."""
    fields = parse_line(line)
    if fields is None or "event" not in fields:
        return None
    if fields["event"] == GAP_EVENT:
        fields.pop("crc", None)
        fields["number"] = fields.get("to")
    return fields if type(fields.get("number")) is int else None
