"""The server of a store: what it lists, what it serves, and what it never does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, web
from click.testing import CliRunner
from yarl import URL

from jepsen_like.cli import main
from jepsen_like.commands_test import BAD_ARGUMENTS
from jepsen_like.report import catalogue, write_report
from jepsen_like.report.server import application, find
from tests.jepsen_like.runs_on_disk import history, write_run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three runs, one of which failed and one of which has no verdict; secrets inside and beside them."""
    found = tmp_path / "store"
    events = history(1, ops=10, sessions=2)
    write_report(write_run(found / "lease-kill" / "20260102T030405.000", events))
    failed = {"valid": False, "events": 9, "checkers": {"versions": {"valid": False}, "leaders": {"valid": True}}}
    write_run(found / "ownership-all" / "20260103T030405.000", events, failed)
    write_run(found / "ownership-all" / "20260101T030405.000", events)
    (found / "ownership-all" / "20260101T030405.000" / "results.json").unlink()
    (found / "ownership-all" / "latest").symlink_to("20260103T030405.000")
    (tmp_path / "secret.txt").write_text("secret")
    run = found / "lease-kill" / "20260102T030405.000"
    (run / "data" / "n1").mkdir(parents=True)
    (run / "data" / "n1" / "note.txt").write_text("secret")
    (run / ".hidden.txt").write_text("secret")
    (run / "key.pem").write_text("secret")
    (run / "out.txt").symlink_to(tmp_path / "secret.txt")
    (run / "up").symlink_to(tmp_path)
    return found


def asked(store: Path, work: Callable[[ClientSession, URL], Awaitable[None]]) -> None:
    """Run a server for the store and do some work with a client."""

    async def everything() -> None:
        runner = web.AppRunner(application(store), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            async with ClientSession(connector=TCPConnector(force_close=True)) as session:
                await work(session, url)
        finally:
            await runner.cleanup()

    asyncio.run(everything())


def test_runs_are_listed_newest_first_with_their_verdicts(store: Path) -> None:
    """Failed, passed, and a run that was never judged; links to the latest one are no runs of their own."""
    rows = [catalogue.listed(run, store) for run in catalogue.directories(store)]
    assert [(row.name, row.word, row.failed) for row in rows] == [
        ("ownership-all", "FAIL", ("versions",)),
        ("lease-kill", "PASS", ()),
        ("ownership-all", "no verdict", ()),
    ]
    text = catalogue.render(store)
    assert text.index("FAIL") < text.index("PASS") < text.index("no verdict") and text.count('class="run"') == 3


def test_a_damaged_run_is_listed_all_the_same(store: Path) -> None:
    """Whatever its files hold."""
    run = store / "ownership-all" / "20260103T030405.000"
    for text in ("", "[]", '{"valid": {"a": 1}, "checkers": 3}', "\x00"):
        (run / "results.json").write_text(text)
        assert catalogue.render(store).count('class="run"') == 3


def test_simulated_runs_are_listed_too(store: Path) -> None:
    """They lie in the store under their seed, without a name and a time."""
    results = {"valid": False, "seed": 7, "test": {}, "found": [["liveness", "not ready"]]}
    run = write_run(store / "sim-7", history(1, ops=4, sessions=1), results)
    (run / "test.json").unlink()
    rows = [catalogue.listed(run, store) for run in catalogue.directories(store)]
    (found,) = [row for row in rows if row.path == "sim-7"]
    assert (found.name, found.word, found.seed, found.failed) == ("sim-7", "FAIL", 7, ("liveness",))
    (store / "sim-7" / "data").mkdir()
    (store / "sim-7" / "data" / "note.txt").write_text("secret")
    assert find(store, "sim-7/data/note.txt") is None and find(store, "sim-7/n1.log") is not None


def test_runs_of_the_benchmark_are_listed_beside_those_of_tests(store: Path) -> None:
    """They have no verdict; the targets that they missed are named, and their table and picture can be looked at."""
    run = store / "bench" / "20260104T030405.000"
    run.mkdir(parents=True)
    targets = [{"target": "4", "met": False}, {"target": "4", "met": False}, {"target": "5", "met": True}]
    (run / "bench.json").write_text(json.dumps({"targets": [*targets, {"target": "7", "met": None}]}))
    (run / "bench.txt").write_text("figures")
    (run / "bench.png").write_bytes(b"\x89PNG")
    row = catalogue.listed(catalogue.directories(store)[0], store)
    assert (row.name, row.word, row.failed) == ("bench", "bench", ("target 4",))
    assert "target 4" in catalogue.render(store)
    text = catalogue.render_directory(run, row.path)
    assert '<img src="bench.png"' in text and 'href="bench.txt"' in text
    assert find(store, f"{row.path}/bench.txt") is not None
    for damaged in ("", "[]", '{"targets": 3}', '{"targets": [3]}'):
        (run / "bench.json").write_text(damaged)
        assert catalogue.listed(run, store).failed == ()


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    """And so does one that is not there any more."""
    assert "No run is kept here" in catalogue.render(tmp_path)
    assert "No run is kept here" in catalogue.render(tmp_path / "gone")


def test_pages_and_files_are_served_as_they_lie_there(store: Path) -> None:
    """The list, a run's page, its pictures and logs, by their types; a run without pages as a list of files."""

    async def work(session: ClientSession, url: URL) -> None:
        base = url / "runs" / "lease-kill" / "20260102T030405.000"
        for name, kind, part in (
            ("", "text/html", b"PASS"),
            ("ownership.html", "text/html", b"<canvas"),
            ("history.jsonl", "text/plain", b'"type"'),
            ("n1.log", "text/plain", b"n1 speaks"),
            ("results.json", "application/json", b"valid"),
            ("final/n1.json", "application/json", b"sessions"),
        ):
            async with session.get(URL(f"{base}/{name}", encoded=True)) as answer:
                assert answer.status == 200 and answer.content_type == kind
                assert part in await answer.read()
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get(url) as answer:
            assert "lease-kill" in await answer.text()
        async with session.get(base) as answer:  # without the slash, links of the page would lead elsewhere
            assert answer.url.path.endswith("/") and answer.status == 200
        async with session.get(URL(f"{url}runs/ownership-all/latest/", encoded=True)) as answer:
            assert answer.status == 200 and "history.jsonl" in await answer.text()

    asked(store, work)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "%2e%2e%2fsecret.txt",
        "lease-kill/../../secret.txt",
        "lease-kill%2f..%2f..%2fsecret.txt",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..%5csecret.txt",
        "lease-kill/20260102T030405.000/out.txt",
        "lease-kill/20260102T030405.000/up/secret.txt",
        "lease-kill/20260102T030405.000/data/n1/note.txt",
        "lease-kill/20260102T030405.000/data/",
        "lease-kill/20260102T030405.000/.hidden.txt",
        "lease-kill/20260102T030405.000/key.pem",
        "lease-kill/20260102T030405.000/history.jsonl%00.png",
        "lease-kill/20260102T030405.000/history.jsonl/x",
        "a" * 5_000,
    ],
)
def test_nothing_outside_the_store_is_served(store: Path, path: str) -> None:
    """Not by dots however written, not through links; and no hidden file, no key, nothing of a cluster's own data."""

    async def work(session: ClientSession, url: URL) -> None:
        async with session.get(URL(f"{url}runs/{path}", encoded=True)) as answer:
            assert answer.status in (400, 403, 404)
            assert "secret" not in (await answer.text()).replace("secret.txt", "")

    asked(store, work)


def test_only_reading_is_possible(store: Path) -> None:
    """Everything but GET and HEAD is refused."""

    async def work(session: ClientSession, url: URL) -> None:
        path = url / "runs" / "lease-kill" / "20260102T030405.000" / "n1.log"
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, path, data=b"x") as answer:
                assert answer.status == 405
        async with session.head(path) as answer:
            assert answer.status == 200

    asked(store, work)


def test_the_finder_knows_its_root(store: Path) -> None:
    """A name that merely begins like the store is not inside it."""
    beside = store.with_name("store-2")
    beside.mkdir()
    (beside / "x.txt").write_text("secret")
    assert find(store, "../store-2/x.txt") is None
    (store / "lease-kill" / "20260102T030405.000" / "beside").symlink_to(beside)
    assert find(store, "lease-kill/20260102T030405.000/beside/x.txt") is None
    assert find(store, "lease-kill/20260102T030405.000/n1.log") is not None


def test_the_command_serves_until_it_is_told_to_stop(store: Path) -> None:
    """`serve` says where, answers there, and ends well on a signal."""
    command = [sys.executable, "-m", "jepsen_like", "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as it:
        try:
            assert it.stdout is not None
            line = it.stdout.readline()
            address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))

            async def look() -> None:
                async with ClientSession() as session, session.get(address) as answer:
                    assert answer.status == 200 and "ownership-all" in await answer.text()

            asyncio.run(look())
            it.send_signal(signal.SIGTERM)
            assert it.wait(20) == 0
        finally:
            it.kill()


def test_a_store_that_is_not_there_is_a_bad_argument(tmp_path: Path) -> None:
    """Status 254, as everywhere in this command line."""
    found = CliRunner().invoke(main, ["serve", "--store", str(tmp_path / "none")])
    assert found.exit_code == BAD_ARGUMENTS and json.dumps(found.output)
