"""`amlsched element`: called by the script of an array, not by users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, SOME_FAILED, add_command, counts, print_failures, print_notes

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, element)
    parser.add_argument("--mark", default="")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    for name in ("first", "count", "index"):
        parser.add_argument(name, metavar=name.upper(), type=int)


def element(arguments: argparse.Namespace) -> int:
    """Run one element of an array that was submitted by `amlsched run -s`."""
    from amlsched.experiments.arrays import run_element

    print(f"amlsched: element {arguments.index} of {arguments.folder}", flush=True)
    summary = run_element(arguments.folder, arguments.first, arguments.count, arguments.index, arguments.mark)
    if summary is None:
        return OK
    print_failures(summary)
    print_notes(summary)
    print(counts(summary))
    return OK if summary.complete else SOME_FAILED
