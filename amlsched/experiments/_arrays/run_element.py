"""Run an element of an array: the repetitions of one job, by the plan as of the submission."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.batch_systems import commands
from amlsched.experiments._arrays import submission
from amlsched.experiments._arrays.submit import feed_from_element
from amlsched.experiments._code.copy import CodeCopy
from amlsched.experiments._running.experiment_run import ExperimentRun
from amlsched.experiments._storage import claims
from amlsched.experiments._storage.claims import Owner
from amlsched.experiments._storage.record import Process, State
from amlsched.experiments.plan import Plan, Planned
from amlsched.experiments.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amlsched.experiments._arrays.submission import Submission, Work
    from amlsched.experiments._config.expand import Run
    from amlsched.experiments._running.custom_schedulers import AbstractScheduler
    from amlsched.experiments._running.summary import Summary
    from amlsched.experiments.loggers.base import AbstractLogger

__all__ = ["ElementRun", "run_element"]

_WARNED = 128 + signal.SIGUSR1
"""The exit code after the signal that the time limit is near."""


class _ElementPlan(Plan):
    """The remaining work of an element, also after a restart, or while other runs work on the same config."""

    def __init__(self, config: Path, work: Work) -> None:
        super().__init__(config, job=work.job)
        self._work = work

    def repetitions(self, run: Run, path: Path) -> Iterator[Planned]:
        return (self._of_element(planned) for planned in super().repetitions(run, path))

    def repetition(self, run: Run, index: int, path: Path) -> Planned:
        return self._of_element(super().repetition(run, index, path))

    def starts_from_scratch(self, planned: Planned) -> bool:
        name, attempts = planned.run.name, len(planned.known.attempts)
        return name in self._work.anew and self._work.is_run_again(name, planned.index, attempts)

    def _of_element(self, planned: Planned) -> Planned:
        name, known = planned.run.name, planned.known
        if planned.index not in self._work.repetitions.get(name, ()):
            return replace(planned, todo=False)
        if planned.todo:
            return planned
        if known.state is State.RUNNING:
            owner = claims.holder(planned.folder)  # it may be an earlier start of this element
            todo = owner is None or owner.can_be_taken_over_by(Owner("", Process.this()))
        else:
            todo = self._work.is_run_again(name, planned.index, len(known.attempts))
        return replace(planned, todo=todo)


class ElementRun(ExperimentRun):
    """Runs the repetitions of an element."""

    def prepare(self) -> None:
        """Only check the plan: the configs in the folders of runs were written when the array was submitted."""
        self.check()


def run_element(folder: Path, first: int, count: int, index: int) -> Summary | None:
    """Run an element.

    Args:
        folder: The folder of the submission.
        first: The first element of its array.
        count: How many elements the array has.
        index: The batch system's index of the element.

    Returns:
        The summary of its repetitions; `None` if there is no such element, or it was cancelled.

    Raises:
        ExperimentError: There is no such submission, or the experiment cannot be imported.
        BaseException: A signal stopped it.
    """
    one = submission.read(folder)
    number = first + index - one.batch.first
    if number >= first + count or number in one.dropped:
        return None
    work = one.work[number]
    plan = _ElementPlan(one.config, work)
    assert plan.bundle is not None
    target = _enter_copy(one, number)
    loggers, scheduler = _load_carried(one)
    run = ElementRun(
        target,
        plan,
        executor="processes",
        capture=one.capture,
        loggers=loggers,
        grace_s=one.grace_s,
        keep_changed=True,  # changes were checked at the submission
        max_workers=plan.bundle.reps_in_parallel,
    )
    _handle_notify()
    try:
        summary = run.run() if scheduler is None else run.run_by(scheduler)
    except SystemExit as ending:
        if ending.code == _WARNED and one.array["requeue"] and _made_progress(run):
            raise SystemExit(commands.requeue(one.batch) or _WARNED) from None
        raise
    feed_from_element(one, number)
    return summary


def _handle_notify() -> None:
    """Handle SIGUSR2 like SIGTERM: Grid Engine's `-notify` sends it before it kills."""
    if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def _made_progress(run: ExperimentRun) -> bool:
    """Whether this start of the element made progress, so that another one will, too."""
    for path, one in run.plan.runs():
        for planned in run.plan.repetitions(one, path):
            attempts = planned.known.attempts
            if not attempts or attempts[-1].run_id != run.run_id:
                continue
            before = max((attempt.rows for attempt in attempts[:-1]), default=0)
            if planned.known.state.done or (planned.known.state is State.PREEMPTED and attempts[-1].rows > before):
                return True
    return False


def _enter_copy(one: Submission, number: int) -> Target:
    """The experiment. If there is a copy of the code for this element, this process is switched to it."""
    place, _, name = one.target.rpartition(":")
    if not one.copies:
        return Target.parse(one.target)
    code = CodeCopy.read(one.copies[min(number, len(one.copies) - 1)])
    os.chdir(code.place(one.array["folder"]))
    os.environ.update(code.environment())
    sys.path[:] = [str(code.place(path)) if path else path for path in sys.path]
    return Target.parse(f"{code.place(place) if place.endswith('.py') else place}:{name}")


def _load_carried(one: Submission) -> tuple[tuple[AbstractLogger, ...], AbstractScheduler | None]:
    """The pickled loggers and scheduler of the submission."""
    if not one.carried.exists():
        return (), None
    with one.carried.open("rb") as file:
        carried: tuple[tuple[AbstractLogger, ...], AbstractScheduler | None] = _Unpickler(file).load()
    return carried


class _Unpickler(pickle.Unpickler):
    """Finds classes of ours also where an array was submitted before they moved to other modules, in version 0.1."""

    def find_class(self, module: str, name: str) -> object:
        return super().find_class(_MOVED.get(module, module), name)


_MOVED = {
    "amlsched.experiments.console": "amlsched.experiments.loggers.console",
    "amlsched.experiments.pandas_logger": "amlsched.experiments.loggers.csv",
    "amlsched.experiments.scheduling": "amlsched.experiments._running.custom_schedulers",
    "amlsched.experiments.wandb_logger": "amlsched.experiments.loggers.wandb",
}
