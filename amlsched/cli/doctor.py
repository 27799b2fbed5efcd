"""`amlsched doctor`: find out why an executor does not work here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.cli._output import OK, SOME_FAILED, add_command
from amlsched.cli.parser import seconds
from amlsched.cli.run import EXECUTOR_HELP, check_executor_arguments

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, doctor, "check whether an executor works here, and what is missing")
    add = parser.add_argument
    add("config", metavar="CONFIG", nargs="?", help="a config whose SLURM section gives the options")
    add("--executor", metavar="NAME", default="processes", help=EXECUTOR_HELP)
    text = "an option of the executor; may be repeated"
    add("--executor-option", metavar="KEY=VALUE", action="append", default=[], help=text)
    text = "how long to wait for a job to start (default: 300)"
    add("--timeout", metavar="SECONDS", type=seconds, default=300.0, help=text)


def doctor(arguments: argparse.Namespace) -> int:
    """Check step by step what an executor needs, and how to fix what is missing.

    For a batch system: its commands, the queue and the account; then, with a small job, whether jobs start, see the
    project, have the same Python, packages and a shared folder, and reach this host; finally, a call on a worker.
    """
    from amlsched.doctor import examine

    examination = examine(arguments.executor, _options(arguments), timeout_s=arguments.timeout)
    for finding in examination:
        print(finding, flush=True)
    if not examination.healthy:
        print(f"\n{arguments.executor} will not work here until the problems above are fixed.")
        return SOME_FAILED
    print(f"\nThis works:\n\n    {examination.line}")
    return OK


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = check_executor_arguments(arguments)
    if arguments.config is None:
        return options
    from amlsched.batch_systems import WORKER_SYSTEMS
    from amlsched.experiments.arrays import worker_options
    from amlsched.experiments.plan import Plan

    plan = Plan(arguments.config)
    if arguments.executor not in WORKER_SYSTEMS:
        return options
    return worker_options(plan, arguments.executor, {"n_workers": 1, **options})
