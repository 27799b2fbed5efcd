"""`amlsched status`: what has finished, what failed and what is in the queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from amlsched.cli._output import (
    OK,
    add_command,
    add_results,
    counts,
    print_failures,
    print_notes,
    print_stderr,
    print_stdout,
    print_table,
)
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from amlsched.cli._output import Commands
    from amlsched.experiments.arrays import Overview, SubmittedRepetition
    from amlsched.experiments.results.survey import Found

__all__ = ["add_to", "print_queue"]

_SHOWN = 20


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, status, "show what has finished, what failed and what is in the queue")
    add_results(parser)
    parser.add_argument("--all", action="store_true", help="show every run, not only the first")


def status(arguments: argparse.Namespace) -> int:
    """Show the state of each repetition in a folder of results, by its record and the batch system's queue."""
    from amlsched.experiments.arrays import Overview
    from amlsched.experiments.results.survey import summarized, survey

    unfinished: list[Found] = []

    def passed(found: Iterable[Found]) -> Iterator[Found]:
        for one in found:
            if not one.record.state.done:
                unfinished.append(one)
            yield one

    summary = summarized(passed(survey(arguments.results)))
    overview = Overview.of(arguments.results, unfinished)
    for run in _lost_while_running(overview, unfinished):
        summary.lose(run)
    print_table(summary, [], everything=arguments.all)
    print_queue(overview, everything=arguments.all)
    print_failures(summary)
    print_notes(summary)
    print_stdout(counts(summary))
    return OK


def _lost_while_running(overview: Overview, unfinished: Iterable[Found]) -> Iterator[str]:
    """For each repetition that runs by its record only, its run: its element has ended, or its worker is gone."""
    from amlsched.experiments.storage import State

    submitted = {(one.found.run, one.found.rep) for one in overview.repetitions}
    yield from (one.found.run for one in overview.lost() if one.found.record.state is State.RUNNING)
    if not overview.problem:
        yield from (one.run for one in unfinished if (one.run, one.rep) not in submitted and one.has_lost_worker)


def print_queue(overview: Overview, *, everything: bool = False) -> None:
    """Print what is in the queue, what is running, and which repetitions were cancelled or lost."""
    for note in overview.notes:
        print_stderr(note)
    if overview.problem:
        print_stderr(f"{overview.problem}\nSo only the records are shown.")
    for name, stages in overview.arrays.items():
        print_stdout(f"{name}: {', '.join(f'{count} {words}' for words, count in sorted(stages.items()))}")
    _list(_running, list(overview.running()), everything)
    lost = list(overview.lost())
    _list(_lost, lost, everything)
    cancelled = sum(1 for _ in overview.cancelled())
    if cancelled:
        print(f"{counted(cancelled, 'repetition', 'were')} cancelled; amlsched run … -s submits cancelled ones again")
    if lost:
        print("amlsched run … -s submits lost repetitions again")


def _list(
    line: Callable[[SubmittedRepetition], str], repetitions: Sequence[SubmittedRepetition], everything: bool
) -> None:
    """Print a line for each repetition; only for those that are shown are logs and rows read."""
    for one in repetitions if everything else repetitions[:_SHOWN]:
        print_stdout(line(one))
    if len(repetitions) > _SHOWN and not everything:
        print(f"… and {len(repetitions) - _SHOWN} more")


def _running(one: SubmittedRepetition) -> str:
    from amlsched.display.table import duration

    begun = datetime.fromisoformat(one.found.record.attempts[-1].started)
    since = duration((datetime.now(UTC) - begun).total_seconds())
    words = (f"running  {one.found.run} rep {one.found.rep}", one.element.host, since, one.progress([]))
    return "  ".join(word for word in words if word)


def _lost(one: SubmittedRepetition) -> str:
    element = f" (element {one.place})" if one.place else ""
    return f"lost     {one.found.run} rep {one.found.rep}{element}: {one.cause}"
