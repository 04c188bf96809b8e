"""The pages in a real browser: they draw, they answer to pointer and keys, and they complain of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jepsen_like.checkers import dual_owner
from jepsen_like.report import write_report
from tests.jepsen_like import browser as browsers
from tests.jepsen_like.browser import Browser
from tests.jepsen_like.runs_on_disk import history, two_owners, write_run

pytestmark = pytest.mark.skipif(browsers.path() is None, reason="no chromium is installed on this machine")

LOAD_MAX_MS = 3_000
ON_SCREEN = """
(() => {
  const seen = new Set(), canvas = document.getElementById("lanes");
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  for (let place = 0; place < pixels.length; place += 11) seen.add(pixels[place]);
  return seen.size;
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with browsers.browser() as found:
        yield found


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 ops in 200 sessions."""
    run = write_run(tmp_path_factory.mktemp("big") / "run", history(7, ops=10_000, sessions=200))
    write_report(run)
    return run


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which two nodes acted for one session."""
    events = two_owners()
    verdict = dual_owner.check(events, {}).as_dict()
    results = {"valid": False, "checkers": {"dual_owner": verdict}}
    run = write_run(tmp_path_factory.mktemp("failed") / "run", events, results)
    write_report(run)
    return run


def opened(page: Browser, run: Path, name: str = "ownership.html") -> None:
    page.problems.clear()
    page.call("Page.navigate", url="about:blank")
    page.open(f"file://{run}/{name}")
    page.frames()


def detail(page: Browser) -> str:
    return str(page.ask("document.getElementById('detail').textContent"))


def test_ten_thousand_ops_are_there_within_three_seconds(page: Browser, big: Path) -> None:
    """A lane per session, something on the canvas, and nothing in the console."""
    opened(page, big)
    assert int(page.ask("document.documentElement.dataset.readyMs")) < LOAD_MAX_MS
    assert page.ask("document.querySelectorAll('button.lane').length") == 200
    assert page.ask(ON_SCREEN) > 10
    assert page.problems == []


def test_scrolling_and_zooming_stay_quick(page: Browser, big: Path) -> None:
    """A frame with all lanes in sight drawn takes no more than a tenth of a second."""
    opened(page, big)
    took = page.ask(
        "(() => { const t = performance.now(); for (let i = 0; i < 10; i++) { drawHead(); drawLanes(); } "
        "return (performance.now() - t) / 10; })()"
    )
    assert took < 100


def test_pointing_at_a_lane_tells_what_was_there(page: Browser, big: Path) -> None:
    """Hovering shows text: the session, its owner with epoch and version, the moment."""
    opened(page, big)
    x, y = page.ask(
        "(() => { const box = lanes_.getBoundingClientRect(), row = visible[2].own.at(-1); "
        "const at = (row[OWN.from] + row[OWN.to]) / 2; "
        "return [box.left + at / data.end * box.width, box.top + 2 * LANE + 8]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.frames()
    told = str(page.ask("document.getElementById('tip').textContent"))
    assert told.startswith("s2 at ") and "owner n" in told and "epoch" in told
    assert page.ask("getComputedStyle(document.getElementById('tip')).display") == "block"


def test_every_mark_can_be_pointed_at(page: Browser, big: Path) -> None:
    """Pointing at a refusal names its reason."""
    opened(page, big)
    x, y = page.ask(
        "(() => { const box = lanes_.getBoundingClientRect(); "
        "const op = visible[1].ops.find((each) => each[OP.outcome] === 1); "
        "return [box.left + op[OP.at] / data.end * box.width, box.top + LANE + 25]; })()"
    )
    page.mouse("mouseMoved", x, y)
    page.frames()
    assert "VERSION_MISMATCH" in str(page.ask("document.getElementById('tip').textContent"))


def test_keys_go_through_sessions_and_their_events(page: Browser, big: Path) -> None:
    """One stop for the tabulator key; arrows choose the session and the event, and say them aloud."""
    opened(page, big)
    assert page.ask("document.querySelectorAll('button.lane[tabindex=\"0\"]').length") == 1
    page.ask("document.querySelector('button.lane[tabindex=\"0\"]').focus()")
    page.key("ArrowDown")
    assert detail(page).startswith("session s1, ")
    page.key("ArrowRight")
    first = detail(page)
    assert first.startswith("session s1, 1 of ") and "asked" in first
    page.key("ArrowRight")
    assert detail(page).startswith("session s1, 2 of ")
    assert page.ask("document.querySelectorAll('button.lane[tabindex=\"0\"]').length") == 1
    assert page.ask("document.getElementById('detail').getAttribute('aria-live')") == "polite"


def test_zoom_and_pan_by_keys_buttons_wheel_and_dragging(page: Browser, big: Path) -> None:
    """All of them change what is in sight, and never beyond the run."""
    opened(page, big)
    span = "view.to - view.from"
    whole = page.ask("data.end")
    assert page.ask(span) == whole
    page.key("+")
    assert page.ask(span) == pytest.approx(whole / 2)
    page.ask("document.getElementById('zoom-in').click()")
    assert page.ask(span) == pytest.approx(whole / 4)
    page.wheel(700, 400, -100, modifiers=2)
    assert page.ask(span) < whole / 4
    before = page.ask("view.from")
    for kind, x in (("mousePressed", 900), ("mouseMoved", 800), ("mouseMoved", 700), ("mouseReleased", 700)):
        page.mouse(kind, x, 400, button="left", buttons=0 if kind == "mouseReleased" else 1, clickCount=1)
    assert page.ask("view.from") > before
    for _ in range(40):
        page.key("ArrowRight", modifiers=8)
    assert page.ask("view.to") == pytest.approx(whole)
    page.key("0")
    assert page.ask("[view.from, view.to]") == [0, whole]


def test_filters_leave_what_was_asked_for(page: Browser, big: Path) -> None:
    """By part of a session's id; by node; by outcome; and it says how many are left."""
    opened(page, big)
    shown = "document.querySelectorAll('button.lane:not([hidden])').length"
    page.ask(
        "(() => { const box = document.getElementById('find'); box.value = 's19'; "
        "box.dispatchEvent(new Event('input')); })()"
    )
    assert page.ask(shown) == 11  # s19, s190 to s199
    assert page.ask("document.getElementById('shown').textContent") == "11 of 200 sessions"
    marks = "data.lanes[0].ops.filter(isMarked).length"
    before = page.ask(marks)
    page.ask("document.querySelectorAll('#marks input')[2].click()")
    assert 0 < page.ask(marks) < before
    page.ask("document.querySelectorAll('#nodes input').forEach((box) => box.click())")
    assert page.ask(marks) == 0 and page.ask(shown) == 0
    assert page.ask("document.getElementById('none').hidden") is False
    assert page.problems == []


def test_sessions_of_another_time_can_be_left_out(page: Browser, big: Path) -> None:
    """At a moment's zoom only the few sessions with something in sight are of interest."""
    opened(page, big)
    shown = "document.querySelectorAll('button.lane:not([hidden])').length"
    page.ask("look(data.lanes[3].ops[5][OP.at] - 100, data.lanes[3].ops[5][OP.at] + 5000)")
    page.ask("document.querySelectorAll('#sessions input')[2].click()")
    assert 1 <= page.ask(shown) <= 8 and page.ask("visible.includes(data.lanes[3])") is True
    page.ask("document.querySelectorAll('#sessions input')[2].click()")
    assert page.ask(shown) == 200


def test_two_owners_glare(page: Browser, failed: Path) -> None:
    """In the head of the page, beside the session, on its lane in the alarm's colour, and a key leads there."""
    opened(page, failed)
    assert "two owners: 1 objection" in str(page.ask("document.getElementById('count').textContent"))
    assert page.ask("document.querySelector('button.lane .flag').textContent") == "2 owners"
    assert page.ask("document.getElementById('verdict').textContent") == "FAIL"
    page.key("n")
    assert "TWO OWNERS" in detail(page) and detail(page).startswith("session s1, ")
    page.frames()
    red = page.ask(
        "(() => { const lane = visible.findIndex((each) => each.id === 's1'); const box = "
        "lanes_.getContext('2d').getImageData(0, lane * LANE, lanes_.width, LANE).data; let count = 0; "
        "for (let i = 0; i < box.length; i += 4) if (box[i] > 200 && box[i + 1] < 60 && box[i + 2] < 80) "
        "count++; return count; })()"
    )
    assert red > 300
    assert page.problems == []


def test_a_link_leads_to_its_moment(page: Browser, failed: Path) -> None:
    """From an error on the verdict's page to the session and the time it speaks of."""
    opened(page, failed, "index.html")
    assert page.ask("document.getElementById('verdict').textContent") == "FAIL"
    assert page.ask("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    link = str(page.ask("document.querySelector('ul.errors a').getAttribute('href')"))
    assert page.problems == []
    opened(page, failed, link)
    assert page.ask("view.lane.id") == "s1" and "TWO OWNERS" in detail(page)
    assert page.problems == []


@pytest.mark.parametrize("is_dark", [False, True])
def test_colours_follow_the_readers_choice(page: Browser, failed: Path, is_dark: bool) -> None:
    """Dark paper with light ink, or the other way round, on both pages and on the canvas."""
    page.dark(is_dark)
    for name in ("ownership.html", "index.html"):
        opened(page, failed, name)
        paper = page.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        ink = page.ask("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)[0]")
        assert (paper < 60 and ink > 200) if is_dark else (paper > 200 and ink < 60)
    page.dark(False)


def test_a_run_without_anything_still_draws(page: Browser, tmp_path: Path) -> None:
    """No lane, no error: the page says what is missing."""
    write_report(tmp_path)
    opened(page, tmp_path)
    assert page.ask("document.getElementById('none').hidden") is False
    assert "history.jsonl is missing" in str(page.ask("document.getElementById('notes').textContent"))
    assert page.problems == []
