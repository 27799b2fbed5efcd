"""Run experiments: the public object, its events, and what it does before and after the repetitions run."""

from __future__ import annotations

import asyncio
import contextlib
import html
import time
import uuid
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched._spelling import suggestion
from amlsched.errors import BatchSystemError, ExperimentError, MissingExtraError
from amlsched.events import Emitter, Event
from amlsched.experiments._code.files import Code, code_version
from amlsched.experiments._planning.checks import check_run
from amlsched.experiments._planning.config_changes import config_hash, settings
from amlsched.experiments._planning.jobs import bundles
from amlsched.experiments._running import graceful_stop
from amlsched.experiments._running.custom_schedulers import Job
from amlsched.experiments._running.output_capture import per_thread
from amlsched.experiments._running.repetition import Repetition
from amlsched.experiments._running.resource_binding import Binding, bindings
from amlsched.experiments._running.scheduler_session import SchedulerSession, scheduler_for
from amlsched.experiments._running.summary import Ended, Outcomes, Summary, Tally
from amlsched.experiments._running.work_source import WorkSource
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import Process, Record
from amlsched.experiments.plan import Plan, Planned
from amlsched.experiments.target import Target

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from amlsched.events import Subscriber
    from amlsched.executors.capabilities import WorkersNow
    from amlsched.experiments._config.document import Source
    from amlsched.experiments._running.custom_schedulers import AbstractScheduler
    from amlsched.experiments._running.repetition import RepetitionOutcome
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.future import Future

__all__ = ["ExperimentRun"]


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
        self.summary = Summary(self.plan.count()[1] if initial else 0)
        self._driver = Process.this()
        self._code: Code | None = None
        self._outcomes = Outcomes(
            self.summary, self.on_repetition_done, self.on_result, self.on_results, self.on_exception
        )
        self._work = WorkSource(self.plan, initial, self._outcomes, self._repetition)
        self._session: SchedulerSession | None = None
        self._bindings: dict[str, Binding] = {}

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary.table())}</pre>"

    @property
    def running(self) -> dict[Future[RepetitionOutcome], Repetition]:
        """The repetitions that were submitted and have not ended."""
        session = self._session  # displays read it in a thread of their own
        return session.running if session is not None else {}

    @property
    def workers(self) -> WorkersNow | None:
        """How many workers there are, and why others are missing, if their number changes."""
        session = self._session
        return session.workers if session is not None else None

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
        with contextlib.closing(self._sessions()) as sessions:
            for session in sessions:
                if not isinstance(session, SchedulerSession):
                    time.sleep(session)
                    continue
                scheduler = session.scheduler
                with graceful_stop.graceful(session.request_stop, scheduler.interrupt, scheduler.kill, self.grace_s):
                    scheduler.run(on_exception="continue", on_cancelled="continue")
        return self.summary

    async def async_run(self) -> Summary:
        """Like `run`, in an asyncio loop that is already running, as in a notebook: `await run.async_run()`.

        The loop is not blocked, except by the executor `sequential`, which runs repetitions in the loop's thread. If it
        is cancelled, for example by interrupting the kernel, repetitions that support stopping get the grace period; if
        it is cancelled again, all are cancelled. Handling signals is left to the loop's owner.
        """
        with contextlib.closing(self._sessions()) as sessions:
            for session in sessions:
                if isinstance(session, SchedulerSession):
                    await self._awaited(session)
                else:
                    await asyncio.sleep(session)
        return self.summary

    async def _awaited(self, session: SchedulerSession) -> None:
        run = asyncio.ensure_future(session.scheduler.async_run(on_exception="continue", on_cancelled="continue"))
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            try:
                if not run.done() and session.request_stop():
                    await asyncio.wait((run,), timeout=self.grace_s)
            finally:
                run.cancel()
                await asyncio.gather(run, return_exceptions=True)
            raise

    def _sessions(self) -> Generator[SchedulerSession | float]:
        """Yield the sessions to run one after the other, or seconds to wait before the next."""
        with per_thread() if self.capture else contextlib.nullcontext():
            with contextlib.suppress(BatchSystemError, MissingExtraError):  # raised when the executor is needed
                scheduler_for(self.executor, self.options)
            self._bindings = bindings(self.plan, self.executor, self.options.get("max_workers"))
            with next(iter(self._bindings.values())).here(self.executor):  # before the experiment is imported
                self.prepare()
            self._outcomes.emit(self.on_start)
            if self.initial:
                yield from self._grouped(self._work.planned())
                yield from self._work.until_orphans_end()
                yield from self._grouped(self._work.orphans())
            self._outcomes.emit_gathered()
            while self._work.added and self._outcomes.error is None:
                yield from self._session_of(self._binding(self._work.added[0]), iter(()))
                self._outcomes.emit_gathered()
            self._work.skip_running_elsewhere()
        self._outcomes.check()

    def _grouped(self, work: Iterator[Repetition]) -> Iterator[SchedulerSession]:
        """Yield a session for each group of repetitions with the same binding."""
        for binding, group in groupby(work, key=self._binding):
            if self._outcomes.error is None:
                yield from self._session_of(binding, group)

    def _session_of(self, binding: Binding, work: Iterator[Repetition]) -> Iterator[SchedulerSession]:
        first = self._work.begin(work, [name for name, own in self._bindings.items() if own == binding])
        if first is None:
            return
        options = binding.options(self.executor, self.options)
        submitted = self.on_repetition_submitted.emit
        with binding.here(self.executor):
            session = SchedulerSession(self.executor, options, first, self._work, self._outcomes, submitted)
            self._session = session
            try:
                yield session
            finally:
                session.close()
                self._session = None
        self._outcomes.check()

    def _binding(self, repetition: Repetition) -> Binding:
        return self._bindings[repetition.record.name]

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
        return self._work.add(known[experiment], params, repetitions, iterations, self.keep_changed)

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
            repetitions = [self._repetition(one, bundle.index) for one in planned]
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
                self._work.skip(planned)
                attempts = planned.known.attempts
                self.summary.ran += bool(attempts) and attempts[-1].run_id == self.run_id
        self._outcomes.emit_gathered()

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

    def _repetition(self, planned: Planned, job: int) -> Repetition:
        run, index = planned.run.at(planned.index), planned.index
        made_of = settings(run)
        return Repetition(
            target=self.target,
            config=layout.cw_config(run, index, planned.results),
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
            seen=sum(attempt.outcome is not None for attempt in planned.known.attempts),
            code=self._code,
            from_scratch=self.plan.starts_from_scratch(planned),
        )
