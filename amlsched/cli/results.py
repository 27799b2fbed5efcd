"""`amlsched results`: parameters and last values of each repetition."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from amlsched.cli.told import OK

if TYPE_CHECKING:
    import argparse

    from amlsched.cli.told import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Tell argparse of the command."""
    text = "parameters and last values of each repetition"
    parser = commands.add_parser("results", help=text, description=results.__doc__)
    parser.set_defaults(command=results)
    parser.add_argument("results", metavar="RESULTS", help="the folder for the results: the config's `path`")
    parser.add_argument("--csv", metavar="FILE", help="write CSV to this file instead (- for the console)")


def results(arguments: argparse.Namespace) -> int:
    """Show the parameters, the last value of each metric and the state of each repetition."""
    from amlsched.display.table import number, table
    from amlsched.experiments.results import load

    frame = load(arguments.results).reset_index()
    if arguments.csv is not None:
        frame.to_csv(sys.stdout if arguments.csv == "-" else arguments.csv, index=False)
        return OK

    def cell(value: Any) -> str:
        if value is None or value != value:
            return ""
        return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)

    rows = ([cell(value) for value in row] for row in frame.drop(columns="folder").itertuples(index=False))
    print(table(list(frame.drop(columns="folder").columns), rows))
    return OK
