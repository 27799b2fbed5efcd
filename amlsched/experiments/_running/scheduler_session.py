"""Run repetitions on one scheduler: each is a call of one task."""

from __future__ import annotations

import asyncio
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

from amlsched.errors import (
    AmlschedError,
    ExperimentError,
    ResultsNotWritableError,
    SchedulerNotRunningError,
    WorkerLostError,
)
from amlsched.executors.capabilities import workers_now
from amlsched.experiments._running import graceful_stop
from amlsched.experiments._running.output_capture import children_ended
from amlsched.experiments._running.repetition import run_repetition
from amlsched.experiments._running.summary import Ended, record_failure, record_lost_attempt
from amlsched.experiments._storage import record_file
from amlsched.experiments._storage.record import ErrorNote, State
from amlsched.resources import cpus
from amlsched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from amlsched.executors.capabilities import WorkersNow
    from amlsched.experiments._running.repetition import Repetition, RepetitionOutcome
    from amlsched.experiments._running.summary import Outcomes
    from amlsched.experiments._running.work_source import WorkSource
    from amlsched.future import Future

__all__ = ["SchedulerSession", "scheduler_for"]

_UNCAUGHT = (
    "there were child processes: with threads, their output goes to the console, unless they were passed "
    "sys.stdout and sys.stderr; --executor processes captures it"
)
_SHARED = (
    "global random number generators (of random, numpy or torch) were used in threads, which share them, so they are "
    "not seeded; use log.seed or config['_seed'], or --executor processes"
)


class SchedulerSession:
    """Runs repetitions on a scheduler with an executor of its own, until none remains.

    Args:
        executor: Name of the executor.
        options: Its options.
        first: The first repetition.
        work: Hands out the others.
        outcomes: Gets the outcomes.
        submitted: Called with each repetition that was submitted.

    Attributes:
        scheduler: The scheduler; its user runs it.
        running: The repetitions that were submitted and have not ended.

    Raises:
        ExperimentError: There is no such executor, or an option is unknown or has an invalid value.
    """

    def __init__(
        self,
        executor: str,
        options: Mapping[str, Any],
        first: Repetition,
        work: WorkSource,
        outcomes: Outcomes,
        submitted: Callable[[Repetition], object],
    ) -> None:
        self.scheduler = scheduler_for(executor, options)
        self.running: dict[Future[RepetitionOutcome], Repetition] = {}
        self._first = first
        self._work = work
        self._outcomes = outcomes
        self._submitted = submitted
        self._in_flight = 0
        self._max_in_flight = _calls_ahead(executor, options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: Executor | None = None
        self._stopping = False  # because of a signal
        self._children_before = children_ended()
        self._task = self.scheduler.task(run_repetition)
        self._task.on_result(self._returned)
        self._task.on_results(self._many_returned)
        self._task.on_exception(self._failed)
        self._task.on_retry(self._lost)
        self._task.on_cancelled(self._cancelled)
        self.scheduler.on_start(self._begin)
        self.scheduler.on_finishing(self._check_children)  # before the executor's own child processes exit
        outcomes.stop = self.scheduler.stop

    @property
    def workers(self) -> WorkersNow | None:
        """How many workers there are, and why others are missing, if their number changes."""
        return workers_now(self._executor) if self._executor is not None else None

    def request_stop(self) -> int:
        """On a signal: ask repetitions to stop, and start no others; returns how many are able to stop."""
        able = sum(graceful_stop.can_stop(repetition.folder) for repetition in self.running.values())
        if self._loop is None or not able:
            return 0
        for repetition in self.running.values():
            graceful_stop.request(repetition.folder, repetition.run_id)
        self._stopping = True
        self._loop.call_soon_threadsafe(self.scheduler.stop)
        return able

    def close(self) -> None:
        """Record cancelled repetitions, now that no worker remains that could write to their folders."""
        for repetition in self.running.values():
            graceful_stop.withdraw(repetition.folder)
            try:
                record = record_file.end(repetition.folder, repetition.run_id, State.CANCELLED)
            except OSError as problem:  # it is still recorded as running, but without a claim: the next run resumes it
                self._outcomes.not_written(repetition, problem)
                record = repetition.record
            if record.attempts and record.attempts[-1].run_id == repetition.run_id:
                self._ended(repetition, Ended.of(record))
            else:  # it had not begun
                self._outcomes.summary.count(repetition.record.run, Ended.of(record))
                self._work.finished(repetition)
        self.running.clear()
        self._outcomes.stop = None

    def _begin(self) -> None:
        self._loop, self._executor = asyncio.get_running_loop(), self.scheduler.executor
        self._submit(self._first)

    def _submit(self, repetition: Repetition | None = None) -> None:
        """Submit repetitions, starting with this one, until enough are in flight or no job has a free slot."""
        try:
            while repetition := repetition or self._next():
                future = self._call(repetition)
                self.running[future] = repetition
                self._in_flight += 1
                self._submitted(repetition)
                repetition = None
        except SchedulerNotRunningError:
            pass  # the scheduler is stopping
        except BrokenExecutor as error:
            problem = f"broke: {ErrorNote.of(error).line}"
            remedy = "run the same command again to resume; --executor processes survives the death of a worker"
            self._outcomes.fail(ExperimentError(f"executor {self._first.executor}", problem, remedy))
        except Exception as error:  # not a repetition's, so `on_exception` does not handle it
            self._outcomes.fail(error, str(error))

    def _call(self, repetition: Repetition) -> Future[RepetitionOutcome]:
        """Submit one repetition; what the library behind the executor raises becomes an ExperimentError."""
        try:
            future = self._task.submit(repetition)
        except (AmlschedError, BrokenExecutor, OSError):
            raise
        except Exception as error:
            what = "failed" if self.running or self._outcomes.summary.ran else "could not be started"
            problem = f"{what}: {ErrorNote.of(error).line}"
            raise ExperimentError(f"executor {self._first.executor}", problem, "see --executor-option") from error
        assert future is not None  # there is no plugin that could reject it
        return future

    def _next(self) -> Repetition | None:
        return self._work.take() if self._in_flight < self._max_in_flight else None

    def _take_finished(self, future: Future[RepetitionOutcome]) -> Repetition:
        """The repetition of a call that has ended, which is no longer in flight."""
        repetition = self.running.pop(future)
        self._in_flight -= 1
        self._work.give_back(repetition)
        return repetition

    def _returned(self, future: Future[RepetitionOutcome], outcome: RepetitionOutcome) -> None:
        ended = Ended(outcome.state, outcome.last, outcome.seconds, left=outcome.left, used=outcome.used)
        self._ended(self._take_finished(future), ended)
        if outcome.drew:
            self._outcomes.summary.note_once(_SHARED)
        self._submit()

    def _many_returned(self, _: object) -> None:
        self._outcomes.emit_gathered()
        self._submit()

    def _failed(self, future: Future[RepetitionOutcome], error: BaseException) -> None:
        repetition = self._take_finished(future)
        if isinstance(error, ResultsNotWritableError):  # all others would fail in the same way
            self.running[future] = repetition
            self._outcomes.fail(error, str(error))
        elif self._stopping and isinstance(error, WorkerLostError):  # killed together with us, not by its own fault
            self.running[future] = repetition
        else:
            try:
                ended = record_failure(repetition, error)
            except OSError as problem:
                self._outcomes.not_written(repetition, problem)
                ended = Ended(State.FAILED, {}, error=ErrorNote.of(error))
            self._ended(repetition, ended)
            self._outcomes.emit(self._outcomes.on_exception, repetition, error)
            self._submit()

    def _lost(self, future: Future[RepetitionOutcome], error: BaseException, attempt: int) -> None:
        try:
            record_lost_attempt(self.running[future], error)
        except OSError as problem:
            self._outcomes.not_written(self.running[future], problem)

    def _cancelled(self, future: Future[RepetitionOutcome]) -> None:
        self.running[future] = self._take_finished(future)  # `close` writes its record
        self._submit()

    def _ended(self, repetition: Repetition, ended: Ended) -> None:
        self._outcomes.ended(repetition, ended)
        self._work.finished(repetition)

    def _check_children(self) -> None:
        uncaught = self._first.executor == "threads" and self._first.capture
        if uncaught and children_ended() != self._children_before:
            self._outcomes.summary.note_once(_UNCAUGHT)


def scheduler_for(executor: str, options: Mapping[str, Any]) -> Scheduler:
    """A scheduler with the executor of this name; it has no workers yet.

    Raises:
        ExperimentError: There is no such executor, or an option is unknown or has an invalid value.
        BatchSystemError: The batch system is not installed here.
        MissingExtraError: A package is not installed.
    """
    try:
        return Scheduler.from_name(executor, **options)
    except AmlschedError:
        raise
    except Exception as error:
        problem = str(error) if isinstance(error, TypeError | ValueError) else f"{executor}: {ErrorNote.of(error).line}"
        raise ExperimentError("executor", problem, "see --executor and --executor-option") from error


def _calls_ahead(executor: str, options: Mapping[str, Any]) -> int:
    """How many calls to submit to the executor at a time: enough that no worker waits for the next."""
    if executor == "sequential":
        return 1
    workers = options.get("max_workers") or options.get("n_workers") or len(cpus())
    return 2 * int(workers) + 2
