"""What a repetition logs to: the file of its rows, and the loggers that were asked for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments._running.isolation import generators, set_generators
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments.loggers.base import AbstractLogger, LoggerArray
from amlsched.experiments.loggers.csv import CsvLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["RepetitionLog"]


class RepetitionLog(LoggerArray):
    """The log of a repetition: passes rows to its loggers, and saves and restores the state of the experiment.

    If the experiment is a function, it logs a row by calling this object: `log(loss=0.3)` adds the columns `ts`, `rep`
    and `iter`, the number of the row.

    Attributes:
        folder: The folder of the repetition, for files of your own.
        seed: The seed of the repetition.
        resumed: Whether an earlier attempt left a checkpoint to resume from.
        stopping: Whether `should_stop` has returned true.
        keeps_generators: Whether `save` also saves the states of the global random number generators.
    """

    def __init__(
        self,
        folder: Path,
        rep: int,
        seed: int,
        loggers: Iterable[AbstractLogger] = (),
        *,
        resumed: bool = False,
        discard: Callable[[], None] | None = None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        added = list(loggers)
        self._csv = next((logger for logger in added if isinstance(logger, CsvLogger)), CsvLogger())
        self._csv.discard = discard if resumed else None
        super().__init__((self._csv, *(logger for logger in added if logger is not self._csv)))
        self.folder = folder
        self.seed = seed
        self.resumed = resumed
        self.stopping = False
        self.keeps_generators = False
        self._asked_to_stop = asked_to_stop
        self._rep = rep
        self._pid = os.getpid()

    @property
    def checkpoint_dir(self) -> Path:
        """The folder in which the experiment saves the state that the next attempt resumes from.

        It is created by reading this property, and moved away if the repetition starts from scratch.
        """
        place = self.folder / layout.CHECKPOINT
        place.mkdir(parents=True, exist_ok=True)
        return place

    def should_stop(self) -> bool:
        """Whether the experiment is asked to stop, by a signal or because its batch job is near its time limit.

        If so, save the state and return: the next attempt resumes from there. An experiment that calls this method gets
        a grace period for that.
        """
        self.checkpoint_dir  # noqa: B018 - creates the folder, which marks the repetition as able to stop
        self.stopping = self.stopping or self._asked_to_stop()
        return self.stopping

    def save(self, state: Any) -> None:
        """Save the state of the experiment, with the number of rows logged so far, and replace an earlier one.

        The replacement is atomic: if the process is killed meanwhile, the earlier state remains.

        Args:
            state: Any object that can be pickled.

        Raises:
            OSError: It cannot be written.
        """
        self._csv.sync()
        drawn = generators() if self.keeps_generators else {}
        record_file.save_checkpoint(self.folder, record_file.Checkpoint(self.rows, state, drawn))

    def restore(self) -> Any:
        """The state that an earlier attempt saved last; `None` if there is nothing to resume from.

        The rows that it had logged by then are kept, later ones are removed, and the global random number generators
        continue where they were. Call it before logging anything.

        Raises:
            ExperimentError: The state cannot be loaded.
        """
        saved = record_file.load_checkpoint(self.folder) if self.resumed else None
        if saved is None:
            return None
        self._csv.keep(lambda number, _: number < saved.rows)
        if self.keeps_generators:
            set_generators(saved.generators)
        return saved.state

    def keep_until(self, iteration: int) -> None:
        """Resume with the rows of an earlier attempt, up to the row of this iteration.

        Raises:
            ValueError: A row has no `iter`.
        """

        def wanted(_: int, row: dict[str, Any]) -> bool:
            if not isinstance(row.get("iter"), int | float):
                raise ValueError(f"{self._csv.path}: a row has no number as iter")
            return bool(row["iter"] <= iteration)

        self._csv.keep(wanted)

    def sync(self) -> None:
        """Flush logged rows to disk, so that they survive a crash of the host."""
        self._csv.sync()

    def __call__(self, row: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Log a row, given as a mapping, as keywords, or both. Your own columns `ts`, `rep` and `iter` are kept."""
        self.process(stamped({**(row or {}), **values}, self._rep, self.rows))

    def process(self, data: dict[str, Any]) -> None:
        """Log a row.

        Raises:
            ExperimentError: This is a child process that the repetition forked, which cannot know the parent's rows.
        """
        if os.getpid() != self._pid:
            remedy = "send the row to that process, for example through a multiprocessing.Queue"
            raise ExperimentError(str(self.folder), "only the process of the repetition can log, not its child", remedy)
        super().process(data)

    @property
    def rows(self) -> int:
        """How many rows were logged."""
        return self._csv.rows

    @property
    def last(self) -> dict[str, Any]:
        """The last value of each column."""
        return self._csv.last

    @property
    def began(self) -> bool:
        """Whether the CSV file is this attempt's, rather than that of an earlier one."""
        return not self._csv.undecided


def stamped(row: Mapping[str, Any], rep: int, iteration: int) -> dict[str, Any]:
    """The row with the columns of every iteration added, unless it has them already."""
    return {**row, **{key: value for key, value in stamp(rep, iteration).items() if key not in row}}


def stamp(rep: int, iteration: int) -> dict[str, Any]:
    """The columns of every iteration."""
    return {"ts": datetime.now(UTC), "rep": rep, "iter": iteration}
