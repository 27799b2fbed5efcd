"""Where the results of a repetition go while it runs.

An experiment hands each row to `logger.process`. `CsvLogger` is always there; others can be added. A logger of cw2
works here when its import line changes.
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
    """Something that keeps what an experiment logs; the parent of your own loggers.

    `initialize` is called before the experiment's, `process` for each row, `finalize` at the end, whatever happened.

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
        """Get ready for a repetition.

        Args:
            config: The `cw_config` of the repetition.
            rep: Its index.
            rep_log_path: Its folder, which exists.
        """

    def preprocess(self, *args: Any) -> None:
        """For experiments to call from their `initialize`, with whatever the logger wants to know."""

    def process(self, data: dict[str, Any]) -> None:
        """Keep one row."""

    def finalize(self) -> None:
        """Write what is not yet written, and close."""

    def load(self) -> Any:
        """What was logged, read back; `None` if this logger reads nothing back."""
        return None


class LoggerArray(AbstractLogger):
    """Several loggers as one: what it is told, it tells each in the order in which they were added."""

    def __init__(self, loggers: Iterable[AbstractLogger] = ()) -> None:
        super().__init__()
        self._logger_array = list(loggers)

    def add(self, logger: AbstractLogger) -> None:
        """Tell this logger too, from now on."""
        self._logger_array.append(logger)

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Get all ready for a repetition."""
        for logger in self._logger_array:
            logger.initialize(config, rep, rep_log_path)

    def preprocess(self, *args: Any) -> None:
        """Pass it on."""
        for logger in self._logger_array:
            logger.preprocess(*args)

    def process(self, data: dict[str, Any]) -> None:
        """Let each keep the row."""
        for logger in self._logger_array:
            logger.process(data)

    def finalize(self) -> None:
        """Close all; if some raise, the others are closed nevertheless, and then the first error is raised."""
        first: BaseException | None = None
        for logger in self._logger_array:
            try:
                logger.finalize()
            except BaseException as error:  # it may exit, too
                first = error if first is None else first
        if first is not None:
            raise first

    def load(self) -> dict[str, Any]:
        """What each read back, by the name of its class."""
        loaded = {type(logger).__name__: logger.load() for logger in self._logger_array}
        return {name: data for name, data in loaded.items() if data is not None}

    def __iter__(self) -> Iterator[AbstractLogger]:
        return iter(self._logger_array)

    def is_empty(self) -> bool:
        """Whether there is no logger in here."""
        return not self._logger_array


class CsvLogger(AbstractLogger):
    """Appends each row to `rep_N.csv` in the folder of the repetition, and is done with it: a row that was logged
    stays.

    The file is never written anew for a row: a row costs the same at the start and at the end. Only when a row brings
    a column for the first time, the file is replaced once, with the longer header and empty cells in the earlier rows.

    What is logged reads back as the same values; see `amlsched.experiments.cells`.

    Attributes:
        path: The file.
        columns: The columns so far.
        rows: Number of rows so far.
        last: The last value of each column, as plain Python values.
        discard: Moves the file of an earlier attempt away; given where there may be one to go on with.
        undecided: Whether there is a file of an earlier attempt, and nobody has said yet what to keep of it.
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
        """Begin an empty file."""
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        self.columns, self.rows, self.last = [], 0, {}
        self.finalize()
        self.undecided = self.discard is not None and self.path.is_file()
        if not self.undecided:
            self._file = self.path.open("wb", buffering=0)

    def keep(self, wanted: Callable[[int, dict[str, Any]], bool]) -> None:
        """Go on with the file of an earlier attempt, up to the first row that is not wanted.

        A row that was not written to its end, because its process was killed or the disk was full, is cut too.

        Args:
            wanted: Given the number of a row, from 0, and its values.
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
        """Have what was logged survive a crash of the host, too."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def process(self, data: dict[str, Any]) -> None:
        """Append a row; it is with the operating system when this returns.

        Raises:
            OSError: The disk is full, or the like.
            ExperimentError: A value is none that a row can hold.
        """
        kept = self.filter(data)
        row = {str(key): plain(value, f"column {key}") for key, value in kept.items()}
        if len(row) != len(kept):
            raise ExperimentError(
                f"columns {', '.join(map(repr, kept))}", "two have the same name", "rename one of them"
            )
        if self.undecided:  # the experiment begins anew
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
        """The rows as a pandas DataFrame, `None` if there are none."""
        from amlsched.experiments.results import pandas_for

        pandas_for(f"{type(self).__name__}.load")
        from amlsched.experiments.frame import logged

        return next((frame for _, _, frame in logged([self.path])), None)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: logged after the end of the repetition")
        begin = self._file.tell()
        try:
            written = self._file.write(line)
            if written != len(line):  # a disk that is nearly full takes a part, and says so only at the next write
                self._file.write(line[written:])
        except OSError as error:
            error.filename = str(self.path)
            self._file.truncate(begin)  # no half of a row
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
    """What an experiment logs to: the loggers of its repetition, and what they have kept so far.

    For a plain function, calling it logs a row: `log(loss=0.3)` adds the columns `ts`, `rep` and `iter`, the number of
    the row.

    Attributes:
        folder: The folder of the repetition, for files of your own.
        seed: The seed of the repetition.
        resumed: Whether an earlier attempt left a checkpoint to go on from.
        told: Whether `should_stop` has said so.
        keeps_generators: Whether `save` keeps the states of the global generators of random numbers too.
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
        """The folder for what the experiment saves, to go on from there in the next attempt. It is made when it is
        asked for, and moved away when the repetition begins anew.
        """
        place = self.folder / layout.CHECKPOINT
        place.mkdir(parents=True, exist_ok=True)
        return place

    def should_stop(self) -> bool:
        """Whether the experiment was told to stop, by a signal, or because its batch job is near its end.

        Save what is to be kept, then return: the next attempt goes on from there. Whoever asks gets a grace for that.
        """
        self.checkpoint_dir  # noqa: B018 - by its being there it is known that this one can stop
        self.told = self.told or self._asked_to_stop()
        return self.told

    def save(self, state: Any) -> None:
        """Save this, in place of what was saved before, together with the number of rows that were logged.

        It is written as a whole: who is killed meanwhile finds what was saved before.

        Args:
            state: Anything that can be pickled.

        Raises:
            OSError: It cannot be written.
        """
        self._csv.sync()
        drawn = generators() if self.keeps_generators else {}
        checkpoint.save(self.folder, Checkpoint(self.rows, state, drawn))

    def restore(self) -> Any:
        """What an earlier attempt saved last, `None` if there is nothing to go on from.

        The rows that it had logged by then are kept, later ones are cut, and the global generators of random numbers
        continue from where they were. Call it before anything is logged.

        Raises:
            ExperimentError: It cannot be read back.
        """
        saved = checkpoint.load(self.folder) if self.resumed else None
        if saved is None:
            return None
        self._csv.keep(lambda number, _: number < saved.rows)
        if self.keeps_generators:
            set_generators(saved.generators)
        return saved.state

    def keep_until(self, iteration: int) -> None:
        """Go on with the rows of an earlier attempt, up to that of this iteration.

        Raises:
            ValueError: A row has no `iter`.
        """

        def wanted(_: int, row: dict[str, Any]) -> bool:
            if not isinstance(row.get("iter"), int | float):
                raise ValueError(f"{self._csv.path}: a row has no number as iter")
            return bool(row["iter"] <= iteration)

        self._csv.keep(wanted)

    def sync(self) -> None:
        """Have the rows that were logged survive a crash of the host, too."""
        self._csv.sync()

    def __call__(self, row: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Log one row, given as a mapping, as keywords, or both. Columns `ts`, `rep`, `iter` of your own are kept."""
        self.process(stamped({**(row or {}), **values}, self._rep, self.rows))

    def process(self, data: dict[str, Any]) -> None:
        """Log one row.

        Raises:
            ExperimentError: This is a process that the repetition has forked: the two would not know of each other's
                rows.
        """
        if os.getpid() != self._pid:
            remedy = "give it what it has found, such as by a multiprocessing.Queue"
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
        """Whether it is known what there is in the CSV file: nothing of an earlier attempt waits there."""
        return not self._csv.undecided


def stamped(row: Mapping[str, Any], rep: int, iteration: int) -> dict[str, Any]:
    """The row with the columns that every iteration gets, where it does not have them itself."""
    return {**row, **{key: value for key, value in stamp(rep, iteration).items() if key not in row}}


def stamp(rep: int, iteration: int) -> dict[str, Any]:
    """The columns that every iteration gets."""
    return {"ts": datetime.now(UTC), "rep": rep, "iter": iteration}
