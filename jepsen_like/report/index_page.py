"""The verdict of a run, for people: why, with links to the moments; how to repeat it; parameters, plots, files."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jepsen_like.report.material import Check, Material, replay_line
from jepsen_like.report.ownership_page import part
from jepsen_like.report.places import Places

ERRORS_SHOWN = 20  # of each checker
ERROR_CHARACTERS_MAX = 2_000
VALUE_CHARACTERS_MAX = 400
FAULTS_SHOWN = 200
FILES_SHOWN = 200
FIRST_FILES = ("history.jsonl", "history.edn", "results.json", "test.json", "cluster.conf")
FAULT_COLUMNS = {
    "kind": "fault",
    "nodes": "nodes",
    "begin_s": "from, s",
    "end_s": "to, s",
    "ok_during": "successes during it",
    "longest_gap_ms": "longest gap, ms",
    "recovery_ms": "success after healing, ms",
}


def word_of(valid: Any) -> tuple[str, str]:
    """The word for people and the class of its colour."""
    if valid is True:
        return "PASS", "pass"
    return ("FAIL", "fail") if valid is False else ("UNKNOWN", "unknown")


def render(material: Material, plots: Mapping[str, str], *, with_lanes: bool = True) -> str:
    """`plots`: by file name, empty or why it is missing. `with_lanes`: whether there is a page to link to."""
    word, look = word_of(material.valid)
    body = [
        f'<div class="top"><div class="verdict {look}" id="verdict">{word}</div>'
        f"<div><h1>{_text(material.name)}</h1><div>{_text(_summary(material))}</div></div></div>",
        _missing(material, plots),
        _again(material),
        _checks(material, with_lanes),
    ]
    if with_lanes:
        body.append(
            '<h2>Owners</h2><p><a href="ownership.html">Who owned which session when</a>, with faults behind.</p>'
        )
    body += [_plots(plots), _availability(material), _parameters(material), _files(material.directory)]
    return page(f"{word} {material.name}", "\n".join(body))


def page(title: str, body: str) -> str:
    """A whole page around a body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{_text(title)}</title>\n<style>\n{part('index.css')}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _summary(material: Material) -> str:
    ends = [op.type for op in material.ops]
    told = f"{ends.count('ok')} ok, {ends.count('fail')} refused, {ends.count('info')} unknown"
    return (
        f"{material.directory.name}: {len(material.events)} events, {len(ends)} ops ({told}), "
        f"{len(material.faults)} faults, {len(material.nodes)} nodes, {material.end_ns / 1e9:.1f} s"
    )


def _missing(material: Material, plots: Mapping[str, str]) -> str:
    told = [*material.missing, *(f"{name}: {why}" for name, why in plots.items() if why)]
    if not told:
        return ""
    return f'<h2>What is missing</h2><ul class="missing" id="missing">{_items(map(_text, told))}</ul>'


def _again(material: Material) -> str:
    line = replay_line(material.test, material.results)
    seed = material.test.get("seed", material.results.get("seed"))
    said = "" if seed is None else f" (seed {_text(seed)})"
    shown = "The parameters do not tell how." if line is None else f'<pre id="again">{_text(line)}</pre>'
    if line is not None and " sim " in line and "replay" not in {**material.test, **material.results}:
        shown += "<p>With the options that it was run with (time limit, policy, mutant): they are not kept here.</p>"
    return f"<h2>The same run again{said}</h2>{shown}"


def _checks(material: Material, with_lanes: bool) -> str:
    if not material.checks:
        return "<h2>Checkers</h2><p>No checker has said anything.</p>"
    places = Places(material.events if with_lanes else ())
    rows = []
    for check in material.checks:
        word, look = word_of(check.valid)
        spent = "" if check.seconds is None else f"{check.seconds:.2f} s"
        said = _errors(check, places) + _stats(check.stats)
        rows.append(
            f'<tr class="check"><td>{_text(check.name)}</td><td><span class="word {look}">{word}</span></td>'
            f'<td>{said}</td><td class="number">{spent}</td></tr>'
        )
    heads = "<tr><th>checker</th><th>verdict</th><th>what it says</th><th>took</th></tr>"
    return f'<h2>Checkers</h2><div class="scroll"><table id="checks">{heads}{"".join(rows)}</table></div>'


def _errors(check: Check, places: Places) -> str:
    if not check.errors:
        return ""
    items = []
    for error in check.errors[:ERRORS_SHOWN]:
        place = places.find(error)
        shown = _text(_cut(error, ERROR_CHARACTERS_MAX))
        if place is not None:
            where = urlencode({"t": f"{place.begin / 1e9:.6f}", "session": place.key}, quote_via=quote)
            shown += f' <a href="ownership.html#{_text(where)}">show</a>'
        items.append(shown)
    more = len(check.errors) - ERRORS_SHOWN
    if more > 0:
        items.append(f"and {more} more in results.json")
    return f'<ul class="errors">{_items(items)}</ul>'


def _stats(stats: Mapping[str, Any]) -> str:
    told = [
        f"{name} {_short(value)}" for name, value in stats.items() if name != "faults" or not isinstance(value, list)
    ]
    return f'<div class="stats">{_text(", ".join(told))}</div>' if told else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return _cut(text, VALUE_CHARACTERS_MAX)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _plots(plots: Mapping[str, str]) -> str:
    drawn = [name for name, why in plots.items() if not why]
    if not drawn:
        return ""
    shown = (
        f'<a href="{name}"><img src="{name}" alt="{name.removesuffix(".png").replace("-", " ")}"></a>' for name in drawn
    )
    return f"<h2>Latency and rate</h2>{''.join(shown)}"


def _availability(material: Material) -> str:
    """What each fault cost, as its checker figured it out."""
    rows = next((check.stats.get("faults") for check in material.checks if check.name == "availability"), None)
    if not isinstance(rows, list) or not rows:
        return ""
    body = []
    for row in rows[:FAULTS_SHOWN]:
        if isinstance(row, Mapping):
            cells = "".join(
                f'<td class="{_cell(row.get(name))}">{_text(_said(row.get(name)))}</td>' for name in FAULT_COLUMNS
            )
            body.append(f"<tr>{cells}</tr>")
    more = f"<p>and {len(rows) - FAULTS_SHOWN} more in results.json</p>" if len(rows) > FAULTS_SHOWN else ""
    heads = "".join(f"<th>{name}</th>" for name in FAULT_COLUMNS.values())
    table = f'<div class="scroll"><table><tr>{heads}</tr>{"".join(body)}</table></div>'
    return f"<h2>Faults</h2><details open><summary>{len(rows)} faults took effect</summary>{table}{more}</details>"


def _cell(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) else ""


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)


def _parameters(material: Material) -> str:
    rows = [
        f"<tr><td>{_text(name)}</td><td><code>{_text(_short(value))}</code></td></tr>"
        for name, value in material.test.items()
        if name != "plan"
    ]
    plan = material.test.get("plan")
    told = (
        "" if plan is None else f"<details><summary>plan of faults</summary><pre>{_text(_plan(plan))}</pre></details>"
    )
    return (
        f'<h2>Parameters</h2><div class="scroll"><table id="test">{"".join(rows)}</table></div>{told}' if rows else ""
    )


def _plan(plan: Any) -> str:
    lanes = plan if isinstance(plan, list) else [plan]
    faults = [fault for lane in lanes for fault in (lane if isinstance(lane, list) else [lane])]
    return "\n".join(json.dumps(fault, default=str) for fault in faults[:FAULTS_SHOWN])


def _files(directory: Path) -> str:
    """What else lies there; directories of data are named, not listed."""
    try:
        found = [path for path in directory.iterdir() if not path.name.startswith(".")]
        finals = sorted((directory / "final").glob("*.json"))
    except OSError:
        return ""
    plain = sorted(path.name for path in found if path.is_file() and path.suffix not in (".html", ".png", ".img"))
    names = [name for name in FIRST_FILES if name in plain] + [name for name in plain if name not in FIRST_FILES]
    names += [f"final/{path.name}" for path in finals]
    items = (f'<a href="{quote(name)}">{_text(name)}</a>' for name in names[:FILES_SHOWN])
    return f'<h2>Files</h2><ul class="files" id="files">{_items(items)}</ul>'


def _items(items: Iterable[str]) -> str:
    return "".join(f"<li>{item}</li>" for item in items)


__all__ = ["page", "render", "word_of"]
