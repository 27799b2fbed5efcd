"""The file of a repetition's rows, which is always written; and cw2's PandasLogger, which loads it as a DataFrame."""

from __future__ import annotations

import io
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import replace_file
from amlsched._surroundings import import_extra
from amlsched.errors import ExperimentError
from amlsched.experiments._config.values import plain
from amlsched.experiments._storage import cells, layout
from amlsched.experiments.loggers.base import AbstractLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

__all__ = ["CsvLogger", "PandasLogger"]


class CsvLogger(AbstractLogger):
    """Appends each row to `rep_N.csv` in the folder of the repetition, immediately: a logged row is never lost.

    Logging a row has the same cost at the start and at the end. Only a row with a new column makes it rewrite the file
    once, with the longer header and empty cells in earlier rows.

    Values are read as they were logged; see `amlsched.experiments._storage.cells`.

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
        import_extra("pandas", f"{type(self).__name__}.load", "pandas", "results")
        from amlsched.experiments.results.frames import logged

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


class PandasLogger(CsvLogger):
    """Keeps rows in `rep_N.csv`, and loads them as a DataFrame.

    This file is always written. This logger selects its columns, and adds a column `PandasLogger`, with a DataFrame for
    each repetition, to what `ClusterWork.load` returns. Rows are appended, without rewriting the file.
    """

    def at(self, rep: int, rep_log_path: str) -> PandasLogger:
        """Open the file of a repetition for `load`, without changing it.

        Args:
            rep: Its index.
            rep_log_path: Its folder.
        """
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        return self

    def load(self) -> pd.DataFrame | None:
        """The rows as a DataFrame; `None` if there are none. As in cw2, `ts` is in local time, without a time zone."""
        frame: pd.DataFrame | None = super().load()
        if frame is not None and "ts" in frame.columns:
            frame["ts"] = _local(frame["ts"])
        return frame


def _local(times: pd.Series[Any]) -> pd.Series[Any]:
    """Times with a time zone as local times; a column with other values, which is the user's own, is unchanged."""
    import pandas as pd

    local: list[datetime | None] = []
    for value in times.tolist():
        if value is None or value != value:  # missing in this row
            local.append(None)
            continue
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            return times
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            return times
        local.append(moment.astimezone().replace(tzinfo=None))
    found: pd.Series[Any] = pd.Series(local, index=times.index, dtype="datetime64[us]")
    return found
