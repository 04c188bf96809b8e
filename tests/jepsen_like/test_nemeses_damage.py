"""Damage to files at rest."""

from __future__ import annotations

from pathlib import Path

from jepsen_like.nemeses.disk import damage, written_bytes


def _data(directory: Path) -> Path:
    (directory / "wal").mkdir()
    path = directory / "wal" / "0001-0001.wal"
    path.write_bytes(bytes(range(1, 256)) * 80 + bytes(100_000))
    (directory / "identity").write_bytes(b"n1" * 10_000)
    return path


def test_a_flip_changes_one_bit_of_what_was_written(tmp_path: Path) -> None:
    """One bit of the log differs afterwards, never in the zeros behind it, and no other file is touched."""
    path = _data(tmp_path)
    before = path.read_bytes()
    assert damage(tmp_path, "flip", 0.99, 0.99) is not None
    after = path.read_bytes()
    differing = [i for i in range(len(before)) if before[i] != after[i]]
    assert len(differing) == 1 and differing[0] < 255 * 80
    assert (before[differing[0]] ^ after[differing[0]]).bit_count() == 1
    assert (tmp_path / "identity").read_bytes() == b"n1" * 10_000


def test_a_truncated_log_loses_what_was_written(tmp_path: Path) -> None:
    """The file ends within what was written."""
    path = _data(tmp_path)
    damage(tmp_path, "truncate", 0.0, 0.5)
    assert 0 < path.stat().st_size < 255 * 80


def test_without_a_file_worth_damaging_nothing_happens(tmp_path: Path) -> None:
    """A node that has written nothing yet is left alone."""
    (tmp_path / "short.wal").write_bytes(b"x")
    assert damage(tmp_path, "flip", 0.0, 0.0) is None


def test_what_is_written_ends_before_the_zeros(tmp_path: Path) -> None:
    """A log segment is made in full size: zeros at its end are not content."""
    assert written_bytes(_data(tmp_path)) == 255 * 80
