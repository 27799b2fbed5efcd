"""`amlsched cancel`: cancel submitted jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amlsched.cli._output import OK, add_command, add_results, print_stderr
from amlsched.errors import BatchSystemError, ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, cancel, "cancel submitted arrays")
    add_results(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these experiments or runs (default: all)")


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel elements of arrays, pending or running. Their repetitions are cancelled; `run -s` submits them again."""
    from amlsched._spelling import suggestion
    from amlsched.experiments.arrays import cancel as cancel_elements
    from amlsched.experiments.arrays import submissions
    from amlsched.experiments.results.survey import existing_folder

    existing_folder(arguments.results)
    chosen = submissions(arguments.results)
    if not chosen:
        where, remedy = f"results folder {arguments.results}", "submit with amlsched run … -s"
        raise ExperimentError(where, "nothing was submitted for it", remedy)
    wanted = set(arguments.names)
    known = {name for one in chosen for work in one.work for name in (work.experiment, *work.repetitions)}
    if unknown := sorted(wanted - known):
        remedy = suggestion(unknown[0], sorted(known))
        raise ExperimentError(f"amlsched cancel {' '.join(unknown)}", "nothing with this name was submitted", remedy)
    count = 0
    problem: BatchSystemError | None = None
    for one in chosen:
        elements = [
            number
            for number, work in enumerate(one.work)
            if not wanted or work.experiment in wanted or wanted & work.repetitions.keys()
        ]
        try:
            of_one, notes = cancel_elements(one, elements)
        except BatchSystemError as error:  # the others are cancelled nevertheless
            problem = problem or error
            continue
        count += of_one
        for note in notes:
            print_stderr(note)
    if count or problem is None:
        print(f"Cancelled {counted(count, 'element')}." if count else "Nothing to cancel: all elements have finished.")
    if problem is not None:
        raise problem
    return OK
