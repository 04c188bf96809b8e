"""The command line of the fault-injection suite."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Break a raftstore cluster on purpose and check that no session ever had two owners.

    No command is available in this version. Planned: `sim` runs whole clusters in one process on virtual time, `test`
    injects faults into real processes, `mutants` shows that the checkers notice known defects, `bench` measures. Until
    then `raftstore demo` shows partitions, kills and failovers on real processes, and tests/properties runs random
    fault schedules against the Raft room.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
