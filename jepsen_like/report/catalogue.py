"""The runs of a store: newest first, each with its verdict as far as there is one yet."""

from __future__ import annotations

import json
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jepsen_like.report.index_page import page, word_of
from jepsen_like.report.material import checks_of

RUNS_MAX = 1_000  # listed; older ones are counted
RESULT_BYTES_MAX = 16 << 20
FAILED_SHOWN = 6
RUN_FILES = ("history.jsonl", "test.json", "results.json")  # one of them makes a directory a run of a test
BENCH_FILE = "bench.json"  # and this one a run of the benchmark, which nothing judges
PICTURES = (".png",)  # shown in the page of a directory


class Listed(NamedTuple):
    """A run in the list. `word`: PASS, FAIL, UNKNOWN, or "no verdict" while it runs and after a crash; "bench".

    Of a benchmark `failed` names the targets that it missed.
    """

    path: str  # below the store: NAME/TIME, or sim-SEED
    name: str
    time: str
    word: str
    look: str
    events: int | None
    seed: Any
    failed: tuple[str, ...]
    has_index: bool


def directories(store: Path) -> list[Path]:
    """All runs, newest first: NAME/TIME, and those that lie in the store itself.

    Links (`latest`) name what is listed anyway.
    """
    try:
        names = [path for path in store.iterdir() if path.is_dir() and not path.is_symlink()]
        inside = [run for name in names for run in name.iterdir() if run.is_dir() and not run.is_symlink()]
    except OSError:
        return []
    runs = [run for run in names + inside if any((run / file).exists() for file in (*RUN_FILES, BENCH_FILE))]
    return sorted(runs, key=lambda run: (_when(run), str(run)), reverse=True)


def _when(run: Path) -> float:
    """From the directory's name; where that is no time, when it was last written."""
    try:
        return datetime.strptime(run.name, "%Y%m%dT%H%M%S.%f").timestamp()
    except ValueError:
        return run.stat().st_mtime


def listed(run: Path, store: Path) -> Listed:
    """One run's row; damaged files make a row without a verdict."""
    if (run / BENCH_FILE).exists():
        return _bench(run, store)
    results, test = _object(run / "results.json"), _object(run / "test.json")
    if "test" in results and not test:
        inside = results["test"]
        test = inside if isinstance(inside, dict) else {}
    word, look = word_of(results["valid"]) if "valid" in results else ("no verdict", "none")
    failed = [check.name for check in checks_of(results) if check.valid is not True]
    events = results.get("events")
    return _row(
        run,
        store,
        word=word,
        look=look,
        events=events if isinstance(events, int) else None,
        seed=test.get("seed", results.get("seed")),
        failed=tuple(failed),
    )


def _bench(run: Path, store: Path) -> Listed:
    """A run of the benchmark: figures, no verdict."""
    targets = _object(run / BENCH_FILE).get("targets")
    rows = [row for row in targets if isinstance(row, dict)] if isinstance(targets, list) else []
    missed = dict.fromkeys(f"target {row.get('target')}" for row in rows if row.get("met") is False)
    return _row(run, store, word="bench", look="none", events=None, seed=None, failed=tuple(missed))


def _row(run: Path, store: Path, **told: Any) -> Listed:
    return Listed(
        path=run.relative_to(store).as_posix(),
        name=run.name if run.parent == store else run.parent.name,
        time=datetime.fromtimestamp(_when(run)).strftime("%Y-%m-%d %H:%M:%S"),
        has_index=(run / "index.html").exists(),
        **told,
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > RESULT_BYTES_MAX:
            return {}
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def render(store: Path) -> str:
    """The page that lists the runs."""
    runs = directories(store)
    rows = []
    for run in (listed(path, store) for path in runs[:RUNS_MAX]):
        failed = ", ".join(run.failed[:FAILED_SHOWN]) + (" ..." if len(run.failed) > FAILED_SHOWN else "")
        cells = [
            f'<span class="word {run.look}">{run.word}</span>',
            f'<a href="/runs/{quote(run.path)}/">{escape(run.name)}</a>',
            escape(run.time).replace(" ", "&nbsp;"),
            "" if run.events is None else str(run.events),
            "" if run.seed is None else escape(str(run.seed)),
            escape(failed),
        ]
        rows.append('<tr class="run">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{name}</th>" for name in ("verdict", "run", "began", "events", "seed", "did not pass"))
    more = f"<p>and {len(runs) - RUNS_MAX} older runs</p>" if len(runs) > RUNS_MAX else ""
    none = "" if rows else "<p>No run is kept here yet.</p>"
    table = f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'
    body = f"<h1>Runs in {escape(str(store))}</h1>{none}{table}{more}"
    return page("Runs", body)


def render_directory(directory: Path, title: str) -> str:
    """The files of a directory that has no page of its own: links to what may be looked at."""
    found = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    items = []
    for path in found:
        name = path.name + ("/" if path.is_dir() else "")
        items.append(f'<li><a href="{quote(name)}">{escape(name)}</a></li>')
    hint = "".join(
        f'<p><img src="{quote(path.name)}" alt="{escape(path.stem)}"></p>' for path in found if path.suffix in PICTURES
    )
    if (directory / "history.jsonl").exists() and (directory / "test.json").exists():
        how = "<code>python -m jepsen_like analyze</code>"
        hint += f"<p>This run has no report yet; it gets one at its end, or from {how}.</p>"
    return page(
        title, f'<p><a href="/">all runs</a></p><h1>{escape(title)}</h1>{hint}<ul id="files">{"".join(items)}</ul>'
    )


__all__ = ["Listed", "directories", "listed", "render", "render_directory"]
