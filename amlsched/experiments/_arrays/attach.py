"""Wait for the elements of submitted arrays, and report their repetitions as they finish."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched.batch_systems import Stage
from amlsched.events import Emitter, Event
from amlsched.experiments._arrays.status import states
from amlsched.experiments._arrays.submission import submissions
from amlsched.experiments._arrays.submit import feed
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._running.summary import Ended, Summary, Tally
from amlsched.experiments._storage import record_file
from amlsched.experiments._storage.record import Record, State
from amlsched.experiments.plan import Planned

if TYPE_CHECKING:
    from pathlib import Path

    from amlsched.events import Subscriber
    from amlsched.experiments._arrays.submission import Key, Submission
    from amlsched.experiments._config.expand import Run
    from amlsched.experiments.plan import Plan

__all__ = ["Attached"]

_LOOK_S = 1.0
"""Seconds between two reads of the records of running repetitions."""
_ASK_S, _ASK_AT_MOST_S = 2.0, 30.0
"""Seconds between two queries of the queue: doubled, up to a limit, each time that nothing has changed."""


class Attached(Emitter):
    """Waits for those repetitions of a plan that are in the queue.

    It mostly reads files, and rarely queries the queue.

    Args:
        plan: The repetitions.
    """

    DONE: ClassVar[Event[[Planned, Ended], Any]] = Event("on-repetition-done", ("repetition", "ended"))
    """Emitted when a repetition has finished, failed or been cancelled."""

    on_repetition_done: Subscriber[[Planned, Ended], Any]

    def __init__(self, plan: Plan) -> None:
        super().__init__()
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
        for path, run in plan.runs():
            self._enter(plan, path, run)

    @property
    def arrays(self) -> list[str]:
        """The arrays that are in the queue, such as `array 12 of Slurm`."""
        return [f"array {part.job} of {one.batch}" for one in self._chosen for part in one.parts]

    @property
    def waits(self) -> bool:
        """Whether any repetition is in the queue."""
        return bool(self._open)

    def wait(self) -> Summary:
        """Wait until no repetition is in the queue.

        Returns:
            The summary of all repetitions then.

        Raises:
            BatchSystemError: The batch system could not be queried.
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
            if self._stages.get(key, Stage.ENDED) is Stage.ENDED:
                self._count(planned, planned.known)
            else:
                self._open[key] = planned

    def _ask(self) -> bool:
        """Query the queue, and submit elements that did not fit before; whether anything has changed."""
        for one in self._chosen:
            feed(one)
        seen = states(self._chosen)
        before, self._stages = self._stages, {}
        for one in self._chosen:
            for number, element in seen[str(one.folder)].items():
                self._stages.update(dict.fromkeys(one.work[number].keys, element.stage))
        self._chosen = [
            one for one in self._chosen if any(e.stage is not Stage.ENDED for e in seen[str(one.folder)].values())
        ]
        return before != self._stages

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
