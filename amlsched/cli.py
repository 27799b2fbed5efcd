"""The command line: `amlsched run | status | results | plot`.

Exit codes: 0 all repetitions are done, 1 some are not, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amlsched import __version__
from amlsched.errors import AmlschedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.experiments.expand import Debug
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.summary import Summary

__all__ = ["main"]

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
SHOWN_RUNS = 40
"""A table of runs is cut here."""
SHOWN_FAILURES = 20
LAST_WORDS_S = 1.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; `None` for those of this process.

    Returns:
        The exit code.
    """
    try:
        code = _command(argv)
    except SystemExit as ending:  # argparse has spoken, or a signal ended a run
        code = ending.code if isinstance(ending.code, int) else OK if ending.code is None else SOME_FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = SOME_FAILED
    except (AmlschedError, OSError) as error:
        _say(f"amlsched: error: {error}")
        code = BAD_INPUT
    if argv is None:
        _leave_threads(code)
    return code


def _leave_threads(code: int) -> None:
    """After a signal, leave threads behind that still run a repetition: they cannot be ended, and Python would wait."""
    if code in (OK, SOME_FAILED, BAD_INPUT):
        return
    deadline = time.monotonic() + LAST_WORDS_S  # others still end their workers
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if not any(thread.is_alive() for thread in others):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return cast("int", arguments.command(arguments))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# --------------------------------------------------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "amlsched", description="Run experiments of a config file, and look at the results."
    )
    parser.add_argument("--version", action="version", version=f"amlsched {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run what is left of a config", description=run.__doc__))
    for command, text in (
        (status, "what is done, what failed"),
        (results, "parameters and last values of each repetition"),
    ):
        one = commands.add_parser(command.__name__, help=text, description=command.__doc__)
        one.set_defaults(command=command)
        one.add_argument("results", metavar="RESULTS", help="the folder for the results: the config's `path`")
        if command is results:
            one.add_argument("--csv", metavar="FILE", help="write CSV to this file instead (- for the console)")
        else:
            one.add_argument("--all", action="store_true", help="show every run, not only the first")
    _add_plot(commands.add_parser("plot", help="draw learning curves", description=plot.__doc__))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument(
        "target", metavar="TARGET", help="path/to/file.py:Class or package.module:Class; a function will do"
    )
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    add = parser.add_argument
    add("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help="only these experiments")
    add("-o", "--overwrite", action="store_true", help="run everything again; the same as --rerun all")
    text = "run these again too: failed, unknown, all, or names of experiments or runs"
    add("--rerun", metavar="WHAT", nargs="+", action="extend", default=[], help=text)
    text = "processes (default), threads, sequential, loky"
    add("--executor", metavar="NAME", default="processes", help=text)
    add("--max-workers", metavar="N", type=int, help="how many repetitions run at a time; default: one per CPU")
    text = "another option of the executor; may be given several times"
    add("--executor-option", metavar="KEY=VALUE", action="append", default=[], help=text)
    add("--results", metavar="DIR", help="the folder for the results, instead of the config's `path`")
    add("--dry-run", action="store_true", help="only list what would be run")
    short = parser.add_mutually_exclusive_group()
    text = "a short trial: the first run of each experiment, one repetition, one iteration"
    short.add_argument("--debug", action="store_const", const="debug", dest="debug", default="", help=text)
    text = "the same for every run"
    short.add_argument("--debugall", action="store_const", const="debugall", dest="debug", help=text)
    text = "print to the console, not to out.log and err.log (with --executor sequential a debugger works)"
    add("--no-capture", action="store_true", help=text)
    add("--metric", metavar="NAME", action="append", default=[], help="a column to show; may be given several times")
    add("-q", "--quiet", action="store_true", help="show neither progress nor table")


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=plot)
    parser.add_argument("results", metavar="RESULTS", help="the folder for the results")
    parser.add_argument("--metric", metavar="NAME", required=True, help="the column to draw")
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="the picture; its ending says which kind, such as .png"
    )
    parser.add_argument("--x", metavar="NAME", default="iter", help="the column of the x axis (default: iter)")


def _option(text: str) -> tuple[str, Any]:
    """`key=value`, the value as JSON if it is that, otherwise as text."""
    from amlsched.errors import ExperimentError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--executor-option {text}", "is not KEY=VALUE", "such as --executor-option timeout=60")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


# ----------------------------------------------------------------------------------------------------------- commands


def run(arguments: argparse.Namespace) -> int:
    """Run the repetitions of a config that are not done. Each has a folder with its results, output and record."""
    from amlsched.display import progress_for
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.run import ExperimentRun
    from amlsched.experiments.target import Target

    target = Target.parse(arguments.target)
    plan = Plan(
        arguments.config,
        select=arguments.experiments,
        debug=cast("Debug", arguments.debug),
        results=arguments.results,
        rerun=[*arguments.rerun, *(["all"] if arguments.overwrite else [])],
    )
    if arguments.dry_run:
        return _dry_run(plan)
    options = dict(map(_option, arguments.executor_option))
    if arguments.max_workers is not None and arguments.executor != "sequential":  # which is one at a time anyway
        options["max_workers"] = arguments.max_workers
    experiments = ExperimentRun(target, plan, executor=arguments.executor, capture=not arguments.no_capture, **options)
    begun = time.monotonic()
    try:
        with progress_for(experiments, experiments.summary.total, arguments.metric, quiet=arguments.quiet):
            summary = experiments.run()
    except (KeyboardInterrupt, SystemExit):
        _tell_interrupted(experiments.summary)
        raise
    _tell(summary, plan, arguments.metric, time.monotonic() - begun, quiet=arguments.quiet)
    return OK if summary.complete else SOME_FAILED


def status(arguments: argparse.Namespace) -> int:
    """Show what became of each repetition in a folder of results, by the records there."""
    from amlsched.experiments.results import survey, tallied

    summary = tallied(survey(arguments.results))
    _tell_table(summary, [], everything=arguments.all)
    _tell_failures(summary)
    _tell_notes(summary)
    print(_counts(summary))
    return OK


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


def plot(arguments: argparse.Namespace) -> int:
    """Draw a metric over the iterations: for each run the mean of its repetitions, in a band of ± one deviation."""
    from amlsched.experiments.plot import plot_curves

    plot_curves(arguments.results, arguments.metric, arguments.out, x=arguments.x)
    print(f"Learning curves: {arguments.out}")
    return OK


# ---------------------------------------------------------------------------------------------------------- what is
# told


def _dry_run(plan: Plan) -> int:
    """Line by line, so that a long list can be looked at while it is made."""
    todo = total = 0
    write = sys.stdout.write
    for path, one in plan.runs():
        indices: list[int] = []
        others: dict[str, int] = {}
        for planned in plan.repetitions(one, path):
            if planned.todo:
                indices.append(planned.index)
            else:
                others[planned.known.state.value] = others.get(planned.known.state.value, 0) + 1
        total += one.repetitions
        todo += len(indices)
        settings = ", ".join(f"{key}={value}" for key, value in one.overrides.items())
        rest = "".join(f", {count} {state}" for state, count in others.items())
        write(f"{one.name}  {settings + '  ' if settings else ''}to run: {_ranges(indices)}{rest}\n")
    write(f"{total} repetitions, {todo} to run. Results: {', '.join(map(str, plan.paths))}\n")
    return OK


def _ranges(indices: list[int]) -> str:
    """`rep 0-2, 5` for 0, 1, 2, 5."""
    if not indices:
        return "nothing"
    spans: list[list[int]] = []
    for index in indices:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return "rep " + ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)


def _tell(summary: Summary, plan: Plan, metrics: list[str], seconds: float, *, quiet: bool) -> None:
    from amlsched.display.table import duration

    if not quiet:
        _tell_table(summary, metrics)
    _tell_failures(summary)
    _tell_notes(summary)
    if summary.ran:
        head = f"{summary.ran} run in {duration(seconds)}. "
    else:
        head = "Nothing to run: all is done. " if summary.complete else "Nothing to run. "
    print(f"{head}{_counts(summary)} Results: {', '.join(map(str, plan.paths))}")


def _counts(summary: Summary) -> str:
    counts = ", ".join(f"{count} {state.value}" for state, count in summary.states.items() if count)
    return f"{summary.total} repetitions: {counts}."


def _tell_table(summary: Summary, metrics: list[str], *, everything: bool = False) -> None:
    from amlsched.display.table import duration, mean_and_deviation, table

    tallies = list(summary.tallies.values())
    shown = tallies if everything else tallies[:SHOWN_RUNS]
    metrics = metrics or list(dict.fromkeys(name for tally in shown for name in tally.last))[:4]
    rows = [
        [
            tally.name,
            f"{tally.done}/{tally.total}",
            *(mean_and_deviation(tally.last.get(metric, [])) for metric in metrics),
            duration(tally.seconds) if tally.done else "",
            ", ".join(f"{count} {state.value}" for state, count in tally.states.items() if not state.done),
        ]
        for tally in shown
    ]
    print(table(["run", "done", *metrics, "time", ""], rows))
    if len(tallies) > len(shown):
        print(f"… and {len(tallies) - len(shown)} more runs")


def _tell_failures(summary: Summary) -> None:
    from amlsched.experiments import layout

    for name, folder, reason in summary.failed[:SHOWN_FAILURES]:
        _say(f"failed: {name}: {reason}\n        {_near(folder / layout.ERR_LOG)}")
    if len(summary.failed) > SHOWN_FAILURES:
        _say(f"… and {len(summary.failed) - SHOWN_FAILURES} more")
    if summary.failed:
        _say("--rerun failed runs them again")


def _tell_notes(summary: Summary) -> None:
    for note in summary.notes[:SHOWN_FAILURES]:
        _say(note)
    if len(summary.notes) > SHOWN_FAILURES:
        _say(f"… and {len(summary.notes) - SHOWN_FAILURES} more such notes")


def _tell_interrupted(summary: Summary) -> None:
    counts = ", ".join(
        f"{count} {state.value}" for state, count in summary.states.items() if count and state != "pending"
    )
    _say(f"Interrupted{f': {counts}' if counts else ''}. The same command takes up what is left.")


def _near(path: Path) -> str:
    """The path as seen from here, if it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
