"""Three pictures of a run: every op's latency, its quantiles, ops per second; faults as shaded bands behind them.

matplotlib is an extra: without it nothing is drawn, and the report says how to get it. Figures are made without its
global state, on a canvas that needs no display.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepsen_like.checkers.availability import Fault
from jepsen_like.report import series
from jepsen_like.report.material import Material

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOW_TO_GET = "pip install 'raftstore[jepsen]'"
NS = 1_000_000_000
SIZE_INCHES = (11.0, 5.0)
DPI = 110
COLOURS = {"ok": "#2166ac", "fail": "#d6604d", "info": "#e6a700"}
WORDS = {"ok": "ok", "fail": "refused", "info": "unknown"}
SHAPES = "o^svDPX*<>ph8d"
BANDS = ("#7f7f7f", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#e377c2", "#2ca02c", "#ff7f0e", "#1f77b4", "#d62728")
HATCHES = ("", "///", "\\\\\\", "...", "xxx", "---", "|||", "+++", "ooo", "//..")
LINES = {0.5: ("p50", "-"), 0.95: ("p95", "--"), 0.99: ("p99", "-."), 1.0: ("max", ":")}


def write(material: Material, directory: Path) -> dict[str, str]:
    """Draw what can be drawn. By file name: empty, or why there is no such picture."""
    if importlib.util.find_spec("matplotlib") is None:
        return dict.fromkeys(PLOTS, f"matplotlib is not installed; to get it: {HOW_TO_GET}")
    if not any(op.completion is not None for op in material.ops):
        return dict.fromkeys(PLOTS, "no op of this run was ever answered")
    told = {}
    for name, draw in PLOTS.items():
        try:
            _figure(material, draw, directory / name)
            told[name] = ""
        except Exception as problem:  # whatever a drawing library does, the verdict's page must be written
            told[name] = f"could not be drawn: {type(problem).__name__}: {problem}"
    return told


def _figure(material: Material, draw: Callable[[Axes, Material], None], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bands = shade(axes, material.faults, material.end_ns)
    draw(axes, material)
    axes.set_xlim(0, max(material.end_ns / NS, 0.001))
    axes.set_xlabel("seconds since the run began")
    axes.set_title(f"{material.name}: {axes.get_title()}", fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(handles=axes.get_legend_handles_labels()[0], loc="outside right upper", fontsize=8, frameon=False)
    if bands:
        figure.legend(handles=bands, loc="outside right lower", fontsize=8, frameon=False, title="faults")
    figure.savefig(path)


def shade(axes: Axes, faults: Sequence[Fault], end_ns: int) -> list[Any]:
    """A band for each fault; one legend entry for each kind. Kinds differ in colour and in hatching."""
    from matplotlib.patches import Patch

    kinds = sorted({fault.kind for fault in faults})
    looks = {kind: (BANDS[i % len(BANDS)], HATCHES[i % len(HATCHES)]) for i, kind in enumerate(kinds)}
    for fault in faults:
        colour, hatch = looks[fault.kind]
        end = end_ns if fault.end is None else fault.end
        axes.axvspan(
            fault.begin / NS, end / NS, facecolor=(colour, 0.13), edgecolor=(colour, 0.28), hatch=hatch, lw=0, zorder=0
        )
        axes.axvline(fault.begin / NS, color=colour, alpha=0.6, lw=0.7, zorder=0)
    return [
        Patch(facecolor=(colour, 0.3), edgecolor=(colour, 0.7), hatch=hatch, lw=0, label=kind)
        for kind, (colour, hatch) in looks.items()
    ]


def latency_raw(axes: Axes, material: Material) -> None:
    """A point per op: colour tells the outcome, shape what was asked."""
    found = series.points(material.ops)
    shapes = {f: SHAPES[i % len(SHAPES)] for i, f in enumerate(sorted({point.f for point in found}))}
    groups: dict[tuple[str, str], list[series.Point]] = {}
    for point in found:
        groups.setdefault((point.outcome, point.f), []).append(point)
    for (outcome, f), chosen in sorted(groups.items(), key=lambda group: series.OUTCOMES.index(group[0][0])):
        xs, ys = [point.time_s for point in chosen], [point.latency_ms for point in chosen]
        axes.plot(xs, ys, shapes[f], ms=4, color=COLOURS[outcome], alpha=0.75, mew=0)
    for outcome in series.OUTCOMES:
        count = sum(point.outcome == outcome for point in found)
        axes.plot([], [], "s", ms=7, color=COLOURS[outcome], label=f"{WORDS[outcome]} ({count})")
    for f, shape in shapes.items():
        axes.plot([], [], shape, ms=5, color="#444444", ls="none", label=f)
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    axes.set_title("latency of every op")


def latency_quantiles(axes: Axes, material: Material) -> None:
    """p50, p95, p99 and the longest, over windows."""
    end_s = material.end_ns / NS
    colours = ("#2166ac", "#4d9221", "#c51b7d", "#b35806")
    for colour, (q, line) in zip(colours, series.quantiles(series.points(material.ops), end_s).items(), strict=True):
        label, dashes = LINES[q]
        axes.plot(*zip(*line, strict=True), dashes, color=colour, lw=1.4, marker=".", ms=4, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    axes.set_title(f"latency over windows of {series.window_s(end_s):.2g} s")


def rate(axes: Axes, material: Material) -> None:
    """Answers per second, by outcome."""
    end_s = material.end_ns / NS
    for (outcome, line), dashes in zip(series.rates(material.ops, end_s).items(), ("-", "--", "-."), strict=True):
        axes.step(
            *zip(*line, strict=True), where="post", ls=dashes, color=COLOURS[outcome], lw=1.5, label=WORDS[outcome]
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("answers per second")
    axes.set_title(f"answers per second, over windows of {series.window_s(end_s):.2g} s")


PLOTS: dict[str, Callable[[Axes, Material], None]] = {
    "latency-raw.png": latency_raw,
    "latency-quantiles.png": latency_quantiles,
    "rate.png": rate,
}
