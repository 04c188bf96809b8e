"""`raftstore wal ...`: what is in a node's data directory, read without changing or locking it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from raftstore.cli.exits import Failure, outcomes_as_exits
from raftstore.cli.output import echo_json
from raftstore.cli.target import output_option
from raftstore.ownership.batches import decode_batch
from raftstore.ownership.commands import OP_NAMES
from raftstore.raft.seams import NO_OP, REGULAR
from raftstore.storage import inspect
from raftstore.storage.disk import OsDisk
from raftstore.storage.inspect import BAD, RecordView

OPS_SHOWN = 4
BYTES_SHOWN = 24

_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def wal() -> None:
    """Look into the data directory of a node, running or not."""


@wal.command()
@_directory
@output_option
def verify(directory: Path, output: str) -> None:
    """Check log, votes, snapshots and identity in a node's data directory.

    Exits with 1 when the node would refuse to start from it.

    \b
      raftstore wal verify data/vpn-1
    """
    with outcomes_as_exits(output):
        findings = list(inspect.verify(OsDisk(), _existing(directory)))
        if output == "json":
            echo_json([finding._asdict() for finding in findings])
        else:
            for f in findings:
                click.echo(f"{f.level.upper():<5} {Path(f.file).name}:{f.offset}  {f.detail}")
        bad = sum(finding.level == BAD for finding in findings)
        if bad:
            raise Failure(f"{directory}: {bad} findings for which the node would refuse to start")


@wal.command()
@_directory
@click.option("--first", type=click.IntRange(0), default=0, metavar="INDEX", help="From this log index on.")
@click.option("--last", type=click.IntRange(0), metavar="INDEX", help="Up to this log index.")
@output_option
def dump(directory: Path, first: int, last: int | None, output: str) -> None:
    """Show the records of a node's log in the order written.

    With `-o json` one object a line, payloads in hex.

    \b
      raftstore wal dump data/vpn-1 --first 100 --last 120
    """
    with outcomes_as_exits(output):
        for record in inspect.dump(OsDisk(), _existing(directory), first=first, last=last):
            click.echo(json.dumps(_as_dict(record)) if output == "json" else _line(record))


def _existing(directory: Path) -> str:
    if not directory.is_dir():
        raise Failure(f"{directory}: no such directory (name a node's data directory, such as data/vpn-1)")
    return str(directory)


def _as_dict(record: RecordView) -> dict[str, Any]:
    return record._asdict() | {"payload": record.payload.hex()}


def _line(record: RecordView) -> str:
    place = f"{Path(record.file).name}:{record.offset}"
    text = f"{record.at:>10}  term {record.term:<6} {record.kind:<8} {place}"
    return f"{text}  {describe(record.payload)}" if record.payload else text


def describe(payload: bytes) -> str:
    """The ops of a batch by name, or the first bytes of anything else."""
    if payload == NO_OP:
        return "a new leader's first entry"
    batch = decode_batch(payload[len(REGULAR) :]) if payload.startswith(REGULAR) else None
    if batch is None:
        more = "..." if len(payload) > BYTES_SHOWN else ""
        return f"{len(payload)} bytes: {payload[:BYTES_SHOWN].hex()}{more}"
    names = [f"{group[0]} {_op_name(op)}" for group in batch[-1] for op in group[-1]]
    more = f", and {len(names) - OPS_SHOWN} more" if len(names) > OPS_SHOWN else ""
    return f"{len(names)} ops at {batch[0]} ms: {', '.join(names[:OPS_SHOWN])}{more}"


def _op_name(op: Any) -> str:
    """The kind, and the session where the op names one."""
    if type(op) is not list or not op or type(op[0]) is not int:
        return "malformed"
    name = OP_NAMES.get(op[0], f"kind {op[0]}")
    return f"{name} {op[3]!a:.70}".replace("'", "") if len(op) > 3 and type(op[3]) is str else name
