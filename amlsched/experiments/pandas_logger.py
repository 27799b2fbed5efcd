"""cw2's PandasLogger: the rows as a CSV file, and read back as a DataFrame."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.experiments import layout
from amlsched.experiments.loggers import CsvLogger

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PandasLogger"]


class PandasLogger(CsvLogger):
    """Keeps the rows in `rep_N.csv`, and reads them back as a DataFrame.

    There is such a file in any case. This logger chooses its columns, and adds a column `PandasLogger`, with a
    DataFrame for each repetition, to what `ClusterWork.load` returns. A row is appended; nothing is written anew.
    """

    def at(self, rep: int, rep_log_path: str) -> PandasLogger:
        """Look at what a repetition has logged, without changing it.

        Args:
            rep: Its index.
            rep_log_path: Its folder.
        """
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        return self

    def load(self) -> pd.DataFrame | None:
        """The rows as a DataFrame, `None` if there are none. As with cw2, `ts` is in local time, without a zone."""
        frame: pd.DataFrame | None = super().load()
        if frame is not None and "ts" in frame.columns:
            frame["ts"] = _local(frame["ts"])
        return frame


def _local(times: pd.Series[Any]) -> pd.Series[Any]:
    """Times with a zone as local times; a column of the user's own that holds others stays as it is."""
    import pandas as pd

    local: list[datetime | None] = []
    for value in times.tolist():
        if value is None or value != value:  # a row without
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
