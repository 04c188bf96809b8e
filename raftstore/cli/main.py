"""`raftstore`: the command line, put together. Each noun has a module of its own."""

from __future__ import annotations

import click

from raftstore.cli.audit import audit
from raftstore.cli.bench import bench
from raftstore.cli.cert import cert
from raftstore.cli.config import config
from raftstore.cli.demo import demo
from raftstore.cli.init import init
from raftstore.cli.mapping import mapping
from raftstore.cli.node import drain, leader, outcome
from raftstore.cli.route import route
from raftstore.cli.run import run
from raftstore.cli.session import session
from raftstore.cli.status import status
from raftstore.cli.wal import wal
from raftstore.ownership import IS_COMPILED

COMPILED = " (compiled)" if IS_COMPILED else ""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(
    package_name="raftstore", prog_name="raftstore", message=f"%(prog)s, version %(version)s{COMPILED}"
)
def main() -> None:
    """Which node owns the session now, provably.

    A small cluster of nodes agrees on one owner per session. These commands set up a cluster, run its nodes, look at
    it and steer it; all but `run`, `init`, `route`, `wal` and `config` talk to a running node's API.

    \b
    See it work, in half a minute:
      raftstore demo

    \b
    Start a cluster on this machine:
      raftstore init mycluster && cd mycluster
      raftstore run --node vpn-1        # and vpn-2, vpn-3, each in a terminal of its own
      raftstore status --watch

    \b
    Sessions:
      raftstore session create alice --ttl 1h --node vpn-1
      raftstore session migrate alice --expected-version 1 --to vpn-2 --node vpn-1
      raftstore session explain alice

    \b
    Exit status:
      0 ok   1 error   2 usage or configuration   3 no quorum   4 rejected   5 outcome unknown
    """


COMMANDS = (
    init, run, status, session, route, mapping, drain, leader, outcome, audit, wal, config, cert, demo, bench,
)  # fmt: skip

for command in COMMANDS:
    main.add_command(command)
