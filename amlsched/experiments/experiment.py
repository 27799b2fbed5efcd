"""The classes that users write, with cw2's names and calls: its experiments run here with the import line changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentSurrender
from amlsched.experiments.loggers import stamp

if TYPE_CHECKING:
    from amlsched.experiments.loggers import LoggerArray

__all__ = ["AbstractExperiment", "AbstractIterativeExperiment", "Experiment", "IterativeExperiment"]


class Experiment(ABC):
    """An experiment: a new object of it is made for every repetition, without arguments.

    What the methods get: `cw_config`, the config of the repetition (its settings under `params`, its folder under
    `_rep_log_path`, its seed under `_seed`); `rep`, its index; `logger`, whose `process(row)` adds a row to
    `rep_N.csv`. What is printed lands in the repetition's `out.log` and `err.log`.

    Only `run` must be written. Any of them may raise `ExperimentSurrender` to end the repetition early and well. Any
    other exception makes it fail: its trace is written to `err.log`, and the other repetitions go on.
    """

    def initialize(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:  # noqa: B027
        """Prepare: called once, first."""

    @abstractmethod
    def run(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:
        """Do the work: called once, after `initialize`."""

    def finalize(self, surrender: ExperimentSurrender | None = None, crash: bool = False) -> None:  # noqa: B027
        """Clean up: called once, last, whatever happened before.

        Args:
            surrender: What the experiment raised to end itself, with its payload.
            crash: Whether it failed.
        """


class IterativeExperiment(Experiment):
    """An experiment that repeats one step, `iterations` times (a key of the config). Only `iterate` must be written."""

    @abstractmethod
    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> dict[str, Any]:
        """Do iteration `n`, from 0.

        Returns:
            The row to log. It gets the columns `ts` (the time, UTC), `rep` and `iter`.
        """

    def save_state(self, cw_config: dict[str, Any], rep: int, n: int) -> None:
        """Save what you wish to keep: called after each iteration, once its row is logged."""

    def run(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:
        """Iterate and log.

        Raises:
            ExperimentSurrender: An iteration ended the experiment; its payload is logged as that iteration's row.
        """
        for n in range(cw_config["iterations"]):
            surrender: ExperimentSurrender | None = None
            try:
                result = self.iterate(cw_config, rep, n)
            except ExperimentSurrender as ending:
                surrender, result = ending, ending.payload or {}
            logger.process({**result, **stamp(rep, n)})
            self.save_state(cw_config, rep, n)
            if surrender is not None:
                raise surrender


AbstractExperiment = Experiment
AbstractIterativeExperiment = IterativeExperiment
