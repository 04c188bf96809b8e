"""From outcomes to HTTP: which status and which JSON a caller gets for each thing that can become of a request.

200 committed; 409 rejected (404 for SESSION_NOT_FOUND); 503 unavailable: refused before proposing; 504 unknown: it may
have happened, and the op id asks later; 400 invalid input with the field; 413 a body over the bound. (Design: what a
caller can learn.) 500 is a bug of the node, logged there; what became of an op is then unknown too.

A session is shown with `preferred_owner` among its fields: the node to which the mapping sends it. An answer about a
session that has none to show has it at the top, so that whoever knocked at the wrong door learns where to go.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Reason, Session

log = logging.getLogger(__name__)

CALLER_GONE = 499  # never sent; counted as such in the metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(body: dict[str, Any], status: int = 200) -> web.Response:
    """A JSON answer of one line."""
    text = json.dumps(body, separators=(",", ":")) + "\n"
    return web.Response(text=text, status=status, content_type="application/json")


def session_json(session: Session, preferred_owner: str | None) -> dict[str, Any]:
    return session.as_dict() | {"preferred_owner": preferred_owner}


def with_preference(body: Mapping[str, Any], preferred_owner: str | None) -> dict[str, Any]:
    """An answer about one session, with its preferred owner: inside "session", or at the top where that is null."""
    session, hint = body["session"], {"preferred_owner": preferred_owner}
    return {**body, **hint} if session is None else {**body, "session": session | hint}


def committed(session: Session, preferred_owner: str | None) -> web.Response:
    return answer({"session": session_json(session, preferred_owner)})


def rejected(outcome: Rejected) -> web.Response:
    return answer(outcome.as_dict(), 404 if outcome.reason is Reason.SESSION_NOT_FOUND else 409)


def unavailable(reason: Reason, detail: str = "") -> web.Response:
    body = {"outcome": "unavailable", "reason": str(reason)} | ({"detail": detail} if detail else {})
    response = answer(body, 503)
    if reason is Reason.OVERLOADED:
        response.headers["Retry-After"] = "1"
    return response


def unknown(error: OutcomeUnknown) -> web.Response:
    return answer({"outcome": "unknown", "op_id": str(error.op_id), "reason": str(error.reason)}, 504)


def invalid(field: str, problem: str, status: int = 400) -> web.Response:
    return answer({"outcome": "invalid", "field": field, "problem": problem}, status)


@web.middleware
async def outcomes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every way in which a handler can end, as an answer."""
    try:
        return await handler(request)
    except InvalidArgument as problem:
        return invalid(problem.field, problem.problem)
    except Rejected as outcome:
        return rejected(outcome)
    except Unavailable as outcome:
        return unavailable(outcome.reason, outcome.detail)
    except OutcomeUnknown as outcome:
        return unknown(outcome)
    except web.HTTPException as error:
        return _http_problem(request, error)
    except ConnectionError:
        return web.Response(status=CALLER_GONE)  # nobody is left to read it; what was begun goes on
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return answer({"outcome": "error", "problem": "internal error; the node's log has it"}, 500)


def _http_problem(request: web.Request, error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return invalid("body", "too long", 413)
        case web.HTTPMethodNotAllowed():
            response = invalid("method", f"use {', '.join(sorted(error.allowed_methods))}", 405)
            response.headers["Allow"] = error.headers["Allow"]
            return response
        case web.HTTPNotFound():
            return invalid("path", "no such resource; see /v1/status, /v1/sessions", 404)
        case _:
            return invalid("request", error.reason, error.status)
