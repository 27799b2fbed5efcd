"""Check, before a run starts, for errors that would occur in every repetition."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments import codecopy
from amlsched.experiments.changes import check_unchanged
from amlsched.experiments.check import missing_iterations
from amlsched.experiments.target import check_config_picklable
from amlsched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from amlsched.experiments.plan import Plan
    from amlsched.experiments.target import Target

__all__ = ["check_run", "scheduler_for"]

_IN_THIS_PROCESS = ("sequential", "threads")
"""Executors that run calls in this process, without pickling them."""


def scheduler_for(executor: str, options: Mapping[str, Any]) -> Scheduler:
    """A scheduler with the executor of this name; it has no workers yet.

    Raises:
        ExperimentError: There is no such executor, or an option is unknown or has an invalid value.
        BatchSystemError: The batch system is not installed here.
        MissingExtraError: A package is not installed.
    """
    try:
        return Scheduler.from_name(executor, **options)
    except (TypeError, ValueError) as error:
        raise ExperimentError("executor", str(error), "see --executor and --executor-option") from error


def check_run(target: Target, plan: Plan, executor: str, *, keep_changed: bool) -> None:
    """Import the experiment, and check that the plan can run with it here.

    Args:
        target: The experiment.
        plan: The repetitions.
        executor: Name of the executor.
        keep_changed: Whether to accept repetitions that were run with other settings under the same name.

    Raises:
        CodeCopyError: A copy of the code was made for this job, but the experiment was not imported from it.
        ConfigError: The config does not suit the experiment.
        ExperimentError: The experiment cannot be imported or sent to workers, a results folder cannot be written, or
            repetitions were run with other settings.
    """
    codecopy.check_runs_from(target.module())
    made = target.load()
    if not plan.debug:
        for fault in missing_iterations(made, plan.experiments):
            raise fault
    if executor not in _IN_THIS_PROCESS:
        target.check_picklable()
        for experiment in plan.experiments:
            check_config_picklable(experiment.name, experiment.config)
    if not plan.debug and not keep_changed:
        check_unchanged(plan)
    for path in plan.paths:
        _check_writable(path)


def _check_writable(path: Path) -> None:
    """Create the folder, and try to write to it.

    Raises:
        ExperimentError: It cannot be created or written.
    """
    probe = path / f".amlsched-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        where = f"results folder {path}"
        raise ExperimentError(
            where, f"cannot be written: {error.strerror}", "set path in the config, or --results"
        ) from error
