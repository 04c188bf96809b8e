"""Writes the report of a run beside its history: plots, ownership.html, index.html."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jepsen_like.report import index_page, ownership_page, plots, timeline
from jepsen_like.report.material import Material, read

LANES_PAGE = "ownership.html"
INDEX_PAGE = "index.html"


def write_report(directory: Path) -> None:
    """Read a run's directory and write its pages there, over those of before.

    Missing or damaged pieces are named on the pages. OSError when the directory cannot be written.
    """
    material = read(directory)
    drawn = plots.write(material, directory)
    with_lanes = _wrote_lanes(material)
    _put(directory / INDEX_PAGE, lambda: index_page.render(material, drawn, with_lanes=with_lanes))


def _wrote_lanes(material: Material) -> bool:
    """Whether there is a page of lanes. A history too odd to draw must not cost its verdict's page."""
    path = material.directory / LANES_PAGE
    try:
        text = ownership_page.render(timeline.build(material))
    except Exception as problem:
        material.missing.append(f"{LANES_PAGE} could not be made: {type(problem).__name__}: {problem}")
        path.unlink(missing_ok=True)
        return False
    _put(path, lambda: text)
    return True


def _put(path: Path, text: Callable[[], str]) -> None:
    """Whole or not at all: somebody may be looking at the page of before."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text(), encoding="utf-8")
    fresh.replace(path)


__all__ = ["INDEX_PAGE", "LANES_PAGE", "write_report"]
