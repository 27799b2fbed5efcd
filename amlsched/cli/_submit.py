"""`amlsched run -s` and `--wait`: submit arrays, and wait for them."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, SOME_FAILED, print_stderr, print_summary
from amlsched.cli.status import print_queue
from amlsched.errors import ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from amlsched.experiments import AbstractScheduler
    from amlsched.experiments.arrays import SubmitResult
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.target import Target

__all__ = ["check_no_run_options", "print_arrays", "submit_or_wait"]


def submit_or_wait(
    arguments: argparse.Namespace,
    target: Target,
    plan: Plan,
    loggers: Iterable[AbstractLogger] = (),
    scheduler: AbstractScheduler | None = None,
) -> int:
    """Submit the remaining repetitions of a plan, wait for the submitted ones, or both."""
    if arguments.print_job_script:
        return _print_job_scripts(arguments, target, plan)
    if arguments.slurm or arguments.submit:
        from amlsched.experiments.arrays import submit

        for done in submit(
            target,
            plan,
            system=arguments.submit,
            capture=not arguments.no_capture,
            command=sys.argv,
            copy={flag: getattr(arguments, flag) for flag in ("nocodecopy", "zip", "multicopy", "skipsizecheck")},
            replace_copy=arguments.overwrite,
            keep_changed=arguments.keep_changed,
            grace_s=arguments.grace,
            loggers=loggers,
            scheduler=scheduler,
            notify=print_stderr,
        ):
            _print_submitted(done)
            if done.problem is not None:
                raise done.problem
    if arguments.wait:
        return _attach(arguments, plan)
    return OK


def _print_job_scripts(arguments: argparse.Namespace, target: Target, plan: Plan) -> int:
    from amlsched.experiments.arrays import job_scripts

    if not (arguments.slurm or arguments.submit):
        raise ExperimentError("--print-job-script", "does not go with --wait, which submits nothing", "leave one out")
    nothing = True
    for one, script, description in job_scripts(target, plan, system=arguments.submit):
        nothing = False
        size = counted(len(one.work), "element")
        print_stderr(f"The script of an array of {size} in {one.results} (not submitted):")
        print(script, end="")
        if description:
            print_stderr("Its submit description:")
            print(description, end="")
    if nothing:
        print_stderr(f"Nothing remains to run in {', '.join(map(str, plan.paths))}, so there is no script to print.")
    return OK


def print_arrays(arguments: argparse.Namespace, target: Target, plan: Plan) -> None:
    """Print the arrays that `-s` would submit: how many elements, of which repetitions, and the script."""
    from amlsched.experiments.arrays import job_scripts

    for one, script, description in job_scripts(target, plan, system=arguments.submit):
        size = counted(len(one.work), "element")
        print(f"\n-s would submit an array of {size} to {one.batch}{_at_once(one.at_once)}. Its script:\n")
        print(script, end="")
        if description:
            print(f"\nIts submit description:\n\n{description}", end="")
        print(f"\nNothing was submitted. Results: {one.results}")


def check_no_run_options(arguments: argparse.Namespace) -> None:
    """Reject arguments that only apply to a run in this process.

    Raises:
        ExperimentError: One of them was given.
    """
    if arguments.executor != "processes":
        problem = "is for a program that waits for its workers; -s, --submit and --wait are about arrays of jobs"
        raise ExperimentError(f"--executor {arguments.executor}", problem, "leave one of the two out")
    for flag, given in (
        ("-j", arguments.job is not None),
        ("-t", arguments.prefix_with_timestamp),
        ("--max-workers", arguments.max_workers is not None),
        ("--executor-option", bool(arguments.executor_option)),
    ):
        if given:
            problem = "is for a run in this process, and does not go with -s, --submit or --wait"
            raise ExperimentError(flag, problem, "leave it out")


def _print_submitted(done: SubmitResult) -> None:
    for earlier, part in done.earlier:
        print(f"Submitted array {part.job} to {earlier.batch}: {counted(part.count, 'element')} of {earlier.folder}")
    for earlier, number, how in done.changed:
        text = f"{counted(number, 'repetition', 'wait')} with the settings of {earlier.folder} ({how})"
        remedy = f"amlsched cancel {done.results} and submit again, or let them run"
        print_stderr(f"note: {text}: {remedy}")
    queued = f"{counted(done.queued, 'repetition', 'are')} already in the queue. " if done.queued else ""
    one = done.submission
    if one is None:
        print(f"{queued}Nothing else to submit in {done.results}.")
        if done.refused:
            print_stderr(f"{done.refused}\nRun the same command again later to submit the rest.")
        return
    parts = one.parts
    count = sum(part.count for part in parts)
    repetitions = counted(sum(1 for work in one.work for _ in work.keys), "repetition")
    ids = ", ".join(part.job for part in parts)
    array = f"array {ids}" if len(parts) == 1 else f"arrays {ids}"
    size = f"{counted(count, 'element')}{_at_once(one.at_once)}"
    print(f"{queued}Submitted {array} to {one.batch}: {size}. {repetitions} in {one.folder}")
    if count < len(one.work):
        why = done.refused or (done.problem.words if done.problem is not None else "")
        print_stderr(f"{counted(len(one.work) - count, 'more element', 'wait')} to be submitted: {why}")
        print_stderr("They are submitted as others finish, when you run the same command again, or with --wait.")
    print(f"amlsched status {done.results}   shows its progress; amlsched cancel cancels it")


def _at_once(number: int | None) -> str:
    return f", at most {number} at a time" if number else ""


def _attach(arguments: argparse.Namespace, plan: Plan) -> int:
    """Wait for the submitted jobs and show their progress; Ctrl-C leaves them running."""
    from amlsched.experiments.arrays import Attached, Overview
    from amlsched.experiments.progress import progress_for
    from amlsched.experiments.results.survey import survey

    patience_s = math.inf if arguments.patience is None else arguments.patience
    attached = Attached(plan, patience_s, notify=print_stderr)
    begun = time.monotonic()
    if attached.waits and not arguments.quiet:
        print(f"Waiting for {', '.join(attached.arrays)}; Ctrl-C leaves them running", flush=True)
    try:
        with progress_for(attached, attached.summary.total, arguments.metric, quiet=arguments.quiet):
            summary = attached.wait()
    except KeyboardInterrupt:
        print_stderr(f"Detached; the jobs keep running: see amlsched status {plan.paths[0]} and amlsched cancel.")
        raise
    print_summary(summary, plan, arguments.metric, time.monotonic() - begun, quiet=arguments.quiet)
    if not summary.complete:
        for path in plan.paths:
            print_queue(Overview.of(path, (one for one in survey(path) if not one.record.state.done)))
    return OK if summary.complete else SOME_FAILED
