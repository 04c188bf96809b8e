"""A store over HTTP, read-only: the list of runs, and their files as they lie there.

Nothing outside the store is ever served, whatever the path says and wherever a link leads; nor are hidden files, and
nothing of a cluster's own data (its keys and certificates lie there).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from jepsen_like.report import catalogue

STORE: web.AppKey[Path] = web.AppKey("store", Path)
PRIVATE = ("data",)  # directories of a run that stay on this machine
TYPES = {
    ".html": "text/html",
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "text/plain",
    ".edn": "text/plain",
    ".log": "text/plain",
    ".conf": "text/plain",
    ".txt": "text/plain",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


def find(store: Path, asked: str) -> Path | None:
    """The file or directory of the store that a path names; None when there is none that may be served."""
    parts = [part for part in asked.split("/") if part]
    if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    root = store.resolve()
    try:
        path = root.joinpath(*parts).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    if not path.is_relative_to(root) or not (path.is_file() or path.is_dir()):
        return None
    inside = path.relative_to(root).parts
    if any(part.startswith(".") or part in PRIVATE for part in inside[1:]):
        return None
    return None if path.is_file() and path.suffix not in TYPES else path


def application(store: Path) -> web.Application:
    """Answers GET and HEAD, nothing else."""
    app = web.Application()
    app[STORE] = store
    app.router.add_get("/", _runs)
    app.router.add_get("/runs", _to_runs)
    app.router.add_get("/runs/{path:.*}", _file)
    return app


async def _runs(request: web.Request) -> web.StreamResponse:
    text = await asyncio.to_thread(catalogue.render, request.app[STORE])
    return web.Response(text=text, content_type="text/html", headers=HEADERS)


async def _to_runs(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/")


async def _file(request: web.Request) -> web.StreamResponse:
    asked = request.match_info["path"]
    if not asked.strip("/"):
        raise web.HTTPFound("/")
    path = find(request.app[STORE], asked)
    if path is None:
        raise web.HTTPNotFound(text="no such file in the store\n", headers=HEADERS)
    if path.is_dir():
        if not asked.endswith("/"):
            raise web.HTTPFound(request.rel_url.raw_path + "/")
        index = path / "index.html"
        if not index.is_file():
            text = await asyncio.to_thread(catalogue.render_directory, path, asked.strip("/"))
            return web.Response(text=text, content_type="text/html", headers=HEADERS)
        path = index
    kind = TYPES[path.suffix]
    charset = "" if kind == "image/png" else "; charset=utf-8"
    return web.FileResponse(path, headers={**HEADERS, "Content-Type": kind + charset})


__all__ = ["application", "find"]
