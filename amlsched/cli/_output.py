"""What the commands share: exit codes, arguments, and output of tables, failures and notes."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import expanded
from amlsched.errors import ConfigError, ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched.experiments.config import Bundle
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.progress import Summary

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]
    """The object that a command's parser is added to."""
    Arguments = argparse._ActionsContainer  # pyright: ignore[reportPrivateUsage]
    """A parser, or a group of its arguments."""

__all__ = [
    "BAD_INPUT",
    "Commands",
    "INTERRUPTED",
    "MANY",
    "OK",
    "SHOWN_RUNS",
    "SOME_FAILED",
    "add_command",
    "add_debug",
    "add_results",
    "add_selection",
    "add_set",
    "counts",
    "described",
    "folder",
    "ranges",
    "check_not_swapped",
    "print_stderr",
    "print_stdout",
    "shortened",
    "print_summary",
    "print_failures",
    "print_interrupted",
    "print_notes",
    "print_table",
    "table_text",
    "write_file",
]

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all repetitions are done, some are not, bad input, Ctrl-C. After SIGTERM it is 143."""
SHOWN_RUNS = 40
"""The most rows in a table of runs."""
MANY = 10_000
"""A new config with more repetitions than this may be a mistake."""
_SHOWN_FAILURES = 20
_ALIKE = 3
"""From this many on, failures with the same error are shown as one."""
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_LONG_WORD = re.compile(r"(\S{200})\S{200,}(\S{50})")


def add_command(
    commands: Commands, command: Callable[[argparse.Namespace], int], text: str | None = None
) -> argparse.ArgumentParser:
    """Add the parser of a command with the name and docstring of this function; help lists it if there is a text."""
    listed: dict[str, Any] = {} if text is None else {"help": text}
    parser = commands.add_parser(command.__name__, description=command.__doc__, **listed)
    parser.set_defaults(command=command)
    return parser


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the folder for the results, for commands that read it."""
    text = "the folder for the results: the config's `path`"
    parser.add_argument("results", metavar="RESULTS", type=folder, help=text)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select repetitions."""
    add = parser.add_argument
    add("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help="only these experiments")
    text = "only repetitions with this parameter, such as params.lr=0.1; may be repeated"
    add("--where", metavar="KEY=VALUE", action="append", default=[], help=text)
    add("--rep", metavar="N", type=int, nargs="+", action="extend", default=[], help="only these repetitions")


def add_debug(parser: Arguments) -> None:
    """Add `--debug` and `--debugall`, for commands that expand a config."""
    short = parser.add_mutually_exclusive_group()
    text = "a short trial: the first run of each experiment, one repetition, one iteration"
    short.add_argument("--debug", action="store_const", const="debug", dest="debug", default="", help=text)
    text = "like --debug, for every run"
    short.add_argument("--debugall", action="store_const", const="debugall", dest="debug", help=text)


def add_set(parser: Arguments) -> None:
    """Add `--set KEY=VALUE`, for commands that read a config."""
    text = "a value that overrides the config's, such as params.lr=0.1 or 'grid.lr=[0.1, 0.2]'; may be repeated"
    parser.add_argument("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[], help=text)


def folder(text: str) -> Path:
    """A folder of results; for argparse."""
    try:
        return expanded(text, text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_not_swapped(target: str, config: str, right: str) -> None:
    """Reject an experiment and a YAML file that were given in the wrong order.

    Args:
        target: What was given as the experiment.
        config: What was given as the YAML file.
        right: The two in the right order.

    Raises:
        ExperimentError: They are in the wrong order.
    """
    if target.endswith((".yml", ".yaml")) and (".py" in config or ":" in config):
        problem = f"{config} was given as the YAML file, and {target} as the experiment"
        raise ExperimentError("CONFIG", problem, f"swapped? Write {right}")


def shortened(text: str) -> str:
    """A message without the middle of very long words, such as an argument of thousands of characters."""
    return _LONG_WORD.sub(r"\1…\2", text)


def write_file(file: Path, text: str) -> None:
    """Write a file that an option names; its folder is created."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def print_stderr(text: str) -> None:
    """Print to standard error, and ignore errors if it is closed."""
    from amlsched.display.table import write

    with contextlib.suppress(OSError, ValueError):
        write(text, sys.stderr)


def print_stdout(text: str) -> None:
    """Print to standard output, with colours if it is a terminal."""
    from amlsched.display.table import write

    write(text, sys.stdout)


def print_summary(summary: Summary, plan: Plan, metrics: list[str], seconds: float, *, quiet: bool) -> None:
    """Print what a run did, and the state of all repetitions."""
    from amlsched.display.table import duration

    if not quiet:
        print_table(summary, metrics)
    print_failures(summary)
    print_notes(summary)
    _print_unknown_metrics(summary, metrics)
    if summary.ran:
        head = f"Ran {summary.ran} in {duration(seconds)}. "
    else:
        head = "Nothing to run: all repetitions are done. " if summary.complete else "Nothing to run. "
    print_stdout(f"{head}{counts(summary)} {_used(summary)}Results: {', '.join(map(str, plan.paths))}")


def _print_unknown_metrics(summary: Summary, metrics: list[str]) -> None:
    """Print which of the metrics no repetition has logged, once one is done."""
    from amlsched._spelling import suggestion

    known = dict.fromkeys(name for tally in summary.tallies.values() for name in tally.last)
    for metric in metrics if summary.done else ():
        if metric not in known:
            print_stderr(f"--metric {metric}: no repetition logged such a number ({suggestion(metric, known)})")


def _used(summary: Summary) -> str:
    from amlsched.display.table import duration

    if not summary.ran:
        return ""  # what earlier runs used would read as what this one did
    used = summary.used
    peak = f", at most {used.peak_memory_bytes / 2**20:.0f} MiB of memory" if used.peak_memory_bytes else ""
    return f"{duration(used.cpu_s)} of CPU time{peak}. " if used.cpu_s else ""


def counts(summary: Summary) -> str:
    """How many repetitions are in each state."""
    return f"{counted(summary.total, 'repetition')}: {summary.states}."


def print_table(summary: Summary, metrics: list[str], *, everything: bool = False) -> None:
    """Print a table with a row for each run."""
    from amlsched.display.table import duration, mean_and_deviation
    from amlsched.experiments.storage import State

    tallies = list(summary.tallies.values())
    shown = tallies if everything else tallies[:SHOWN_RUNS]
    metrics = metrics or list(dict.fromkeys(name for tally in shown for name in tally.last))[:4]
    rows = [
        [
            tally.name,
            f"{tally.done}/{tally.total}",
            *(mean_and_deviation(tally.last.get(metric, [])) for metric in metrics),
            duration(tally.seconds) if tally.done else "",
            str(tally.states.without(State.COMPLETED, State.SURRENDERED)),
        ]
        for tally in shown
    ]
    columns = ["run", "done", *metrics, "time", ""]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_stdout(table_text(columns, rows))
    if len(tallies) > len(shown):
        print(f"… and {len(tallies) - len(shown)} more runs")


def table_text(columns: list[str], rows: list[list[str]], *, hide_constant: bool = False) -> str:
    """A table for standard output; on a terminal, one that fits its width, as `fitted` makes it."""
    from amlsched._surroundings import is_terminal
    from amlsched.display.table import fitted, table

    if not is_terminal(sys.stdout):
        return table(columns, rows)
    return fitted(columns, rows, shutil.get_terminal_size().columns, hide_constant=hide_constant)


def print_failures(summary: Summary) -> None:
    """Print what failed, and the log file of each failure."""
    from amlsched.experiments.storage import State, layout

    alike: dict[str, list[tuple[str, Path, str]]] = {}
    for one in summary.failed:
        alike.setdefault(_NUMBER.sub("0", one[2]), []).append(one)
    groups = [[one] for group in alike.values() if len(group) < _ALIKE for one in group]
    groups += [group for group in alike.values() if len(group) >= _ALIKE]
    for group in groups[:_SHOWN_FAILURES]:
        name, folder, reason = min(group, key=lambda one: _size(one[1] / layout.ERR_LOG))
        of = name if len(group) == 1 else f"{len(group)} repetitions, such as {name}"
        print_stderr(f"failed: {of}: {reason}\n        {_near(folder / layout.ERR_LOG)}")
    if len(groups) > _SHOWN_FAILURES:
        print_stderr(f"… and {sum(map(len, groups[_SHOWN_FAILURES:]))} more")
    states = [state for state in ("failed", "unknown") if summary.states[State(state)]]
    if summary.failed and states:
        print_stderr(f"--rerun {' '.join(states)} runs them again")


def print_notes(summary: Summary) -> None:
    """Print the notes of a summary."""
    for note in summary.notes[:_SHOWN_FAILURES]:
        print_stderr(note)
    if len(summary.notes) > _SHOWN_FAILURES:
        print_stderr(f"… and {len(summary.notes) - _SHOWN_FAILURES} more such notes")


def print_interrupted(summary: Summary) -> None:
    """Print the state of the repetitions after a signal stopped the run."""
    from amlsched.experiments.storage import State

    states = str(summary.states.without(State.PENDING))
    print_stderr(f"Interrupted{f': {states}' if states else ''}. Run the same command again to resume.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return sys.maxsize


def _near(path: Path) -> str:
    """The path relative to the working folder, if it is inside it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def described(bundle: Bundle) -> str:
    """What a job runs: `job 3: digits__lr0.1 rep 0-2`."""
    return f"job {bundle.index}: " + ", ".join(f"{run.name} {ranges(bundle.indices(run))}" for run in bundle.runs)


def ranges(indices: list[int]) -> str:
    """`rep 0-2, 5` for 0, 1, 2, 5."""
    from amlsched.batch_systems import system

    return f"rep {', '.join(system.ranges(indices))}" if indices else "nothing"
