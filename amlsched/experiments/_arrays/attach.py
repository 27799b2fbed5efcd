"""Wait for the elements of submitted arrays, and report their repetitions as they finish."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched.batch_systems import Stage
from amlsched.display.table import duration
from amlsched.errors import BatchSystemError, ExperimentError, MaybeSubmittedError
from amlsched.events import Emitter, Event
from amlsched.experiments._arrays.queue import Queue
from amlsched.experiments._arrays.submission import submissions
from amlsched.experiments._arrays.submit import feed
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._running.summary import Ended, Summary, Tally
from amlsched.experiments._storage import record_file
from amlsched.experiments._storage.record import Record, State
from amlsched.experiments.plan import Planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from amlsched.events import Subscriber
    from amlsched.experiments._arrays.submission import Key, Submission
    from amlsched.experiments._config.expand import Run
    from amlsched.experiments.plan import Plan

__all__ = ["Attached"]

_LOOK_S = 1.0
"""Seconds between two reads of the records of running repetitions."""
_REMIND_S = 600.0
"""Seconds between two notes that the batch system does not answer."""
_ASK_S, _ASK_AT_MOST_S = 2.0, 30.0
"""Seconds between two queries of the queue: doubled, up to a limit, each time that nothing has changed."""


class Attached(Emitter):
    """Waits for those repetitions of a plan that are in the queue.

    It mostly reads files, and rarely queries the queue.

    Args:
        plan: The repetitions.
        patience_s: How long to wait for an answer of the batch system; infinity for ever.
        notify: Called with text for the user: the batch system does not answer, or does again.

    Raises:
        ExperimentError: The results folder was removed.
    """

    DONE: ClassVar[Event[[Planned, Ended], Any]] = Event("on-repetition-done", ("repetition", "ended"))
    """Emitted when a repetition has finished, failed or been cancelled."""

    on_repetition_done: Subscriber[[Planned, Ended], Any]

    def __init__(
        self, plan: Plan, patience_s: float = math.inf, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__()
        self._patience_s, self._notify = patience_s, notify
        self._queue = Queue()
        self._known_arrays: dict[str, list[str]] = {}
        self._noted: set[str] = set()
        self._silent_since: float | None = None
        self._reminded = 0.0
        self.on_repetition_done = self.subscriber(self.DONE)
        self.capture = True
        self.workers = None  # an element of an array starts its own
        self.running: dict[Key, Planned] = {}
        self.summary = Summary(plan.count()[1])
        self._chosen: list[Submission] = []
        for path in dict.fromkeys(path.resolve() for path in plan.paths):
            self._chosen += submissions(path / DEBUG_FOLDER if plan.debug else path)
        self._stages: dict[Key, Stage] = {}
        self._open: dict[Key, Planned] = {}
        self._ask()
        if self._is_silent:  # until the first answer, all may be in the queue
            keys = (key for one in self._chosen for work in one.work for key in work.keys)
            self._stages = dict.fromkeys(keys, Stage.RUNNING)
        for path, run in plan.runs():
            self._enter(plan, path, run)

    @property
    def arrays(self) -> list[str]:
        """The arrays that are in the queue, such as `array 12 of Slurm`."""
        return [f"array {part.job} of {one.batch}" for one in self._chosen for part in one.parts]

    @property
    def _is_silent(self) -> bool:
        """Whether the batch system did not answer the last query."""
        return self._silent_since is not None

    @property
    def waits(self) -> bool:
        """Whether any repetition is in the queue."""
        return bool(self._open)

    def wait(self) -> Summary:
        """Wait until no repetition is in the queue.

        Returns:
            The summary of all repetitions then.

        Raises:
            BatchSystemError: The batch system did not answer for longer than the patience, or rejects all that remains.
            ExperimentError: The results folder was removed.
        """
        pause = _ASK_S
        due = time.monotonic() + pause
        while self._open:
            self._look()
            time.sleep(_LOOK_S)
            if time.monotonic() < due:
                continue
            pause = _ASK_S if self._ask() else min(2 * pause, _ASK_AT_MOST_S)
            due = time.monotonic() + pause
        return self.summary

    def _enter(self, plan: Plan, path: Path, run: Run) -> None:
        self.summary.tallies[run.name] = Tally(run.name, len(plan.indices(run)))
        for planned in plan.repetitions(run, path):
            key = run.experiment_name, run.name, planned.index
            if self._stages.get(key, Stage.ENDED) is Stage.ENDED or (self._is_silent and planned.known.state.done):
                self._count(planned, planned.known)
            else:
                self._open[key] = planned

    def _ask(self) -> bool:
        """Query the queue, and submit elements that did not fit before; whether anything has changed."""
        self._check_folders()
        rejected = self._feed()
        try:
            seen = self._queue.ask(self._chosen)
        except BatchSystemError as error:
            self._check_folders()
            self._no_answer(error)
            return False
        if self._silent_since is not None:
            silent_s = time.monotonic() - self._silent_since
            self._silent_since = None
            self._notify(f"The batch system answers again, after {duration(silent_s)}.")
        before, self._stages = self._stages, {}
        for one in self._chosen:
            for number, element in seen[str(one.folder)].items():
                for key in one.work[number].keys:
                    if element.stage is not Stage.ENDED or key not in self._stages:
                        self._stages[key] = element.stage
        self._chosen = [
            one for one in self._chosen if any(e.stage is not Stage.ENDED for e in seen[str(one.folder)].values())
        ]
        if rejected is not None and all(
            element.stage is Stage.ENDED or number in waiting
            for one in self._chosen
            for waiting in (one.waiting(),)
            for number, element in seen[str(one.folder)].items()
        ):
            raise rejected  # nothing is in the queue that could be waited for
        return before != self._stages or self._queue.unsure

    def _feed(self) -> BatchSystemError | None:
        """Submit elements that did not fit before; the error if the batch system rejected them."""
        rejected: BatchSystemError | None = None
        for one in self._chosen:
            try:
                feed(one, notify=self._notify)
            except BatchSystemError as error:
                if not isinstance(error, MaybeSubmittedError):
                    rejected = error
                if str(error) not in self._noted:
                    self._noted.add(str(error))
                    self._notify(f"{error}\nWaiting on; it is tried again.")
        return rejected

    def _no_answer(self, error: BatchSystemError) -> None:
        """Notify the user of an answer that is missing, and again from time to time.

        Raises:
            BatchSystemError: For longer than the patience.
        """
        now_s = time.monotonic()
        if self._silent_since is None:
            self._silent_since, self._reminded = now_s, -math.inf
        since = datetime.now().astimezone() - timedelta(seconds=now_s - self._silent_since)
        if now_s - self._silent_since >= self._patience_s:
            words = f"no answer since {since:%H:%M:%S}: {error.words}"
            remedy = "the jobs are not affected; --patience was over; the same command waits for them again"
            raise BatchSystemError(error.system, error.command, words, remedy)
        if now_s - self._reminded >= _REMIND_S:
            self._reminded = now_s
            text = (
                f"{error}\nNo answer since {since:%H:%M:%S}. The jobs are not affected; waiting on (Ctrl-C ends that)."
            )
            self._notify(text)

    def _check_folders(self) -> None:
        for one in self._chosen:
            if not one.config.is_file():
                ids = " ".join(dict.fromkeys(self._known_arrays.get(str(one.folder), ())))
                cancel = f"; to end its jobs: {one.batch.cancel_command} {ids}" if ids else ""
                problem = "was removed while its repetitions were in the queue, and their results with it"
                raise ExperimentError(f"results folder {one.results}", problem, f"submit again{cancel}")
            self._known_arrays[str(one.folder)] = [part.job for part in one.parts]

    def _look(self) -> None:
        """Read the records of repetitions that are running, or have left the queue."""
        for key, planned in list(self._open.items()):
            stage = self._stages.get(key, Stage.ENDED)
            if stage is Stage.PENDING or stage is Stage.STUCK:
                self.running.pop(key, None)
                continue
            record = record_file.read(planned.folder)
            if (
                len(record.attempts) > len(planned.known.attempts)
                and (record.state.done or record.state is State.FAILED)
            ) or stage is Stage.ENDED:
                self._end(key, planned, record)
            elif record.state is State.RUNNING and key not in self.running:
                self.running[key] = planned

    def _end(self, key: Key, planned: Planned, record: Record) -> None:
        del self._open[key]
        self.running.pop(key, None)
        self._count(planned, record)
        self.summary.ran += 1
        self.on_repetition_done.emit(planned, Ended.of(record))

    def _count(self, planned: Planned, record: Record) -> None:
        self.summary.add(planned.run.name, planned.index, planned.folder, record)
