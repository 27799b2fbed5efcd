"""Loggers: they keep the rows that a repetition logs while it runs.

An experiment passes each row to `logger.process`. `CsvLogger` is always used; others can be added. A logger written for
cw2 works after changing its import line.
"""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments import cells, checkpoint, layout
from amlsched.experiments.atomic import replace_file
from amlsched.experiments.checkpoint import Checkpoint
from amlsched.experiments.isolation import generators, set_generators
from amlsched.experiments.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["AbstractLogger", "CsvLogger", "LoggerArray", "RepetitionLog"]


class AbstractLogger:
    """Base class of loggers, which keep what an experiment logs.

    `initialize` is called before the experiment's own, `process` for each row, and `finalize` at the end, even after a
    failure.

    Args:
        ignore_keys: Columns to leave out.
        allow_keys: The only columns to keep.

    Raises:
        ValueError: Both were given.
    """

    def __init__(self, ignore_keys: Iterable[str] | None = None, allow_keys: Iterable[str] | None = None) -> None:
        if ignore_keys is not None and allow_keys is not None:
            raise ValueError("give ignore_keys or allow_keys, not both")
        self.ignore_keys = None if ignore_keys is None else frozenset(ignore_keys)
        self.allow_keys = None if allow_keys is None else frozenset(allow_keys)

    def filter(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that this logger keeps."""
        ignore, allow = self.ignore_keys or (), self.allow_keys
        return {key: value for key, value in data.items() if key not in ignore and (allow is None or key in allow)}

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Prepare for a repetition.

        Args:
            config: The `cw_config` of the repetition.
            rep: Its index.
            rep_log_path: Its folder, which exists.
        """

    def preprocess(self, *args: Any) -> None:
        """Called by experiments from their `initialize`, with anything that the logger needs to know."""

    def process(self, data: dict[str, Any]) -> None:
        """Keep one row."""

    def finalize(self) -> None:
        """Write what has not been written yet, and close."""

    def load(self) -> Any:
        """Load what was logged; `None` if this logger loads nothing."""
        return None


class LoggerArray(AbstractLogger):
    """Several loggers as one: it calls each of them, in the order in which they were added."""

    def __init__(self, loggers: Iterable[AbstractLogger] = ()) -> None:
        super().__init__()
        self._logger_array = list(loggers)

    def add(self, logger: AbstractLogger) -> None:
        """Add a logger."""
        self._logger_array.append(logger)

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Prepare all for a repetition."""
        for logger in self._logger_array:
            logger.initialize(config, rep, rep_log_path)

    def preprocess(self, *args: Any) -> None:
        """Pass the arguments to all."""
        for logger in self._logger_array:
            logger.preprocess(*args)

    def process(self, data: dict[str, Any]) -> None:
        """Pass the row to all."""
        for logger in self._logger_array:
            logger.process(data)

    def finalize(self) -> None:
        """Close all. If some raise, the others are still closed, and then the first error is raised."""
        first: BaseException | None = None
        for logger in self._logger_array:
            try:
                logger.finalize()
            except BaseException as error:  # user code may also exit
                first = error if first is None else first
        if first is not None:
            raise first

    def load(self) -> dict[str, Any]:
        """What each logger loaded, by the name of its class."""
        loaded = {type(logger).__name__: logger.load() for logger in self._logger_array}
        return {name: data for name, data in loaded.items() if data is not None}

    def __iter__(self) -> Iterator[AbstractLogger]:
        return iter(self._logger_array)

    def is_empty(self) -> bool:
        """Whether it has no loggers."""
        return not self._logger_array


class CsvLogger(AbstractLogger):
    """Appends each row to `rep_N.csv` in the folder of the repetition, immediately: a logged row is never lost.

    Logging a row has the same cost at the start and at the end. Only a row with a new column makes it rewrite the file
    once, with the longer header and empty cells in earlier rows.

    Values are read as they were logged; see `amlsched.experiments.cells`.

    Attributes:
        path: The file.
        columns: The columns so far.
        rows: Number of rows so far.
        last: The last value of each column, as plain Python values.
        discard: Moves the file of an earlier attempt away; set if there may be one to resume from.
        undecided: Whether there is a file of an earlier attempt, and it is not decided yet how much of it to keep.
    """

    def __init__(self, ignore_keys: Iterable[str] | None = None, allow_keys: Iterable[str] | None = None) -> None:
        super().__init__(ignore_keys, allow_keys)
        self.undecided = False
        self.discard: Callable[[], None] | None = None
        self.path = Path()
        self.columns: list[str] = []
        self.rows = 0
        self.last: dict[str, Any] = {}
        self._file: io.FileIO | None = None

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Create an empty file, unless there may be an earlier one to resume from."""
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        self.columns, self.rows, self.last = [], 0, {}
        self.finalize()
        self.undecided = self.discard is not None and self.path.is_file()
        if not self.undecided:
            self._file = self.path.open("wb", buffering=0)

    def keep(self, wanted: Callable[[int, dict[str, Any]], bool]) -> None:
        """Resume with the file of an earlier attempt, up to the first row that is not wanted.

        An incomplete row, whose process was killed or whose disk was full, is removed too.

        Args:
            wanted: Whether to keep a row; called with its number, from 0, and its values.
        """
        header, *rows = cells.whole_rows(self.path.read_bytes()) or [b""]
        columns = cells.names(header)
        kept = [header]
        self.last = dict.fromkeys(columns)
        for raw in rows:
            try:
                values = cells.values(raw) if columns else []
            except UnicodeDecodeError:
                break
            row = dict(zip(columns, values, strict=False))
            if len(values) != len(columns) or not wanted(len(kept) - 1, row):
                break
            kept.append(raw)
            self.last.update((key, value) for key, value in row.items() if value is not None)
        self.undecided = False
        self.columns, self.rows = columns, len(kept) - 1
        replace_file(self.path, b"".join(kept))
        self.finalize()
        self._file = self.path.open("ab", buffering=0)

    def sync(self) -> None:
        """Flush logged rows to disk, so that they survive a crash of the host."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def process(self, data: dict[str, Any]) -> None:
        """Append a row. It has been passed to the operating system when this method returns.

        Raises:
            OSError: The row cannot be written, for example because the disk is full.
            ExperimentError: A row cannot hold a value.
        """
        kept = self.filter(data)
        row = {str(key): plain(value, f"column {key}") for key, value in kept.items()}
        if len(row) != len(kept):
            raise ExperimentError(
                f"columns {', '.join(map(repr, kept))}", "two have the same name", "rename one of them"
            )
        if self.undecided:  # the experiment starts from scratch
            assert self.discard is not None
            self.discard()
            self.undecided = False
            self._file = self.path.open("wb", buffering=0)
        new = [key for key in row if key not in self.last]
        if new or not self.rows:
            self._add_columns(new)
        self.last.update(row)
        self._write(cells.line(row.get(key) for key in self.columns))
        self.rows += 1

    def finalize(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def load(self) -> Any:
        """The rows as a pandas DataFrame; `None` if there are none."""
        from amlsched.experiments.results import pandas_for

        pandas_for(f"{type(self).__name__}.load")
        from amlsched.experiments.frame import logged

        return next((frame for _, _, frame in logged([self.path])), None)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: a row was logged after the end of the repetition")
        begin = self._file.tell()
        try:
            written = self._file.write(line)
            if written != len(line):  # a nearly full disk takes a part, and reports the error at the next write
                self._file.write(line[written:])
        except OSError as error:
            error.filename = str(self.path)
            self._file.truncate(begin)  # leave no incomplete row
            raise

    def _add_columns(self, new: list[str]) -> None:
        filling = b"," * (len(new) if self.columns else len(new) - 1) + b"\n"
        self.columns += new
        header = cells.header(self.columns)
        if not self.rows:
            if self._file is not None:
                self._file.truncate(0)
                self._file.seek(0)
            self._write(header)
            return
        temporary = self.path.with_name(f".{self.path.name}.new")
        with self.path.open("rb") as old, temporary.open("wb") as file:
            file.write(header)
            rows = cells.rows(old)
            next(rows)
            for row in rows:
                file.write(row.removesuffix(b"\n") + filling)
            file.flush()
            os.fsync(file.fileno())
        self.finalize()
        temporary.replace(self.path)
        self._file = self.path.open("ab", buffering=0)


class RepetitionLog(LoggerArray):
    """The log of a repetition: passes rows to its loggers, and saves and restores the state of the experiment.

    If the experiment is a function, it logs a row by calling this object: `log(loss=0.3)` adds the columns `ts`, `rep`
    and `iter`, the number of the row.

    Attributes:
        folder: The folder of the repetition, for files of your own.
        seed: The seed of the repetition.
        resumed: Whether an earlier attempt left a checkpoint to resume from.
        told: Whether `should_stop` has returned true.
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
        self.told = False
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
        self.told = self.told or self._asked_to_stop()
        return self.told

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
        checkpoint.save(self.folder, Checkpoint(self.rows, state, drawn))

    def restore(self) -> Any:
        """The state that an earlier attempt saved last; `None` if there is nothing to resume from.

        The rows that it had logged by then are kept, later ones are removed, and the global random number generators
        continue where they were. Call it before logging anything.

        Raises:
            ExperimentError: The state cannot be loaded.
        """
        saved = checkpoint.load(self.folder) if self.resumed else None
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
