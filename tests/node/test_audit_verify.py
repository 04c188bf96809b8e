"""The auditor's tool: every kind of tampering is named, and nodes that differ are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftstore.node.audit import AuditTrail, Pace
from raftstore.node.audit_lines import list_files
from raftstore.node.audit_verify import compare, verify_files
from raftstore.ownership.events import DETACHED, GENESIS_HEAD, chain_next, pack_events


def write_trail(
    directory: Path,
    *,
    node: str = "vpn-1",
    cluster: str = "office",
    batches: int = 8,
    changed_at: int = 0,
    skipped: range = range(0),
    file_bytes_max: int = 2000,
    files_max: int = 100,
) -> list[Path]:
    """The trail of a node; from batch `changed_at` on its replica holds something else; `skipped` is a gap."""
    trail = AuditTrail(
        directory,
        cluster=cluster,
        node_id=node,
        file_bytes_max=file_bytes_max,
        files_max=files_max,
        backlog_events_max=10_000,
        on_trouble=lambda kind, detail: None,
        pace=Pace(0.0, 0.0, 0.0, 0.0),
    )
    trail.open(start_writer=False)
    head = GENESIS_HEAD
    for k in range(1, batches + 1):
        reason = "NO_DELIVERX" if k == changed_at else "NO_DELIVERY"
        events = [
            (
                n,
                k,
                10 * k,
                1_700_000_000_000 + k,
                DETACHED,
                f"s{n}",
                "vpn-1",
                3,
                5,
                n,
                1,
                2,
                "vpn-1",
                1,
                n,
                reason,
                None,
            )
            for n in (2 * k - 1, 2 * k)
        ]
        head = chain_next(head, k, pack_events(events))
        if k not in skipped:
            trail.append(k, 2 * k - 1, events, head)
        elif k + 1 not in skipped:
            trail.skip_to(2 * k, k, head)
    trail.close(1.0)
    return list_files(directory)


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    """Whatever single byte of a file is another, in header, event, gap or head, the verifier names the file."""
    (path,) = write_trail(tmp_path / "a", batches=4, skipped=range(2, 3), file_bytes_max=1 << 20)
    content = path.read_bytes()
    assert not verify_files([path]).problems
    for at in range(len(content) - 1):  # without the very last newline: that is a torn end, below
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        problems = verify_files([path]).problems
        assert problems and path.name in problems[0], at


def test_removed_swapped_and_doubled_lines_are_found(tmp_path: Path) -> None:
    """Every line but the last batch's, taken out, exchanged with the next or written twice, is a problem."""
    (path,) = write_trail(tmp_path / "a", batches=6, skipped=range(3, 4), file_bytes_max=1 << 20)
    lines = path.read_bytes().splitlines(keepends=True)
    for at in range(len(lines) - 2):
        for other in (
            lines[:at] + lines[at + 1 :],
            lines[:at] + [lines[at + 1], lines[at]] + lines[at + 2 :],
            lines[:at] + [lines[at]] + lines[at:],
        ):
            path.write_bytes(b"".join(other))
            assert verify_files([path]).problems, at


def test_a_problem_names_file_and_line(tmp_path: Path) -> None:
    """A person finds the damaged line, and one damage is not told a hundred times."""
    first, second, *_ = files = write_trail(tmp_path / "a", batches=20)
    second.write_bytes(second.read_bytes().replace(b"NO_DELIVERY", b"NO_DELIVERX", 1))
    problems = verify_files(files).problems
    assert problems == [f"{second.name}:3: the chain head does not follow from the previous one and the events"]
    assert not verify_files([first]).problems


def test_a_missing_or_foreign_file_is_found(tmp_path: Path) -> None:
    """Files must follow each other, and be of one node."""
    files = write_trail(tmp_path / "a", batches=20)
    assert len(files) > 3
    (problem, *_) = verify_files(files[:1] + files[2:]).problems
    assert problem.startswith(f"{files[2].name}:1: the file begins at event")
    foreign = write_trail(tmp_path / "b", batches=20, node="vpn-2")
    assert any("vpn-2" in problem for problem in verify_files(files[:1] + foreign[1:]).problems)
    other = write_trail(tmp_path / "c", batches=20, changed_at=1)
    assert [path.name for path in other] == [path.name for path in files]
    problems = verify_files([files[0], *other[1:]]).problems
    assert problems == [
        f"{other[1].name}:1: the chain head in the header is not the one that the previous file ends with"
    ]


def test_only_the_newest_file_may_end_torn(tmp_path: Path) -> None:
    """A crash tears the end of the newest file; anywhere else it is damage."""
    files = write_trail(tmp_path / "a", batches=20)
    whole = verify_files(files)
    for path in (files[0], files[-1]):
        content = path.read_bytes()
        for cut in (1, 10, 400):
            path.write_bytes(content[:-cut])
            report = verify_files(files)
            assert bool(report.problems) == (path is files[0])
            if path is files[-1]:
                assert report.unfinished
                assert report.last < whole.last
        path.write_bytes(content)


def test_no_files_are_no_problem(tmp_path: Path) -> None:
    """Nothing is sound, and says that it is nothing."""
    report = verify_files([])
    assert (report.problems, report.first, report.last) == ([], 0, 0)


@pytest.mark.parametrize(
    "garbage", [b"", b"\n", b"[" * 100_000 + b"\n", b"\xff\x00\n", b'{"event":1}\n', b"1" * 3_000_000]
)
def test_garbage_never_raises(tmp_path: Path, garbage: bytes) -> None:
    """The verifier answers with a report, whatever a file holds."""
    (path,) = write_trail(tmp_path / "a", batches=2, file_bytes_max=1 << 20)
    content = path.read_bytes()
    for where in (0, content.index(b"\n") + 1):
        path.write_bytes(content[:where] + garbage + content[where:])
        assert bool(verify_files([path]).problems) == bool(garbage)


def test_nodes_that_agree_compare_equal(tmp_path: Path) -> None:
    """Different rotation, removed files, a lag and a gap are no difference."""
    reports = [
        verify_files(write_trail(tmp_path / "a", batches=30)),
        verify_files(write_trail(tmp_path / "b", node="vpn-2", batches=24, file_bytes_max=5000)),
        verify_files(write_trail(tmp_path / "c", node="vpn-3", batches=30, file_bytes_max=1300, files_max=8)),
        verify_files(write_trail(tmp_path / "d", node="vpn-4", batches=30, skipped=range(5, 25))),
    ]
    assert not any(report.problems for report in reports)
    assert compare(reports) == []


def test_a_divergence_is_found_where_it_begins(tmp_path: Path) -> None:
    """Two sound trails that tell different histories are told apart at the first event that differs."""
    reports = [
        verify_files(write_trail(tmp_path / "a", batches=30)),
        verify_files(write_trail(tmp_path / "b", node="vpn-2", batches=20, changed_at=17)),
    ]
    assert not any(report.problems for report in reports)
    assert compare(reports) == ["vpn-1 and vpn-2 differ after event 34 (log index 17 and 17)"]


def test_trails_that_share_nothing_prove_nothing(tmp_path: Path) -> None:
    """Where no batch is in both, or the clusters differ, the comparison says so instead of calling them equal."""
    early = verify_files(write_trail(tmp_path / "a", batches=3))
    late = verify_files(write_trail(tmp_path / "b", node="vpn-2", batches=30, file_bytes_max=900, files_max=2))
    other = verify_files(write_trail(tmp_path / "c", node="vpn-3", cluster="lab"))
    assert compare([early, late]) == ["vpn-1 and vpn-2 share no batch: nothing can be compared"]
    assert compare([early, other]) == ["vpn-1 is of cluster office, vpn-3 of lab"]
