"""The base classes of experiments, with cw2's names and methods: its experiments only need another import line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, TypeAlias

from amlsched.errors import ExperimentError, ExperimentSurrender
from amlsched.experiments._running.asynchronous import call
from amlsched.experiments._storage.cells import payload_row, row_of
from amlsched.experiments.loggers.repetition_log import RepetitionLog, stamped

__all__ = ["AbstractExperiment", "AbstractIterativeExperiment", "Experiment", "IterativeExperiment"]

Row: TypeAlias = Mapping[str, Any] | float
"""A mapping, or a number for the column `value`."""


class Experiment(ABC):
    """An experiment. Each repetition creates an object of it, without arguments.

    The arguments of the methods are `cw_config`, the config of the repetition (its settings under `params`, its folder
    under `_rep_log_path`, its seed under `_seed`); `rep`, its index; and `logger`, whose `process(row)` adds a row to
    `rep_N.csv`. What is printed goes to the repetition's `out.log` and `err.log`. Methods may be `async def`.

    Only `run` is required. Any method may raise `ExperimentSurrender` to finish the repetition early and successfully.
    Any other exception makes the repetition fail: its traceback is written to `err.log`, and other repetitions go on.
    """

    def initialize(  # noqa: B027
        self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog
    ) -> Awaitable[None] | None:
        """Prepare. Called once, first."""

    @abstractmethod
    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> Awaitable[Row | None] | Row | None:
        """Do the work. Called once, after `initialize`. A mapping or a number that it returns is logged as a row."""

    def finalize(  # noqa: B027
        self, surrender: ExperimentSurrender | None = None, crash: bool = False
    ) -> Awaitable[None] | None:
        """Clean up. Called once, last, even after a failure.

        Args:
            surrender: The exception by which the experiment finished early, with its payload; `None` if it did not.
            crash: Whether the repetition failed.
        """

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"run of {type(self).__name__}"


class IterativeExperiment(Experiment):
    """An experiment that repeats a step `iterations` times (a key of the config). Only `iterate` is required."""

    @abstractmethod
    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> Awaitable[Row] | Row:
        """Do iteration `n`, from 0.

        Returns:
            The row to log: a mapping, or a number. It gets the columns `ts` (the time, UTC), `rep` and `iter`.
        """

    def save_state(self, cw_config: dict[str, Any], rep: int, n: int) -> Awaitable[None] | None:
        """Save the state. Called after each iteration, after its row is logged."""

    def load_state(self, cw_config: dict[str, Any], rep: int) -> Awaitable[int | None] | int | None:
        """Load what `save_state` saved. Called after `initialize`, if an earlier attempt was interrupted.

        Implement both methods to let a repetition resume: save the state in the folder `cw_config["_checkpoint_dir"]`,
        and replace files atomically (write another file, then rename it).

        Returns:
            The number of the iteration that was saved last: the repetition resumes with the next one, and rows that
            were logged after it are removed. `None` to start from scratch.
        """
        return None

    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> Any:
        """Call `iterate` and log its rows.

        With a `load_state`, it returns early, after saving an iteration, if the repetition is asked to stop.

        Raises:
            ExperimentSurrender: An iteration finished the experiment early; its payload is logged as its row.
        """
        resumable = type(self).load_state is not IterativeExperiment.load_state
        log = logger if resumable else None
        name = partial("{} of {}".format, "iterate", type(self).__name__)
        first = 0
        if log is not None:
            log.checkpoint_dir  # noqa: B018 - creates the folder, which marks the repetition as able to stop
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
                    problem = f"has a column {column}, which amlsched sets itself (here to {number})"
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
