"""The classes that users write, with cw2's names and calls: its experiments run here with the import line changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, TypeAlias

from amlsched.errors import ExperimentError, ExperimentSurrender
from amlsched.experiments.asynchronous import call
from amlsched.experiments.loggers import RepetitionLog, stamped
from amlsched.experiments.rows import payload_row, row_of

__all__ = ["AbstractExperiment", "AbstractIterativeExperiment", "Experiment", "IterativeExperiment"]

Row: TypeAlias = Mapping[str, Any] | float
"""A mapping, or a number, which is the column `value`."""


class Experiment(ABC):
    """An experiment: a new object of it is made for every repetition, without arguments.

    What the methods get: `cw_config`, the config of the repetition (its settings under `params`, its folder under
    `_rep_log_path`, its seed under `_seed`); `rep`, its index; `logger`, whose `process(row)` adds a row to
    `rep_N.csv`. What is printed lands in the repetition's `out.log` and `err.log`. Methods may be `async def`.

    Only `run` must be written. Any of them may raise `ExperimentSurrender` to end the repetition early and well. Any
    other exception makes it fail: its trace is written to `err.log`, and the other repetitions go on.
    """

    def initialize(  # noqa: B027
        self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog
    ) -> Awaitable[None] | None:
        """Prepare: called once, first."""

    @abstractmethod
    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> Awaitable[Row | None] | Row | None:
        """Do the work: called once, after `initialize`. A mapping or a number that it returns is logged as a row."""

    def finalize(  # noqa: B027
        self, surrender: ExperimentSurrender | None = None, crash: bool = False
    ) -> Awaitable[None] | None:
        """Clean up: called once, last, whatever happened before.

        Args:
            surrender: What the experiment raised to end itself, with its payload.
            crash: Whether it failed.
        """

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"run of {type(self).__name__}"


class IterativeExperiment(Experiment):
    """An experiment that repeats one step, `iterations` times (a key of the config). Only `iterate` must be written."""

    @abstractmethod
    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> Awaitable[Row] | Row:
        """Do iteration `n`, from 0.

        Returns:
            The row to log: a mapping, or a number. It gets the columns `ts` (the time, UTC), `rep` and `iter`.
        """

    def save_state(self, cw_config: dict[str, Any], rep: int, n: int) -> Awaitable[None] | None:
        """Save what you wish to keep: called after each iteration, once its row is logged."""

    def load_state(self, cw_config: dict[str, Any], rep: int) -> Awaitable[int | None] | int | None:
        """Load what `save_state` saved: called after `initialize`, if an earlier attempt was cut off.

        Write both to make a repetition go on where it was: keep the state in the folder `cw_config["_checkpoint_dir"]`,
        and put a file in its place as a whole (write another one, then rename it).

        Returns:
            The number of the iteration that was saved last: it goes on with the next one, and rows that were logged
            later are cut. `None` to begin anew.
        """
        return None

    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> Any:
        """Iterate and log.

        Where there is a `load_state`, it ends early, after an iteration was saved, if it is told to stop.

        Raises:
            ExperimentSurrender: An iteration ended the experiment; its payload is logged as that iteration's row.
        """
        resumable = type(self).load_state is not IterativeExperiment.load_state
        log = logger if resumable else None
        name = partial("{} of {}".format, "iterate", type(self).__name__)
        first = 0
        if log is not None:
            log.checkpoint_dir  # noqa: B018 - to have it made: whoever has it can be told to stop
            saved = call(self.load_state, cw_config, rep) if log.resumed else None
            if saved is not None:
                log.keep_until(saved)
                first = saved + 1
        for n in range(first, cw_config["iterations"]):
            surrender: ExperimentSurrender | None = None
            try:
                row = row_of(call(self.iterate, cw_config, rep, n), name, needed=True)
            except ExperimentSurrender as ending:
                surrender, row = ending, payload_row(ending.payload)
            row = row or {}
            for column, number in (("rep", rep), ("iter", n)):
                if row.get(column, number) != number:
                    problem = f"has a column {column}, which is {number} here and counted by itself"
                    raise ExperimentError(f"the row of {name()}", problem, "give the column another name")
            logger.process(stamped(row, rep, n))
            if log is not None:
                log.sync()
            call(self.save_state, cw_config, rep, n)
            if surrender is not None:
                surrender.logged = True
                raise surrender
            if log is not None and n + 1 < cw_config["iterations"] and log.should_stop():
                return


AbstractExperiment = Experiment
AbstractIterativeExperiment = IterativeExperiment
