"""Run an element of an array: the repetitions of one job, by the plan as of the submission."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.batch_systems import commands
from amlsched.errors import BatchSystemError, ExperimentError
from amlsched.experiments._arrays import submission
from amlsched.experiments._arrays.submission import STOPPED, Word
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

    from amlsched.experiments._arrays.submission import Part, Submission, Work
    from amlsched.experiments._config.expand import Run
    from amlsched.experiments._running.custom_schedulers import AbstractScheduler
    from amlsched.experiments._running.summary import Summary
    from amlsched.experiments.loggers.base import AbstractLogger

__all__ = ["ElementRun", "run_element"]

_WARNED = 128 + signal.SIGUSR1
"""The exit code after the signal that the time limit is near."""
_STOPPED = 128 + signal.SIGTERM
_SETTLE_S = 30.0
"""How long an element that does not know its array waits for the id from the command that submitted it."""


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


def run_element(folder: Path, first: int, count: int, index: int, mark: str = "") -> Summary | None:
    """Run an element.

    Args:
        folder: The folder of the submission.
        first: The first element of its array.
        count: How many elements the array has.
        index: The batch system's index of the element.
        mark: The mark of its array; empty if it was submitted by version 0.1 or earlier.

    Returns:
        The summary of its repetitions; `None` if there is no such element, it was cancelled, or its array was given up.

    Raises:
        ExperimentError: There is no such submission, or the experiment cannot be imported.
        BaseException: A signal stopped it.
    """
    _check_there(folder, "nothing was run")
    one = submission.read(folder)
    position = index - one.batch.first
    if position >= count:
        return None
    part = _own_part(one, mark) if mark else None
    if mark and part is None:
        return None
    number = first + position if part is None else part.elements[position]
    if number in one.dropped:
        return None
    one.withdraw_word("ended", number)
    job = "" if part is None else part.job
    try:
        summary = _run(one, number, job)
    except BaseException as ending:
        code = ending.code if isinstance(ending, SystemExit) else None
        if code not in (_WARNED, one.batch.requeue_code or _WARNED):  # it may have been requeued
            _leave_word(one, "ended", number, Word(job, STOPPED if code == _STOPPED else ""))
        raise
    _check_there(folder, "what this element has logged is lost")
    _leave_word(one, "ended", number, Word(job))
    _feed(one, number)
    return summary


def _check_there(folder: Path, outcome: str) -> None:
    """Raise ExperimentError if the results folder was removed since the submission."""
    if not submission.is_there(folder):
        problem = f"was removed while its elements were in the queue: {outcome}"
        remedy = "submit again with amlsched run … -s, and cancel elements that are left in the queue"
        raise ExperimentError(f"results folder {folder.parent.parent}", problem, remedy)


def _own_part(one: Submission, mark: str) -> Part | None:
    """The part that this element belongs to; `None` if its array was given up, or is not the one of the submission.

    If the submission got no answer, this makes the array known.
    """
    part = next((part for part in one.asked if part.mark == mark), None)
    array = one.batch.own_array(os.environ)
    if part is not None and part in one.open:
        part = one.settle(part, array) if array else _settled_by_others(one, part)
    if part is not None and not array and part in one.open:
        return part
    if part is None or not part.job or (array and part.job != array):
        known = f"it is array {part.job}" if part is not None and part.job else "it was given up"
        _report(f"amlsched: array {array} does nothing: {one.folder} does not have it ({known})")
        return None
    return part


def _settled_by_others(one: Submission, part: Part) -> Part:
    """The part, once the command that submitted it has recorded its array; as it is if that takes long."""
    deadline = time.monotonic() + _SETTLE_S
    while part in one.open and time.monotonic() < deadline:
        time.sleep(_SETTLE_S / 100)
    return one.asked[part.number]


def _leave_word(one: Submission, kind: str, number: int, word: Word) -> None:
    with contextlib.suppress(OSError):  # the results folder may be gone
        if word.job:
            one.leave_word(kind, number, word)


def _feed(one: Submission, number: int) -> None:
    try:
        feed_from_element(one, number)
    except BatchSystemError as error:
        _report(f"amlsched: {error}\nRemaining elements are submitted by others, or by amlsched run … -s.")


def _report(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201  (to the element's log)


def _run(one: Submission, number: int, job: str) -> Summary:
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
        return run.run() if scheduler is None else run.run_by(scheduler)
    except SystemExit as ending:
        if ending.code == _WARNED and one.array["requeue"] and _made_progress(run):
            raise SystemExit(_requeue(one, number, job)) from None
        raise


def _requeue(one: Submission, number: int, job: str) -> int:
    """Requeue this element, or leave a word that it is to be submitted again; the exit code for that."""
    try:
        return commands.requeue(one.batch) or _WARNED
    except BatchSystemError as error:
        if not job:
            raise
        why = f"its time was over, and its node cannot requeue it: {error.command}: {error.words}"
        one.leave_word("again", number, Word(job, why))
        text = "Its state is saved. The next element that ends, amlsched run … -s, or --wait submits it again."
        _report(f"amlsched: not requeued: {error.command}: {error.words}\n{text}")
        _leave_word(one, "ended", number, Word(job))
        _feed(one, number)
        return 0


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
