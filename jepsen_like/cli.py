"""The command line of the fault-injection suite."""

from __future__ import annotations

from typing import Any

import click

from jepsen_like.bench.command import bench_command
from jepsen_like.commands_serve import serve_command
from jepsen_like.commands_test import analyze_command, test_all_command, test_command
from jepsen_like.sim.commands import sim
from jepsen_like.sim.commands_mutants import mutants

BAD_ARGUMENTS = 254


class MisusedError(click.UsageError):
    """Bad arguments. click's own status for them, 2, means "unknown" here."""

    exit_code = BAD_ARGUMENTS


class Suite(click.Group):
    """A group of commands in which every usage error is a MisusedError."""

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        try:
            return super().make_context(*given, **named)
        except click.UsageError as problem:
            raise MisusedError(problem.format_message(), problem.ctx) from None

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as problem:
            raise MisusedError(problem.format_message(), problem.ctx) from None


@click.group(cls=Suite, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Break a raftstore cluster on purpose and check that no session ever had two owners.

    `sim` runs whole clusters in one process on virtual time, `mutants` shows that the checkers notice known
    defects. `test` injects faults into real processes, `test-all` sweeps them, `analyze` judges an old run again.
    `bench` measures speed beside others'.
    Exit status: 0 passed, 1 failed, 2 unknown, 254 bad arguments, 255 crashed.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


main.add_command(sim)
main.add_command(mutants)
main.add_command(test_command)
main.add_command(test_all_command)
main.add_command(analyze_command)
main.add_command(serve_command)
main.add_command(bench_command)
