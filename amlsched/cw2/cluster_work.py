"""`cw2.cluster_work`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amlsched import cli
from amlsched.cli import run as command
from amlsched.cli.parser import Parser
from amlsched.errors import ExperimentError
from amlsched.experiments import results
from amlsched.experiments.pandas_logger import PandasLogger
from amlsched.experiments.target import Target, being_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    import pandas as pd

    from amlsched.experiments.loggers import AbstractLogger
    from amlsched.experiments.scheduling import AbstractScheduler
    from amlsched.experiments.summary import Summary

__all__ = ["ClusterWork"]

_NO_GUARD = """\
write what runs experiments below a guard, since workers import this file too:

    if __name__ == "__main__":
        ClusterWork(MyExperiment).run()"""


class ClusterWork:
    """A script that runs an experiment over a config file, as with cw2.

        if __name__ == "__main__":
            cw = ClusterWork(MyExperiment)
            cw.add_logger(PandasLogger())
            cw.run()

    Its command line is that of `amlsched run` without the target: `python script.py CONFIG -e NAME -o …`. It is read
    when `run` or `load` is called, and can be given to them as `argv`, in a notebook or a test.

    As with cw2, no more repetitions run at a time than the config's `reps_in_parallel` says; `--max-workers N` runs
    more.

    Args:
        exp_cls: The experiment, a class or a function; `None` if results are only to be loaded.
    """

    def __init__(self, exp_cls: type[Any] | Callable[..., Any] | None = None) -> None:
        self.exp_cls = exp_cls
        self._loggers: list[AbstractLogger] = []

    def add_logger(self, logger: AbstractLogger) -> None:
        """Have this logger told what each repetition logs; each gets a copy of it."""
        self._loggers.append(logger)

    def run(
        self,
        root_dir: str | Path = "",
        sch: AbstractScheduler | None = None,
        *,
        s: AbstractScheduler | None = None,
        argv: Sequence[str] | None = None,
    ) -> Summary | None:
        """Run what is left of the config.

        Args:
            root_dir: Where relative folders of results start; empty for the working folder.
            sch: A scheduler of your own, which runs the jobs.
            s: The same.
            argv: The command line; `None` for that of the script, which then ends with an exit code if not all
                repetitions are done.

        Returns:
            What there is now; `None` if nothing was to be run here (`--dry-run`, `-s`).

        Raises:
            SystemExit: With `argv=None`: some repetitions failed (1), the input is bad (2), Ctrl-C (130).
            AmlschedError: With `argv`: what is wrong with the input.
        """
        if self.exp_cls is None:
            raise ExperimentError("ClusterWork", "has no experiment to run", "ClusterWork(MyExperiment).run()")
        _refuse_while_imported(inspect.currentframe())
        target = Target.of(self.exp_cls)
        done: list[Summary | None] = []

        def ran() -> int:
            code, summary = command.execute(
                _arguments(argv),
                target,
                loggers=self._loggers,
                scheduler=sch or s,
                root=root_dir,
                one_job_at_a_time=True,
            )
            done.append(summary)
            return code

        if argv is not None:
            ran()
        elif code := cli.exit_code(ran):
            cli.leave_threads(code)
            raise SystemExit(code)
        return done[0]

    def load(self, root_dir: str | Path = "", *, argv: Sequence[str] | None = None) -> pd.DataFrame:
        """What there is of the config's repetitions, one a row; no file is made or changed by it.

        Args:
            root_dir: As of `run`.
            argv: The command line; `None` for that of the script.

        Returns:
            The columns of `amlsched.experiments.load`, with `rep_path`, the mapping `params`, and a column for each
            logger that reads something back, such as `PandasLogger`. With an accessor `cw2`, as with cw2.

        Raises:
            ConfigError: The config is wrong.
            MissingExtraError: pandas is not installed.
        """
        pandas = results.pandas_for("ClusterWork.load")
        importlib.import_module("amlsched.cw2.cw_data.cw_loading")  # the accessor
        plan = command.plan_of(_arguments(argv), root_dir)
        rows: list[dict[str, Any]] = []
        for path, run in plan.runs():
            for one in plan.repetitions(run, path):
                found = results.Found(run.experiment_name, run.name, one.index, one.folder, run.params, one.known)
                row = results.row(found) | {"rep_path": str(one.folder), "params": run.params}
                rows.append(row | self._read_back(run.config, one.index, one.folder))
        frame: pd.DataFrame = pandas.DataFrame(rows).set_index(["name", "r"])
        return frame

    def _read_back(self, config: dict[str, Any], rep: int, folder: Path) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for logger in self._loggers:
            if isinstance(logger, PandasLogger):
                data = logger.at(rep, str(folder)).load()
            elif folder.is_dir() and not _reads_nothing(logger):
                logger.initialize(config, rep, str(folder))
                data = logger.load()
            else:
                continue
            if isinstance(data, dict):
                read.update(cast("dict[str, Any]", data))
            elif data is not None:
                read[type(logger).__name__] = data
        return read


def _reads_nothing(logger: AbstractLogger) -> bool:
    from amlsched.experiments.loggers import AbstractLogger

    return getattr(type(logger), "load", None) is AbstractLogger.load


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description="Run what is left of a config; see also: amlsched --help")
    command.add_arguments(parser)
    return parser.parse_args(argv)


def _refuse_while_imported(frame: FrameType | None) -> None:
    caller = frame.f_back.f_globals.get("__name__") if frame is not None and frame.f_back is not None else None
    if caller in being_imported or getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ExperimentError("ClusterWork.run", "was called while its script was imported", _NO_GUARD)
