"""One picture of a run: transitions per second by callers, and how latencies of a single caller are spread.

matplotlib is an extra: without it nothing is drawn, and the answer says how to get it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepsen_like.bench.histogram import Histogram, merged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOW_TO_GET = "pip install 'raftstore[bench]'"
SIZE_INCHES = (13.0, 5.0)
DPI = 110
COLOURS = ("#2166ac", "#67a9cf", "#d6604d", "#f4a582", "#4d9221", "#7f7f7f", "#9467bd", "#e6a700")
SINGLE = "transition/1/leader"
NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)


def write(result: Mapping[str, Any], path: Path) -> str:
    """Draw it; empty, or why it could not be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        return f"matplotlib is not installed; to get it: {HOW_TO_GET}"
    if not any(entry["case"].startswith("transition/") for entry in result["summary"]):
        return "no transitions were measured"
    try:
        _figure(result, path)
    except Exception as problem:  # whatever a drawing library does, the table must be told
        return f"could not be drawn: {type(problem).__name__}: {problem}"
    return ""


def _figure(result: Mapping[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    peers = list(dict.fromkeys(entry["peer"] for entry in result["summary"]))
    colours = dict(zip(peers, COLOURS * len(peers), strict=False))
    _rates(left, result["summary"], colours)
    _latencies(right, result["rows"], colours)
    for axes in (left, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(colours), frameon=False)
    figure.savefig(path)


def _rates(axes: Axes, entries: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    """Bars by case; logarithmic, because peers differ by powers of ten."""
    chosen = [entry for entry in entries if entry["case"].startswith("transition/")]
    cases = list(dict.fromkeys(entry["case"] for entry in chosen))
    width = 0.8 / len(colours)
    for number, (peer, colour) in enumerate(colours.items()):
        mine = {entry["case"]: entry["per_second"] for entry in chosen if entry["peer"] == peer}
        places = [at + number * width - 0.4 + width / 2 for at, case in enumerate(cases) if mine.get(case)]
        axes.bar(places, [mine[case] for case in cases if mine.get(case)], width, color=colour, label=peer)
    axes.set_xticks(range(len(cases)), [case.removeprefix("transition/").replace("/", ", ") for case in cases])
    axes.set_yscale("log")
    axes.set_xlabel("callers per node, where")
    axes.set_ylabel("transitions per second")
    axes.set_title("rate, three nodes, median over rounds", fontsize=11)


def _latencies(axes: Axes, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    """Latency over the share of ops that were faster, nines drawn evenly."""
    for peer, colour in colours.items():
        mine = [Histogram.from_json(row["latency"]) for row in rows if (row["peer"], row["case"]) == (peer, SINGLE)]
        latency = merged(mine)
        if latency.total:
            shares = [1 - 10 ** (-step / 20) for step in range(81) if 10 ** (-step / 20) * latency.total >= 1]
            values = [(latency.quantile_ns(share) or 0) / 1e6 for share in shares]
            axes.plot([1 / (1 - share) for share in shares], values, color=colour, lw=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (1 - nine) for nine in NINES], [f"{nine * 100:g}%" for nine in NINES])
    axes.set_xlabel("share of transitions that were faster")
    axes.set_ylabel("latency, ms")
    axes.set_title("one caller, on the leader's node", fontsize=11)
