"""Run one repetition in a worker."""

from __future__ import annotations

import copy
import errno
import os
import sys
import threading
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from amlsched._signals import raised_by_handler
from amlsched._spelling import as_question, closest, listed
from amlsched._surroundings import is_installed
from amlsched.errors import AmlschedError, ExperimentError, ExperimentSurrender, ResultsNotWritableError
from amlsched.events import add_note
from amlsched.executors.user_function import call_function, forked_children_end
from amlsched.experiments._config.document import key_text
from amlsched.experiments._config.values import nested
from amlsched.experiments._running import asynchronous, graceful_stop
from amlsched.experiments._running.asynchronous import accepted_arguments
from amlsched.experiments._running.isolation import generators, isolated
from amlsched.experiments._running.output_capture import Capture, captured
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.cells import payload_row, row_of
from amlsched.experiments._storage.record import Attempt, ErrorNote, Process, Record, State, Used, now
from amlsched.experiments.loggers.base import AbstractLogger
from amlsched.experiments.loggers.repetition_log import RepetitionLog
from amlsched.receipts import Meter
from amlsched.resources.slots import VARIABLE

if TYPE_CHECKING:
    from amlsched.experiments._code.files import Code
    from amlsched.experiments._storage.claims import Claim
    from amlsched.experiments.experiment import Experiment
    from amlsched.experiments.target import Target

__all__ = ["RepetitionOutcome", "Repetition", "perform", "run_repetition"]

_FOLDER_LOST = "what it logged is lost; let the experiment write elsewhere, and leave this folder alone"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Repetition:
    """All that a worker needs to run one repetition; pickled to get there.

    Attributes:
        target: The experiment.
        config: Its `cw_config`.
        record: Its record before it starts.
        folder: Its folder, absolute.
        run_id: The run of the driver that it belongs to.
        driver: The process that submits it.
        executor: Name of the executor.
        capture: Whether its output is captured.
        loggers: Receive what it logs, in addition to the CSV file.
        job: Number of the job that it belongs to.
        reps_in_parallel: How many repetitions of that job run at a time.
        seen: How many attempts had ended when it was planned; `None` to run it even if another run has ended one since.
        code: The version of its code.
        from_scratch: Whether to start from scratch even if an earlier run left a checkpoint.
    """

    target: Target
    config: dict[str, Any]
    record: Record
    folder: Path
    run_id: str
    driver: Process
    executor: str
    capture: bool = True
    loggers: tuple[AbstractLogger, ...] = ()
    job: int = 0
    reps_in_parallel: int = 1
    seen: int | None = None
    code: Code | None = None
    from_scratch: bool = False

    @property
    def index(self) -> int:
        """Its index."""
        return self.record.rep

    @property
    def iterations(self) -> int | None:
        """Iterations that it is to run; `None` if not set."""
        return self.config.get("iterations")

    def __str__(self) -> str:
        run = self.record.run or self.record.name
        return f"{run} rep {self.record.rep}"


@dataclass(frozen=True, slots=True)
class RepetitionOutcome:
    """The outcome of a repetition, which the worker returns to the driver.

    Attributes:
        state: Its state; if it was skipped, that of its record.
        last: The last value of each logged column.
        seconds: How long it took.
        left: Whether it was skipped, because another run works on it or has just finished it.
        used: The CPU time and memory that it used.
        drew: Whether it drew from global random number generators that several repetitions share.
    """

    state: State
    last: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    left: bool = False
    used: Used = field(default_factory=Used)
    drew: bool = False


def run_repetition(repetition: Repetition) -> RepetitionOutcome:
    """Run a repetition in its folder, and record that it is running and how it ended.

    Raises:
        Exception: The experiment's own exception, after it was written to `err.log` and to the record.
        ResultsNotWritableError: The disk is full or read-only.
        ExperimentError: The experiment raised SystemExit, which ends only its repetition, not the run.
        KeyboardInterrupt: Ctrl-C; the repetition is recorded as cancelled.
        SystemExit: A signal stops this process; the repetition is recorded as cancelled.
    """
    try:
        return _run(repetition)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place, problem = str(error.filename or repetition.folder), error.strerror or str(error)
        raise ResultsNotWritableError(place, problem, "free some space; the same command then resumes") from error


def _run(repetition: Repetition) -> RepetitionOutcome:
    folder = repetition.folder
    driver, worker = repetition.driver, Process.this()
    attempt = Attempt(repetition.run_id, driver, worker, repetition.executor, now(), code=repetition.code)
    if graceful_stop.requested(folder, repetition.run_id):
        return RepetitionOutcome(State.PENDING, left=True)
    known, claim, resumed = record_file.begin(
        folder, repetition.record, attempt, repetition.seen, repetition.from_scratch
    )
    if claim is None:
        return RepetitionOutcome(known.state, known.last, known.seconds or 0.0, left=True, used=known.used)
    asked = threading.Event()
    try:
        with _stop_on_signals(repetition, asked):
            record, drew = _run_claimed(repetition, claim, asked, resumed, len(known.attempts) - 1)
    finally:
        claim.release()
        graceful_stop.withdraw(folder)
    return RepetitionOutcome(record.state, record.last, record.seconds or 0.0, used=record.used, drew=drew)


def _stop_on_signals(repetition: Repetition, asked: threading.Event) -> AbstractContextManager[None]:
    """In a worker process, signals stop its repetition; in the driver, the driver handles them."""
    if os.getpid() == repetition.driver.pid:
        return nullcontext()
    return graceful_stop.stop_on_signals(asked, repetition.folder)


def _run_claimed(
    repetition: Repetition, claim: Claim, asked: threading.Event, resumed: bool, n_earlier: int
) -> tuple[Record, bool]:
    """Run a claimed repetition; its record afterwards, and whether it drew from shared generators."""
    folder = repetition.folder
    if VARIABLE in os.environ:
        repetition.config["cpu_cores"] = os.sched_getaffinity(0)
    loggers = copy.deepcopy(repetition.loggers)  # otherwise threads would share them
    log = RepetitionLog(
        folder,
        repetition.record.rep,
        repetition.record.seed,
        loggers,
        resumed=resumed,
        discard=lambda: record_file.put_aside(folder, n_earlier, only_rows=True),
        asked_to_stop=lambda: asked.is_set() or claim.lost or graceful_stop.requested(folder, repetition.run_id),
    )
    config = repetition.config | {"_checkpoint_dir": str(folder / layout.CHECKPOINT)}
    state, note, drew = State.FAILED, None, False
    alone = _alone(repetition.driver.pid) or repetition.executor == "sequential"
    seeded = repetition.config.get("seed_globals") is not False
    log.keeps_generators = alone and seeded
    meter = Meter(shared=repetition.executor == "threads")
    with captured(folder, _capture(repetition)) as err:
        try:
            with forked_children_end(str(repetition.target)):
                make = repetition.target.load()
            seed = f"{repetition.record.seed} {n_earlier if resumed else 0}"  # a resumed attempt gets another stream
            before = generators() if seeded and not alone else None
            with isolated(seed if seeded else None) if alone else nullcontext():
                repetition.target.enter_folder(alone=alone)
                surrender = perform(call_function(make, (), {}), config, repetition.record.rep, log, folder)
            if not (folder / layout.RECORD).is_file():
                raise ExperimentError(str(repetition), f"its folder was removed while it ran: {folder}", _FOLDER_LOST)
            drew = before is not None and before != generators()
            state = State.PREEMPTED if log.stopping else State.COMPLETED
            state = state if surrender is None else State.SURRENDERED
        except BaseException as error:
            disk_fails = isinstance(error, OSError) and error.errno in _DISK
            if disk_fails or raised_by_handler(error):
                state = State.CANCELLED  # it is not the experiment's fault: the next run resumes it
            note = ErrorNote.of(error)
            if hint := _parameter_hint(error, config.get("params")):
                note = replace(note, message=f"{note.message} ({hint})")
                add_note(error, hint)
            if not disk_fails:
                _write_trace(error, repetition, err)
            if isinstance(error, SystemExit) and state is State.FAILED:
                raise ExperimentError(str(repetition), f"the experiment called exit: {note}") from error
            raise
        finally:
            last = _worth_keeping(log.last, repetition.record.rep) if log.began else None
            usage = meter.stop()
            record = record_file.end(
                folder,
                repetition.run_id,
                state,
                error=note,
                last=last,
                rows=log.rows,
                claim=claim,
                used=Used(usage.cpu_s, usage.peak_memory_bytes or 0),
            )
    return record, drew


def perform(
    experiment: Experiment, config: dict[str, Any], rep: int, logger: RepetitionLog, folder: Path
) -> ExperimentSurrender | None:
    """Call an experiment's `initialize`, `run` and `finalize`.

    What `run` returns, or surrenders with, is logged as a row. The experiment's `finalize` is always called, and the
    loggers are always finalized. Methods may be `async def`.

    Returns:
        The exception by which the experiment finished early; `None` if it did not.

    Raises:
        BaseException: What `initialize` or `run` raised; otherwise what `finalize` or a logger raised.
    """
    surrender: ExperimentSurrender | None = None
    problem: BaseException | None = None
    with asynchronous.own_loop():
        try:
            with forked_children_end("a logger"):
                logger.initialize(config, rep, str(folder))
            surrender = _run_to_its_end(experiment, config, rep, logger)
        except BaseException as error:
            problem = error
            raise
        finally:
            _finish(experiment, logger, surrender, problem)
    return surrender


def _run_to_its_end(
    experiment: Experiment, config: dict[str, Any], rep: int, logger: RepetitionLog
) -> ExperimentSurrender | None:
    try:
        asynchronous.call(experiment.initialize, *accepted_arguments(experiment.initialize, config, rep, logger))
        result = asynchronous.call(experiment.run, *accepted_arguments(experiment.run, config, rep, logger))
    except ExperimentSurrender as ending:
        row = None if ending.logged else payload_row(ending.payload)
        if row:
            logger(row)
        return ending
    row = row_of(result, lambda: experiment.called)
    if row is not None:
        logger(row)
    return None


def _finish(
    experiment: Experiment,
    logger: RepetitionLog,
    surrender: ExperimentSurrender | None,
    problem: BaseException | None,
) -> None:
    """Finalize the experiment and the loggers; an error here is added to an earlier one as a note."""
    first = problem
    arguments = accepted_arguments(experiment.finalize, surrender, problem is not None)
    finalize = partial(asynchronous.call, experiment.finalize, *arguments)
    for step in (finalize, logger.finalize):
        try:
            with forked_children_end("the clean-up"):
                step()
        except BaseException as error:  # user code may also exit
            if first is None:
                first = error
            else:
                trace = "".join(traceback.format_exception(error, chain=False)).rstrip()
                add_note(first, f"Then the clean-up failed too:\n{trace}")
    if problem is None and first is not None:
        raise first


def _capture(repetition: Repetition) -> Capture:
    if not repetition.capture:
        return "none"
    return "process" if _alone(repetition.driver.pid) else "thread"


def _alone(driver: int) -> bool:
    """Whether no other repetition runs in this process at the same time."""
    if threading.current_thread() is threading.main_thread():
        return True
    dask = sys.modules.get("distributed")
    if dask is None or os.getpid() == driver:
        return False
    try:
        return bool(dask.get_worker().state.nthreads == 1)
    except ValueError:  # not a thread of a worker
        return False


def _parameter_hint(error: BaseException, params: Any) -> str:
    """Which parameters there are, if the experiment's own code asked for one that there is not; otherwise empty."""
    if type(error) is not KeyError or len(error.args) != 1 or not isinstance(params, dict):
        return ""
    key, frames = error.args[0], traceback.extract_tb(error.__traceback__)
    if not isinstance(key, str) or key in params or not frames or is_installed(frames[-1].filename):
        return ""
    names = {str(path[-1]): key_text(path) for path, _ in nested(cast("dict[str, Any]", params))}
    guess = closest(key, names)
    if guess is None and "param" not in (frames[-1].line or ""):
        return ""  # it may be the key of anything
    return as_question(guess and names[guess]) + listed(names.values(), "params has")


def _worth_keeping(last: dict[str, Any], rep: int) -> dict[str, Any]:
    """The last values without our own `ts` and `rep`; values that the experiment logs under these names are kept."""
    return {key: value for key, value in last.items() if not _is_ours(key, value, rep)}


def _is_ours(key: str, value: Any, rep: int) -> bool:
    if key == "ts":
        return isinstance(value, str) and value.endswith("+00:00")
    return key == "rep" and type(value) is int and value == rep


def _write_trace(error: BaseException, repetition: Repetition, err: TextIO) -> None:
    """Write the experiment's traceback, without our own frames around it."""
    if isinstance(error, AmlschedError):
        lines = [f"{type(error).__name__}: {error}\n"]
    else:
        here = Path(__file__).parents[1]
        trace = error.__traceback__
        while trace and trace.tb_next and here in Path(trace.tb_frame.f_code.co_filename).parents:
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace)
    text = "".join((f"{now()} {repetition} failed\n", *lines))
    err.write(text)
    if not repetition.capture:
        sys.stderr.write(text)
