"""`amlsched status`: what is done, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amlsched.cli.told import OK, counts, tell_failures, tell_notes, tell_table

if TYPE_CHECKING:
    import argparse

    from amlsched.cli.told import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Tell argparse of the command."""
    parser = commands.add_parser("status", help="what is done, what failed", description=status.__doc__)
    parser.set_defaults(command=status)
    parser.add_argument("results", metavar="RESULTS", help="the folder for the results: the config's `path`")
    parser.add_argument("--all", action="store_true", help="show every run, not only the first")


def status(arguments: argparse.Namespace) -> int:
    """Show what became of each repetition in a folder of results, by the records there."""
    from amlsched.experiments.results import survey, tallied

    summary = tallied(survey(arguments.results))
    tell_table(summary, [], everything=arguments.all)
    tell_failures(summary)
    tell_notes(summary)
    print(counts(summary))
    return OK
