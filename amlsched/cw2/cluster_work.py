"""`cw2.cluster_work`."""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amlsched import cli
from amlsched._surroundings import import_extra
from amlsched.cli import run as command
from amlsched.cli.parser import Parser
from amlsched.cw2.cw_config.cw_config import Config
from amlsched.errors import ExperimentError
from amlsched.experiments.loggers.base import AbstractLogger, LoggerArray
from amlsched.experiments.loggers.csv import PandasLogger
from amlsched.experiments.results.survey import Found
from amlsched.experiments.target import Target, being_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    import pandas as pd

    from amlsched.experiments import AbstractScheduler
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.progress import Summary

__all__ = ["ClusterWork"]

_NO_GUARD = """\
run experiments only below a guard, since workers also import this file:

    if __name__ == "__main__":
        ClusterWork(MyExperiment).run()"""


class ClusterWork:
    """A script that runs an experiment over a config file, as with cw2.

        if __name__ == "__main__":
            cw = ClusterWork(MyExperiment)
            cw.add_logger(PandasLogger())
            cw.run()

    Its command line is that of `amlsched run` without the target: `python script.py CONFIG -e NAME -o …`. It is parsed
    when `run` or `load` is called. In a notebook or a test, pass it to them as `argv`.

    `run` and `load` use what a script changes in `args` and in `config.exp_configs`.

    As with cw2, at most `reps_in_parallel` repetitions run at a time; `--max-workers N` overrides that.

    Args:
        exp_cls: The experiment, a class or a function; `None` if results are only loaded.
        argv: The command line, in a notebook or a test; `None` for that of the script, which is parsed when it is
            first needed.

    Attributes:
        logArray: The loggers.
    """

    def __init__(
        self, exp_cls: type[Any] | Callable[..., Any] | None = None, *, argv: Sequence[str] | None = None
    ) -> None:
        self.exp_cls = exp_cls
        self.logArray = LoggerArray()
        self._argv = None if argv is None else list(argv)
        self._args: dict[str, Any] | None = None
        self._config: Config | None = None

    @property
    def args(self) -> dict[str, Any]:
        """The command line, by the names of cw2 (`config`, `experiments`, `slurm`, `job`, `overwrite`, `debug`, …) and
        those that amlsched adds.

        Raises:
            SystemExit: The command line is invalid (2), or asks for help.
        """
        _check_not_importing(inspect.currentframe(), "args")
        return self._words()

    @property
    def config(self) -> Config:
        """The config, with the `cw_config` of each repetition in `exp_configs`.

        Raises:
            SystemExit: Without `argv`: the command line or the config is invalid (2).
            ConfigError: With `argv`: the config is invalid.
        """
        _check_not_importing(inspect.currentframe(), "config")

        def read() -> int:
            made = Config()
            arguments = self._arguments()
            arguments.job = None
            made.use(command.plan_of(arguments))
            self._words()["prefix_with_timestamp"] = arguments.prefix_with_timestamp  # `run` uses the same
            made.exp_selections = self._words()["experiments"]
            self._config = made
            return 0

        if self._config is None:
            _ended(read, self._argv)
        assert self._config is not None
        return self._config

    def add_logger(self, logger: AbstractLogger) -> None:
        """Pass what each repetition logs to this logger; each repetition gets a copy of it."""
        self.logArray.add(logger)

    def run(
        self,
        root_dir: str | Path = "",
        sch: AbstractScheduler | None = None,
        *,
        s: AbstractScheduler | None = None,
        argv: Sequence[str] | None = None,
    ) -> Summary | None:
        """Run the remaining repetitions of the config.

        Args:
            root_dir: Relative folders of results are relative to it; empty for the working folder.
            sch: A scheduler of your own, which runs the jobs.
            s: Another name for `sch`.
            argv: The command line; `None` for that of the constructor, or otherwise that of the script. The script
                then exits with an exit code if some repetitions are not done.

        Returns:
            The summary; `None` if nothing was run in this process (`--dry-run`, `-s`).

        Raises:
            SystemExit: With `argv=None`: some repetitions failed (1), the input is invalid (2), Ctrl-C (130).
            AmlschedError: With `argv`, here or in the constructor: the input is invalid.
        """
        if self.exp_cls is None:
            raise ExperimentError("ClusterWork", "has no experiment to run", "ClusterWork(MyExperiment).run()")
        _check_not_importing(inspect.currentframe(), "run")
        target = Target.of(self.exp_cls)
        done: list[Summary | None] = []

        def ran() -> int:
            arguments = self._arguments(argv)
            code, summary = command.execute(
                arguments,
                target,
                loggers=list(self.logArray),
                scheduler=sch or s,
                plan=self._plan(arguments, root_dir, argv),
                one_job_at_a_time=True,
            )
            done.append(summary)
            return code

        _ended(ran, self._argv if argv is None else argv)
        return done[0]

    def load(self, root_dir: str | Path = "", *, argv: Sequence[str] | None = None) -> pd.DataFrame:
        """The results of the config's repetitions, one in each row. Creates and changes no files.

        Args:
            root_dir: As for `run`.
            argv: As for `run`.

        Returns:
            The columns of `amlsched.experiments.load`, `rep_path`, the mapping `params`, and a column for each logger
            that loads something, such as `PandasLogger`, whose `ts` are timestamps in local time. It has an accessor
            `cw2`, as with cw2.

        Raises:
            ConfigError: The config is invalid.
            MissingExtraError: pandas is not installed.
        """
        import_extra("pandas", "ClusterWork.load", "pandas", "results")
        from amlsched.cw2.cw_data.cw_loading import with_columns  # importing it adds the accessor

        plan = self._plan(self._arguments(argv), root_dir, argv)
        found: list[Found] = []
        more: list[dict[str, Any]] = []
        for path, run in plan.runs():
            for one in plan.repetitions(run, path):
                own = run.at(one.index)
                found.append(Found(run.experiment_name, run.name, one.index, one.folder, own.params, one.known))
                read_back = self._read_back(own.config, one.index, one.folder)
                more.append({"rep_path": str(one.folder), "params": own.params} | read_back)
        return with_columns(found, more)

    def _read_back(self, config: dict[str, Any], rep: int, folder: Path) -> dict[str, Any]:
        read: dict[str, Any] = {}
        data: Any
        for logger in self.logArray:
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

    def _words(self) -> dict[str, Any]:
        if self._args is None:
            read = vars(_parsed(self._argv))
            self._args = read | {
                "experiments": read["experiments"] or None,
                "debug": read["debug"] == "debug",
                "debugall": read["debug"] == "debugall",
                "noconsolelog": read["no_capture"],
            }
        return self._args

    def _arguments(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The command line; if it is the script's, with what the script changed in `args`."""
        if argv is not None:
            return _parsed(argv)
        words = self._words()
        changed: dict[str, Any] = {
            "experiments": words["experiments"] or [],
            "debug": "debugall" if words["debugall"] else "debug" if words["debug"] else "",
            "no_capture": words["noconsolelog"],
        }
        return argparse.Namespace(**words | changed)

    def _plan(self, arguments: argparse.Namespace, root: str | Path, argv: Sequence[str] | None) -> Plan:
        plan = command.plan_of(arguments, root)
        if self._config is None or (argv is not None and not self._config.is_changed):
            return plan
        if argv is not None and list(argv) != self._argv:
            problem = "the script changed a config that was loaded with another command line"
            raise ExperimentError("ClusterWork", problem, "give argv to the constructor: ClusterWork(cls, argv=[…])")
        return self._config.apply(plan)


def _ended(command: Callable[[], int], argv: Sequence[str] | None) -> None:
    """Run a command. With the script's own command line, print errors, and exit if the exit code is not 0."""
    if argv is not None:
        command()
    elif code := cli.exit_code(command):
        cli.exit_despite_threads(code)
        raise SystemExit(code)


def _reads_nothing(logger: AbstractLogger) -> bool:
    return getattr(type(logger), "load", None) is AbstractLogger.load


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description="Run the remaining repetitions of a config; see also: amlsched --help")
    command.add_arguments(parser)
    return parser.parse_args(argv)


def _check_not_importing(frame: FrameType | None, name: str) -> None:
    caller = frame.f_back.f_globals.get("__name__") if frame is not None and frame.f_back is not None else None
    if caller in being_imported or getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ExperimentError(f"ClusterWork.{name}", "was used while its script was being imported", _NO_GUARD)
