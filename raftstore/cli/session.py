"""`raftstore session ...`: one command per transition of the ownership model, and the ways to look."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import click

from raftstore.cli.output import (
    SESSION_HEADINGS,
    console,
    echo_json,
    session_pairs,
    session_row,
    show_pairs,
    table_of,
)
from raftstore.cli.target import Target, api_command
from raftstore.client import Placed
from raftstore.errors import Rejected, Unavailable
from raftstore.types import Binding, Reason, SessionState

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def to_ms(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A time with its unit in milliseconds: 500ms, 90s, 15m, 1h, 7d."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,12})(ms|s|m|h|d)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no time with a unit, such as 500ms, 90s, 15m, 1h, 7d", ctx, param)
    return int(match[1]) * _UNITS_MS[match[2]]


@click.group()
def session() -> None:
    """Look at sessions and move them through their states.

    Every change names the version it expects, so that nobody overwrites what he has not seen:

    \b
      raftstore session create alice --binding t1 udp 198.51.100.7:51820
      raftstore session get alice
      raftstore session detach alice --expected-version 1
      raftstore session migrate alice --expected-version 2 --to vpn-2
    """


_id = click.argument("session_id", metavar="ID")
_version = click.option(
    "--expected-version",
    "-e",
    required=True,
    type=click.IntRange(1, 2**53 - 1),
    help="The version that the session must have now; `session get` shows it.",
)
_ttl_help = "Time to live with its unit: 90s, 15m, 1h, 7d."


def _binding_option(required: bool = False) -> Callable[..., Any]:
    return click.option(
        "--binding",
        "-b",
        nargs=3,
        required=required,
        metavar="TRANSPORT PROTO REMOTE",
        help="The transport to bind, such as: t1 udp 198.51.100.7:51820",
    )


def _op(target: Target, op: str, session_id: str, **arguments: Any) -> None:
    """One op to the node, and the session as of that transition."""

    async def run() -> Placed:
        async with target.connect() as client:
            return await client.op(op, session_id, timeout_ms=target.timeout_ms, **arguments)

    _show(target, asyncio.run(run()))


def _show(target: Target, found: Placed, now_ms: int | None = None) -> None:
    if target.output == "json":
        echo_json({"session": found.as_dict()})
    else:
        show_pairs([*session_pairs(found.session, now_ms), ("preferred owner", found.preferred_owner)])


def _bound(binding: tuple[str, str, str] | None) -> Binding | None:
    return None if binding is None else Binding(*binding)


@session.command("list")
@click.option("--owner", metavar="NODE", help="Only those of this node.")
@click.option(
    "--state", type=click.Choice([s.name for s in SessionState], case_sensitive=False), help="Only in this state."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@click.option("--after", metavar="ID", help="Go on after this id.")
@api_command
def list_(target: Target, owner: str | None, state: str | None, limit: int, after: str | None) -> None:
    """Sessions as the asked node has them, by id."""

    async def run() -> list[Placed]:
        async with target.connect() as client:
            wanted = None if state is None else SessionState[state.upper()]
            return await client.list_placed(owner=owner, state=wanted, limit=limit, after=after)

    found = asyncio.run(run())
    more = found[-1].session.session_id if len(found) == limit else None
    if target.output == "json":
        echo_json({"sessions": [placed.as_dict() for placed in found], "next": more})
        return
    console().print(table_of(SESSION_HEADINGS, (session_row(placed.session) for placed in found)))
    if more is not None:
        click.echo(f"there may be more: --after {more}", err=True)


@session.command()
@_id
@click.option("--local", is_flag=True, help="This replica's view: answers without a quorum, and may be old.")
@api_command
def get(target: Target, session_id: str, local: bool) -> None:
    """One session; the newest state unless --local."""

    async def run() -> tuple[Placed, int | None]:
        async with target.connect() as client:
            found = await client.look(session_id, consistency="local" if local else "linearizable")
            return found, (await client.status())["cluster_time_ms"]

    _show(target, *asyncio.run(run()))


@session.command()
@_id
@_binding_option()
@click.option("--ttl", callback=to_ms, metavar="TIME", help=_ttl_help)
@click.option("--policy", type=click.Choice(["deny", "terminate"]), help="What becomes of it if its owner is lost.")
@api_command
def create(
    target: Target, session_id: str, binding: tuple[str, str, str] | None, ttl: int | None, policy: str | None
) -> None:
    """Create a session; the asked node becomes its owner."""
    _op(target, "create", session_id, binding=_bound(binding), ttl_ms=ttl, policy=policy)


@session.command()
@_id
@_version
@_binding_option(required=True)
@click.option("--nonce", type=click.IntRange(0, 2**53 - 1), help="Must be larger than the last one.")
@api_command
def reattach(
    target: Target, session_id: str, expected_version: int, binding: tuple[str, str, str], nonce: int | None
) -> None:
    """Bind a new transport in place of the old. Only the owner may."""
    _op(target, "reattach", session_id, expected_version=expected_version, binding=_bound(binding), nonce=nonce)


@session.command()
@_id
@_version
@click.option("--reason", default="DETACHED", show_default=True, help="Why, for the audit trail.")
@api_command
def detach(target: Target, session_id: str, expected_version: int, reason: str) -> None:
    """Release the binding; the session waits for a reattach."""
    _op(target, "detach", session_id, expected_version=expected_version, reason=reason)


@session.command()
@_id
@_version
@click.option("--ttl", callback=to_ms, required=True, metavar="TIME", help=_ttl_help)
@api_command
def renew(target: Target, session_id: str, expected_version: int, ttl: int) -> None:
    """Give the session a new time to live, from now."""
    _op(target, "renew", session_id, expected_version=expected_version, ttl_ms=ttl)


@session.command()
@_id
@_version
@click.option("--to", required=True, metavar="NODE", help="The new owner; it resumes the session.")
@api_command
def migrate(target: Target, session_id: str, expected_version: int, to: str) -> None:
    """Freeze the session and transfer it to another node."""
    _op(target, "migrate", session_id, expected_version=expected_version, to=to)


@session.command()
@_id
@_version
@_binding_option()
@api_command
def resume(target: Target, session_id: str, expected_version: int, binding: tuple[str, str, str] | None) -> None:
    """Take up a session that was transferred to the asked node."""
    _op(target, "resume", session_id, expected_version=expected_version, binding=_bound(binding))


@session.command()
@_id
@_version
@_binding_option()
@api_command
def failover(target: Target, session_id: str, expected_version: int, binding: tuple[str, str, str] | None) -> None:
    """Take over a session of a lost node. Refused while its lease may still run."""
    _op(target, "failover", session_id, expected_version=expected_version, binding=_bound(binding))


@session.command()
@_id
@_version
@click.option("--reason", default="POLICY", show_default=True, help="Why, for the audit trail.")
@click.option("--operator", is_flag=True, help="As an operator: from any node, not only the owner.")
@api_command
def terminate(target: Target, session_id: str, expected_version: int, reason: str, operator: bool) -> None:
    """End the session for good. Its id can never be used again."""
    _op(target, "terminate", session_id, expected_version=expected_version, reason=reason, operator=operator)


@session.command()
@_id
@api_command
def explain(target: Target, session_id: str) -> None:
    """Who owns it, since when, and why a reattach at the asked node would be refused."""

    async def run() -> dict[str, Any]:
        async with target.connect() as client:
            found = await client.explain(session_id)
            if found.get("session") is None:
                raise _not_here(found)
            return found

    found = asyncio.run(run())
    if target.output == "json":
        echo_json(found)
    else:
        _show_explanation(found)


def _not_here(found: dict[str, Any]) -> Rejected | Unavailable:
    """That a sticky node has no such session says nothing where it belongs to another, or cannot be told yet."""
    preferred, detail = found.get("preferred_owner"), found.get("detail") or ""
    match found.get("reason"):
        case Reason.OWNERSHIP_CONFLICT:
            return Rejected(Reason.OWNERSHIP_CONFLICT, owner=preferred, detail=detail, preferred_owner=preferred)
        case Reason.MAPPING_UNSETTLED:
            return Unavailable(Reason.MAPPING_UNSETTLED, detail)
    return Rejected(Reason.SESSION_NOT_FOUND, preferred_owner=preferred)


def _show_explanation(found: dict[str, Any]) -> None:
    state = found["session"]
    why = f" ({state['reason']})" if state.get("reason") else ""
    verdict = found.get("reattach_here")
    if found.get("reason"):
        verdict = f"{verdict}: {found['reason']}"
    detail = found.get("detail")
    show_pairs(
        [
            ("session", state["session_id"]),
            ("state", f"{state['state']}{why}, version {state['state_version']}"),
            ("owner", f"{state['owner']}, epoch {state['epoch']}"),
            ("owner since", f"log index {found.get('owned_since_index')}"),
            ("preferred owner", state.get("preferred_owner")),
            ("reattach here", f"{verdict} ({detail})" if detail else verdict),
            ("asked", f"{found.get('node')}, whose replica is at log index {found.get('replica_index')}"),
        ]
    )
