"""Run experiments: each repetition is a call of one task. The only module here that uses the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import time
import uuid
from collections import deque
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

from amlsched._spelling import suggestion
from amlsched.errors import (
    BatchSystemError,
    ExperimentError,
    MissingExtraError,
    ResultsNotWritableError,
    SchedulerNotRunningError,
    WorkerLostError,
)
from amlsched.events import Emitter, Event
from amlsched.executors.capabilities import WorkersNow, workers_now
from amlsched.experiments._code.files import Code, code_version
from amlsched.experiments._planning.checks import check_run
from amlsched.experiments._planning.config_changes import config_hash, differences, settings
from amlsched.experiments._planning.jobs import JobNumbers, JobThrottle, bundles
from amlsched.experiments._running import graceful_stop
from amlsched.experiments._running.custom_schedulers import Job
from amlsched.experiments._running.output_capture import children_ended, per_thread
from amlsched.experiments._running.repetition import Repetition, RepetitionOutcome, run_repetition
from amlsched.experiments._running.resource_binding import Binding, bindings
from amlsched.experiments._running.summary import Ended, Summary, Tally, record_failure, record_lost_attempt
from amlsched.experiments._running.work_source import SearchRuns
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.record import ErrorNote, Process, Record, State
from amlsched.experiments.plan import Plan, Planned
from amlsched.experiments.target import Target
from amlsched.resources import cpus
from amlsched.scheduler import Scheduler
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from concurrent.futures import Executor

    from amlsched.events import Subscriber
    from amlsched.experiments._config.document import Source
    from amlsched.experiments._running.custom_schedulers import AbstractScheduler
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.future import Future

P = ParamSpec("P")
logger = logging.getLogger(__name__)

__all__ = ["ExperimentRun"]

_ORPHANS_END_S = 10.0
"""By this time, workers whose driver was killed have exited."""
_UNCAUGHT = (
    "there were child processes: with threads, their output goes to the console, unless they were passed "
    "sys.stdout and sys.stderr; --executor processes captures it"
)
_SHARED = (
    "global random number generators (of random, numpy or torch) were used in threads, which share them, so they are "
    "not seeded; use log.seed or config['_seed'], or --executor processes"
)


class ExperimentRun(Emitter):
    """Runs the remaining repetitions of a plan, with any executor.

    Args:
        target: The experiment: a class, a function, or its place as in `train.py:Digits`.
        plan: The repetitions, or the config that they come from, as for `Plan`.
        executor: Name of the executor: `processes`, `threads`, `sequential` or `loky`.
        capture: Whether the output of a repetition goes to its `out.log` and `err.log`, or to the console.
        keep_changed: Whether to keep repetitions that were run with other settings under the same name. Otherwise, they
            are an error, and nothing is run.
        grace_s: After a signal, the seconds that repetitions which support stopping have to save their state.
        loggers: Receive what the experiment logs, in addition to the CSV file; each repetition gets a copy.
        initial: Whether to run the runs of the plan. With `False`, only what `submit` adds is run, for example in a
            callback of `on_start`: for a search that chooses all parameters itself.
        **options: Options of the executor, such as `max_workers`.

    Raises:
        ConfigError: The config is invalid.
        ExperimentError: The target cannot be found.
    """

    STARTED: ClassVar[Event[[], Any]] = Event("on-start", ())
    """Emitted after all checks, before the first repetitions are submitted."""
    SUBMITTED: ClassVar[Event[[Repetition], Any]] = Event("on-repetition-submitted", ("repetition",))
    """Emitted when a repetition was submitted."""
    DONE: ClassVar[Event[[Repetition, Ended], Any]] = Event("on-repetition-done", ("repetition", "ended"))
    """Emitted when a repetition has ended in any state, after its record was written."""
    RESULT: ClassVar[Event[[Repetition, Ended], Any]] = Event("on-result", ("repetition", "ended"))
    """Emitted when a repetition is done: it completed or surrendered, in this run or (if `ended.left`) before."""
    RESULTS: ClassVar[Event[[list[tuple[Repetition, Ended]]], Any]] = Event("on-results", ("results",), gathers=True)
    """Emitted with all repetitions that are done since its callbacks were last called, each with its outcome."""
    EXCEPTION: ClassVar[Event[[Repetition, BaseException], Any]] = Event("on-exception", ("repetition", "error"))
    """Emitted when a repetition has failed."""

    on_start: Subscriber[[], Any]
    on_result: Subscriber[[Repetition, Ended], Any]
    on_results: Subscriber[[list[tuple[Repetition, Ended]]], Any]
    on_exception: Subscriber[[Repetition, BaseException], Any]
    on_repetition_submitted: Subscriber[[Repetition], Any]
    on_repetition_done: Subscriber[[Repetition, Ended], Any]

    def __init__(
        self,
        target: str | Target | type[Any] | Any,
        plan: Plan | Source,
        *,
        executor: str = "processes",
        capture: bool = True,
        keep_changed: bool = False,
        grace_s: float = graceful_stop.GRACE_S,
        loggers: Iterable[AbstractLogger] = (),
        initial: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.plan = plan if isinstance(plan, Plan) else Plan(plan)
        if isinstance(target, str):
            target = Target.parse(target)
        self.target: Target = target if isinstance(target, Target) else Target.of(target)
        self.executor = executor
        self.options: Mapping[str, Any] = {key: value for key, value in options.items() if value is not None}
        self.capture = capture
        self.keep_changed = keep_changed
        self.grace_s = grace_s
        self.loggers = tuple(loggers)
        self.run_id = uuid.uuid4().hex[:16]
        self.initial = initial
        self.on_start = self.subscriber(self.STARTED)
        self.on_repetition_submitted = self.subscriber(self.SUBMITTED)
        self.on_repetition_done = self.subscriber(self.DONE)
        self.on_result = self.subscriber(self.RESULT)
        self.on_results = self.subscriber(self.RESULTS)
        self.on_exception = self.subscriber(self.EXCEPTION)
        self.running: dict[Future[RepetitionOutcome], Repetition] = {}
        self.summary = Summary(self.plan.count()[1] if initial else 0)
        self._driver = Process.this()
        self._code: Code | None = None
        self._throttle: JobThrottle[Repetition] = JobThrottle(iter(()))
        self._scheduler: Scheduler | None = None
        self._executor: Executor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errors: list[Exception] = []
        self._gathered: list[tuple[Repetition, Ended]] = []  # done, but not yet passed to `on_results`
        self._more: deque[Repetition] = deque()  # submitted by the user, but not yet to the executor
        self._stopping = False  # because of a signal
        self._in_flight = 0
        self._max_in_flight = 1
        self._n_submitted = 0
        self._names = SearchRuns(self.plan, initial)
        self._duplicates: dict[Path, list[Planned]] = {}  # for those in flight: the same repetitions, submitted again
        self._bindings: dict[str, Binding] = {}
        self._running_elsewhere: dict[Planned, tuple[Path, int]] = {}  # folder for the results, and job

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary.table())}</pre>"

    @property
    def workers(self) -> WorkersNow | None:
        """How many workers there are, and why others are missing, if their number changes."""
        return workers_now(self._executor) if self._executor is not None else None

    def run(self) -> Summary:
        """Run the remaining repetitions.

        Returns:
            The state of all repetitions, and what this run did.

        Raises:
            ExperimentError: The experiment cannot be imported or sent to workers, a results folder cannot be written,
                or repetitions were run with other settings under the same name; nothing was run.
            CodeCopyError: A copy of the code was made for this job, but the experiment was not imported from it.
            ResourcesError: A repetition requests more GPUs or CPUs than there are.
            ResultsNotWritableError: The disk is full or read-only; running again resumes.
            KeyboardInterrupt: Ctrl-C; running repetitions are recorded as cancelled.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "ExperimentRun.run() cannot be called while an asyncio loop is running here, as in a notebook: use "
                "await run.async_run()"
            )
        with contextlib.closing(self._schedulers()) as schedulers:
            for scheduler in schedulers:
                if not isinstance(scheduler, Scheduler):
                    time.sleep(scheduler)
                    continue
                with graceful_stop.graceful(self._request_stop, scheduler.interrupt, scheduler.kill, self.grace_s):
                    scheduler.run(on_exception="continue", on_cancelled="continue")
        return self.summary

    async def async_run(self) -> Summary:
        """Like `run`, in an asyncio loop that is already running, as in a notebook: `await run.async_run()`.

        The loop is not blocked, except by the executor `sequential`, which runs repetitions in the loop's thread. If it
        is cancelled, for example by interrupting the kernel, repetitions that support stopping get the grace period; if
        it is cancelled again, all are cancelled. Handling signals is left to the loop's owner.
        """
        with contextlib.closing(self._schedulers()) as schedulers:
            for scheduler in schedulers:
                if isinstance(scheduler, Scheduler):
                    await self._awaited(scheduler)
                else:
                    await asyncio.sleep(scheduler)
        return self.summary

    async def _awaited(self, scheduler: Scheduler) -> None:
        run = asyncio.ensure_future(scheduler.async_run(on_exception="continue", on_cancelled="continue"))
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            try:
                if not run.done() and self._request_stop():
                    await asyncio.wait((run,), timeout=self.grace_s)
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            raise

    def _schedulers(self) -> Generator[Scheduler | float]:
        """Yield the schedulers to run one after the other, or seconds to wait before the next."""
        with per_thread() if self.capture else contextlib.nullcontext():
            with contextlib.suppress(BatchSystemError, MissingExtraError):  # raised when the executor is needed
                _scheduler_for(self.executor, self.options)
            self._bindings = bindings(self.plan, self.executor, self.options.get("max_workers"))
            with next(iter(self._bindings.values())).here(self.executor):  # before the experiment is imported
                self.prepare()
            self._emit(self.on_start)
            if self.initial:
                yield from self._grouped(self._repetitions())
                yield from self._until_orphans_end()
                yield from self._grouped(self._orphans())
            self._emit_gathered()
            while self._more and not self._errors:
                self._throttle = JobThrottle[Repetition](iter(()))
                binding = self._bindings[self._more[0].record.name]
                if (first := self._take_next()) is not None:
                    with binding.here(self.executor):
                        yield from self._schedule(first, binding.options(self.executor, self.options))
                self._emit_gathered()
            for planned in self._running_elsewhere:
                self._count_skipped(planned)
        if self._errors:
            raise self._errors[0]

    def _grouped(self, work: Iterator[Repetition]) -> Iterator[Scheduler]:
        for binding, bound in groupby(work, key=lambda one: self._bindings[one.record.name]):
            self._throttle = JobThrottle(bound)
            first = None if self._errors else self._throttle.take()
            if first is not None:
                with binding.here(self.executor):
                    yield from self._schedule(first, binding.options(self.executor, self.options))

    def submit(
        self,
        params: Mapping[str, Any],
        *,
        experiment: str | None = None,
        repetitions: Iterable[int] | None = None,
        iterations: int | None = None,
    ) -> str:
        """Add a run of an experiment with these parameters, as in an adaptive search. For callbacks of `on_result`.

        Repetitions that are done, by their record, are not run again: `on_result` is emitted for them immediately. So a
        search that was stopped resumes where it was when it is started again.

        Args:
            params: Parameters that differ from the experiment's own, nested as in a config. Scalars and arrays of numpy
                and similar libraries are converted to numbers and lists.
            experiment: Name of the experiment; `None` for the only one.
            repetitions: Indices of repetitions; `None` for as many as in the config.
            iterations: Replaces that of the config, and becomes part of the run's name.

        Returns:
            The name of the run.

        Raises:
            ExperimentError: There is no such experiment, or it was run with other settings under the same name.
            ConfigError: A config cannot hold a value.
        """
        known = {one.name: one for one in self.plan.experiments}
        if experiment is None and len(known) == 1:
            experiment = next(iter(known))
        if experiment not in known:
            raise ExperimentError(f"experiment {experiment}", "is unknown", suggestion(str(experiment), known))
        path = self.plan.path(known[experiment]).resolve()
        indices = None if repetitions is None else list(repetitions)
        run = self._names.run_with(known[experiment], params, iterations, path, indices)
        for index in range(run.repetitions) if indices is None else indices:
            planned = self.plan.repetition(run, index, path)
            if planned.changed and not planned.todo and not self.keep_changed:
                changes = "; ".join(differences(planned.known, run.at(index)))
                raise ExperimentError(run.name, f"was run with other settings under the same name: {changes}", "use -o")
            self._n_submitted += 1
            self.summary.expect(run.name, 1)
            if planned.folder in self._duplicates or any(one.folder == planned.folder for one in self.running.values()):
                self._duplicates.setdefault(planned.folder, []).append(planned)
            elif planned.todo:
                self._duplicates[planned.folder] = []
                self._more.append(self._repetition(planned, path, -self._n_submitted))
            elif planned.known.state is State.RUNNING:
                self._running_elsewhere[planned] = path, -self._n_submitted
            else:
                self._count_skipped(planned)
        return run.name

    def run_by(self, scheduler: AbstractScheduler, overwrite: bool = False) -> Summary:
        """Run the jobs with a custom scheduler.

        Args:
            scheduler: Gets all jobs of the plan, including repetitions that are done.
            overwrite: Passed to the scheduler.

        Returns:
            The state of all repetitions.

        Raises:
            ExperimentError: As for `run`.
        """
        with per_thread() if self.capture else contextlib.nullcontext():
            self.prepare()
            scheduler.assign(list(self.jobs(type(scheduler).__name__)))
            scheduler.run(overwrite=overwrite)
        self._survey()
        return self.summary

    def jobs(self, executor: str) -> Iterator[Job]:
        """The jobs of the plan.

        Args:
            executor: Name of the executor, for the records.
        """
        paths = {experiment.name: self.plan.path(experiment).resolve() for experiment in self.plan.experiments}
        for bundle in bundles(self.plan) if self.plan.bundle is None else [self.plan.bundle]:
            path = paths[bundle.experiment]
            planned = [self.plan.repetition(run, index, path) for run, index in bundle.members]
            repetitions = [self._repetition(one, path, bundle.index) for one in planned]
            yield Job(
                bundle.index,
                [replace(one, executor=executor) for one in repetitions],
                [one.folder for one in planned if one.todo],
                bundle.reps_in_parallel,
            )

    def _survey(self) -> None:
        """Count the repetitions by their records."""
        for path, run in self.plan.runs():
            self.summary.tallies[run.name] = Tally(run.name, len(self.plan.indices(run)))
            for planned in self.plan.repetitions(run, path):
                self._count_skipped(planned)
                attempts = planned.known.attempts
                self.summary.ran += bool(attempts) and attempts[-1].run_id == self.run_id
        self._emit_gathered()

    # ------------------------------------------------------------------------------------------------ before it starts

    def prepare(self) -> None:
        """Check for errors that would occur in every repetition, and write the resolved configs.

        Raises:
            ConfigError: The config does not suit the experiment.
            ExperimentError: The experiment cannot be imported or sent to workers, or a results folder cannot be
                written.
        """
        self.check()
        self._write_configs()

    def check(self) -> None:
        """Check for errors that would occur in every repetition, before any starts."""
        check_run(self.target, self.plan, self.executor, keep_changed=self.keep_changed)
        self._code = code_version(self.target.folder)

    def _write_configs(self) -> None:
        """Write the resolved configs next to the runs, so that the folder is complete by itself."""
        for experiment in self.plan.experiments:
            path = self.plan.path(experiment).resolve()
            layout.write_resolved(path, experiment, self.plan.config, self.plan.debug)

    # ---------------------------------------------------------------------------------------------------- while it runs

    def _schedule(self, first: Repetition, options: Mapping[str, Any]) -> Iterator[Scheduler]:
        self._max_in_flight = self._calls_ahead(options)
        scheduler = _scheduler_for(self.executor, options)
        task = scheduler.task(run_repetition)
        self._scheduler = scheduler

        def submit(repetition: Repetition | None = None) -> None:
            try:
                while repetition := repetition or self._next():
                    future = task.submit(repetition)
                    assert future is not None  # there is no plugin that could reject it
                    self.running[future] = repetition
                    self._in_flight += 1
                    self.on_repetition_submitted.emit(repetition)
                    repetition = None
            except SchedulerNotRunningError:
                pass  # the scheduler is stopping
            except BrokenExecutor as fault:
                problem = f"broke: {str(fault).splitlines()[0]}"
                remedy = "run the same command again to resume; --executor processes survives the death of a worker"
                self._errors.append(ExperimentError(f"executor {self.executor}", problem, remedy))
                scheduler.stop()
            except Exception as fault:  # not a repetition's, so `on_exception` does not handle it
                self._errors.append(fault)
                scheduler.stop(stop_msg=str(fault))

        @scheduler.on_start
        def begin() -> None:  # pyright: ignore[reportUnusedFunction]
            self._executor, self._loop = scheduler.executor, asyncio.get_running_loop()
            submit(first)

        @task.on_result
        def returned(future: Future[RepetitionOutcome], outcome: RepetitionOutcome) -> None:  # pyright: ignore[reportUnusedFunction]
            ended = Ended(outcome.state, outcome.last, outcome.seconds, left=outcome.left, used=outcome.used)
            self._ended(self._take_finished(future), ended)
            if outcome.drew and _SHARED not in self.summary.notes:
                self.summary.notes.append(_SHARED)
            submit()

        @task.on_results
        def many(_: object) -> None:  # pyright: ignore[reportUnusedFunction]
            self._emit_gathered()
            submit()

        @task.on_exception
        def failed(future: Future[RepetitionOutcome], error: BaseException) -> None:  # pyright: ignore[reportUnusedFunction]
            repetition = self._take_finished(future)
            if isinstance(error, ResultsNotWritableError):  # all others would fail in the same way
                self.running[future] = repetition
                self._errors.append(error)
                scheduler.stop(stop_msg=str(error))
                return
            if self._stopping and isinstance(error, WorkerLostError):  # killed together with us, not by its own fault
                self.running[future] = repetition
                return
            self._ended(repetition, self._close(repetition, error))
            self._emit(self.on_exception, repetition, error)
            submit()

        @task.on_retry
        def lost(future: Future[RepetitionOutcome], error: BaseException, attempt: int) -> None:  # pyright: ignore[reportUnusedFunction]
            repetition = self.running[future]
            try:
                record_lost_attempt(repetition, error)
            except OSError as problem:
                self._not_written(repetition, problem)

        @task.on_cancelled
        def cancelled(future: Future[RepetitionOutcome]) -> None:  # pyright: ignore[reportUnusedFunction]
            # Its record is written at the end, when no worker can write there any more.
            self.running[future] = self._take_finished(future)
            submit()

        before = children_ended()

        @scheduler.on_finishing  # before the executor's own child processes exit
        def look() -> None:  # pyright: ignore[reportUnusedFunction]
            uncaught = self.executor == "threads" and self.capture and children_ended() != before
            if uncaught and _UNCAUGHT not in self.summary.notes:
                self.summary.notes.append(_UNCAUGHT)

        try:
            yield scheduler
        finally:
            self._record_cancelled()
            self._scheduler = self._executor = self._loop = None
        if self._errors:
            raise self._errors[0]

    def _request_stop(self) -> int:
        """On a signal: ask repetitions to stop, and start no others; returns how many are able to stop."""
        loop, scheduler = self._loop, self._scheduler
        able = sum(graceful_stop.can_stop(repetition.folder) for repetition in self.running.values())
        if loop is None or scheduler is None or not able:
            return 0
        for repetition in self.running.values():
            graceful_stop.request(repetition.folder, self.run_id)
        self._stopping = True
        loop.call_soon_threadsafe(scheduler.stop)
        return able

    def _next(self) -> Repetition | None:
        """The next repetition to submit; `None` if enough are in flight, or no job has a free slot."""
        return self._take_next() if self._in_flight < self._max_in_flight else None

    def _take_next(self) -> Repetition | None:
        while self._more:
            self._throttle.add(self._more.popleft())
        return self._throttle.take()

    def _take_finished(self, future: Future[RepetitionOutcome]) -> Repetition:
        """The repetition of a call that has ended, which is no longer in flight."""
        repetition = self.running.pop(future)
        self._in_flight -= 1
        self._throttle.give_back(repetition)
        return repetition

    def _calls_ahead(self, options: Mapping[str, Any]) -> int:
        """How many calls to submit to the executor at a time: enough that no worker waits for the next."""
        if self.executor == "sequential":
            return 1
        workers = options.get("max_workers") or options.get("n_workers") or len(cpus())
        return 2 * int(workers) + 2

    def _record_cancelled(self) -> None:
        """Record cancelled repetitions, now that no worker remains that could write to their folders."""
        for repetition in self.running.values():
            graceful_stop.withdraw(repetition.folder)
            try:
                record = record_file.end(repetition.folder, self.run_id, State.CANCELLED)
            except OSError as problem:  # it is still recorded as running, but without a claim: the next run resumes it
                self._not_written(repetition, problem)
                record = repetition.record
            begun = bool(record.attempts) and record.attempts[-1].run_id == self.run_id
            if begun:
                self._ended(repetition, Ended.of(record))
            else:
                for _ in (None, *self._duplicates.pop(repetition.folder, ())):
                    self.summary.count(repetition.record.run, record.state, record.last, record.seconds, record.used)
        self.running.clear()

    def _close(self, repetition: Repetition, error: BaseException) -> Ended:
        try:
            return record_failure(repetition, error)
        except OSError as problem:
            self._not_written(repetition, problem)
            return Ended(State.FAILED, {}, error=ErrorNote.of(error))

    def _not_written(self, repetition: Repetition, problem: OSError) -> None:
        self.summary.notes.append(f"{repetition}: its record could not be written: {problem}")

    def _ended(self, repetition: Repetition, ended: Ended) -> None:
        record = repetition.record
        self.summary.count(record.run, ended.state, ended.last, ended.seconds, ended.used)
        self.summary.ran += not ended.left
        if ended.state is State.FAILED:
            line = ended.error.line if ended.error else ""
            self.summary.failed.append((str(repetition), repetition.folder, line))
            logger.error("%s failed: %s (see %s)", repetition, line, repetition.folder)
        elif ended.state is State.RUNNING:
            self.summary.notes.append(f"{repetition}: is running in another run")
        self._emit(self.on_repetition_done, repetition, ended)
        if ended.state.done:
            self._done(repetition, ended)
        for duplicate in self._duplicates.pop(repetition.folder, ()):
            self._count_skipped(
                self.plan.repetition(duplicate.run, duplicate.index, self.plan.path(duplicate.run.experiment).resolve())
            )

    def _done(self, repetition: Repetition, ended: Ended) -> None:
        self._emit(self.on_result, repetition, ended)
        if self.on_results.handlers:
            self._gathered.append((repetition, ended))

    def _emit_gathered(self) -> None:
        while self._gathered and not self._errors:
            results, self._gathered = self._gathered, []
            self._emit(self.on_results, results)

    def _emit(self, subscriber: Subscriber[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Emit an event to the user's callbacks; if one raises, the run stops and raises the error."""
        try:
            subscriber.emit(*args, **kwargs)
        except Exception as fault:
            self._errors.append(fault)
            if self._scheduler is not None:
                self._scheduler.stop(stop_msg="a callback failed")

    def _repetitions(self) -> Iterator[Repetition]:
        """Yield, lazily, the repetitions to run, and count the others on the way."""
        changed = 0
        numbers = JobNumbers(self.plan.bundle)
        for path, run in self.plan.runs():
            self.summary.tallies[run.name] = Tally(run.name, len(self.plan.indices(run)))
            numbers.enter(run)
            for planned in self.plan.repetitions(run, path):
                if planned.todo:
                    yield self._repetition(planned, path, numbers.job(planned.index))
                elif planned.known.state is State.RUNNING:
                    self._running_elsewhere[planned] = path, numbers.job(planned.index)
                else:
                    self._count_skipped(planned)
                    changed += planned.changed
        if changed:
            self.summary.notes.append(
                f"{counted(changed, 'repetition', 'were')} run with other settings under the same name, and are kept: "
                "-o runs them again"
            )

    def _until_orphans_end(self) -> Iterator[float]:
        """Yield seconds to wait while workers are running whose driver was killed: they exit soon."""
        deadline = time.monotonic() + _ORPHANS_END_S
        while any(map(self._is_orphaned, self._running_elsewhere.items())) and time.monotonic() < deadline:
            yield _ORPHANS_END_S / 50

    def _is_orphaned(self, busy: tuple[Planned, tuple[Path, int]]) -> bool:
        planned, (path, _) = busy
        again = self.plan.repetition(planned.run, planned.index, path)
        driver = again.known.attempts[-1].driver if again.known.attempts else self._driver
        return again.known.state is State.RUNNING and not again.todo and driver.alive() is False

    def _orphans(self) -> Iterator[Repetition]:
        """Yield repetitions that were running in another run when this one started, and no longer are."""
        for planned, (path, job) in list(self._running_elsewhere.items()):
            again = self.plan.repetition(planned.run, planned.index, path)
            if again.known.state is State.RUNNING and not again.todo:
                continue
            del self._running_elsewhere[planned]
            if again.todo:
                yield self._repetition(again, path, job)
            else:
                self._count_skipped(again)

    def _count_skipped(self, planned: Planned) -> None:
        known = planned.known
        self.summary.count(planned.run.name, known.state, known.last, known.seconds, known.used)
        if known.state.done and (self.on_result.handlers or self.on_results.handlers):
            path = self.plan.path(planned.run.experiment).resolve()
            self._done(self._repetition(planned, path, 0), Ended.of(known, left=True))
        name = f"{planned.run.name} rep {planned.index}"
        if known.state in (State.FAILED, State.UNKNOWN):
            self.summary.failed.append((name, planned.folder, known.reason))
        elif note := planned.note or record_file.rows_lost(planned.folder, known):
            self.summary.notes.append(f"{name}: {note}")

    def _repetition(self, planned: Planned, path: Path, job: int) -> Repetition:
        run, index = planned.run.at(planned.index), planned.index
        made_of = settings(run)
        return Repetition(
            target=self.target,
            config=layout.cw_config(run, index, path),
            record=Record(
                run.experiment_name,
                run.name,
                index,
                seed=layout.repetition_seed(run, index),
                params=run.params,
                config={key: value for key, value in made_of.items() if key != "params"},
                config_hash=config_hash(made_of),
            ),
            folder=planned.folder,
            run_id=self.run_id,
            driver=self._driver,
            executor=self.executor,
            capture=self.capture,
            loggers=self.loggers,
            job=job,
            reps_in_parallel=run.reps_in_parallel,
            seen=len(planned.known.attempts),
            code=self._code,
            from_scratch=self.plan.starts_from_scratch(planned),
        )


def _scheduler_for(executor: str, options: Mapping[str, Any]) -> Scheduler:
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
