"""`amlsched run`: run the remaining repetitions of a config."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amlsched.cli._output import (
    MANY,
    OK,
    SHOWN_RUNS,
    SOME_FAILED,
    add_command,
    add_debug,
    add_set,
    check_not_swapped,
    described,
    folder,
    print_interrupted,
    print_stderr,
    print_summary,
    ranges,
)
from amlsched.cli._submit import check_no_run_options, print_arrays, submit_or_wait
from amlsched.cli.parser import a_duration, at_least_one, seconds
from amlsched.errors import ExperimentError
from amlsched.scheduler import check_executor, executor_names
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from amlsched.cli._output import Commands
    from amlsched.experiments import AbstractScheduler, ExperimentRun
    from amlsched.experiments.config import Debug
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.progress import Summary
    from amlsched.experiments.target import Target

__all__ = [
    "CommandResult",
    "EXECUTOR_HELP",
    "add_arguments",
    "add_to",
    "check_executor_arguments",
    "execute",
    "plan_of",
]

EXECUTOR_HELP = f"one of {', '.join(executor_names())} (default: processes)"
_SHOWN_NOTES = 10
_EXAMPLES = """\
examples:
  amlsched run train.py:Train train.yml --max-workers 4
      in four processes of this machine
  amlsched run train.py:Train train.yml -e small --set params.lr=0.1 --debug
      a short trial of one experiment, with another value
  amlsched run train.py:Train train.yml -s --wait
      as an array of jobs of Slurm, by the SLURM section of the file, with its progress"""
_ON_THIS_MACHINE = ("loky", "processes", "threads")


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, run, "run the remaining repetitions of a config")
    parser.add_argument(
        "target", metavar="TARGET", help="path/to/file.py:Class or package.module:Class; a function also works"
    )
    add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments after the target; a script with `ClusterWork` takes the same."""
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    _add_what(parser)
    _add_again(parser)
    _add_here(parser)
    _add_array(parser)
    _add_output(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to run")
    add = group.add_argument
    add("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help="only these experiments")
    text = "only this job, counted from 0; a job holds `reps_per_job` repetitions"
    add("-j", "--job", metavar="K", type=int, help=text)
    add_set(group)
    add("--results", metavar="DIR", type=folder, help="the folder for the results, instead of the config's `path`")
    text = "prefix the name of each experiment with the time, as in 1121-093000_digits"
    add("-t", "--prefix-with-timestamp", action="store_true", help=text)
    text = "only list what would run; with -s, also the array and its script"
    add("--dry-run", action="store_true", help=text)
    add_debug(group)
    add("--yes", action="store_true", help=f"do not ask before a new config runs more than {MANY} repetitions")


def _add_again(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("repetitions that have run before (those that are done are skipped)").add_argument
    add("-o", "--overwrite", action="store_true", help="run everything again; the same as --rerun all")
    text = "also run these again: failed, unknown, all, or names of experiments or runs"
    add("--rerun", metavar="WHAT", nargs="+", action="extend", default=[], help=text)
    text = "keep repetitions that ran with other settings under the same name (by default, this is an error)"
    add("--keep-changed", action="store_true", help=text)


def _add_here(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "where to run: this program waits, and its workers are here or on a cluster"
    ).add_argument
    add("--executor", metavar="NAME", default="processes", help=EXECUTOR_HELP)
    add("--max-workers", metavar="N", type=at_least_one, help="how many repetitions run at once (default: one per CPU)")
    text = "another option of the executor; may be repeated"
    add("--executor-option", metavar="KEY=VALUE", action="append", default=[], help=text)
    text = "after a signal, how long repetitions that support stopping have to save their state (default: 20)"
    add("--grace", metavar="SECONDS", type=seconds, default=20.0, help=text)


def _add_array(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("or submit an array of jobs, which needs no program that waits").add_argument
    text = "submit the remaining repetitions as an array to the batch system of the config's SLURM section, and return"
    add("-s", "--slurm", action="store_true", help=text)
    add("--submit", metavar="SYSTEM", choices=_ArraySystems(), help="like -s, to this batch system: %(choices)s")
    text = "wait for the submitted jobs and show their progress; Ctrl-C leaves them running"
    add("--wait", action="store_true", help=text)
    text = "with --wait: how long to wait for a batch system that does not answer, such as 30min (default: for ever)"
    add("--patience", metavar="DURATION", type=a_duration, help=text)
    text = "with -s, or an executor that submits jobs: print the script of the array or job, and submit nothing"
    add("--print-job-script", action="store_true", help=text)
    add("--nocodecopy", action="store_true", help="make no copy of the code, even if the config asks for one")
    add("--zip", action="store_true", help="keep the copy in a zip file")
    add("--multicopy", action="store_true", help="make a copy for each job")
    add("--skipsizecheck", action="store_true", help="copy even more than 200 MB")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--metric", metavar="NAME", nargs="+", action="extend", default=[], help="the columns to show")
    text = "also use this logger: wandb, print, or path/to/file.py:Class; may be repeated"
    add("--logger", metavar="NAME", action="append", default=[], help=text)
    text = "print to the console instead of out.log and err.log (with --executor sequential, a debugger works)"
    add("--no-capture", "--noconsolelog", action="store_true", help=text)
    add("-q", "--quiet", action="store_true", help="show neither progress nor table")


class _ArraySystems:
    """The names of the batch systems that run arrays; they are imported only if `--submit` or `--help` is given."""

    def __iter__(self) -> Iterator[str]:
        from amlsched.batch_systems import SYSTEMS

        return iter(SYSTEMS)


def _option(text: str) -> tuple[str, Any]:
    """`key=value`, with the value as JSON if it is valid JSON, otherwise as text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--executor-option {text}", "is not KEY=VALUE", "such as --executor-option timeout=60")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def check_executor_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `--executor-option`, checked against the executor.

    Raises:
        ExperimentError: There is no such executor, or it has no such option.
    """
    from amlsched.batch_systems import WORKER_SYSTEMS

    options = dict(map(_option, arguments.executor_option))
    try:
        check_executor(arguments.executor, ({"n_workers": 1} if arguments.executor in WORKER_SYSTEMS else {}) | options)
    except ValueError as error:
        raise ExperimentError("command line", str(error)) from None
    return options


def run(arguments: argparse.Namespace) -> int:
    """Run the repetitions of a config that are not done. Each has a folder with its results, output and record."""
    from amlsched.experiments.target import Target

    check_not_swapped(arguments.target, arguments.config, f"{arguments.config} {arguments.target}")
    if not (arguments.slurm or arguments.submit or arguments.wait):
        check_executor_arguments(arguments)  # before the experiment is looked for
    return execute(arguments, Target.parse(arguments.target)).code


class CommandResult(NamedTuple):
    """The outcome of a command: the exit code, and the summary if repetitions ran in this process."""

    code: int
    summary: Summary | None = None


def execute(
    arguments: argparse.Namespace,
    target: Target,
    *,
    loggers: Iterable[AbstractLogger] = (),
    scheduler: AbstractScheduler | None = None,
    plan: Plan | None = None,
    one_job_at_a_time: bool = False,
) -> CommandResult:
    """Run, submit or list repetitions as the arguments say, and print the outcome.

    Args:
        arguments: As from `add_arguments`.
        target: The experiment.
        loggers: Receive what the experiment logs, in addition to the CSV file.
        scheduler: Runs the jobs; `None` for an executor.
        plan: The repetitions; `None` for those that the arguments describe.
        one_job_at_a_time: Whether at most `reps_in_parallel` repetitions run at a time, unless the arguments give a
            number.
    """
    from amlsched.experiments import ExperimentRun
    from amlsched.experiments.config import expand
    from amlsched.experiments.progress import Summary, progress_for

    on_array = bool(arguments.slurm or arguments.submit or arguments.wait)
    if on_array:
        check_no_run_options(arguments)
    if arguments.patience is not None and not arguments.wait:
        raise ExperimentError(
            "--patience", "is how long --wait waits for the batch system", "add --wait, or leave it out"
        )
    given = check_executor_arguments(arguments)
    plan = plan or plan_of(arguments)
    if not arguments.quiet:
        _print_notes(arguments, plan)
    if arguments.dry_run:
        _dry_run(plan)
        if (arguments.slurm or arguments.submit) and not arguments.print_job_script:
            print_arrays(arguments, target, plan)
        return CommandResult(OK)
    loggers = [*loggers, *map(_logger_from_option, arguments.logger)]
    if arguments.slurm or arguments.submit or not (arguments.wait or arguments.print_job_script):
        _confirm_many(arguments, plan)
    if on_array:
        return CommandResult(submit_or_wait(arguments, target, plan, loggers, scheduler))
    options = _executor_options(arguments, plan, given)
    if plan.bundle is not None and not arguments.print_job_script:
        print(described(plan.bundle))
    if arguments.print_job_script:
        return CommandResult(_print_job_script(arguments.executor, options))
    if one_job_at_a_time and arguments.max_workers is None and arguments.executor in _ON_THIS_MACHINE:
        options.setdefault(
            "max_workers", max(next(expand.expand(one, plan.debug)).reps_in_parallel for one in plan.experiments)
        )
    experiments = ExperimentRun(
        target,
        plan,
        executor=arguments.executor,
        capture=not arguments.no_capture,
        loggers=loggers,
        keep_changed=arguments.keep_changed,
        grace_s=arguments.grace,
        **options,
    )
    failures = logging.getLogger(Summary.__module__)
    if not failures.handlers:
        failures.addHandler(logging.NullHandler())  # the progress and the final output report failures
    begun = time.monotonic()
    try:
        with progress_for(experiments, experiments.summary.total, arguments.metric, quiet=arguments.quiet):
            summary = _run(experiments) if scheduler is None else experiments.run_by(scheduler, arguments.overwrite)
    except (KeyboardInterrupt, SystemExit):
        print_interrupted(experiments.summary)
        raise
    print_summary(summary, plan, arguments.metric, time.monotonic() - begun, quiet=arguments.quiet)
    return CommandResult(OK if summary.complete else SOME_FAILED, summary)


def _logger_from_option(text: str) -> AbstractLogger:
    """The logger of a `--logger` option.

    Args:
        text: `print`, `wandb`, or the place of a class or function that creates one, as in `my_loggers.py:MyLogger`.

    Raises:
        ExperimentError: There is no logger of this name, it cannot be created, or it is not a logger.
    """
    import traceback

    from amlsched._signals import raised_by_handler
    from amlsched._spelling import suggestion
    from amlsched._surroundings import is_installed
    from amlsched.errors import AmlschedError
    from amlsched.executors.user_function import describe
    from amlsched.experiments.loggers import AbstractLogger, Printer, WandBLogger
    from amlsched.experiments.target import Target

    known: dict[str, Callable[[], AbstractLogger]] = {"print": Printer, "wandb": WandBLogger}
    where = f"--logger {text}"
    if ":" not in text and text not in known:
        remedy = f"{suggestion(text, known)}, or path/to/file.py:Class"
        raise ExperimentError(where, "there is no such logger", remedy)
    make: Callable[[], object] = known[text] if text in known else Target.parse(text).found()
    try:
        logger = make()
    except TypeError as error:
        raise ExperimentError(
            where, f"cannot be created without arguments: {error}", "name a function that creates it"
        ) from error
    except BaseException as error:  # user code may also exit
        if isinstance(error, AmlschedError) or raised_by_handler(error):
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not is_installed(frame.filename)]
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise ExperimentError(where, f"cannot be created: {describe(error)}{place}") from error
    if not isinstance(logger, AbstractLogger):
        problem = f"gives a {type(logger).__name__}, which is not a logger"
        raise ExperimentError(where, problem, "derive it from amlsched.experiments.AbstractLogger")
    return logger


def _run(experiments: ExperimentRun) -> Summary:
    """Run the repetitions; if an asyncio loop is running here, as in a notebook, then in a thread with its own loop."""
    from concurrent.futures import ThreadPoolExecutor

    if asyncio._get_running_loop() is None:
        return experiments.run()
    loop = asyncio.new_event_loop()
    task = loop.create_task(experiments.async_run())
    interruption: KeyboardInterrupt | None = None
    with contextlib.closing(loop), ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop.run_until_complete, task)
        while True:
            try:
                return done.result()
            except KeyboardInterrupt as error:  # the run saves its state, and then raises
                interruption = error
                loop.call_soon_threadsafe(task.cancel)
            except asyncio.CancelledError:
                raise interruption or KeyboardInterrupt from None


def _print_notes(arguments: argparse.Namespace, plan: Plan) -> None:
    """Print notes on the config. Differences from YAML 1.1 are only shown the first time that it is run."""
    from amlsched.batch_systems import WORKER_SYSTEMS

    resolved = plan.resolved
    notes = [*resolved.notes]
    if arguments.slurm or arguments.submit or arguments.executor in WORKER_SYSTEMS:
        notes += resolved.sections.notes
    if resolved.differences and _is_new(plan):
        notes = [*resolved.differences, *notes]
    for note in notes[:_SHOWN_NOTES]:
        print_stderr(f"note: {note}")
    if len(notes) > _SHOWN_NOTES:
        print_stderr(f"note: and {len(notes) - _SHOWN_NOTES} more: amlsched config check {plan.config} shows all")


def _is_new(plan: Plan) -> bool:
    """Whether an experiment of the plan has not been run before, or has changed since."""
    from amlsched.experiments.storage import layout

    return any(
        not layout.is_resolved(plan.path(one).resolve(), one, plan.config, plan.debug) for one in plan.experiments
    )


def _confirm_many(arguments: argparse.Namespace, plan: Plan) -> None:
    """Ask before a new config runs very many repetitions; without a terminal to ask on, print a note.

    Raises:
        ExperimentError: The user did not confirm.
    """
    n_runs, n_repetitions = plan.count()
    if n_repetitions <= MANY or arguments.yes or not _is_new(plan):
        return
    text = f"{plan.config} has {counted(n_repetitions, 'repetition')} ({counted(n_runs, 'run')})"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if not arguments.quiet:
            print_stderr(f"note: {text}")
        return
    sys.stderr.write(f"{text}. Run them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ExperimentError("command line", "nothing was run", "to run them without this question, add --yes")


def _executor_options(arguments: argparse.Namespace, plan: Plan, options: dict[str, Any]) -> dict[str, Any]:
    """Options from the command line and, for a batch system, from the config's section."""
    from amlsched.batch_systems import WORKER_SYSTEMS
    from amlsched.experiments.arrays import worker_options

    on_cluster = arguments.executor in WORKER_SYSTEMS
    if arguments.max_workers is not None and arguments.executor != "sequential":  # which is one at a time anyway
        clusters = (*WORKER_SYSTEMS, "dask", "slurm_allocation")
        options["n_workers" if arguments.executor in clusters else "max_workers"] = arguments.max_workers
    return worker_options(plan, arguments.executor, options) if on_cluster else options


def _print_job_script(executor: str, options: Mapping[str, Any]) -> int:
    from amlsched.batch_systems import WORKER_SYSTEMS
    from amlsched.executors.jobqueue import job_script

    if executor not in WORKER_SYSTEMS:
        remedy = f"--executor {', '.join(WORKER_SYSTEMS)}"
        raise ExperimentError("--print-job-script", f"the executor {executor} submits no jobs", remedy)
    try:
        print(job_script(executor, **options))
    except (TypeError, ValueError) as error:
        raise ExperimentError("executor", str(error), "see --executor-option") from error
    return OK


def plan_of(arguments: argparse.Namespace, root: str | Path = "") -> Plan:
    """The plan that the arguments describe.

    Args:
        arguments: As from `add_arguments`.
        root: Relative folders of results are relative to it; empty for the working folder.
    """
    from amlsched.experiments.plan import Plan

    if arguments.prefix_with_timestamp is True:  # another plan from these arguments gets the same time
        arguments.prefix_with_timestamp = datetime.now().astimezone().strftime("%m%d-%H%M%S_")
    return Plan(
        arguments.config,
        select=arguments.experiments,
        debug=cast("Debug", arguments.debug),
        results=arguments.results,
        overrides=arguments.overrides,
        rerun=[*arguments.rerun, *(["all"] if arguments.overwrite else [])],
        job=arguments.job,
        root=root,
        prefix=arguments.prefix_with_timestamp or "",
    )


def _dry_run(plan: Plan) -> None:
    """Print line by line, so that a long list can be read while it is being made; a terminal gets only its head."""
    todo = total = changed = listed = 0
    limit = SHOWN_RUNS if sys.stdout.isatty() else None
    n_runs, n_repetitions = plan.count()
    nothing_ran = not any(path.exists() for path in plan.paths)
    write = sys.stdout.write
    for path, one in plan.runs():
        if listed == limit and nothing_ran:
            todo, total = todo + n_repetitions - total, n_repetitions
            break
        indices: list[int] = []
        others: dict[str, int] = {}
        for planned in plan.repetitions(one, path):
            if planned.todo:
                indices.append(planned.index)
            else:
                others[planned.known.state.value] = others.get(planned.known.state.value, 0) + 1
                changed += planned.changed
        total += len(indices) + sum(others.values())
        todo += len(indices)
        if listed == limit:
            continue
        listed += 1
        settings = ", ".join(f"{key}={value}" for key, value in one.overrides.items())
        rest = "".join(f", {count} {state}" for state, count in others.items())
        write(f"{one.name}  {settings + '  ' if settings else ''}to run: {ranges(indices)}{rest}\n")
    if listed < n_runs:
        write(f"… and {counted(n_runs - listed, 'more run')} (a file or a pipe gets all: | less)\n")
    if changed:
        text = "run with other settings under the same name: without -o or --keep-changed, nothing will run"
        write(f"{counted(changed, 'repetition', 'were')} {text}\n")
    write(f"{counted(total, 'repetition')}, {todo} to run. Results: {', '.join(map(str, plan.paths))}\n")
